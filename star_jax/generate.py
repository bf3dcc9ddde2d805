"""Algorithm 1, line 3: the model writes a rationale and an answer for every question."""

from collections.abc import Sequence
from typing import Any

from star_jax.records import Attempt, Question
from star_jax.sampling.ask import Asking, ask


def generate_rationales(
    params: Any, questions: Sequence[Question], asking: Asking
) -> list[Attempt]:
    """(r, y^) = M_{n-1}(x) for every x, in the order of the questions.

    `params` are those of M_{n-1}, the last outer iteration's model.
    """
    return ask(params, questions, asking, hinted=False, stage="generate")
