"""The baselines: few-shot prompting of the base, and direct fine-tuning.

Few-shot: the base answers after the examples, and is not trained. With rationales, or of a `direct`
task without them: the paper's "few-shot CoT" and "few-shot direct". The run directory is STaR's:
what its `iter_000` has, and no other iteration.

Direct fine-tuning: the base is trained on the data set's own answers. With the gold rationale, or
of a `direct` task with the answer alone. The run directory is that of one outer iteration of STaR.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from star_jax.errors import UserError
from star_jax.loop.evaluate import measured
from star_jax.loop.finetune import finetune
from star_jax.loop.stages import FINETUNE, Rollout, Stages
from star_jax.models.base_weights import Base, BaseWeights
from star_jax.records import Params, Question, TokenizedExample
from star_jax.rollout.engine import Engine
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import Recorder
from star_jax.run.stage_dir import Lazy
from star_jax.tasks.task import TRAIN, VALIDATION, ReasoningTask
from star_jax.tokenizers.vocabularies import encode_example
from star_jax.training.schedules import EpochSteps
from star_jax.training.trainer import Trainer


def evaluate_few_shot(
    base: Base, task: ReasoningTask, engine: Engine, recorder: Recorder, seed: int = 0
) -> IterationMetrics:
    """Samples answers to the held-out questions with few-shot prompts, as `iter_000`.

    Raises UserError if the task has no few-shot examples, the base is missing, and so on.

    Args:
      base: the original model M.
      task: its few-shot examples come with rationales, or without if it is `direct`.
      engine: samples.
      recorder: of the run directory.
      seed: of the draws, where the temperature is above 0.
    """
    if seed < 0:
        raise UserError(f"few_shot.seed = {seed}: give 0 or more")
    base.check()
    held_out = task.questions(VALIDATION)
    check_examples(task, held_out, "--run_mode=few_shot")
    stages, _ = _stages(held_out, Rollout(engine, task, seed, iteration=0), recorder)
    model = Lazy(lambda: stages.rollout.engine.load(base.load()))
    return recorder.publish(measured(stages, model, held_out, few_shot=True))


def _stages(held_out: Sequence[Question], rollout: Rollout, recorder: Recorder) -> list[Stages]:
    """Those of iterations 0 and 1, with an engine that is prepared for the questions."""
    texts = [rollout.task.question_text(question, hinted=False) for question in held_out]
    rollout = dataclasses.replace(rollout, engine=rollout.engine.for_prompts(texts))
    directory = recorder.claim()
    return [
        Stages(directory.iteration(n), dataclasses.replace(rollout, iteration=n)) for n in (0, 1)
    ]


def check_examples(task: ReasoningTask, questions: Sequence[Question], setting: str) -> None:
    """Raises UserError if there is no example, which `setting` needs, before a question."""
    groups = dict.fromkeys(question.group for question in questions)
    without = [group for group in groups if not task.few_shot_examples(group, hinted=False)]
    if without:
        of_group = f" for the questions of group {without[0]!r}" if without[0] else ""
        raise UserError(
            f"{setting} needs few-shot examples, and task {task.name} has none"
            f"{of_group}; ArithmeticTask.n_few_shot or JsonlTask.exemplar_file gives it some"
        )


@dataclasses.dataclass(frozen=True)
class TrainingLength:
    """How long and from which seed direct fine-tuning trains: in steps, or else in epochs."""

    steps: int = 0  # optimizer steps; 0 takes epochs
    epochs: float = 0.0  # times that each example is seen; 0 takes steps
    seed: int = 0  # of the choice and the order of examples

    def __post_init__(self):
        """Raises UserError for a length that is none, or two."""
        if min(self.steps, self.epochs) < 0 or bool(self.steps) == bool(self.epochs):
            raise UserError(
                f"TrainingLength: steps = {self.steps} and epochs = {self.epochs}: give one of "
                f"them a positive number and leave the other 0"
            )
        if self.seed < 0:
            raise UserError(f"TrainingLength.seed = {self.seed}: give 0 or more")

    def __call__(self, iteration: int, n_examples: int, examples_per_step: float) -> int:
        """Optimizer steps for `n_examples`, as a `StepSchedule` gives them; of any iteration."""
        return self.steps or EpochSteps(self.epochs)(iteration, n_examples, examples_per_step)


@dataclasses.dataclass(frozen=True)
class Direct:
    """What direct fine-tuning works with."""

    length: TrainingLength
    task: ReasoningTask  # its `gold_completion` is what is trained on
    engine: Engine  # for the evaluation
    trainer: Trainer
    base: Base
    n_examples: int = 0  # training questions to use, drawn by the seed; 0 for all


def finetune_on_gold(direct: Direct, recorder: Recorder) -> list[IterationMetrics]:
    """Evaluates the base, trains it on gold completions, and evaluates it again, as `iter_001`.

    Returns the metrics of both. Raises UserError if the task has no gold completions, the base is
    missing, and so on.
    """
    task, seed = direct.task, direct.length.seed
    direct.base.check()
    load_base = BaseWeights(direct.base.load)
    pairs = gold_pairs(task, direct.n_examples, seed)
    held_out = task.questions(VALIDATION)
    rollout = Rollout(direct.engine, task, seed, iteration=0)
    before, after = _stages(held_out, rollout, recorder)
    engine = before.rollout.engine

    def documents() -> list[TokenizedExample]:
        return [encode_example(engine.vocabulary, *pair) for pair in pairs]

    def measure(stages: Stages, model: Lazy[Params], **trained: object) -> IterationMetrics:
        loaded = Lazy(lambda: engine.load(model()))
        return recorder.publish(measured(stages, loaded, held_out, few_shot=False, **trained))

    base = measure(before, Lazy(load_base))
    notes, weights = finetune(
        after, load_base, documents, direct.trainer, schedule=direct.length, seed=seed
    )
    n = len(pairs)
    return [base, measure(after, weights, n_questions=n, kept={FINETUNE: n}, training=notes)]


def gold_pairs(task: ReasoningTask, n_examples: int, seed: int) -> list[tuple[str, str]]:
    """`n_examples` training questions (0: all), drawn by the seed, with their gold completions.

    Raises UserError if there are not so many, or one has no gold completion.
    """
    questions = task.questions(TRAIN)
    if not 0 <= n_examples <= len(questions):
        raise UserError(
            f"finetune.n_examples = {n_examples}, but the task has {len(questions)} training "
            f"questions; give at most so many, or 0 for all"
        )
    order = np.random.default_rng([seed, 6]).permutation(len(questions))
    chosen = [questions[i] for i in order[: n_examples or None]]
    pairs = [
        (task.question_text(question, hinted=False), gold)
        for question in chosen
        if (gold := task.gold_completion(question)) is not None
    ]
    if len(pairs) < len(chosen):
        raise UserError(
            f"task {task.name} has questions without a gold rationale to train on; bind "
            f"{type(task).__name__}.direct = True to train on the answers alone"
        )
    return pairs
