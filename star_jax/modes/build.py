"""What a run mode's fields describe, made when the mode runs: engines, trainers, weights.

This module imports JAX; the run modes import it when they are called.
"""

import gin

from star_jax.loop.rationales import Rollout
from star_jax.models.base_weights import Base
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import placed_params
from star_jax.modes.mode import CheckpointMode, RunDirMode
from star_jax.parallel import partitioning, processes
from star_jax.parallel.partitioning import MeshConfig
from star_jax.reporting.report import report
from star_jax.rollout.engine import Engine, Loaded
from star_jax.rollout.native import sampler
from star_jax.run.run_dir import Recorder
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer, TrainerConfig

config_text = gin.operative_config_str  # what a run directory keeps as config.gin


def engine(mode: RunDirMode | CheckpointMode) -> Engine:
    """The engine that is bound, or else the native one."""
    make = mode.engine or sampler.Sampler
    mesh, rules = partitioning.make_mesh(mode.mesh), mode.mesh.decoding_rules
    return make(mode.model, mode.vocabulary, mode.sampler, mesh, rules)


def trainer(
    model: DecoderConfig, optimizer: OptimizerConfig, config: TrainerConfig, mesh: MeshConfig
) -> Trainer:
    """The trainer of these settings.

    Args:
      model: the decoder to train.
      optimizer: Adam's settings.
      config: batches and rows.
      mesh: the devices and how arrays are split over them.
    """
    return Trainer(model, optimizer, config, partitioning.make_mesh(mesh), mesh.training_rules)


def base(path: str, model: DecoderConfig, mesh: MeshConfig) -> Base:
    """The weights at `path`, not read yet, in the layout of training."""
    placed = placed_params(model, partitioning.make_mesh(mesh), mesh.training_rules)
    return Base(path, model, placed)


def recorder(mode: RunDirMode) -> Recorder:
    """The run directory and the trackers, as `track` is bound."""
    on_metrics = gin.get_configurable("star_jax.track")(mode.model_dir)
    return Recorder(mode.model_dir, config_text, mode.row, on_metrics)


def reported(mode: RunDirMode) -> int:
    """Writes the report of the run, in the lead; returns the exit code 0."""
    if processes.is_lead():
        report([mode.model_dir])
    return 0


def rollout(mode: CheckpointMode) -> Rollout:
    """How the mode prompts its checkpoint."""
    return Rollout(engine(mode), mode.task, mode.seed, iteration=0, few_shot=mode.few_shot)


def weights(mode: CheckpointMode, rollout: Rollout) -> Loaded:
    """The checkpoint's weights, read in the layout of training and laid out for sampling."""
    return rollout.engine.load(base(mode.checkpoint, mode.model, mode.mesh).load())
