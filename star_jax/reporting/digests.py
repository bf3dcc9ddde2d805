"""Reads the attempts of a run once, line by line, and keeps only counts of each iteration.

So a report of 20 runs of 30 iterations of 10,000 attempts fits into memory.
"""

import collections
import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from star_jax.loop.stages import EVALUATE, SAMPLED, TRAIN_FILE
from star_jax.records import Key, groups_in
from star_jax.reporting.stage_files import ATTEMPT, KEPT, Row, key_of, malformed, read_rows
from star_jax.run.paths import read_if_there

T = TypeVar("T")
Steps = Mapping[tuple[int, int, bool], int]

DIVERSITY_SAMPLE = 200  # rationales; shares of distinct n-grams fall with the number of texts


@dataclasses.dataclass(frozen=True)
class KeptDigest:
    """The kept rationales of one source."""

    n: int
    n_tokens: int | None  # as generated, summed; None where not known
    n_steps_checked: int  # whose steps can be checked
    n_steps_right: int  # of these, all steps are correct


@dataclasses.dataclass(frozen=True)
class IterationDigest:
    """What the report shows of the attempts of one outer iteration; None where there are none."""

    questions: Mapping[str, int] | None = None  # sampled for training, by group
    kept: Mapping[str, KeptDigest] | None = None  # by source
    n_unique: int | None = None  # distinct kept rationales
    distinct_2: float | None = None  # see `distinct`, of DIVERSITY_SAMPLE rationales
    newly_solved: int | None = None  # held-out attempts, compared with the previous iteration
    newly_lost: int | None = None
    # (steps of the data set's solution, of the model's, correct answer?) -> held-out attempts
    steps: Steps = dataclasses.field(default_factory=dict)
    sampling: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


def read_iterations(directory: Path) -> Iterator[IterationDigest]:
    """The digests of outer iterations 0, 1, ..., without end; empty where there are no files.

    Raises UserError if a line is malformed.
    """
    before: dict[Key, bool] = {}
    for n in itertools.count():
        stage_dir = directory / f"iter_{n:03d}"
        solved, steps = _read_evaluation(stage_dir / f"{EVALUATE.file}.jsonl")
        compared = changed(before, solved) if before and solved else (None, None)
        yield dataclasses.replace(
            _read_training(stage_dir),
            steps=steps,
            sampling=_read_sampling(stage_dir / "sampling.json"),
            newly_solved=compared[0],
            newly_lost=compared[1],
        )
        before = solved


def changed(before: Mapping[Key, bool], now: Mapping[Key, bool]) -> tuple[int, int]:
    """(newly solved, newly lost) among the attempts that are in both."""
    both = [(before[key], now[key]) for key in now if key in before]
    return both.count((False, True)), both.count((True, False))


def distinct(texts: Iterable[str], n: int) -> float | None:
    """Share of distinct word n-grams among those of all texts, None if there are none.

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


def evenly(items: Sequence[T], n: int) -> list[T]:
    """At most `n` of the items, evenly spread."""
    n = min(n, len(items))
    return [items[i * len(items) // n] for i in range(n)]


def _read_evaluation(file: Path) -> tuple[dict[Key, bool], Steps]:
    """Whether each held-out attempt is correct, and the counts of steps."""
    solved: dict[Key, bool] = {}
    steps: collections.Counter[tuple[int, int, bool]] = collections.Counter()
    for attempt in read_rows(file, ATTEMPT):
        reading = attempt["reading"]
        solved[key_of(attempt)] = reading["correct"]
        ours, theirs = reading.get("n_steps"), attempt.get("reference_steps")
        if ours is not None and theirs is not None:
            steps[theirs, ours, reading["correct"]] += 1
    return solved, dict(steps)


def _read_training(stage_dir: Path) -> IterationDigest:
    kept = list(read_rows(stage_dir / f"{TRAIN_FILE}.jsonl", KEPT))  # of one iteration: some MB
    groups: dict[str, str] = {}  # question -> its group
    lengths: dict[tuple[Key, str], int] = {}
    wanted = {(key_of(example), example["source"]) for example in kept}
    for stage in SAMPLED:
        for attempt in read_rows(stage_dir / f"{stage.file}.jsonl", ATTEMPT):
            groups[attempt["question_id"]] = attempt["group"]
            if (key := (key_of(attempt), stage.source)) in wanted:
                lengths[key] = attempt["n_tokens"]
    each = (name for group in groups.values() for name in groups_in(group) or [""])
    questions = dict(collections.Counter(each)) or None
    if not kept:
        return IterationDigest(questions=questions)
    rationales = [example["completion"] for example in kept]
    return IterationDigest(
        questions=questions,
        kept={stage.source: _kept(kept, stage.source, lengths) for stage in SAMPLED},
        n_unique=len(set(rationales)),
        distinct_2=distinct(evenly(rationales, DIVERSITY_SAMPLE), 2),
    )


def _kept(kept: Sequence[Row], source: str, lengths: Mapping[tuple[Key, str], int]) -> KeptDigest:
    ours = [example for example in kept if example["source"] == source]
    tokens = [lengths.get((key_of(example), source)) for example in ours]
    known = [n for n in tokens if n is not None]
    verdicts = [example.get("steps_right") for example in ours]
    return KeptDigest(
        n=len(ours),
        n_tokens=sum(known) if len(known) == len(ours) else None,
        n_steps_checked=sum(verdict is not None for verdict in verdicts),
        n_steps_right=verdicts.count(True),
    )


def _read_sampling(file: Path) -> dict[str, dict[str, float]]:
    data = read_if_there(file)
    with malformed(file, "remove the file"):
        found = {} if data is None else json.loads(data)
        numbers = [number for stage in found.values() for number in stage.values()]
        if not all(type(number) in (int, float) for number in numbers):
            raise ValueError("expected numbers by stage")
    return found
