"""The one exception that is the user's to mend, and the hint that goes with a mistyped name."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping
from typing import Any


class UserError(Exception):
    """A mistake the user can mend: one line that names the thing, the value and the way out.

    `message` is that line. `str()` is not always: gin appends the configurables it passed through
    to the text of an exception that crosses them.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str = "") -> str:
    """Returns "; did you mean 'X'?" for the candidate nearest to `name`, else `otherwise`."""
    by_folded = {candidate.casefold(): candidate for candidate in sorted(candidates)}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return f"; did you mean '{by_folded[near[0]]}'?" if near else otherwise


def check_types(record: Any) -> None:
    """Raises UserError for a text, whole number or switch of a frozen record that is none."""
    words = {str: "a text in quotes", int: "a whole number", bool: "True or False"}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.type in words and type(value) is not field.type:
            raise UserError(
                f"{type(record).__name__}.{field.name} = {str(value)[:60]!r} is not "
                f"{words[field.type]}"
            )


def check_positive(record: object, *names: str) -> None:
    """Raises UserError if one of these fields is not above 0."""
    for name in names:
        if (value := getattr(record, name)) <= 0:
            raise UserError(f"{type(record).__name__}.{name} = {value} must be positive")


def check_share(record: object, *names: str) -> None:
    """Raises UserError if one of these fields is not a number from 0 to 1."""
    for name in names:
        value = getattr(record, name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise UserError(
                f"{type(record).__name__}.{name} = {value!r} is not a share; give 0 to 1"
            )


def check_one_of(where: str, value: str, known: Iterable[str]) -> None:
    """Raises UserError if `value`, which was bound to `where`, is not one of `known`."""
    if value not in (known := list(known)):
        hint = did_you_mean(str(value), known, f"; it is one of {', '.join(known)}")
        raise UserError(f"{where} = {value!r} is unknown{hint}")


def mismatch(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> str:
    """What is missing, left over and of another shape among named arrays; "" when all is well."""
    missing = sorted(wanted.keys() - found.keys())
    left_over = sorted(found.keys() - wanted.keys())
    differing = [
        f"{name} is {found[name]}, the model wants {wanted[name]}"
        for name in sorted(found.keys() & wanted.keys())
        if tuple(found[name]) != tuple(wanted[name])
    ]
    labelled = (("missing", missing), ("left over", left_over), ("other shapes", differing))
    return "; ".join(
        f"{label}: {', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"
        for label, names in labelled
        if names
    )
