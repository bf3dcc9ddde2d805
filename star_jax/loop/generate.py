"""Algorithm 1, line 3: the model writes a rationale and an answer for every question."""

from collections.abc import Sequence

from star_jax.loop.ask import Asking, ask
from star_jax.records import Attempt, Question
from star_jax.rollout.native.weights import DecodingModel


def generate_rationales(
    model: DecodingModel, questions: Sequence[Question], asking: Asking
) -> list[Attempt]:
    """(r, y^) = M_{n-1}(x) for every x, in the order of the questions.

    `model` is M_{n-1}, the last outer iteration's.
    """
    return ask(model, questions, asking, hinted=False, stage="generate")
