"""Where a tiny base model comes from: plain training on a corpus, in phases."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import seqio

from star_jax.errors import UserError
from star_jax.loop.finetune import train_stage
from star_jax.loop.stages import CHECKPOINT
from star_jax.records import Params, TokenizedExample
from star_jax.run.paths import path_of
from star_jax.run.progress import log
from star_jax.run.run_dir import RunDir
from star_jax.run.stage_dir import StageDir
from star_jax.tokenizers.vocabularies import check_room
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer


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

    What is finished is left as it is.

    Args:
      model_dir: the base's directory.
      phases: at least one.
      vocabulary: of the model.
      trainer: batch, rows and mesh; each phase brings its own optimizer.
      seed: of the fresh weights and of the order of documents.
      config_text: the configuration.

    Raises:
      UserError: `model_dir` belongs to another configuration, no phase, or too small a model.
    """
    if not phases:
        raise UserError("pretrain.phases is empty; give at least one Phase")
    if seed < 0:
        raise UserError(f"pretrain.seed = {seed}: give 0 or more")
    check_room(vocabulary, trainer.model.vocab_size)  # now: the run from this base needs it, too
    directory = RunDir(path_of(model_dir))
    directory.claim(config_text())
    params: Callable[[], Params] = functools.cache(lambda: trainer.random_params(seed))
    seconds = 0.0
    for i, phase in enumerate(phases, start=1):
        ours = dataclasses.replace(trainer, optimizer=phase.optimizer)

        def n_steps(examples: object, steps: int = phase.steps) -> int:
            return steps

        done, params = train_stage(
            StageDir(directory.path),
            params,
            functools.partial(phase.corpus.documents, vocabulary),
            ours,
            n_steps=n_steps,
            seed=seed * 100 + i,
            name=CHECKPOINT if i == len(phases) else f"phase_{i}",
            stage=f"pretrain {i}/{len(phases)}",
        )
        seconds += done.seconds
    log(
        f"base model: {directory.path} (last phase {done.value['steps']} steps, loss "
        f"{done.value['loss']:.4f}; made in {seconds:.0f} s)"
    )
    return directory.path
