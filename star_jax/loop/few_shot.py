"""The few-shot baseline: the base model answers behind the examples, and is not trained.

With rationales, or of a `direct` task without them: the paper's "few-shot CoT" and "few-shot
direct". The run directory is STaR's: what its `iter_000` has, and no other iteration.
"""

import dataclasses
from collections.abc import Callable, Sequence

from star_jax.errors import UserError
from star_jax.loop.ask import Asking
from star_jax.loop.evaluate import chance, evaluate_model, evaluation_only
from star_jax.models import base_weights
from star_jax.models.decoder import placed_params
from star_jax.parallel.partitioning import Rules
from star_jax.records import Attempt, Question
from star_jax.rollout.native.sampler import Sampler
from star_jax.rollout.native.weights import DecodingModel
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import path_of
from star_jax.run.progress import class_names, format_header, format_row, log
from star_jax.run.run_dir import RunDir, StageDir
from star_jax.tasks.task import VALIDATION, ReasoningTask


def evaluate_few_shot(
    model_dir: str,
    base_checkpoint: str,
    task: ReasoningTask,
    sampler: Sampler,
    rules: Rules,
    seed: int = 0,
    config_text: Callable[[], str] = str,
    row: str = "",
    on_metrics: Callable[[IterationMetrics], None] = lambda metrics: None,
) -> IterationMetrics:
    """Asks the base the held-out questions behind the few-shot examples, as `iter_000`.

    Args:
      model_dir: the run directory.
      base_checkpoint: weights of M.
      task: its few-shot examples come with rationales, or without if it is `direct`.
      sampler: draws completions.
      rules: by which the weights are laid out when they are read.
      seed: of the draws, where the temperature is above 0.
      config_text: the run's configuration.
      row: of the paper's tables, as `RunDir.write_row` takes it.
      on_metrics: gets the metrics when they are on disk.

    Raises:
      UserError: the task has no few-shot examples, the base is missing, and so on.
    """
    if seed < 0:
        raise UserError(f"few_shot.seed = {seed}: give 0 or more")
    base = (
        path_of(base_checkpoint),
        sampler.model,
        placed_params(sampler.model, sampler.mesh, rules),
    )
    base_weights.check_base(*base)
    held_out = task.questions(VALIDATION)
    check_examples(task, held_out)
    directory = RunDir(path_of(model_dir))
    directory.claim(config_text())
    directory.write_row(row)
    stage, asking = directory.iteration(0), Asking(sampler, task, True, seed, iteration=0)
    metrics = evaluated(
        stage, lambda: sampler.prepare(base_weights.load_base(*base)), held_out, asking
    )
    stage.write_metrics(metrics)
    directory.write_metrics_lines()
    on_metrics(metrics)
    show([metrics])
    return metrics


def evaluated(
    directory: StageDir,
    model: Callable[[], DecodingModel],
    questions: Sequence[Question],
    asking: Asking,
) -> IterationMetrics:
    """A baseline's stage `eval`, the same as STaR's: metrics of a model's answers.

    Args:
      directory: of the iteration; gets the attempts and what asking cost.
      model: makes the model, if the stage is not finished.
      questions: held out.
      asking: sampler, task, examples or not, seed and iteration.
    """
    task = asking.task
    texts = [task.question_text(question, hinted=False) for question in questions]

    def attempts() -> list[Attempt]:
        ours = dataclasses.replace(
            asking,
            sampler=asking.sampler.for_prompts(texts),
            on_stats=lambda stage, stats: directory.write_stats(stage, stats.summary()),
        )
        return evaluate_model(model(), questions, ours)

    done = directory.records("eval", Attempt, attempts)
    return evaluation_only(
        asking.iteration, asking.seed, False, done.seconds, done.value, chance(task, questions)
    )


def check_examples(task: ReasoningTask, questions: Sequence[Question]) -> None:
    """Raises UserError if there is no example to show before one of the questions."""
    groups = dict.fromkeys(question.group for question in questions)
    without = [group for group in groups if not task.few_shot_examples(group, hinted=False)]
    if without:
        of_group = f" for the questions of group {without[0]!r}" if without[0] else ""
        raise UserError(
            f"--run_mode=few_shot needs few-shot examples, and task {task.name} has none"
            f"{of_group}; ArithmeticTask.n_few_shot or JsonlTask.exemplar_file gives it some"
        )


def show(lines: Sequence[IterationMetrics]) -> None:
    """The table of a finished baseline on the screen."""
    rows = [dataclasses.asdict(line) for line in lines]
    classes = class_names(rows)
    log("\n".join([format_header(classes), *(format_row(row, classes) for row in rows)]))
