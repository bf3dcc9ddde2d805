"""Run mode `finetune`: direct fine-tuning, the paper's baseline."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from star_jax.modes.mode import RunDirMode

if TYPE_CHECKING:
    from star_jax.loop.direct import TrainingLength
    from star_jax.tools.precompile.settings import Assumptions, Settings
    from star_jax.training.train_step import OptimizerConfig
    from star_jax.training.trainer import TrainerConfig


@dataclasses.dataclass(frozen=True)
class FinetuneMode(RunDirMode):
    """Fine-tunes the base on answers alone or on the data set's own solutions, and evaluates it."""

    help = "fine-tune the base on worked solutions or on answers alone"

    trainer: TrainerConfig
    optimizer: OptimizerConfig
    length: TrainingLength
    n_examples: int = 0  # 0 for all

    def __call__(self) -> int:
        """Runs `finetune_on_gold`, then reports."""
        from star_jax.loop.direct import Direct, finetune_on_gold
        from star_jax.modes import build

        recorder, engine = build.recorder(self), build.engine(self)
        trainer = build.trainer(self.model, self.optimizer, self.trainer, self.mesh)
        base = build.base(self.base_checkpoint, self.model, self.mesh)
        direct = Direct(self.length, self.task, engine, trainer, base, self.n_examples)
        finetune_on_gold(direct, recorder)
        return build.reported(self)

    def settings(self, assumed: Assumptions) -> Settings:
        """It trains for its own length, on every example."""
        from star_jax.tools.precompile.settings import Settings

        n_examples = self.n_examples or assumed.n_questions
        assumed = dataclasses.replace(assumed, n_questions=n_examples, kept_share=1.0)
        trained = self.trainer, self.optimizer, self.length, None
        return Settings(self.model, self.sampler, *trained, self.mesh, assumed)
