"""The one exception that is the user's to mend, and checks that raise it for wrong settings."""

import dataclasses
import difflib
from collections.abc import Callable, Collection, Iterable, Mapping

Shapes = Mapping[str, tuple[int, ...]]
KINDS = {str: "a text in quotes", int: "a whole number", bool: "True or False", float: "a number"}
# No index has star_jax itself, so an extra is installed from the checkout.
INSTALL = (
    "install it in star_jax's checkout: .venv/bin/python -m pip install -e '.[{0}]', or "
    "uv pip install -e '.[{0}]'"
)


class UserError(Exception):
    """A mistake the user can mend: one line that names the thing, the value and the way out.

    `message` is that line. `str()` is not always: gin appends the configurables that an exception
    crosses to its text.
    """

    def __init__(self, message: str):
        super().__init__(message)
        self.message = message


def did_you_mean(name: str, candidates: Iterable[str], otherwise: str = "") -> str:
    """Returns "; did you mean 'X'?" for the candidate nearest to `name`, else `otherwise`."""
    by_folded = {candidate.casefold(): candidate for candidate in sorted(candidates)}
    near = difflib.get_close_matches(name.casefold(), by_folded, n=1)
    return f"; did you mean '{by_folded[near[0]]}'?" if near else otherwise


def some(names: Iterable[str], most: int = 4, separator: str = ", ") -> str:
    """The first few names, e.g. "a, b, c, d and 3 more"."""
    # A damaged file's names may contain line breaks.
    names = [name if name.isprintable() else repr(name) for name in names]
    rest = len(names) - most
    return separator.join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def one_line(message: object) -> str:
    """A library's message, which may have several lines, on one line."""
    return " ".join(str(message).split())


def check_types(record: object) -> None:
    """Raises UserError for a text, whole number or switch of a frozen record that is none."""
    for field in dataclasses.fields(record):  # type: ignore[arg-type]
        value = getattr(record, field.name)
        if field.type in (str, int, bool) and type(value) is not field.type:
            raise UserError(
                f"{type(record).__name__}.{field.name} = {str(value)[:60]!r} is not "
                f"{KINDS[field.type]}"
            )


def check_positive(record: object, *names: str) -> None:
    """Raises UserError for a field among `names` that is not a number above 0."""
    _check_numbers(record, names, lambda value: value > 0, "must be positive")


def check_not_negative(record: object, *names: str) -> None:
    """Raises UserError for a field among `names` that is not a number from 0 on."""
    _check_numbers(record, names, lambda value: value >= 0, "must not be negative")


def check_share(record: object, *names: str) -> None:
    """Raises UserError for a field among `names` that is not a number from 0 to 1."""
    _check_numbers(record, names, lambda value: 0 <= value <= 1, "is not a share; give 0 to 1")


def check_one_of(where: str, value: object, known: Collection[str]) -> None:
    """Raises UserError unless the value of the binding `where` is one of those known."""
    if value not in known:
        hint = did_you_mean(str(value), known)
        raise UserError(f"{where} = {value!r} is none of {tuple(known)}{hint}")


def mismatch(found: Shapes, wanted: Shapes) -> str:
    """What is missing, left over and of another shape among named arrays; "" when all is well."""
    differing = [
        f"{name} is {found[name]}, the model wants {wanted[name]}"
        for name in sorted(found.keys() & wanted.keys())
        if tuple(found[name]) != tuple(wanted[name])
    ]
    labelled = {
        "missing": sorted(wanted.keys() - found.keys()),
        "left over": sorted(found.keys() - wanted.keys()),
        "other shapes": differing,
    }
    return "; ".join(f"{label}: {some(names)}" for label, names in labelled.items() if names)


def _check_numbers(
    record: object, names: Iterable[str], allows: Callable[[float], bool], rule: str
) -> None:
    for name in names:
        value = getattr(record, name)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not allows(value):
            raise UserError(f"{type(record).__name__}.{name} = {value!r} {rule}")
