"""Whose rationales are compared, in which pairs, and which of a pair is A and which is B.

A source is a run's attempts, lines of a file, or the data set's own rationales. The draw does not
depend on the sources: pairs are sorted by their texts, and one seed shuffles them and flips their
sides. So the raters' sheet is byte for byte the same if two sources change places, and only the
rationales themselves can distinguish them.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from star_jax.errors import UserError
from star_jax.loop.stages import EVALUATE
from star_jax.records import Key, Question
from star_jax.reporting.stage_files import WRITTEN, Row, key_of, lines_of
from star_jax.run.paths import bucket_errors, is_dir, path_of
from star_jax.tasks.task import ReasoningTask

# source -> (question id, sample, turn) -> rationale, normalized
Rationales: TypeAlias = Mapping[str, Mapping[Key, str]]

INVISIBLE = ("Cc", "Cf", "Cs", "Co")  # categories of Unicode
CONSONANTS = "bcdfghjkmnpqrstvwxz"  # make no word, number or month, which spreadsheets convert
GOLD = "gold"  # in place of a path: the data set's own rationales


def read_rationales(
    where: str, questions: Mapping[str, Question], task: ReasoningTask, only_right: bool
) -> dict[Key, str]:
    """(question id, sample, turn) -> rationale of one source, trimmed and with normal spacing.

    The first of several with one key counts. Those that leak their hint are dropped.

    Args:
      where: an iteration's directory (its evaluation), a run's (its last one's), a file of
        attempts, of kept examples or of lines with `question_id` and `completion`; or "gold".
      questions: those that may be compared, by id.
      task: that they belong to.
      only_right: drop incorrect answers; lines without a verdict count as correct.

    Raises:
      UserError: it cannot be read, has no such questions, or their prompts differ.
    """
    found: dict[Key, str | None] = {}
    if where == GOLD:
        found = {(q.id, 0, 0): task.gold_completion(q) for q in questions.values()}
        if not any(found.values()):
            raise UserError(
                f"compare.sources has {GOLD!r}, but task {task.name} has no rationales of its own"
            )
    else:
        file, known = _attempts_file(where), False
        for line in lines_of(file):
            row = line.row(WRITTEN)
            if question := questions.get(row["question_id"]):
                known = True
                _check_prompt(line.place, row, question, task)
                rationale = _rationale(row, question, task, only_right)
                if rationale is not None:
                    found.setdefault(key_of(row), rationale)
        if not known:
            raise UserError(
                f"compare.sources: no question of {file} is in this split of task {task.name}; set "
                f"compare.split (an iteration's eval.jsonl has 'validation', its train.jsonl "
                f"'train')"
            )
    texts = {key: normalized(text or "") for key, text in found.items()}
    return {key: text for key, text in texts.items() if text}


def _attempts_file(where: str) -> Path:
    """The file of attempts that a path means; raises UserError if there is none."""
    path, name = path_of(where), f"{EVALUATE.file}.jsonl"
    files, missing = [path], f"{path} does not exist; check the path"
    if is_dir(path):
        with bucket_errors(path):
            iterations = sorted(path.glob("iter_*"), reverse=True)
        files = [folder / name for folder in (path, *iterations)]
        missing = (
            f"{path} has no {name}, and its iterations have none; name an iteration's directory, "
            f"or a file of attempts"
        )
    with bucket_errors(path):
        found = next((file for file in files if file.exists()), None)
    if found is None:
        raise UserError(f"compare.sources: {missing}")
    return found


def _check_prompt(place: str, row: Row, question: Question, task: ReasoningTask) -> None:
    """The same id may be another question under other settings of the task."""
    prompt = row.get("prompt")
    if row["turn"] or prompt is None:  # a later prompt contains the turns before it
        return
    if prompt not in [task.question_text(question, hinted=hinted) for hinted in (False, True)]:
        raise UserError(
            f"{place}: question {question.id} has the prompt {prompt[:80]!r}, which task "
            f"{task.name} does not write; bind the task as config.gin of that run has it"
        )


def _rationale(row: Row, question: Question, task: ReasoningTask, only_right: bool) -> str | None:
    """The completion up to the end of its answer, None if it is not to be compared."""
    reading = row.get("reading", {})
    if (only_right and not reading.get("correct", True)) or reading.get("answer", "") is None:
        return None
    if "end" not in reading:
        ours = task.read(question, row["completion"])
        reading = {"end": ours.end, "hint_leaked": ours.hint_leaked}
    leaks = row.get("hinted") and reading["hint_leaked"]
    return None if leaks or row.get("dropped") else row["completion"][: reading["end"]]


@dataclasses.dataclass(frozen=True)
class Item:
    """One comparison; the sources are for the key alone."""

    name: str  # such as "kxbf-07": of this comparison and no other
    key: Key  # of the two attempts
    question: str
    rationale_a: str
    rationale_b: str
    source_a: str
    source_b: str


def normalized(text: str) -> str:
    r"""The text without invisible characters, extra spaces and blank lines.

    "  2 +  2\r\n\n\n= 4 " -> "2 + 2\n\n= 4"
    """
    lines = []
    for line in re.split(r"\r\n|[\r\n]", text):
        seen = (x for x in line if x.isspace() or unicodedata.category(x) not in INVISIBLE)
        lines.append(" ".join(unicodedata.normalize("NFC", "".join(seen)).split()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def draw_items(
    rationales: Rationales, questions: Mapping[str, str], n: int, seed: int
) -> list[Item]:
    """Up to `n` pairs of every two sources, shuffled, with the sides shuffled too.

    A pair has the same question, sample and turn. Equal rationales are no pair.

    Args:
      rationales: of each source.
      questions: question id -> text.
      n: items for each two sources.
      seed: of all draws.

    Raises:
      UserError: two sources share no question.
    """
    every_two = itertools.combinations(rationales, 2)
    pairs = [pair for two in every_two for pair in _pairs_of(two, rationales, n, seed)]
    # By the texts alone, so that nothing after this line depends on the sources.
    pairs.sort(key=lambda pair: (questions[pair[0][0]], pair[0], pair[1][0][0], pair[1][1][0]))
    draws = np.random.default_rng([seed, 9])
    order = draws.permutation(len(pairs))
    flipped = draws.integers(2, size=len(pairs))
    sided = []
    for (key, two), flip in zip([pairs[i] for i in order], flipped, strict=True):
        (a, source_a), (b, source_b) = two[::-1] if flip else two
        sided.append((key, questions[key[0]], a, b, source_a, source_b))
    # Names depend on all texts, so they distinguish this comparison's items from any other's.
    digest = hashlib.sha256(json.dumps([texts[1:4] for texts in sided]).encode()).digest()
    word = "".join(CONSONANTS[byte % len(CONSONANTS)] for byte in digest[:4])
    width = len(str(len(sided)))
    return [Item(f"{word}-{i:0{width}d}", *fields) for i, fields in enumerate(sided, start=1)]


def _pairs_of(
    two: tuple[str, str], rationales: Rationales, n: int, seed: int
) -> list[tuple[Key, list[tuple[str, str]]]]:
    """(key, the two (rationale, source) in the order of their texts) of drawn attempts."""
    first, second = (rationales[source] for source in two)
    both = sorted(first.keys() & second.keys())
    shared = [key for key in both if first[key] != second[key]]
    if not shared:
        raise UserError(
            f"compare.sources: {two[0]!r} has {len(first)} rationales to compare, {two[1]!r} "
            f"{len(second)}, and {len(both)} are for the same question, none of them with two "
            f"different rationales; name other sources, or set compare.only_right = False"
        )
    # All pairs of sources draw with the same seed, so they draw the same questions if they can.
    drawn = np.random.default_rng([seed, 8]).permutation(len(shared))[:n]
    return [
        (key, sorted((rationales[source][key], source) for source in two))
        for key in (shared[i] for i in drawn)
    ]
