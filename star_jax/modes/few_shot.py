"""Run mode `few_shot`: the base with few-shot examples, the paper's other baseline."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from star_jax.modes.mode import RunDirMode

if TYPE_CHECKING:
    from star_jax.tools.precompile.settings import Assumptions, Settings


@dataclasses.dataclass(frozen=True)
class FewShotMode(RunDirMode):
    """Evaluates the base, prompted with few-shot examples."""

    help = "accuracy of the base with few-shot examples (a baseline)"

    seed: int = 0

    def __call__(self) -> int:
        """Runs `evaluate_few_shot`, then reports."""
        from star_jax.loop.few_shot import evaluate_few_shot
        from star_jax.modes import build

        recorder, engine = build.recorder(self), build.engine(self)
        base = build.base(self.base_checkpoint, self.model, self.mesh)
        evaluate_few_shot(base, self.task, engine, recorder, self.seed)
        return build.reported(self)

    def settings(self, assumed: Assumptions) -> Settings:
        """Nothing is trained."""
        from star_jax.tools.precompile.settings import Settings

        return Settings(self.model, self.sampler, None, None, None, None, self.mesh, assumed)
