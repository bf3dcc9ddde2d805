"""What STaR is set beside, and where its tiny base comes from: plain training on given documents.

`train_base` makes the base model M from a corpus; `finetune_on_gold` trains M on the data set's
own answers, with the gold rationale or (a `direct` task) with the answer alone.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import seqio

from star_jax.errors import UserError
from star_jax.loop.ask import Asking
from star_jax.loop.few_shot import evaluated, show
from star_jax.loop.finetune import Finetuned, finetune_from_base
from star_jax.models import base_weights
from star_jax.records import TokenizedExample
from star_jax.rollout.native.sampler import Sampler
from star_jax.run import checkpoints
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import path_of
from star_jax.run.progress import log
from star_jax.run.run_dir import RunDir, StageDir, StageResult
from star_jax.tasks.task import TRAIN, VALIDATION, ReasoningTask
from star_jax.tokenizers.vocabularies import encode_example
from star_jax.training.schedules import EpochSteps
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
        _check_positive("Phase.steps", self.steps)


@dataclasses.dataclass(frozen=True)
class TrainingLength:
    """How long and from which seed direct fine-tuning goes: in steps, or else in epochs."""

    steps: int = 0  # optimizer steps; 0 goes by the epochs
    epochs: float = 0.0  # times that each example is seen; 0 goes by the steps
    seed: int = 0  # of the choice and the order of examples

    def __post_init__(self):
        """Raises UserError for a length that is none, or two."""
        if min(self.steps, self.epochs) < 0 or bool(self.steps) == bool(self.epochs):
            raise UserError(
                f"TrainingLength: steps = {self.steps} and epochs = {self.epochs}: give one of "
                f"them a positive number and leave the other 0"
            )
        _check_seed("TrainingLength.seed", self.seed)

    def __call__(self, iteration: int, n_examples: int, examples_per_step: float) -> int:
        """Optimizer steps for `n_examples`, as a `StepSchedule` gives them; of any iteration."""
        return self.steps or EpochSteps(self.epochs)(iteration, n_examples, examples_per_step)


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
      UserError: `model_dir` belongs to another configuration, or there is no phase.
    """
    if not phases:
        raise UserError("pretrain.phases is empty; give at least one Phase")
    _check_seed("pretrain.seed", seed)
    directory = RunDir(path_of(model_dir))
    directory.claim(config_text())
    stage = StageDir(directory.path)
    params: Callable[[], Any] = functools.cache(lambda: trainer.random_params(seed))
    seconds = 0.0
    for i, phase in enumerate(phases, start=1):
        phase_trainer = dataclasses.replace(trainer, optimizer=phase.optimizer)
        run = functools.partial(
            finetune_from_base,
            params,
            trainer=phase_trainer,
            n_steps=phase.steps,
            seed=seed * 100 + i,
            checkpoint=checkpoints.TrainingCheckpoint(directory.path / "training"),
            stage=f"pretrain {i}/{len(phases)}",
        )
        result, params = _trained(
            stage,
            "checkpoint" if i == len(phases) else f"phase_{i}",
            lambda run=run, phase=phase: run(phase.corpus.documents(vocabulary)),
            phase_trainer,
        )
        seconds += result.seconds
    log(
        f"base model: {directory.path} (last phase {result.value['train_steps']} steps, loss "
        f"{result.value['train_loss']:.4f}; made in {seconds:.0f} s)"
    )
    return directory.path


def finetune_on_gold(
    model_dir: str,
    base_checkpoint: str,
    length: TrainingLength,
    n_examples: int,
    task: ReasoningTask,
    sampler: Sampler,
    trainer: Trainer,
    config_text: Callable[[], str] = str,
    row: str = "",
    on_metrics: Callable[[IterationMetrics], None] = lambda metrics: None,
) -> IterationMetrics:
    """Direct fine-tuning: trains the base on gold completions and evaluates, as `iter_001`.

    Args:
      model_dir: the run directory.
      base_checkpoint: weights of M.
      length: of the training.
      n_examples: training questions to use, drawn by the seed; 0 for all.
      task: its `gold_completion` is what is trained on.
      sampler: for the evaluation.
      trainer: for the training.
      config_text: the run's configuration.
      row: of the paper's tables, as `RunDir.write_row` takes it.
      on_metrics: gets the base's metrics and the trained model's, when they are on disk.

    Raises:
      UserError: the task has no gold completions, the base is missing, and so on.
    """
    base = (path_of(base_checkpoint), trainer.model, trainer.abstract_params())
    base_weights.check_base(*base)
    load_base = base_weights.BaseWeights(lambda: base_weights.load_base(*base))
    chosen = gold_pairs(task, n_examples, length.seed)
    held_out = task.questions(VALIDATION)
    directory = RunDir(path_of(model_dir))
    directory.claim(config_text())
    directory.write_row(row)

    def measured(stage: StageDir, n: int, params: Callable[[], Any]) -> IterationMetrics:
        asking = Asking(sampler, task, few_shot=False, seed=length.seed, iteration=n)
        return evaluated(stage, lambda: sampler.prepare(params()), held_out, asking)

    def finetuned() -> Finetuned:
        examples = [encode_example(sampler.vocabulary, *pair) for pair in chosen]
        return finetune_from_base(
            load_base,
            examples,
            trainer,
            n_steps=length(1, len(examples), trainer.config.examples_per_step(examples)),
            seed=length.seed,
            checkpoint=checkpoints.TrainingCheckpoint(stage.path / "training"),
            on_losses=stage.write_losses,
        )

    base_stage, stage = directory.iteration(0), directory.iteration(1)
    before = measured(base_stage, 0, load_base)
    base_stage.write_metrics(before)
    trained, params = _trained(stage, "checkpoint", finetuned, trainer)
    metrics = dataclasses.replace(
        measured(stage, 1, params),
        n_sampled=len(chosen),
        train_fraction=1.0,
        seconds_finetune=trained.seconds,
        **trained.value,
    )
    stage.write_metrics(metrics)
    directory.write_metrics_lines()
    for line in (before, metrics):
        on_metrics(line)
    show([before, metrics])
    return metrics


def gold_pairs(task: ReasoningTask, n_examples: int, seed: int) -> list[tuple[str, str]]:
    """`n_examples` training questions (0: all), drawn by the seed, with their gold completions.

    Raises:
      UserError: there are not so many, or one has no gold completion.
    """
    questions = task.questions(TRAIN)
    if not 0 <= n_examples <= len(questions):
        raise UserError(
            f"finetune.n_examples = {n_examples}, but the task has {len(questions)} training "
            f"questions; give at most so many, or 0 for all"
        )
    order = np.random.default_rng([seed, 6]).permutation(len(questions))
    chosen = [questions[i] for i in order[: n_examples or None]]
    pairs = [(task.question_text(q, hinted=False), task.gold_completion(q)) for q in chosen]
    if any(gold is None for _, gold in pairs):
        raise UserError(
            f"task {task.name} has questions without a gold rationale to train on; bind "
            f"{type(task).__name__}.direct = True to train on the answers alone"
        )
    return pairs


def _trained(
    stage: StageDir, name: str, compute: Callable[[], Finetuned], trainer: Trainer
) -> tuple[StageResult, Callable[[], Any]]:
    """Trains as the stage `name`, unless it is finished, and drops the state kept inside it."""

    def weights_and_notes() -> tuple[Any, dict[str, Any]]:
        done = compute()
        return done.params, done.notes()

    result = stage.weights(
        name,
        weights_and_notes,
        checkpoints.save,
        lambda path: checkpoints.load(path, trainer.abstract_params()),
    )
    checkpoints.TrainingCheckpoint(stage.path / "training").clear()
    return result


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name} = {value}: give 1 or more")


def _check_seed(name: str, value: int) -> None:
    if value < 0:
        raise UserError(f"{name} = {value}: give 0 or more")
