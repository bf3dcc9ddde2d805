"""An ablation of Algorithm 1, line 4: the failures again at a higher temperature, without a hint.

The paper sets this beside rationalization (section 4.6): as many samples, but no answer to reason
towards, so that more of what is kept is right for the wrong reasons.
"""

import dataclasses
from collections.abc import Sequence

from star_jax.loop.ask import Asking, ask
from star_jax.records import Attempt, Question
from star_jax.rollout.native.weights import DecodingModel


def resample_failures(
    model: DecodingModel,
    questions: Sequence[Question],
    attempts: Sequence[Attempt],
    asking: Asking,
    temperature: float,
) -> list[Attempt]:
    """One more attempt at each question answered wrongly, drawn at `temperature`.

    Args:
      model: M_{n-1}.
      questions: those that `attempts` answer, in the same order.
      attempts: from `generate_rationales`.
      asking: sampler, task and seed; only the temperature is another one here.
      temperature: of sampling, above 0.
    """
    failures = [q for q, a in zip(questions, attempts, strict=True) if not a.correct]
    warmer = dataclasses.replace(asking, sampler=asking.sampler.at_temperature(temperature))
    return ask(model, failures, warmer, hinted=False, stage="resample", sample=1)
