"""Run mode `pretrain`: a small base model from scratch."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from star_jax.modes.mode import RunMode, default_mesh

if TYPE_CHECKING:
    import seqio

    from star_jax.loop.pretrain import Phase
    from star_jax.models.config import DecoderConfig
    from star_jax.parallel.partitioning import MeshConfig
    from star_jax.training.trainer import TrainerConfig


@dataclasses.dataclass(frozen=True)
class PretrainMode(RunMode):
    """Trains the base model in `model_dir`, once."""

    help = "make a small base model from scratch"
    many_processes = True

    model_dir: str
    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    phases: Sequence[Phase]
    trainer: TrainerConfig
    seed: int = 0
    mesh: MeshConfig = dataclasses.field(default_factory=default_mesh)

    def __call__(self) -> int:
        """Runs `train_base`."""
        from star_jax.loop.pretrain import train_base
        from star_jax.modes import build
        from star_jax.training.train_step import OptimizerConfig

        # Each phase brings its own optimizer.
        trainer = build.trainer(self.model, OptimizerConfig(), self.trainer, self.mesh)
        trained = self.phases, self.vocabulary, trainer, self.seed
        train_base(self.model_dir, *trained, build.config_text)
        return 0
