"""Reads raters' filled-in tables, and the key; names what is missing or invalid by its line."""

import csv
import dataclasses
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from star_jax.errors import UserError
from star_jax.reporting.stage_files import readable
from star_jax.run.paths import bucket_errors, is_dir, path_of, read_if_there
from star_jax.tools.comparison.sheets import PREFERENCES, as_written

DELIMITERS = (",", ";", "\t")  # spreadsheets of some countries write the second
MEANT = {preference.casefold(): preference for preference in PREFERENCES}


@dataclasses.dataclass(frozen=True)
class AnswerKey:
    """The source on each side of each item."""

    sources: tuple[str, ...]
    sides: dict[str, dict[str, str]]  # item -> "A" or "B" -> source


@dataclasses.dataclass(frozen=True)
class Answers:
    """One rater's table: its valid entries, and a line on each other one."""

    rater: str
    preferences: dict[str, str]  # item -> A, B or tie
    missing: tuple[str, ...]
    invalid: tuple[str, ...]


def read_key(path: str) -> AnswerKey:
    """The key that run mode compare wrote; raises UserError if there is none at `path`."""
    try:
        key = json.loads(_read(path_of(path), "score_comparison.key"))
        sides = {name: {side: x[side] for side in "AB"} for name, x in key["items"].items()}
        for name, sources in sides.items():
            if not {*sources.values()} <= key["sources"].keys():
                raise ValueError(f"item {name} has another source")
        return AnswerKey(tuple(key["sources"]), sides)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise UserError(
            f"score_comparison.key: {path} is not the key of a comparison ({reason}); name the "
            f"key.json that --run_mode=compare wrote"
        ) from error


def read_all_answers(paths: Sequence[str], key: AnswerKey) -> list[Answers]:
    """The answers of each file, and of each *.csv of each folder; a file's name is its rater's.

    Raises UserError as `read_answers`, or if a file is named twice or there is none.
    """
    files = [file for path in paths for file in _files(path_of(path))]
    if not files:
        raise UserError(
            "score_comparison.answers names no CSV file; give the raters' files, or their folder"
        )
    stems = [file.stem for file in files]
    answers = []
    for file in files:
        if files.count(file) > 1:
            raise UserError(f"score_comparison.answers names {file} twice; name each file once")
        rater = str(file) if stems.count(file.stem) > 1 else file.stem
        data = _read(file, "score_comparison.answers")
        answers.append(read_answers(rater, str(file), data, key))
    return answers


def read_answers(rater: str, name: str, data: bytes, key: AnswerKey) -> Answers:
    """One rater's answers from the bytes of a CSV file.

    Args:
      rater: name of the rater.
      name: of the file, for messages about its lines.
      data: the file's content; UTF-8, separated by commas, semicolons or tabs.
      key: of the comparison.

    Raises:
      UserError: it is not such a table, or is of another comparison.
    """
    preferences: dict[str, str] = {}
    missing, invalid, seen = [], [], set()
    for line, row in _rows(name, data):
        item, text = (as_written(row[column].strip()) for column in ("item", "preference"))
        place = f"{name}, line {line}"
        if item not in key.sides:
            invalid.append(f"{place}: the key has no item {item[:40]!r}")
        elif item in seen:
            invalid.append(f"{place}: item {item} occurs twice; the first counts")
        elif not text:
            missing.append(f"{place}: item {item} has no preference")
        elif text.casefold() not in MEANT:
            known = ", ".join(PREFERENCES)
            invalid.append(f"{place}: preference {text[:40]!r} is not one of {known}")
        else:
            preferences[item] = MEANT[text.casefold()]
        seen.add(item)
    if not seen & key.sides.keys():
        raise UserError(
            f"{name} has none of the key's items, such as {next(iter(key.sides), '')!r}; it is "
            f"the table of another comparison"
        )
    missing += [f"{name}: item {item} is missing" for item in key.sides if item not in seen]
    return Answers(rater, preferences, tuple(missing), tuple(invalid))


def _rows(name: str, data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """(line on which it begins, column -> cell) of each row below the header that is not empty."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 ({error}); save it as CSV in UTF-8") from error
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = [cell.strip().casefold() for cell in next(reader, [])]
            if {"item", "preference"} <= {*header}:
                begins = reader.line_num + 1
                for cells in reader:
                    if any(cells):  # spreadsheets drop empty cells at the end
                        padded = [*cells, *[""] * len(header)]
                        yield begins, dict(zip(header, padded, strict=False))
                    begins = reader.line_num + 1
                return
        except csv.Error as error:
            raise UserError(f"{name}, line {reader.line_num}: not CSV ({error})") from error
    raise UserError(
        f"{name}, line 1: no columns named item and preference; give the table that "
        f"--run_mode=compare wrote, filled in and saved as CSV"
    )


def _files(path: Path) -> list[Path]:
    if not is_dir(path):
        return [path]
    with bucket_errors(path):
        return sorted(file for file in path.iterdir() if file.suffix.casefold() == ".csv")


def _read(path: Path, binding: str) -> bytes:
    with readable(path):
        data = read_if_there(path)
    if data is None:
        raise UserError(f"{binding}: {path} does not exist; check the path")
    return data
