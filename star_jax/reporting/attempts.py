"""The attempts that a reader of the report can browse: a sample of every stage of every run.

A stage's sample are the attempts at the questions that come first in one fixed, random order of
all questions. So the same held-out questions are shown for every iteration and every run, whatever
the number of attempts, and a training question that is sampled again is shown again.
"""

import dataclasses
import heapq
import itertools
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from star_jax.loop.stages import EVALUATE, SAMPLED, TRAIN_FILE
from star_jax.records import Key
from star_jax.reporting.stage_files import ATTEMPT, KEPT, Line, Row, key_of, lines_of, readable

EVALUATION = "evaluation"
# The stage as the page shows it -> its file; in the order of an outer iteration.
STAGES = {stage.source: f"{stage.file}.jsonl" for stage in SAMPLED}
STAGES[EVALUATION] = f"{EVALUATE.file}.jsonl"
KEPT_FILE = f"{TRAIN_FILE}.jsonl"
RIGHT, WRONG, UNPARSED, DROPPED = "right", "wrong", "unparsed", "dropped"
VERDICTS = (RIGHT, WRONG, UNPARSED, DROPPED)
HINT = ("without hint", "with hint")
KEPT_WORDS = ("not kept", "kept", "not for training")  # the last: an evaluation, no train.jsonl yet
STEPS = ("a wrong step", "all steps correct", "not checked")  # of a kept rationale
CHOICES = {  # of the page's filters that are the same in every report
    "stage": (*STAGES,), "verdict": VERDICTS, "hint": HINT, "kept": KEPT_WORDS, "steps": STEPS
}  # fmt: skip

MOST = 100_000  # attempts in a report ...
MOST_OF_A_STAGE = 1_000  # ... and of one stage; fewer where there are many stages, but at least
LEAST_OF_A_STAGE = 10
MOST_CHARACTERS = 4_000  # of a question or a rationale

ITERATION = re.compile(r"iter_(\d+)")
Kept: TypeAlias = dict[tuple[Key, str], bool | None]  # -> steps correct?
ID_FIRST = b'{"question_id": "'  # how a run begins a line


@dataclasses.dataclass(frozen=True)
class ShownAttempt:
    """An attempt as the page shows it; its fields are columns of the page."""

    id: str  # of the question
    sample: str
    turn: str
    question: str  # as in the prompt, hint included
    rationale: str
    answer: str | None
    expected: str | None  # the right answer, None where it was not recorded
    group: str
    verdict: str  # one of VERDICTS
    hint: str  # one of HINT, and so on
    kept: str
    steps: str
    tokens: int
    ended: int  # 0: truncated at the token limit


@dataclasses.dataclass(frozen=True)
class StageSample:
    """Some of a stage's `total` attempts, in the fixed order of their questions."""

    run: str
    iteration: int
    stage: str  # a key of STAGES
    attempts: tuple[ShownAttempt, ...]
    total: int


@dataclasses.dataclass(frozen=True)
class AttemptsData:
    """The samples, in the order of runs, iterations and stages."""

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
    """Samples the stages of runs (name -> MODEL_DIR): `most` attempts, or LEAST_OF_A_STAGE of each.

    Raises UserError if a sampled line is malformed or a file cannot be read.
    """
    places = [(run, *place) for run, path in runs.items() for place in _iterations(path)]
    n_stages = sum(len(files & {*STAGES.values()}) for *_, files in places)
    cap = max(LEAST_OF_A_STAGE, min(MOST_OF_A_STAGE, most // max(1, n_stages)))
    samples: list[StageSample] = []
    for run, iteration, directory, files in places:
        chosen = {stage: _sample(directory / f, cap) for stage, f in STAGES.items() if f in files}
        ids = {_raw_id(line.data) for lines, _ in chosen.values() for line in lines}
        kept: Kept | None = None
        if KEPT_FILE in files:
            lines_kept = (x for x in lines_of(directory / KEPT_FILE) if _raw_id(x.data) in ids)
            rows = [line.row(KEPT) for line in lines_kept]
            kept = {(key_of(row), row["source"]): row.get("steps_right") for row in rows}
        for stage, (lines, total) in chosen.items():
            shown = tuple(_shown(line.row(ATTEMPT), stage, kept) for line in lines)
            samples.append(StageSample(run, iteration, stage, shown, total))
    return AttemptsData(tuple(samples))


def _iterations(run: Path) -> Iterator[tuple[int, Path, set[str]]]:
    """(n, directory, names of its files), by n."""
    with readable(run):
        found = [(ITERATION.fullmatch(path.name), path) for path in run.iterdir()]
        for n, directory in sorted((int(match[1]), path) for match, path in found if match):
            yield n, directory, {file.name for file in directory.iterdir()}


def _sample(file: Path, cap: int) -> tuple[list[Line], int]:
    """The first `cap` lines in the order of ranks, and the number of all lines.

    Lines that are not sampled are not parsed: a run's files may have gigabytes.
    """
    counter = itertools.count()
    ranked = ((_rank(line), next(counter), line) for line in lines_of(file))
    chosen = heapq.nsmallest(cap, ranked)
    return [line for *_, line in chosen], next(counter)


def _raw_id(line: bytes) -> bytes:
    """The question's id as it is written in the line; else the line's first bytes."""
    start = len(ID_FIRST)
    return line[start : line.find(b'"', start)] if line.startswith(ID_FIRST) else line[:start]


def _rank(line: Line) -> int:
    """Place of a question in the fixed random order; the product mixes what a CRC leaves."""
    return zlib.crc32(_raw_id(line.data)) * 0x9E3779B1 & 0xFFFFFFFF


def _shown(row: Row, stage: str, kept: Kept | None) -> ShownAttempt:
    reading, key = row["reading"], (key_of(row), stage)
    trained_on = None if stage == EVALUATION or kept is None else key in kept
    steps_right = (kept or {}).get(key)
    return ShownAttempt(
        id=row["question_id"],
        sample=str(row["sample"]),
        turn=str(row["turn"]),
        question=_truncated(row["prompt"]),
        rationale=_truncated(row["completion"]),
        answer=None if reading["answer"] is None else _truncated(reading["answer"]),
        expected=_truncated(row["expected"]) if row.get("expected") else None,
        group=row["group"],
        verdict=_verdict(row),
        hint=HINT[row["hinted"]],
        kept=KEPT_WORDS[2 if trained_on is None else trained_on],
        steps=STEPS[2 if steps_right is None else steps_right],
        tokens=row["n_tokens"],
        ended=int(row["ended"]),
    )


def _verdict(row: Row) -> str:
    if row.get("dropped"):
        return DROPPED
    if row["reading"]["correct"]:
        return RIGHT
    return UNPARSED if row["reading"]["answer"] is None else WRONG


def _truncated(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} […] (truncated here: {len(text):,} characters)"
