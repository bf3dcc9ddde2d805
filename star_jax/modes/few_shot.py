"""Run mode `few_shot`: the base with few-shot examples, the paper's other baseline."""

from __future__ import annotations

import dataclasses

from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class FewShotMode(mode.RunDirMode):
    """Evaluates the base, prompted with few-shot examples."""

    help = "accuracy of the base with few-shot examples (a baseline)"

    seed: int = 0

    def __call__(self) -> int:
        """Runs `evaluate_few_shot`, then reports."""
        from star_jax.loop.baselines import evaluate_few_shot
        from star_jax.modes import build

        recorder, engine = build.recorder(self), build.engine(self)
        base = build.base(self, self.base_checkpoint)
        evaluate_few_shot(base, self.task, engine, recorder, self.seed)
        return build.reported(self)
