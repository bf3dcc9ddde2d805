"""Direct fine-tuning, a baseline: the base is trained on the data set's own answers.

With the gold rationale, or of a `direct` task with the answer alone. The run directory is that of
one outer iteration of STaR.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from star_jax.errors import UserError
from star_jax.loop.evaluate import evaluated_only
from star_jax.loop.finetune import train_stage
from star_jax.loop.rationales import Rollout
from star_jax.loop.stages import FINETUNE, Stages
from star_jax.models.base_weights import Base, BaseWeights
from star_jax.records import Params, TokenizedExample
from star_jax.rollout.engine import Engine
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import Recorder
from star_jax.run.stage_dir import Lazy
from star_jax.tasks.task import TRAIN, VALIDATION, ReasoningTask
from star_jax.tokenizers.vocabularies import encode_example
from star_jax.training.schedules import EpochSteps
from star_jax.training.trainer import Trainer


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

    Returns the metrics of both.

    Raises:
      UserError: the task has no gold completions, the base is missing, and so on.
    """
    task, seed, trainer = direct.task, direct.length.seed, direct.trainer
    direct.base.check()
    load_base = BaseWeights(direct.base.load)
    pairs = gold_pairs(task, direct.n_examples, seed)
    held_out = task.questions(VALIDATION)
    engine = direct.engine.for_prompts([task.question_text(q, hinted=False) for q in held_out])
    directory = recorder.claim()
    before, after = (
        Stages(directory.iteration(n), Rollout(engine, task, seed, iteration=n)) for n in (0, 1)
    )

    def documents() -> list[TokenizedExample]:
        return [encode_example(engine.vocabulary, *pair) for pair in pairs]

    def n_steps(examples: Sequence[TokenizedExample]) -> int:
        return direct.length(1, len(examples), trainer.config.examples_per_step(examples))

    def measure(stages: Stages, model: Lazy[Params]) -> IterationMetrics:
        loaded = Lazy(lambda: engine.load(model()))
        return evaluated_only(stages, loaded, held_out, few_shot=False)

    base = recorder.publish(measure(before, Lazy(load_base)))
    done, weights = train_stage(
        after.directory,
        load_base,
        documents,
        trainer,
        n_steps=n_steps,
        seed=seed,
        on_losses=after.directory.write_losses,
    )
    after.seconds[FINETUNE] = done.seconds
    trained = dataclasses.replace(
        measure(after, weights),
        n_questions=len(pairs),
        kept={FINETUNE: len(pairs)},
        training=done.value,
    )
    return [base, recorder.publish(trained)]


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
