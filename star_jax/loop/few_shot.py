"""The few-shot baseline: the base model answers after the examples, and is not trained.

With rationales, or of a `direct` task without them: the paper's "few-shot CoT" and "few-shot
direct". The run directory is STaR's: what its `iter_000` has, and no other iteration.
"""

from collections.abc import Sequence

from star_jax.errors import UserError
from star_jax.loop.evaluate import evaluated_only
from star_jax.loop.rationales import Rollout
from star_jax.loop.stages import Stages
from star_jax.models.base_weights import Base
from star_jax.records import Question
from star_jax.rollout.engine import Engine
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import Recorder
from star_jax.run.stage_dir import Lazy
from star_jax.tasks.task import VALIDATION, ReasoningTask


def evaluate_few_shot(
    base: Base, task: ReasoningTask, engine: Engine, recorder: Recorder, seed: int = 0
) -> IterationMetrics:
    """Samples answers to the held-out questions with few-shot prompts, as `iter_000`.

    Args:
      base: the original model M.
      task: its few-shot examples come with rationales, or without if it is `direct`.
      engine: samples.
      recorder: of the run directory.
      seed: of the draws, where the temperature is above 0.

    Raises:
      UserError: the task has no few-shot examples, the base is missing, and so on.
    """
    if seed < 0:
        raise UserError(f"few_shot.seed = {seed}: give 0 or more")
    base.check()
    held_out = task.questions(VALIDATION)
    check_examples(task, held_out, "--run_mode=few_shot")
    engine = engine.for_prompts([task.question_text(q, hinted=False) for q in held_out])
    directory = recorder.claim()
    stages = Stages(directory.iteration(0), Rollout(engine, task, seed, iteration=0))
    model = Lazy(lambda: engine.load(base.load()))
    return recorder.publish(evaluated_only(stages, model, held_out, few_shot=True))


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
