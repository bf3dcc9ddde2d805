"""Algorithm 1, lines 1-2: the outer loop."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from star_jax.errors import UserError
from star_jax.loop.ask import Asking
from star_jax.loop.evaluate import chance, evaluate_model, evaluation_metrics, evaluation_only
from star_jax.loop.filter import hint_leaks, keep_correct, step_counts, without_wrong_steps
from star_jax.loop.finetune import finetune_from_base, kept_to_examples
from star_jax.loop.generate import generate_rationales
from star_jax.loop.rationalize import rationalize_failures
from star_jax.loop.resample import resample_failures
from star_jax.models import base_weights
from star_jax.records import (
    GENERATED,
    RATIONALIZED,
    RESAMPLED,
    Attempt,
    KeptExample,
    Question,
)
from star_jax.rollout.native.meter import SamplingStats
from star_jax.rollout.native.sampler import Sampler
from star_jax.rollout.native.weights import DecodingModel
from star_jax.run import checkpoints
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import path_of
from star_jax.run.progress import class_names, format_header, format_row, log
from star_jax.run.run_dir import Lazy, RunDir, StageDir, StageResult
from star_jax.tasks.task import TRAIN, VALIDATION, ReasoningTask
from star_jax.training.schedules import StepSchedule
from star_jax.training.trainer import Trainer

FEW_SHOT_POLICIES = ("always", "first", "never")


@dataclasses.dataclass(frozen=True)
class StarConfig:
    """The outer loop's settings; the defaults are the paper's."""

    iterations: int = 16  # outer iterations N
    questions_per_iteration: int = 0  # drawn anew in each outer iteration; 0 takes all
    rationalize: bool = True  # lines 4 and 6; False is "STaR without rationalization"
    few_shot: str = "always"  # sampling with few-shot prompts: always, first (only M_0) or never
    hinted_share: float = 0.0  # of rationalized examples, trained on with their hint in the prompt
    few_shot_in_training: bool = False  # the few-shot prompts stand before what is trained on, too
    resample_temperature: float = 0.0  # instead of rationalizing, failures are asked again so warm
    only_right_steps: bool = False  # keeps no rationale with a wrong step, where steps can be told
    first_iteration: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # ^ group of questions -> outer iteration from which on they are trained on; others from 1
    seed: int = 0

    def __post_init__(self):
        """Raises UserError for settings that mean nothing."""
        if self.few_shot not in FEW_SHOT_POLICIES:
            raise UserError(
                f"StarConfig.few_shot = {self.few_shot!r} is none of {FEW_SHOT_POLICIES}"
            )
        if self.iterations < 1 or self.questions_per_iteration < 0:
            raise UserError(
                f"StarConfig: iterations = {self.iterations} must be positive and "
                f"questions_per_iteration = {self.questions_per_iteration} not negative"
            )
        if not 0 <= self.hinted_share <= 1 or self.seed < 0:
            raise UserError(
                f"StarConfig: hinted_share = {self.hinted_share} must be in 0..1 and "
                f"seed = {self.seed} not negative"
            )
        if self.resample_temperature < 0 or (self.resample_temperature and self.rationalize):
            raise UserError(
                f"StarConfig.resample_temperature = {self.resample_temperature}: give 0 for none, "
                f"or a temperature, and rationalize = False: it takes that one's place"
            )
        object.__setattr__(self, "first_iteration", dict(self.first_iteration))
        for group, n in self.first_iteration.items():
            if not isinstance(group, str) or not isinstance(n, int) or n < 1:
                raise UserError(
                    f"StarConfig.first_iteration has {group!r}: {n!r}; give groups of questions "
                    f"as text and outer iterations from 1 on, such as {{'6': 20}}"
                )


@dataclasses.dataclass(frozen=True)
class Star:
    """What every outer iteration works with."""

    config: StarConfig
    task: ReasoningTask
    sampler: Sampler
    trainer: Trainer
    schedule: StepSchedule
    load_base: Callable[[], Any]  # gives the weights of M
    train_questions: Sequence[Question]
    eval_questions: Sequence[Question]

    def asking(self, iteration: int, model: int, directory: StageDir) -> Asking:
        """How M_model is asked in outer iteration `iteration`, whose directory gets the cost."""
        few_shot = self.config.few_shot == "always" or (
            self.config.few_shot == "first" and model == 0
        )

        def on_stats(stage: str, stats: SamplingStats) -> None:
            directory.write_stats(stage, stats.summary())

        return Asking(self.sampler, self.task, few_shot, self.config.seed, iteration, on_stats)


def run_star(
    model_dir: str,
    base_checkpoint: str,
    star: StarConfig,
    task: ReasoningTask,
    sampler: Sampler,
    trainer: Trainer,
    schedule: StepSchedule,
    config_text: Callable[[], str] = str,
    row: str = "",
    on_metrics: Callable[[IterationMetrics], None] = lambda metrics: None,
) -> list[IterationMetrics]:
    """Runs STaR in `model_dir`, or goes on where it stopped; returns all iterations' metrics.

    Args:
      model_dir: the run directory; made if it is not there.
      base_checkpoint: weights of the original model M, only ever read.
      star: the loop's settings.
      task: questions, hints and answers.
      sampler: draws completions.
      trainer: trains weights.
      schedule: optimizer steps of each outer iteration.
      config_text: the run's configuration; a run goes on only with the one it began with.
      row: of the paper's tables, as `RunDir.write_row` takes it.
      on_metrics: gets each iteration's metrics, the base's too, when they are on disk.

    Raises:
      UserError: another run's directory, no base, an empty data set, nothing kept, and so on.
    """
    base = (path_of(base_checkpoint), trainer.model, trainer.abstract_params())
    base_weights.check_base(*base)
    load_base = base_weights.BaseWeights(lambda: base_weights.load_base(*base))
    questions = task.questions(TRAIN), task.questions(VALIDATION)
    sampler = sampler.for_prompts(_all_texts(task, questions))
    loop = Star(star, task, sampler, trainer, schedule, load_base, *questions)
    _check_groups(loop)
    for n in {1, *star.first_iteration.values()}:  # refuses now what would fail after hours
        draw_questions(loop, n)
    directory = RunDir(path_of(model_dir))
    directory.claim(config_text())
    directory.write_row(row)
    previous, metrics = base_iteration(loop, directory.iteration(0))  # M_0 = M
    lines = [metrics]
    directory.write_metrics_lines()
    on_metrics(metrics)
    _show(lines)
    for n in range(1, star.iterations + 1):
        previous, metrics = outer_iteration(loop, n, previous, directory.iteration(n))
        lines.append(metrics)
        directory.write_metrics_lines()
        on_metrics(metrics)
        _show(lines)
    return lines


def base_iteration(loop: Star, directory: StageDir) -> tuple[Lazy, IterationMetrics]:
    """Algorithm 1, line 1: M_0 = M, evaluated."""
    base = Lazy(lambda: loop.sampler.prepare(loop.load_base()))
    asking = loop.asking(0, model=0, directory=directory)
    evaluated = directory.records(
        "eval", Attempt, lambda: evaluate_model(base(), loop.eval_questions, asking)
    )
    metrics = evaluation_only(
        0,
        loop.config.seed,
        loop.config.rationalize,
        evaluated.seconds,
        evaluated.value,
        chance(loop.task, loop.eval_questions),
    )
    directory.write_metrics(metrics)
    return base, metrics


def outer_iteration(
    loop: Star, n: int, previous: Lazy, directory: StageDir
) -> tuple[Lazy, IterationMetrics]:
    """Algorithm 1, lines 3-7, each a stage on disk; returns M_n for sampling and its metrics.

    `previous` is M_{n-1}; it is made only if a stage needs it, and dropped before training.
    """
    task, asking = loop.task, loop.asking(n, model=n - 1, directory=directory)
    questions = draw_questions(loop, n)
    generated = directory.records(  # line 3
        "generations", Attempt, lambda: generate_rationales(previous(), questions, asking)
    )
    rationalized = directory.records(  # line 4
        "rationalizations",
        Attempt,
        lambda: (
            rationalize_failures(previous(), questions, generated.value, asking)
            if loop.config.rationalize
            else []
        ),
    )
    resampled = _resampled(loop, previous, questions, generated.value, asking, directory)
    answered = {
        GENERATED: generated.value,
        RATIONALIZED: rationalized.value,
        RESAMPLED: resampled.value,
    }
    right = {  # lines 5-6
        source: keep_correct(attempts, questions, task, source)
        for source, attempts in answered.items()
        if attempts
    }
    chosen = [example for examples in right.values() for example in examples]
    if loop.config.only_right_steps:
        chosen = without_wrong_steps(chosen)
    kept = directory.records("train", KeptExample, lambda: chosen)
    if not kept.value:
        raise UserError(_nothing_kept(loop, n, len(questions), directory))
    previous.drop()
    finetuned, weights = directory.weights(  # line 7
        "checkpoint",
        lambda: _finetune(loop, n, kept.value, questions, directory),
        checkpoints.save,
        lambda path: checkpoints.load(path, loop.trainer.abstract_params()),
    )
    checkpoints.TrainingCheckpoint(directory.path / "training").clear()
    current = Lazy(lambda: _prepare(loop, weights))
    asking = loop.asking(n, model=n, directory=directory)
    evaluated = directory.records(
        "eval", Attempt, lambda: evaluate_model(current(), loop.eval_questions, asking)
    )
    sources = [example.source for example in kept.value]
    metrics = IterationMetrics(
        iteration=n,
        rationalize=loop.config.rationalize,
        kept_generated=sources.count(GENERATED),
        kept_rationalized=sources.count(RATIONALIZED),
        kept_resampled=sources.count(RESAMPLED),
        n_sampled=len(questions),
        train_fraction=len(sources) / len(questions),
        hint_leaks=len(hint_leaks(rationalized.value, questions, task)),
        seconds_generate=generated.seconds,
        seconds_rationalize=rationalized.seconds,
        seconds_resample=resampled.seconds,
        seconds_finetune=finetuned.seconds,
        seconds_evaluate=evaluated.seconds,
        seed=loop.config.seed,
        **step_counts(right),
        **finetuned.value,
        **evaluation_metrics(evaluated.value, chance(task, loop.eval_questions)),
    )
    directory.write_metrics(metrics)
    return current, metrics


def draw_questions(loop: Star, n: int) -> list[Question]:
    """The questions of outer iteration `n`: all that have entered, or so many of them.

    They are drawn by (seed, n) alone.
    """
    count, enters = loop.config.questions_per_iteration, loop.config.first_iteration
    pool = [q for q in loop.train_questions if enters.get(q.group, 1) <= n]
    if count > len(pool) or not pool:
        raise UserError(
            f"StarConfig.questions_per_iteration = {count}, but in outer iteration {n} the task "
            f"has only {len(pool)} training questions; lower it, or 0 for all"
        )
    if count == 0:
        return pool
    order = np.random.default_rng([loop.config.seed, 4, n]).permutation(len(pool))
    return [pool[i] for i in order[:count]]


def _check_groups(loop: Star) -> None:
    """Raises UserError for a group that enters and that no training question belongs to."""
    groups = {question.group for question in loop.train_questions}
    for unknown in sorted(loop.config.first_iteration.keys() - groups):
        raise UserError(
            f"StarConfig.first_iteration names the group {unknown!r}; the training questions of "
            f"{loop.task.name} have {', '.join(map(repr, sorted(groups)))}"
        )


def _resampled(
    loop: Star,
    previous: Lazy,
    questions: Sequence[Question],
    generated: Sequence[Attempt],
    asking: Asking,
    directory: StageDir,
) -> StageResult:
    """The ablation's second attempts; without it, none, and no file of them."""
    temperature = loop.config.resample_temperature
    if not temperature:
        return StageResult([], 0.0)
    return directory.records(
        "resamplings",
        Attempt,
        lambda: resample_failures(previous(), questions, generated, asking, temperature),
    )


def _prepare(loop: Star, weights: Lazy) -> DecodingModel:
    """Lays the trained weights out for sampling, on the devices, and gives them up."""
    model = loop.sampler.prepare(weights())
    weights.drop()
    return model


def _all_texts(task: ReasoningTask, splits: Sequence[Sequence[Question]]) -> list[str]:
    """Of all prompts that the run can ask."""
    return [
        task.question_text(question, hinted=hinted)
        for hinted in (False, True)
        for questions in splits
        for question in questions
    ]


def _finetune(
    loop: Star,
    n: int,
    kept: Sequence[KeptExample],
    questions: Sequence[Question],
    directory: StageDir,
) -> tuple[Any, dict[str, Any]]:
    seed, trainer = loop.config.seed, loop.trainer
    examples = kept_to_examples(
        kept,
        questions,
        loop.task,
        loop.sampler.vocabulary,
        loss_on_prompt=trainer.config.loss_on_prompt,
        hinted_share=loop.config.hinted_share,
        few_shot=loop.config.few_shot_in_training,
        row_length=trainer.config.row_length,
        seed=(seed, n),
    )
    finetuned = finetune_from_base(
        loop.load_base,
        examples,
        trainer,
        n_steps=loop.schedule(n, len(examples), trainer.config.examples_per_step(examples)),
        seed=int(np.random.default_rng([seed, 5, n]).integers(1 << 31)),
        checkpoint=checkpoints.TrainingCheckpoint(directory.path / "training"),
        on_losses=directory.write_losses,
    )
    return finetuned.params, finetuned.notes()


def _show(lines: list[IterationMetrics]) -> None:
    """The table on the screen grows by one row; its header stands above the first."""
    rows = [dataclasses.asdict(line) for line in lines]
    classes = class_names(rows)
    if len(rows) == 1:
        log(format_header(classes))
    log(format_row(rows[-1], classes))


def _nothing_kept(loop: Star, n: int, asked: int, directory: StageDir) -> str:
    tries = ["a stronger base model", "easier questions among the training questions"]
    if loop.config.few_shot == "never":
        tries.append('few-shot prompts (StarConfig.few_shot = "always")')
    if not loop.config.rationalize:
        tries.append("rationalization (StarConfig.rationalize = True)")
    how = "answered rightly"
    if loop.config.only_right_steps:
        tries.append("the answer as the only filter (StarConfig.only_right_steps = False)")
        how += " without a wrong step"
    return (
        f"outer iteration {n}: none of {asked} questions was {how}, so there is nothing "
        f"to train on; try {', '.join(tries)}. What was said is in "
        f"{directory.path / 'generations.jsonl'}"
    )
