"""Algorithm 1: the outer loop.

M_0 = M
for n = 1..N:
generate, rationalize, filter, M_n = train(M, what was kept)
"""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np

from star_jax.errors import UserError
from star_jax.loop.baselines import check_examples
from star_jax.loop.config import StarConfig
from star_jax.loop.evaluate import measured
from star_jax.loop.examples import examples_of, tokenized, with_few_shot
from star_jax.loop.filters import keep, names_of, step_counts
from star_jax.loop.finetune import finetune
from star_jax.loop.stages import GENERATE, Rollout, Stages, by_stage, failures
from star_jax.models.base_weights import Base, BaseWeights
from star_jax.records import Attempt, KeptExample, Question, TokenizedExample
from star_jax.rollout.engine import Engine, Loaded
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import Recorder, RunDir
from star_jax.run.stage_dir import Lazy, Notes, StageDir
from star_jax.tasks.task import SPLITS, TRAIN, VALIDATION, ReasoningTask
from star_jax.tokenizers.vocabularies import document_start
from star_jax.training.schedules import StepSchedule
from star_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Star:
    """What every outer iteration works with."""

    config: StarConfig
    task: ReasoningTask
    engine: Engine
    trainer: Trainer
    schedule: StepSchedule
    base: Base  # the original model M, only ever read

    @functools.cached_property
    def questions(self) -> dict[str, Sequence[Question]]:
        """The task's questions by split."""
        return {split: self.task.questions(split) for split in SPLITS}

    @functools.cached_property
    def load_base(self) -> BaseWeights:
        """Gives the weights of M."""
        return BaseWeights(self.base.load)

    def stages(self, n: int, directory: RunDir) -> Stages:
        """The stages of outer iteration `n`."""
        config = self.config
        rollout = Rollout(self.engine, self.task, config.seed, n, reward=config.reward)
        return Stages(directory.iteration(n), rollout)


def run_star(star: Star, recorder: Recorder) -> list[IterationMetrics]:
    """Runs STaR, or resumes it where it stopped; returns all iterations' metrics, the base's first.

    Raises UserError for another run's directory, no base, no questions, nothing kept, and so on.
    """
    _check_examples(star)
    star.base.check()
    _check_groups(star)
    draw_questions(star, 1)  # refuses too few questions now; later iterations have no fewer
    star = dataclasses.replace(
        star, engine=star.engine.for_prompts(_texts(star, (False, True), SPLITS))
    )
    directory = recorder.claim()
    previous = Lazy(lambda: star.engine.load(star.load_base()))  # line 1: M_0 = M
    base = _measured(star, star.stages(0, directory), previous)
    metrics = [recorder.publish(base)]
    for n in range(1, star.config.iterations + 1):  # line 2
        previous, found = outer_iteration(star, star.stages(n, directory), previous)
        metrics.append(recorder.publish(found))
    return metrics


def outer_iteration(
    star: Star, stages: Stages, previous: Lazy[Loaded]
) -> tuple[Lazy[Loaded], IterationMetrics]:
    """Algorithm 1, lines 3-7, each a stage on disk; returns M_n for sampling and its metrics.

    `previous` is M_{n-1}; it is loaded only if a stage needs it, and dropped before training.
    """
    config, n = star.config, stages.rollout.iteration
    questions = draw_questions(star, n)
    few_shot = config.shows_examples(n - 1)
    attempts = stages.sample(GENERATE, previous, questions, few_shot=few_shot)  # line 3
    for stage in config.retries:  # line 4
        failed = failures(questions, attempts)
        attempts = attempts + stages.sample(stage, previous, failed, few_shot=few_shot)
    right, filtered = keep(attempts, config.filters)  # lines 5-6
    kept = stages.kept(training_examples(star, n, right))
    if not kept:
        raise UserError(_nothing_kept(star, n, len(questions), stages.directory))
    previous.drop()
    current, notes = _finetuned(star, stages, kept)  # line 7
    return current, _measured(
        star,
        stages,
        current,
        n_questions=len(questions),
        kept={stage: len(found) for stage, found in by_stage(kept).items()},
        counts=step_counts(attempts),
        filtered=filtered,
        training=notes,
    )


def _measured(
    star: Star, stages: Stages, model: Lazy[Loaded], **trained: object
) -> IterationMetrics:
    few_shot = star.config.shows_examples(stages.rollout.iteration)
    trained["rationalize"] = star.config.rationalize
    return measured(stages, model, star.questions[VALIDATION], few_shot, **trained)


def draw_questions(star: Star, n: int) -> list[Question]:
    """The questions of outer iteration `n`: all that have entered, or so many of them.

    They are drawn by (seed, n) alone.
    """
    count, enters = star.config.questions_per_iteration, star.config.first_iteration
    pool = [q for q in star.questions[TRAIN] if enters.get(q.group, 1) <= n]
    if count > len(pool) or not pool:
        raise UserError(
            f"StarConfig.questions_per_iteration = {count}, but in outer iteration {n} the task "
            f"has only {len(pool)} training questions; lower it, or 0 for all"
        )
    if count == 0:
        return pool
    order = np.random.default_rng([star.config.seed, 4, n]).permutation(len(pool))
    return [pool[i] for i in order[:count]]


def training_examples(star: Star, n: int, right: Sequence[Attempt]) -> list[KeptExample]:
    """What outer iteration `n` trains on, text for text, of what the filters kept."""
    config, task, share = star.config, star.task, star.config.hinted_share
    examples = examples_of(
        right, star.questions[TRAIN], task, hinted_share=share, seed=(config.seed, n)
    )
    if not config.few_shot_in_training:
        return examples
    groups = [attempt.group for attempt in right]
    row_length = star.trainer.config.row_length
    return with_few_shot(examples, groups, task, star.engine.vocabulary, row_length)


def _finetuned(
    star: Star, stages: Stages, kept: Sequence[KeptExample]
) -> tuple[Lazy[Loaded], Notes]:
    """Line 7: M_n = train(M, D_n + D_n^rat), for sampling, and notes of its training."""
    trainer, vocabulary, n = star.trainer, star.engine.vocabulary, stages.rollout.iteration

    def documents() -> list[TokenizedExample]:
        return [tokenized(example, vocabulary, trainer.config.loss_on_prompt) for example in kept]

    notes, weights = finetune(
        stages,
        star.load_base,
        documents,
        trainer,
        schedule=star.schedule,
        seed=int(np.random.default_rng([star.config.seed, 5, n]).integers(1 << 31)),
    )

    def load() -> Loaded:
        """Lays the trained weights out for sampling, and gives them up."""
        model = star.engine.load(weights())
        weights.drop()
        return model

    return Lazy(load), notes


def _check_groups(star: Star) -> None:
    """Raises UserError for a group that enters and that no training question belongs to."""
    groups = {question.group for question in star.questions[TRAIN]}
    for unknown in sorted(star.config.first_iteration.keys() - groups):
        raise UserError(
            f"StarConfig.first_iteration names the group {unknown!r}; the training questions of "
            f"{star.task.name} have {', '.join(map(repr, sorted(groups)))}"
        )


def _check_examples(star: Star) -> None:
    """Raises UserError if few-shot examples are to be shown and the task has none."""
    few_shot, questions = star.config.few_shot, [q for qs in star.questions.values() for q in qs]
    if few_shot != "never":
        check_examples(star.task, questions, f"StarConfig.few_shot = {few_shot!r} (not 'never')")
    elif star.config.few_shot_in_training:
        check_examples(star.task, questions, "StarConfig.few_shot_in_training = True")


def check_lengths(star: Star, max_new_tokens: int) -> None:
    """Raises UserError if no question fits the context, or an example can exceed a row: at once."""
    vocabulary, context = star.engine.vocabulary, star.trainer.model.context_length
    hints = (False, True) if star.config.hinted_share else (False,)
    around = len(document_start(vocabulary)) + max_new_tokens
    lengths = [len(vocabulary.encode(text)) + around for text in _texts(star, hints, [TRAIN])]
    fitting = [n for n in lengths if n <= context]  # the others are dropped with a warning
    name, room, needed = "DecoderConfig.context_length", context, max(lengths)
    if fitting:
        name, room = "TrainerConfig.row_length", star.trainer.config.row_length
        needed = min(max(fitting) + 1, context)  # with EOS
    if needed > room:
        raise UserError(
            f"{name} = {room}, but a question with {max_new_tokens} new tokens may need {needed}; "
            f"set it to {needed} or more, or lower SamplerConfig.max_new_tokens"
        )


def _texts(star: Star, hints: Sequence[bool], splits: Sequence[str]) -> list[str]:
    """Of all prompts with and without hints, of some splits."""
    return [
        star.task.question_text(question, hinted=hinted)
        for hinted in hints
        for split in splits
        for question in star.questions[split]
    ]


def _nothing_kept(star: Star, n: int, n_questions: int, directory: StageDir) -> str:
    tries = ["a stronger base model", "easier questions among the training questions"]
    if star.config.few_shot == "never":
        tries.append('few-shot prompts (StarConfig.few_shot = "always")')
    if not star.config.rationalize:
        tries.append("rationalization (StarConfig.rationalize = True)")
    if len(star.config.filters) > 2:
        tries.append("fewer filters (StarConfig.filters)")
    return (
        f"outer iteration {n}: of {n_questions} questions no attempt was left by the filters "
        f"{', '.join(names_of(star.config.filters))}, so there is nothing to train on; try "
        f"{', '.join(tries)}. The attempts are in {directory.path / 'generations.jsonl'}"
    )
