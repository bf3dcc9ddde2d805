"""Goes through the attempts of a run once, line by line, and keeps only counts of each iteration.

What a report needs of 20 runs of 30 iterations of 10,000 attempts fits into memory that way.
"""

import collections
import dataclasses
import io
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from star_jax.errors import UserError
from star_jax.records import GENERATED, RATIONALIZED, RESAMPLED, SOURCES
from star_jax.run.paths import is_remote, open_text, read_if_there

# The source of the rationales that are kept of a stage's attempts.
STAGES = {"generations": GENERATED, "rationalizations": RATIONALIZED, "resamplings": RESAMPLED}
DIVERSITY_SAMPLE = 200  # rationales; shares of distinct n-grams fall with the number of texts

ATTEMPT = {"question_id": str, "group": str, "correct": bool, "n_tokens": int}
KEPT = {"question_id": str, "completion": str, "source": str}


@dataclasses.dataclass(frozen=True)
class KeptDigest:
    """The kept rationales of one source."""

    n: int
    n_tokens: int | None  # that the model wrote for them all; None where that is not known
    n_steps_checked: int  # whose steps could be checked
    n_steps_right: int  # every one of whose steps is right


@dataclasses.dataclass(frozen=True)
class IterationDigest:
    """What the report says of the attempts of one outer iteration; None where nothing is there."""

    asked: Mapping[str, int] | None = None  # training questions, by class
    kept: Mapping[str, KeptDigest] | None = None  # by source
    n_unique: int | None = None  # kept rationales that differ
    distinct_2: float | None = None  # see `distinct`, of DIVERSITY_SAMPLE rationales
    newly_solved: int | None = None  # held-out questions, against the iteration before
    newly_lost: int | None = None
    # (steps of the data set's solution, of the model's, right answer?) -> held-out questions
    steps: Mapping[tuple[int, int, bool], int] = dataclasses.field(default_factory=dict)
    sampling: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


def read_iterations(directory: Path) -> Iterator[IterationDigest]:
    """The digests of outer iterations 0, 1, ..., without end: of those not there, empty ones.

    Raises:
      UserError: a line is malformed.
    """
    solved: dict[str, bool] | None = None
    for n in itertools.count():
        stage_dir = directory / f"iter_{n:03d}"
        before, (solved, steps) = solved, _read_eval(stage_dir / "eval.jsonl")
        change = {} if before is None or solved is None else changed(before, solved)
        training = _read_training(stage_dir)
        sampling = _read_sampling(stage_dir / "sampling.json")
        yield IterationDigest(steps=steps, sampling=sampling, **change, **training)


def records(file: Path, fields: Mapping[str, type]) -> Iterator[dict[str, Any]]:
    """The JSON lines of a stage's file, one at a time; none if there is no such file.

    Args:
      file: e.g. iter_001/generations.jsonl.
      fields: that every line must have, with their types.

    Raises:
      UserError: a line is malformed.
    """
    lines = _lines(file)
    with lines:
        for number, line in enumerate(lines, start=1):
            try:
                record = _parsed(line)
                if type(record) is not dict:
                    raise ValueError(f"expected a JSON object, found {type(record).__name__}")
                for name, kind in fields.items():
                    if type(record.get(name)) is not kind:
                        found = repr(record.get(name))[:60]
                        raise ValueError(f"{name} is {found}, expected {kind.__name__}")
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{file}, line {number}: {error}; restore the file, or remove it and its .done "
                    "and resume the run"
                ) from error
            yield record


def changed(before: Mapping[str, bool], now: Mapping[str, bool]) -> dict[str, int]:
    """How many questions that are in both are newly solved, and how many newly lost."""
    both = [(before[name], now[name]) for name in now if name in before]
    return {"newly_solved": both.count((False, True)), "newly_lost": both.count((True, False))}


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Share of the texts' word n-grams that differ, None of none.

    Distinct-n (Li et al. 2016, A Diversity-Promoting Objective Function for Neural Conversation
    Models, section 5), over the number of n-grams.
    """
    total, different = 0, set()
    for text in texts:
        words = text.split()
        grams = list(zip(*(words[i:] for i in range(n)), strict=False))
        total += len(grams)
        different.update(grams)
    return len(different) / total if total else None


def evenly(items: Sequence[Any], n: int) -> list[Any]:
    """At most `n` of the items, as far apart as can be."""
    if len(items) <= n:
        return list(items)
    return [items[i * len(items) // n] for i in range(n)]


def _parsed(line: str) -> Any:
    """The line's JSON; by orjson, which is several times as fast, if that takes it.

    It refuses half characters (lone surrogates), which a model may well write.
    """
    try:
        return orjson.loads(line)
    except ValueError:
        return json.loads(line)


def _lines(file: Path) -> io.TextIOBase:
    if is_remote(file):
        data = read_if_there(file) or b""
        return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8")
    try:
        return open_text(file)
    except (FileNotFoundError, NotADirectoryError):
        return io.StringIO()
    except OSError as error:
        raise UserError(
            f"{file} cannot be read ({error.strerror}); check its permissions"
        ) from error


def _read_eval(file: Path) -> tuple[dict[str, bool] | None, dict[tuple[int, int, bool], int]]:
    """Which held-out questions were answered rightly, None without any; and the count of steps."""
    solved: dict[str, bool] = {}
    steps: collections.Counter = collections.Counter()
    for attempt in records(file, ATTEMPT):
        solved[attempt["question_id"]] = attempt["correct"]
        ours, theirs = attempt.get("n_steps"), attempt.get("reference_steps")
        if type(ours) is int and type(theirs) is int:
            steps[theirs, ours, attempt["correct"]] += 1
    return solved or None, dict(steps)


def _read_training(stage_dir: Path) -> dict[str, Any]:
    kept = list(records(stage_dir / "train.jsonl", KEPT))  # of one iteration: some MB
    asked: collections.Counter = collections.Counter()
    lengths: dict[tuple[str, str], int] = {}
    wanted = {(example["question_id"], example["source"]) for example in kept}
    for stage, source in STAGES.items():
        for attempt in records(stage_dir / f"{stage}.jsonl", ATTEMPT):
            if source == GENERATED:
                asked[attempt["group"]] += 1
            if attempt["correct"] and (key := (attempt["question_id"], source)) in wanted:
                lengths[key] = attempt["n_tokens"]
    rationales = [example["completion"] for example in kept]
    return {
        "asked": dict(asked) or None,
        "kept": {source: _kept(kept, source, lengths) for source in SOURCES} if kept else None,
        "n_unique": len(set(rationales)) if kept else None,
        "distinct_2": distinct(evenly(rationales, DIVERSITY_SAMPLE), 2),
    }


def _kept(
    kept: Sequence[Mapping[str, Any]], source: str, lengths: Mapping[tuple[str, str], int]
) -> KeptDigest:
    ours = [example for example in kept if example["source"] == source]
    tokens = [lengths.get((example["question_id"], source)) for example in ours]
    verdicts = [example.get("steps_right") for example in ours]
    return KeptDigest(
        n=len(ours),
        n_tokens=None if None in tokens else sum(tokens),
        n_steps_checked=sum(verdict is not None for verdict in verdicts),
        n_steps_right=verdicts.count(True),
    )


def _read_sampling(file: Path) -> dict[str, dict[str, float]]:
    data = read_if_there(file)
    try:
        found = {} if data is None else json.loads(data)
        numbers = [number for stage in found.values() for number in stage.values()]
        if not all(type(number) in (int, float) for number in numbers):
            raise ValueError("expected numbers by stage")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f"{file}: {error}; remove the file") from error
    return found
