"""What a toy world is."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from star_jax.records import Question
from star_jax.tasks.data_set import DataSetTask

CORPUS, TRAIN, VALIDATION = PARTS = ("corpus", "train", "validation")  # share no question

Fact = tuple[str, str]  # (how it begins, how it goes on)


class Worked(NamedTuple):
    """A question as a row of the published files, and a right completion."""

    row: dict[str, Any]
    completion: str


@dataclasses.dataclass(frozen=True)
class World:
    """All there is to know and to ask."""

    task: DataSetTask  # writes and reads the questions
    facts: Callable[[], list[Fact]]
    draw: Callable[[np.random.Generator, str], Worked]  # a question of a part
    texts: Callable[[], list[str]]  # that have every word between them
    # How to read a list of so many choices, where there are any.
    reading: Callable[[np.random.Generator, int], list[Fact]] | None = None

    def question(self, worked: Worked) -> Question:
        """The question of a row."""
        return self.task.question_of("toy", worked.row)
