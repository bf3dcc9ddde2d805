"""What a run mode's fields describe, made when the mode runs: engines, trainers, weights.

This module imports JAX; the run modes import it when they are called.
"""

from collections.abc import Sequence

import gin

from star_jax.loop.baselines import check_examples
from star_jax.loop.stages import Rollout
from star_jax.models.base_weights import Base
from star_jax.models.decoder import placed_params
from star_jax.modes.finetune import FinetuneMode
from star_jax.modes.mode import CheckpointMode, PromptingMode, RunDirMode
from star_jax.modes.pretrain import PretrainMode
from star_jax.modes.star import StarMode
from star_jax.parallel import partitioning, processes
from star_jax.records import Question
from star_jax.reporting.report import report
from star_jax.rollout.engine import Engine, Loaded
from star_jax.rollout.native import sampler
from star_jax.run.run_dir import Recorder
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer

config_text = gin.operative_config_str  # what a run directory keeps as config.gin


def engine(mode: PromptingMode) -> Engine:
    """The engine that is bound, or else the native one."""
    make = mode.engine or sampler.Sampler
    mesh, rules = partitioning.make_mesh(mode.mesh), mode.mesh.decoding_rules
    return make(mode.model, mode.vocabulary, mode.sampler, mesh, rules)


def trainer(mode: StarMode | FinetuneMode | PretrainMode, optimizer: OptimizerConfig) -> Trainer:
    """The trainer of the mode's model, with the optimizer's settings."""
    mesh, rules = partitioning.make_mesh(mode.mesh), mode.mesh.training_rules
    return Trainer(mode.model, optimizer, mode.trainer, mesh, rules)


def base(mode: PromptingMode, path: str) -> Base:
    """The weights at `path`, not read yet, in the layout of training."""
    mesh, rules = partitioning.make_mesh(mode.mesh), mode.mesh.training_rules
    return Base(path, mode.model, placed_params(mode.model, mesh, rules))


def recorder(mode: RunDirMode) -> Recorder:
    """The run directory and the trackers, as `track` is bound."""
    on_metrics = gin.get_configurable("star_jax.track")(mode.model_dir)
    return Recorder(mode.model_dir, config_text, mode.row, on_metrics)


def reported(mode: RunDirMode) -> int:
    """Writes the report of the run, in the lead; returns the exit code 0."""
    if processes.is_lead():
        report([mode.model_dir])
    return 0


def rollout(mode: CheckpointMode, name: str, questions: Sequence[Question]) -> Rollout:
    """How the mode, called `name`, prompts its checkpoint with these questions."""
    if mode.few_shot:
        check_examples(mode.task, questions, f"{name}.few_shot = True")
    return Rollout(engine(mode), mode.task, mode.seed, iteration=0, few_shot=mode.few_shot)


def weights(mode: CheckpointMode, rollout: Rollout) -> Loaded:
    """The checkpoint's weights, read in the layout of training and laid out for sampling."""
    return rollout.engine.load(base(mode, mode.checkpoint).load())
