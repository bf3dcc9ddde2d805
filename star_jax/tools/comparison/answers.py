"""Reads raters' filled-in tables, and the key; names what is missing or invalid by its line."""

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from star_jax.errors import UserError
from star_jax.run.paths import is_dir, path_of, read_if_there, told
from star_jax.tools.comparison.sheets import PREFERENCES, as_written

DELIMITERS = (",", ";", "\t")  # spreadsheets of some countries write the second
MEANT = {preference.casefold(): preference for preference in PREFERENCES}


@dataclasses.dataclass(frozen=True)
class Key:
    """Which source stood where."""

    sources: tuple[str, ...]
    sides: dict[str, dict[str, str]]  # item -> "A" or "B" -> source


@dataclasses.dataclass(frozen=True)
class Answers:
    """One rater's table: what is valid in it, and a line on each entry that is not."""

    rater: str
    preferences: dict[str, str]  # item -> A, B or tie
    missing: tuple[str, ...]
    invalid: tuple[str, ...]


def read_key(path: str) -> Key:
    """The key that `compare` wrote.

    Raises:
      UserError: it is not there, or not one.
    """
    try:
        key = json.loads(_read(path_of(path), "score_comparison.key"))
        sources, sides = tuple(key["sources"]), key["items"]
        for name, item in sides.items():
            if not {item["A"], item["B"]} <= set(sources):
                raise ValueError(f"item {name} is of another source")
        return Key(sources, {name: {s: item[s] for s in "AB"} for name, item in sides.items()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(
            f"score_comparison.key: {path} is no key of a comparison ({reason}); name the key.json "
            f"that --run_mode=compare wrote"
        ) from error


def read_all_answers(paths: Sequence[str], key: Key) -> list[Answers]:
    """The answers of each file, and of each *.csv of each folder; a file's name is its rater's.

    Raises:
      UserError: a file cannot be read, is no such table or of another comparison, or is named
        twice, or there is none.
    """
    files = [file for path in paths for file in _files(path_of(path))]
    if not files:
        raise UserError(
            "score_comparison.answers names no CSV file; give the raters' files, or their folder"
        )
    for file in files:
        if files.count(file) > 1:
            raise UserError(f"score_comparison.answers names {file} twice; name each file once")
    stems = [file.stem for file in files]
    return [
        read_answers(
            str(file) if stems.count(file.stem) > 1 else file.stem,
            str(file),
            _read(file, "score_comparison.answers"),
            key,
        )
        for file in files
    ]


def read_answers(rater: str, name: str, data: bytes, key: Key) -> Answers:
    """One rater's answers from the bytes of a CSV file.

    Args:
      rater: whose they are.
      name: of the file, for what is said about its lines.
      data: the file's content; UTF-8, parted by commas, semicolons or tabs.
      key: of the comparison.

    Raises:
      UserError: it is no such table, or of another comparison.
    """
    preferences: dict[str, str] = {}
    missing, invalid, seen = [], [], set()
    for line, row in _rows(name, data):
        item, text = (as_written(row[column].strip()) for column in ("item", "preference"))
        place = f"{name}, line {line}"
        if item not in key.sides:
            invalid.append(f"{place}: the key has no item {item[:40]!r}")
        elif item in seen:
            invalid.append(f"{place}: item {item} is there twice; the first counts")
        elif not text:
            missing.append(f"{place}: item {item} has no preference")
        elif text.casefold() not in MEANT:
            invalid.append(f"{place}: preference {text[:40]!r} is none of {', '.join(PREFERENCES)}")
        else:
            preferences[item] = MEANT[text.casefold()]
        seen.add(item)
    if not seen & key.sides.keys():
        raise UserError(
            f"{name} has none of the key's items, such as {next(iter(key.sides), '')!r}; it is "
            f"the table of another comparison"
        )
    missing += [f"{name}: item {item} is not there" for item in key.sides if item not in seen]
    return Answers(rater, preferences, tuple(missing), tuple(invalid))


def _rows(name: str, data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """(line on which it begins, column -> cell) of each row that is not empty."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 ({error}); save it as CSV in UTF-8") from error
    delimiter, header = _header(name, text)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    begins = 1
    while (cells := _next(reader, name)) is not None:
        if begins > 1 and any(cells):
            padded = [*cells, *[""] * len(header)]  # spreadsheets drop empty cells at the end
            yield begins, dict(zip(header, padded, strict=False))
        begins = reader.line_num + 1


def _header(name: str, text: str) -> tuple[str, list[str]]:
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        header = [cell.strip().casefold() for cell in _next(reader, name) or []]
        if {"item", "preference"} <= set(header):
            return delimiter, header
    raise UserError(
        f"{name}, line 1: no columns called item and preference; give the table that "
        f"--run_mode=compare wrote, filled in and saved as CSV"
    )


def _next(reader: Any, name: str) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(f"{name}, line {reader.line_num}: no CSV ({error})") from error


def _files(path: Path) -> Iterable[Path]:
    if not is_dir(path):
        return [path]
    with told(path):
        return sorted(file for file in path.iterdir() if file.suffix.casefold() == ".csv")


def _read(path: Path, binding: str) -> bytes:
    try:
        data = read_if_there(path)
    except OSError as error:
        raise UserError(f"{binding}: {path} cannot be read ({os.strerror(error.errno)})") from error
    if data is None:
        raise UserError(f"{binding}: {path} is not there; check the path")
    return data
