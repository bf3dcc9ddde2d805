"""The attempts that a reader of the report can leaf through: a sample of every stage of every run.

A stage's sample are the attempts at the questions that come first in one fixed, random order of
all questions. So the same held-out questions are seen in every iteration and every run, whatever
the number of attempts, and a training question that was drawn again is seen again.
"""

import contextlib
import dataclasses
import heapq
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from star_jax.errors import UserError
from star_jax.records import GENERATED, RATIONALIZED, RESAMPLED
from star_jax.run.paths import told

EVALUATION = "evaluation"
STAGES = {  # what the page calls it -> its file; in the order of an outer iteration
    GENERATED: "generations.jsonl",
    RATIONALIZED: "rationalizations.jsonl",
    RESAMPLED: "resamplings.jsonl",
    EVALUATION: "eval.jsonl",
}
KEPT = "train.jsonl"
RIGHT, WRONG, UNPARSED, LEFT_OUT = "right", "wrong", "unparsed", "left out"
VERDICTS = (RIGHT, WRONG, UNPARSED, LEFT_OUT)

MOST = 100_000  # attempts in a report ...
MOST_OF_A_STAGE = 1_000  # ... and of one stage; fewer where there are many stages, never below
LEAST_OF_A_STAGE = 10
MOST_CHARACTERS = 4_000  # of a question or a rationale

ITERATION = re.compile(r"iter_(\d+)")
# (question, source) -> kept examples as they stand in train.jsonl
Kept = dict[tuple[str, str], list[dict[str, Any]]]
ID_FIRST = b'{"question_id": "'  # how `records.to_json` begins a line


@dataclasses.dataclass(frozen=True, slots=True)
class ShownAttempt:
    """An attempt as the page shows it; None is what nobody knows or what does not apply."""

    question_id: str
    question: str  # as the model was asked, hint included
    rationale: str
    answer: str | None
    group: str
    verdict: str  # one of VERDICTS
    hinted: bool
    kept: bool | None  # trained on; None for an evaluation, and before train.jsonl is written
    steps_right: bool | None  # every step of a kept rationale is right
    ended: bool  # False: cut at the token limit
    n_tokens: int


@dataclasses.dataclass(frozen=True)
class StageSample:
    """So many of a stage's `total` attempts, in the fixed order of their questions."""

    run: str
    iteration: int
    stage: str  # a key of STAGES
    attempts: tuple[ShownAttempt, ...]
    total: int


@dataclasses.dataclass(frozen=True)
class AttemptsData:
    """What was sampled, in the order of runs, iterations and stages."""

    samples: tuple[StageSample, ...] = ()

    @property
    def n_shown(self) -> int:
        """Attempts in the samples."""
        return sum(len(sample.attempts) for sample in self.samples)

    @property
    def n_total(self) -> int:
        """Attempts in the stages' files."""
        return sum(sample.total for sample in self.samples)

    def at_most(self, n: int) -> "AttemptsData":
        """The first `n` attempts of each sample: the same questions, but fewer."""
        cut = (dataclasses.replace(s, attempts=s.attempts[:n]) for s in self.samples)
        return AttemptsData(tuple(cut))


def collect_attempts(runs: Mapping[str, Path], most: int = MOST) -> AttemptsData:
    """Samples the stages of runs, by name, that are on disk; a directory without any gives none.

    Args:
      runs: name -> MODEL_DIR.
      most: attempts in all, as far as LEAST_OF_A_STAGE allows.

    Raises:
      UserError: a line that was sampled is malformed, or a bucket cannot be read.
    """
    places = [(run, *place) for run, path in runs.items() for place in _iterations(path)]
    n_stages = sum(len(files & {*STAGES.values()}) for *_, files in places)
    cap = max(LEAST_OF_A_STAGE, min(MOST_OF_A_STAGE, most // max(1, n_stages)))
    samples: list[StageSample] = []
    for run, iteration, directory, files in places:
        samples += _samples_of(run, iteration, directory, files, cap)
    return AttemptsData(tuple(samples))


def _iterations(run: Path) -> Iterator[tuple[int, Path, set[str]]]:
    """(n, directory, names of its files), n growing."""
    with _readable(run):
        found = [(ITERATION.fullmatch(path.name), path) for path in run.iterdir()]
        for n, directory in sorted((int(match[1]), path) for match, path in found if match):
            yield n, directory, {file.name for file in directory.iterdir()}


def _samples_of(
    run: str, iteration: int, directory: Path, files: set[str], cap: int
) -> Iterator[StageSample]:
    stages = [stage for stage, file in STAGES.items() if file in files]
    chosen = {stage: _sample(directory / STAGES[stage], cap) for stage in stages}
    sampled = (line for lines, _ in chosen.values() for _, line in lines)
    ids = {question_id for _, question_id, _ in _lines(sampled)}
    kept = _kept(directory / KEPT, ids) if KEPT in files else None
    for stage, (lines, total) in chosen.items():
        file = directory / STAGES[stage]
        rows = (_parsed(file, number, line) for number, line in lines)
        attempts = tuple(_told(file, row, stage, kept) for row in rows)
        yield StageSample(run, iteration, stage, attempts, total)


def _sample(file: Path, cap: int) -> tuple[list[tuple[int, bytes]], int]:
    """The (number, line) pairs of the first `cap` in the order of ranks, and the number of lines.

    Lines that are not sampled are not parsed: a run's files may have gigabytes.
    """
    heap: list[tuple[int, int, bytes]] = []  # the worst first: (-rank, -line number, line)
    total, worst = 0, -math.inf
    with _readable(file), file.open("rb") as lines:
        for number, question_id, line in _lines(lines):
            total += 1
            rank = -_rank(question_id)
            if rank > worst:
                heapq.heappush(heap, (rank, -number, line))
                if len(heap) > cap:
                    heapq.heappop(heap)
                if len(heap) == cap:
                    worst = heap[0][0]
    return [(-number, line) for _, number, line in sorted(heap, reverse=True)], total


def _lines(file: Iterable[bytes]) -> Iterator[tuple[int, bytes, bytes]]:
    """(number, the question's id as it stands in the line, the line) of all that are not blank."""
    start = len(ID_FIRST)
    for number, line in enumerate(file, start=1):
        if line.startswith(ID_FIRST):
            yield number, line[start : line.find(b'"', start)], line
        elif not line.isspace():
            yield number, line[:start], line  # not as star_jax writes them, but it may be sampled


def _rank(question_id: bytes) -> int:
    """Where a question stands in the fixed random order; the product mixes what a CRC leaves."""
    return zlib.crc32(question_id) * 0x9E3779B1 & 0xFFFFFFFF


def _kept(file: Path, ids: set[bytes]) -> Kept:
    """The kept examples of some questions."""
    kept: Kept = {}
    with _readable(file), file.open("rb") as lines:
        for number, question_id, line in _lines(lines):
            if question_id in ids:
                row = _parsed(file, number, line)
                key = str(row.get("question_id")), str(row.get("source"))
                kept.setdefault(key, []).append(row)
    return kept


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns a failure to read it into a UserError."""
    try:
        with told(path):
            yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); check its permissions"
        ) from error


def _parsed(file: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{file}, line {number}: {error}; restore the file, or remove "
            f"{file.with_suffix('.done').name} and resume the run to have it written again"
        ) from error
    return row


def _told(file: Path, row: Mapping[str, Any], stage: str, kept: Kept | None) -> ShownAttempt:
    try:
        rationale, steps = _cut(row["completion"]), None
        trained_on = None if stage == EVALUATION or kept is None else False
        for example in (kept or {}).get((str(row["question_id"]), stage), ()):
            # What is kept ends with the answer, wherever the completion went on to.
            if row["correct"] and row["completion"].startswith(example["completion"]):
                trained_on, steps = True, example.get("steps_right")
        if steps not in (None, False, True):
            raise ValueError(f"steps_right is {repr(steps)[:60]}")
        return ShownAttempt(
            question_id=str(row["question_id"]),
            question=_cut(row["prompt"]),
            rationale=rationale,
            answer=None if row["answer"] is None else _cut(row["answer"]),
            group=str(row["group"]),
            verdict=_verdict(row),
            hinted=bool(row["hinted"]),
            kept=trained_on,
            steps_right=steps,
            ended=bool(row["ended"]),
            n_tokens=int(row["n_tokens"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{file}: the attempt at {row.get('question_id')!r} is no attempt as star_jax writes "
            f"them ({type(error).__name__}: {error}); restore the file"
        ) from error


def _verdict(row: Mapping[str, Any]) -> str:
    if row.get("left_out"):
        return LEFT_OUT
    if row["correct"]:
        return RIGHT
    return UNPARSED if row["answer"] is None else WRONG


def _cut(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{repr(text)[:60]} is no text")
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} […] (cut here: {len(text):,} characters)"
