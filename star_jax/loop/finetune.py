"""Algorithm 1, line 7: train on what was kept, always from the original model M.

And where a tiny M comes from: plain training on a corpus, in phases.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import seqio

from star_jax.errors import UserError
from star_jax.loop.stages import CHECKPOINT, FINETUNE, Stages
from star_jax.records import Params, TokenizedExample
from star_jax.run.checkpoints import TrainingCheckpoint
from star_jax.run.paths import path_of
from star_jax.run.progress import log, progress
from star_jax.run.run_dir import RunDir
from star_jax.run.stage_dir import Lazy, Notes, StageDir
from star_jax.tokenizers.vocabularies import check_room
from star_jax.training.schedules import StepSchedule
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer

OnLosses = Callable[[int, Sequence[float]], None]  # of the first step taken here, and each loss


def finetune(
    stages: Stages,
    load_base: Callable[[], Params],
    documents: Callable[[], Sequence[TokenizedExample]],
    trainer: Trainer,
    *,
    schedule: StepSchedule,
    seed: int,
) -> tuple[Notes, Lazy[Params]]:
    """`finetune_from_base` as a stage on disk: read if it is finished, resumed if it was begun.

    Returns notes of the training, and the trained weights.

    Args:
      stages: of the outer iteration.
      load_base: reads the original weights, laid out for training.
      documents: makes what to train on.
      trainer: optimizer, packing and mesh.
      schedule: the number of optimizer steps.
      seed: of the order of the examples.
    """

    def train(checkpoint: TrainingCheckpoint) -> tuple[Params, Notes]:
        examples = documents()
        per_step = trainer.config.examples_per_step(examples)
        return finetune_from_base(
            load_base,
            examples,
            trainer,
            n_steps=schedule(stages.rollout.iteration, len(examples), per_step),
            seed=seed,
            checkpoint=checkpoint,
            on_losses=stages.directory.write_losses,
        )

    done, weights = stages.directory.weights(CHECKPOINT, train, trainer.abstract_params)
    stages.seconds[FINETUNE] = done.seconds
    return done.value, weights


def finetune_from_base(
    load_base: Callable[[], Params],
    examples: Sequence[TokenizedExample],
    trainer: Trainer,
    *,
    n_steps: int,
    seed: int,
    checkpoint: TrainingCheckpoint | None = None,
    stage: str = FINETUNE,
    on_losses: OnLosses = lambda first_step, losses: None,
) -> tuple[Params, Notes]:
    """M_n = train(M, D_n + D_n^rat) for `n_steps` with a fresh optimizer.

    Returns the weights, and `training` of `metrics.IterationMetrics`. Raises UserError if there is
    nothing to train on, or the loss is not finite.

    Args:
      load_base: reads the original weights, laid out for training.
      examples: what to train on; must not be empty.
      trainer: optimizer, packing and mesh.
      n_steps: optimizer steps to take in all.
      seed: of the order of the examples.
      checkpoint: where the state is kept inside training, if anywhere.
      stage: name of the work for the progress bar.
      on_losses: gets the losses of the steps that were taken here.
    """
    trainer.check(examples)  # before anything is compiled
    every = trainer.config.checkpoint_every if checkpoint else 0
    n_last = max(1, n_steps // 10)
    # Which weights to start from: 1. the state inside this fine-tuning  2. the base
    state = checkpoint.restore(trainer.abstract_state()) if checkpoint and every else None
    state = trainer.init_state(load_base()) if state is None else state
    with progress(stage, n_steps, "steps") as advance:
        advance(int(state.step))

        def on_step(step: int, state: Params) -> None:
            advance(1)
            # Not among the last steps: a resumed run needs the loss of all of them.
            if checkpoint and step <= n_steps - n_last and checkpoint.is_due(step, every):
                checkpoint.save(step, state)

        try:
            trained = trainer.train(state, examples, n_steps, seed, on_step)
        except UserError:
            if checkpoint:
                checkpoint.clear()  # it may hold what spoilt the loss
            raise
    on_losses(n_steps - len(trained.losses) + 1, trained.losses)
    last = trained.losses[-n_last:]
    loss = sum(last) / len(last) if last else None
    efficiency = trained.packing_efficiency
    notes: Notes = {"steps": n_steps, "loss": loss, "packing_efficiency": efficiency}
    return trained.state.params, notes


class Corpus(Protocol):
    """Anything that makes training documents, the same ones each time."""

    def documents(self, vocabulary: seqio.Vocabulary) -> list[TokenizedExample]:
        """The tokenized documents."""


@dataclasses.dataclass(frozen=True)
class Phase:
    """A part of the base's training: what it reads, for how long, and how fast it learns."""

    corpus: Corpus
    steps: int  # optimizer steps
    optimizer: OptimizerConfig  # fresh in each phase

    def __post_init__(self):
        """Raises UserError for a phase without steps."""
        if self.steps < 1:
            raise UserError(f"Phase.steps = {self.steps}: give 1 or more")


def train_base(
    model_dir: str,
    phases: Sequence[Phase],
    vocabulary: seqio.Vocabulary,
    trainer: Trainer,
    seed: int,
    config_text: Callable[[], str] = str,
) -> Path:
    """Trains fresh weights, phase after phase; returns `model_dir`, which has their checkpoint.

    What is finished is left as it is. Raises UserError if `model_dir` belongs to another
    configuration, there is no phase, or the model is too small.

    Args:
      model_dir: the base's directory.
      phases: at least one.
      vocabulary: of the model.
      trainer: batch, rows and mesh; each phase brings its own optimizer.
      seed: of the fresh weights and of the order of documents.
      config_text: the configuration.
    """
    if not phases:
        raise UserError("pretrain.phases is empty; give at least one Phase")
    if seed < 0:
        raise UserError(f"pretrain.seed = {seed}: give 0 or more")
    check_room(vocabulary, trainer.model.vocab_size)  # now: the run from this base needs it, too
    directory = RunDir(path_of(model_dir))
    directory.claim(config_text())
    params: Callable[[], Params] = functools.cache(lambda: trainer.random_params(seed))

    def train(
        i: int, trainer: Trainer, load: Callable[[], Params], checkpoint: TrainingCheckpoint
    ) -> tuple[Params, Notes]:
        return finetune_from_base(
            load,
            phases[i - 1].corpus.documents(vocabulary),
            trainer,
            n_steps=phases[i - 1].steps,
            seed=seed * 100 + i,
            checkpoint=checkpoint,
            stage=f"pretrain {i}/{len(phases)}",
        )

    seconds = 0.0
    for i, phase in enumerate(phases, start=1):
        ours = dataclasses.replace(trainer, optimizer=phase.optimizer)
        name = CHECKPOINT if i == len(phases) else f"phase_{i}"
        training = functools.partial(train, i, ours, params)
        done, params = StageDir(directory.path).weights(name, training, ours.abstract_params)
        seconds += done.seconds
    log(
        f"base model: {directory.path} (last phase {done.value['steps']} steps, loss "
        f"{done.value['loss']:.4f}; made in {seconds:.0f} s)"
    )
    return directory.path
