"""The toy CommonsenseQA: a question about a thing, whose answer depends on the thing's kind.

Q: What does a robin give ?
Answer Choices:
(a) shade
(b) song ...
A: A robin is a bird . A bird gives song . Therefore, the answer is song (b).
"""

import functools
import hashlib
import itertools
import re
from pathlib import Path

import numpy as np

from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.toy import CORPUS, PARTS, TRAIN, VALIDATION, Fact, Worked, World

# The question, and the fact up to its last word.
RELATIONS = (
    ("Where do you find {} ?", "{} is found in the"),
    ("What does {} have ?", "{} has"),
    ("What does {} need ?", "{} needs"),
    ("Who keeps {} ?", "{} is kept by the"),
    ("What harms {} ?", "{} is harmed by"),
    ("What does {} give ?", "{} gives"),
)
SIZES = {CORPUS: 120, TRAIN: 520, VALIDATION: 320}  # pairs of a thing and a relation
LETTERS = "abcde"
N_CHOICES = len(LETTERS)


@functools.cache
def kinds() -> dict[str, tuple[list[str], list[str]]]:
    """Kind -> (ten things of this kind, its value for each relation), as in things.txt."""
    lines = Path(__file__).with_name("things.txt").read_text(encoding="utf-8").splitlines()
    parts = [re.split("[:|]", line) for line in lines]
    return {kind: (things.split(), values.split()) for kind, things, values in parts}


@functools.cache
def pairs(part: str) -> list[tuple[str, str, int]]:
    """(thing, its kind, relation) of the questions of `part`; each is in one part only."""
    every = [
        (thing, kind, relation)
        for kind, (things, _) in kinds().items()
        for thing in things
        for relation in range(len(RELATIONS))
    ]
    every.sort(key=lambda pair: hashlib.blake2b(f"{pair[0]} {pair[2]}".encode()).digest())
    start = sum(SIZES[before] for before in PARTS[: PARTS.index(part)])
    return every[start : start + SIZES[part]]


@functools.cache
def facts() -> list[Fact]:
    """The kind of each thing, then the values of each kind."""
    is_a, of_kinds = [], []
    for kind, (things, values) in kinds().items():
        is_a += [(f"{_a(thing)} is", f" {_a(kind).lower()} .") for thing in things]
        for (_, statement), value in zip(RELATIONS, values, strict=True):
            of_kinds.append((statement.format(_a(kind)), f" {value} ."))
    return is_a + of_kinds


def draw(rng: np.random.Generator, part: str) -> Worked:
    """A question of `part` with new choices, and its rationale."""
    return question(rng, pairs(part)[rng.integers(len(pairs(part)))])


def question(rng: np.random.Generator, pair: tuple[str, str, int]) -> Worked:
    """The question of one of `pairs`; the wrong choices are the values of other kinds."""
    thing, kind, relation = pair
    ask, statement = RELATIONS[relation]
    answer = kinds()[kind][1][relation]
    others = [values[relation] for other, (_, values) in kinds().items() if other != kind]
    texts = [answer, *rng.permutation(others)[: N_CHOICES - 1].tolist()]
    order = rng.permutation(N_CHOICES).tolist()
    letter = LETTERS[order.index(0)]
    labelled = zip(LETTERS.upper(), order, strict=True)
    choices = [{"label": label, "text": texts[i]} for label, i in labelled]
    row = {
        "id": f"{thing}_{relation}",
        "answerKey": letter.upper(),
        "question": {"stem": ask.format(_a(thing).lower()), "choices": choices},
    }
    steps = f" {_a(thing)} is {_a(kind).lower()} . {statement.format(_a(kind))} {answer} ."
    return Worked(row, f"{steps} Therefore, the answer is {answer} ({letter}).")


def reading(rng: np.random.Generator, n: int) -> list[Fact]:
    """A list of `n` choices without a question, and the letters of some of them."""
    relation = rng.integers(len(RELATIONS))
    texts = rng.permutation([values[relation] for _, values in kinds().values()])[:n].tolist()
    listed = "".join(f"({letter}) {text}\n" for letter, text in zip(LETTERS, texts, strict=False))
    shown = [(f"the answer is {texts[i]}", f" ({LETTERS[i]}).") for i in rng.integers(n, size=n)]
    return [(f"Answer Choices:\n{listed}{shown[0][0]}", shown[0][1]), *shown[1:]]


def _texts() -> list[str]:
    texts = [start + end for start, end in facts()]
    for pair in itertools.chain(*map(pairs, PARTS)):
        worked = question(np.random.default_rng(0), pair)
        text = WORLD.task.question_text(WORLD.question(worked), hinted=True)
        texts += [text, worked.completion]
    return [*texts, *(f"({letter})." for letter in LETTERS)]


def _a(noun: str) -> str:
    return f"An {noun}" if noun[0] in "aeiou" else f"A {noun}"


WORLD = World(CommonsenseQATask(), facts, draw, _texts, reading)
