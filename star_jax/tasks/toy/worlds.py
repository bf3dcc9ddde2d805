"""The definition of a toy world."""

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
