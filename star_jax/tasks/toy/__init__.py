"""Closed toy worlds for the tiny twins of Tables 1 and 2, in the layout of the published data.

`things` has questions about things whose answers depend on their kinds, `stories` has word problems
of one to three steps; `corpus` is the training text of a tiny base model. tests/toy_files.py
writes star_jax/tasks/examples/toy_*. Words are separated by spaces, as `WordVocabulary` requires.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from star_jax.records import Question
from star_jax.tasks.data_set import DataSetTask
from star_jax.tasks.rows import Row

CORPUS, TRAIN, VALIDATION = PARTS = ("corpus", "train", "validation")  # share no question

Fact = tuple[str, str]  # (its start, its end)


class Worked(NamedTuple):
    """A question as a row of the published files, and a correct completion."""

    row: Row
    completion: str


@dataclasses.dataclass(frozen=True)
class World:
    """All facts and questions of a world."""

    task: DataSetTask  # writes and reads the questions
    facts: Callable[[], list[Fact]]
    draw: Callable[[np.random.Generator, str], Worked]  # a question of a part
    texts: Callable[[], list[str]]  # contain every word
    # How to read a list of n choices; None where there are no choices.
    reading: Callable[[np.random.Generator, int], list[Fact]] | None = None

    def question(self, worked: Worked) -> Question:
        """The question of a row."""
        return self.task.question_of("toy", worked.row)
