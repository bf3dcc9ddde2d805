"""Run mode `star`: a whole run of STaR, Algorithm 1."""

from __future__ import annotations

import dataclasses

from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class StarMode(mode.RunDirMode):
    """Starts or resumes the outer loop in its run directory."""

    help = "the outer loop: generate, rationalize, filter, fine-tune the base"

    trainer: mode.TrainerConfig
    optimizer: mode.OptimizerConfig
    schedule: mode.StepSchedule
    loop: mode.StarConfig

    def __call__(self) -> int:
        """Runs `run_star`, then reports."""
        from star_jax.loop.star import Star, check_lengths, run_star
        from star_jax.modes import build

        recorder, engine = build.recorder(self), build.engine(self)
        trainer = build.trainer(self, self.optimizer)
        base = build.base(self, self.base_checkpoint)
        star = Star(self.loop, self.task, engine, trainer, self.schedule, base)
        check_lengths(star, self.sampler.max_new_tokens)
        run_star(star, recorder)
        return build.reported(self)
