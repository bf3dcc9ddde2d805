"""Run mode `pretrain`: a small base model from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class PretrainMode(mode.RunMode):
    """Trains the base model in `model_dir`, once."""

    help = "make a small base model from scratch"
    many_processes = True

    model_dir: str
    model: mode.DecoderConfig
    vocabulary: mode.seqio.Vocabulary
    phases: Sequence[mode.Phase]
    trainer: mode.TrainerConfig
    seed: int = 0
    mesh: mode.MeshConfig = dataclasses.field(default_factory=mode.default_mesh)

    def __call__(self) -> int:
        """Runs `train_base`."""
        from star_jax.loop.finetune import train_base
        from star_jax.modes import build
        from star_jax.training.train_step import OptimizerConfig

        # Each phase brings its own optimizer.
        trainer = build.trainer(self, OptimizerConfig())
        trained = self.phases, self.vocabulary, trainer, self.seed
        train_base(self.model_dir, *trained, build.config_text)
        return 0
