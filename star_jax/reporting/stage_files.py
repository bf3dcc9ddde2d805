"""The one reader of attempts and kept examples: a run's files, line by line, of either format.

A row is a JSON object of format 2 (see `records.Attempt`), but for one thing: the token ids, which
are most of a file, are counted and not read. `n_tokens` says how many there are. Format 1 has one
attempt per question and stage. A row lacks what it does not record; nothing else knows format 1.
"""

import contextlib
import dataclasses
import json
import re
import typing
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NamedTuple, TypeAlias

import orjson

from star_jax.errors import UserError
from star_jax.loop.stages import FINETUNE, SAMPLED
from star_jax.records import Attempt, KeptExample, Key, Reading
from star_jax.run.paths import bucket_errors

Row: TypeAlias = dict[str, Any]  # a JSON object, one line of a run's file

TOKEN_IDS = re.compile(rb'"token_ids":\s*\[([^\[\]]*)\]')  # no text has bare quotation marks

SIMPLE = {str, int, bool, NoneType}
Kinds: TypeAlias = Mapping[str, tuple[type, ...]]  # of a field's values


def _kinds(*records: type) -> Kinds:
    """Of the fields of these records that are no collections of values."""
    fields = [field for record in records for field in dataclasses.fields(record)]
    kinds = {field.name: typing.get_args(field.type) or (field.type,) for field in fields}
    return {name: types for name, types in kinds.items() if SIMPLE.issuperset(types)}


KINDS = {**_kinds(Attempt, KeptExample), "n_tokens": (int,), "reading": (dict,)}
READING = _kinds(Reading)
# Fields that a row must have; the reading of an attempt has an answer and whether it is correct.
ATTEMPT = (
    "question_id", "group", "hinted", "prompt", "completion", "n_tokens", "ended", "reading"
)  # fmt: skip
KEPT = ("question_id", "completion", "source")
WRITTEN = ("question_id", "completion")  # by a run or by a user

# Of format 1
SAME = ("iteration", "seed", "rationalize", "accuracy", "n_eval", "unparsable", "chance")
METRICS = {  # format 1 -> format 2
    **{name: name for name in SAME},
    "accuracy_by_class": "accuracy_by_group",
    "n_eval_by_class": "n_eval_by_group",
    "left_out": "dropped",
    "n_sampled": "n_questions",
}
COUNTS = {"right_answers": "right", "checkable": "checkable", "right_steps": "right_steps"}
FORMER_READING = ("answer", "correct", "n_steps")


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


def metrics_row(row: Row) -> Row:
    """A line of metrics.jsonl in format 2, unchanged if it is; wrong types may raise TypeError."""
    if "accuracy_by_class" not in row:
        return row
    found = {new: row[old] for old, new in METRICS.items() if row.get(old) is not None}
    seconds = {name[8:]: x for name, x in row.items() if name.startswith("seconds_") and x}
    kept, counts = {}, {}
    for stage in SAMPLED:
        if row.get(f"kept_{stage.source}") or stage.name in seconds:
            kept[stage.name] = row.get(f"kept_{stage.source}") or 0
            of_stage = {new: (row.get(old) or {}).get(stage.source) for old, new in COUNTS.items()}
            counts[stage.name] = {name: n for name, n in of_stage.items() if n is not None}
    leaks = {stage: row.get("hint_leaks") or 0 for stage in kept if stage == "rationalize"}
    if not kept and row.get("train_fraction"):  # direct fine-tuning
        kept = {FINETUNE: row["n_sampled"]}
    training = {"steps": row.get("train_steps"), "loss": row.get("train_loss")}
    training["packing_efficiency"] = row.get("packing_efficiency")
    filtered = {"no_hint_leak": leaks} if leaks else {}
    by_stage = {"kept": kept, "seconds": seconds, "counts": counts, "filtered": filtered}
    return {"unparsable": 0, "dropped": 0, **found, **by_stage, "training": training}


def stage_row(row: Row) -> Row:
    """An attempt, a kept example or a line that a user wrote in format 2, unchanged if it is."""
    if "reading" in row:
        return row
    row = {"sample": 0, "turn": 0, **row}
    if "correct" in row or "answer" in row:  # an attempt
        row["reading"] = {name: row.pop(name) for name in FORMER_READING if name in row}
        row["dropped"] = row.pop("left_out", False)
    return row
