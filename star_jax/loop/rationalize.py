"""Algorithm 1, line 4: the failures again, with the right answer in the prompt as a hint."""

from collections.abc import Sequence

from star_jax.loop.ask import Asking, ask
from star_jax.records import Attempt, Question
from star_jax.rollout.native.weights import DecodingModel


def rationalize_failures(
    model: DecodingModel, questions: Sequence[Question], attempts: Sequence[Attempt], asking: Asking
) -> list[Attempt]:
    """(r', y'^) = M_{n-1}(add_hint(x, y)) for the questions answered wrongly.

    Args:
      model: M_{n-1}.
      questions: those that `attempts` answer, in the same order.
      attempts: from `generate_rationales`.
      asking: sampler, task and seed.
    """
    failures = [
        question
        for question, attempt in zip(questions, attempts, strict=True)
        if not attempt.correct
    ]
    return ask(model, failures, asking, hinted=True, stage="rationalize")
