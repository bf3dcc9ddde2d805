"""The one reader of attempts and kept examples: a run's files, line by line, of either format.

A row is a JSON object of format 2 (see `records.Attempt`), but for one thing: the token ids, which
are most of a file, are counted and not read. `n_tokens` says how many there are.
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import NamedTuple, TypeAlias

import orjson

from star_jax.errors import UserError
from star_jax.records import Key
from star_jax.reporting.former_format import Row, stage_row
from star_jax.run.paths import bucket_errors

TOKEN_IDS = re.compile(rb'"token_ids":\s*\[([^\[\]]*)\]')  # no text has bare quotation marks

Kinds: TypeAlias = Mapping[str, tuple[type, ...]]  # of a field's values
KINDS: Kinds = {
    "question_id": (str,), "sample": (int,), "turn": (int,), "group": (str,), "hinted": (bool,),
    "prompt": (str,), "completion": (str,), "n_tokens": (int,), "ended": (bool,),
    "dropped": (bool,), "source": (str,), "steps_right": (bool, NoneType), "reading": (dict,),
    "reference_steps": (int, NoneType), "expected": (str,),
}  # fmt: skip
READING: Kinds = {
    "answer": (str, NoneType), "correct": (bool,), "end": (int,), "n_steps": (int, NoneType),
    "steps_right": (bool, NoneType), "hint_leaked": (bool,),
}  # fmt: skip

# Fields that a row must have; the reading of an attempt has an answer and whether it is correct.
ATTEMPT = (
    "question_id", "group", "hinted", "prompt", "completion", "n_tokens", "ended", "reading"
)  # fmt: skip
KEPT = ("question_id", "completion", "source")
WRITTEN = ("question_id", "completion")  # by a run or by a user


class Line(NamedTuple):
    """A line of a file, numbered from 1."""

    file: Path
    number: int
    data: bytes

    @property
    def place(self) -> str:
        """Where it is, for messages."""
        return f"{self.file}, line {self.number}"

    def row(self, needed: Collection[str]) -> Row:
        """What it says; raises UserError if it is malformed or lacks a field."""
        try:  # `with malformed(...)` would take as long as a third of the rest
            row = _json(self.data)
            if type(row) is not dict:
                raise ValueError(f"expected a JSON object, found {type(row).__name__}")
            row = stage_row(row)
            _check(row, KINDS, needed)
            if "reading" in row:
                _check(row["reading"], READING, ("answer", "correct") if needed is ATTEMPT else ())
        except (ValueError, RecursionError) as error:
            way_out = "restore the file, or remove it and its .done and resume the run"
            raise UserError(f"{self.place}: {error}; {way_out}") from error
        return row


def key_of(row: Row) -> Key:
    """What distinguishes an attempt or a kept example from others of its stage."""
    return row["question_id"], row["sample"], row["turn"]


def read_rows(file: Path, needed: Collection[str]) -> Iterator[Row]:
    """The rows of a file, one at a time; raises UserError as `lines_of` and `Line.row`."""
    return (line.row(needed) for line in lines_of(file))


def lines_of(file: Path) -> Iterator[Line]:
    """The lines that are not blank, none without such a file; raises UserError as `readable`."""
    missing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with readable(file), missing, file.open("rb") as lines:
        yield from (Line(file, i, x) for i, x in enumerate(lines, start=1) if not x.isspace())


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises a failure to read `path` as a UserError."""
    try:
        with bucket_errors(path):
            yield
    except OSError as error:
        reason = f"{path} cannot be read ({error.strerror}); check its permissions"
        raise UserError(reason) from error


@contextlib.contextmanager
def malformed(where: object, way_out: str) -> Iterator[None]:
    """Raises what malformed content causes as a UserError that names its place and a way out."""
    try:
        yield
    except KeyError as error:
        raise UserError(f"{where}: {error} is missing; {way_out}") from error
    except (ValueError, TypeError, AttributeError, RecursionError, UserError) as error:
        raise UserError(f"{where}: {error}; {way_out}") from error


def _json(line: bytes) -> object:
    """By orjson, which is several times as fast, if it can read the line.

    It rejects half characters (lone surrogates), which models do write.
    """
    if ids := TOKEN_IDS.search(line):
        count = ids[1].count(b",") + 1 if ids[1].strip() else 0
        line = b'%b"n_tokens": %d%b' % (line[: ids.start()], count, line[ids.end() :])
    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line)


def _check(row: Row, kinds: Kinds, needed: Collection[str]) -> None:
    for name, allowed in kinds.items():
        if name not in row:
            if name in needed:
                raise ValueError(f"{name} is missing")
        elif type(row[name]) not in allowed:
            raise ValueError(f"{name} is {repr(row[name])[:60]}, expected {allowed[0].__name__}")
