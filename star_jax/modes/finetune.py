"""Run mode `finetune`: direct fine-tuning, the paper's baseline."""

from __future__ import annotations

import dataclasses

from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class FinetuneMode(mode.RunDirMode):
    """Fine-tunes the base on answers alone or on the data set's own solutions, and evaluates it."""

    help = "fine-tune the base on worked solutions or on answers alone"

    trainer: mode.TrainerConfig
    optimizer: mode.OptimizerConfig
    length: mode.TrainingLength
    n_examples: int = 0  # 0 for all

    def __call__(self) -> int:
        """Runs `finetune_on_gold`, then reports."""
        from star_jax.loop.baselines import Direct, finetune_on_gold
        from star_jax.modes import build

        recorder, engine = build.recorder(self), build.engine(self)
        trainer = build.trainer(self, self.optimizer)
        base = build.base(self, self.base_checkpoint)
        direct = Direct(self.length, self.task, engine, trainer, base, self.n_examples)
        finetune_on_gold(direct, recorder)
        return build.reported(self)

    def settings(self, assumed: mode.Assumptions) -> mode.Settings:
        """It trains for its own length, on every example."""
        n_examples = self.n_examples or assumed.n_questions
        assumed = dataclasses.replace(assumed, n_questions=n_examples, kept_share=1.0)
        return dataclasses.replace(super().settings(assumed), schedule=self.length)
