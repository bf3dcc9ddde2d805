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

import orjson

from star_jax.errors import UserError
from star_jax.records import Key
from star_jax.reporting.former_format import Row, stage_row
from star_jax.run.paths import told

TOKEN_IDS = re.compile(rb'"token_ids":\s*\[([^\[\]]*)\]')  # no text has bare quotation marks

KINDS: Mapping[str, tuple[type, ...]] = {
    "question_id": (str,), "sample": (int,), "turn": (int,), "group": (str,), "hinted": (bool,),
    "prompt": (str,), "completion": (str,), "n_tokens": (int,), "ended": (bool,),
    "dropped": (bool,), "source": (str,), "steps_right": (bool, NoneType), "reading": (dict,),
    "reference_steps": (int, NoneType),
}  # fmt: skip
READING: Mapping[str, tuple[type, ...]] = {
    "answer": (str, NoneType), "correct": (bool,), "end": (int,), "n_steps": (int, NoneType),
    "steps_right": (bool, NoneType), "hint_leaked": (bool,),
}  # fmt: skip


# Fields that a row must have; the reading of an attempt has an answer and whether it is correct.
ATTEMPT = (
    "question_id", "group", "hinted", "prompt", "completion", "n_tokens", "ended", "reading"
)  # fmt: skip
KEPT = ("question_id", "completion", "source")
WRITTEN = ("question_id", "completion")  # by a run or by a user


def key_of(row: Row) -> Key:
    """What tells an attempt or a kept example from others of its stage."""
    return row["question_id"], row["sample"], row["turn"]


def read_rows(file: Path, needed: Collection[str]) -> Iterator[Row]:
    """The rows of a file, one at a time; none if there is no such file.

    Raises:
      UserError: it cannot be read, or a line is malformed.
    """
    return (parsed(file, number, line, needed) for number, line in numbered_lines(file))


def numbered_lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """(number, line) of all lines that are not blank; none if there is no such file.

    Raises:
      UserError: it cannot be read.
    """
    missing = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with readable(file), missing, file.open("rb") as lines:
        yield from ((i, line) for i, line in enumerate(lines, start=1) if not line.isspace())


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Raises a failure to read `path` as a UserError."""
    try:
        with told(path):
            yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error


def parsed(file: Path, number: int, line: bytes, needed: Collection[str]) -> Row:
    """The row of a line.

    Args:
      file: for the message.
      number: of the line in the file.
      line: JSON.
      needed: fields that must be there.

    Raises:
      UserError: the line is malformed.
    """
    try:
        row = _json(line)
        if type(row) is not dict:
            raise ValueError(f"expected a JSON object, found {type(row).__name__}")
        row = stage_row(row)
        _check(row, KINDS, needed)
        if "reading" in row:
            _check(row["reading"], READING, ("answer", "correct") if needed is ATTEMPT else ())
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}, line {number}: {error}; restore the file, or remove it and its .done and "
            "resume the run"
        ) from error
    return row


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


def _check(row: Row, kinds: Mapping[str, tuple[type, ...]], needed: Collection[str]) -> None:
    for name, allowed in kinds.items():
        if name not in row:
            if name in needed:
                raise ValueError(f"{name} is missing")
        elif type(row[name]) not in allowed:
            raise ValueError(f"{name} is {repr(row[name])[:60]}, expected {allowed[0].__name__}")
