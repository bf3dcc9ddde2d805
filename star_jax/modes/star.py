"""Run mode `star`: a whole run of STaR, Algorithm 1."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from star_jax.modes.mode import RunDirMode

if TYPE_CHECKING:
    from star_jax.loop.config import StarConfig
    from star_jax.tools.precompile.settings import Assumptions, Settings
    from star_jax.training.schedules import StepSchedule
    from star_jax.training.train_step import OptimizerConfig
    from star_jax.training.trainer import TrainerConfig


@dataclasses.dataclass(frozen=True)
class StarMode(RunDirMode):
    """Starts or resumes the outer loop in its run directory."""

    help = "the outer loop: generate, rationalize, filter, fine-tune the base"

    trainer: TrainerConfig
    optimizer: OptimizerConfig
    schedule: StepSchedule
    loop: StarConfig

    def __call__(self) -> int:
        """Runs `run_star`, then reports."""
        from star_jax.loop.star import Star, run_star
        from star_jax.modes import build

        recorder, engine = build.recorder(self), build.engine(self)
        trainer = build.trainer(self.model, self.optimizer, self.trainer, self.mesh)
        base = build.base(self.base_checkpoint, self.model, self.mesh)
        star = Star(self.loop, self.task, engine, trainer, self.schedule, base)
        run_star(star, recorder)
        return build.reported(self)

    def settings(self, assumed: Assumptions) -> Settings:
        """As bound."""
        from star_jax.tools.precompile.settings import Settings

        trained = self.trainer, self.optimizer, self.schedule, self.loop
        return Settings(self.model, self.sampler, *trained, self.mesh, assumed)
