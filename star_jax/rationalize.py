"""Algorithm 1, line 4: the failures again, with the right answer in the prompt as a hint."""

from collections.abc import Sequence
from typing import Any

from star_jax.records import Attempt, Question
from star_jax.sampling.ask import Asking, ask


def rationalize_failures(
    params: Any, questions: Sequence[Question], attempts: Sequence[Attempt], asking: Asking
) -> list[Attempt]:
    """(r', y'^) = M_{n-1}(add_hint(x, y)) for the questions answered wrongly.

    Args:
      params: of M_{n-1}.
      questions: those that `attempts` answer, in the same order.
      attempts: from `generate_rationales`.
      asking: sampler, task and seed.
    """
    failures = [
        question
        for question, attempt in zip(questions, attempts, strict=True)
        if not attempt.correct
    ]
    return ask(params, failures, asking, hinted=True, stage="rationalize")
