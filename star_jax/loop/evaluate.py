"""Accuracy of a model on held-out questions, without hints.

A model is graded by what it writes, exactly as in sampling; run mode `evaluate`, and it alone,
can also grade it by the likelihood of the choices' text.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from star_jax.errors import UserError
from star_jax.loop.ask import Asking, ask, grade
from star_jax.records import Attempt, Completion, Prompt, Question
from star_jax.rollout.native.score import NORMALIZATIONS, normalized, score_continuations
from star_jax.rollout.native.weights import DecodingModel
from star_jax.run import metrics
from star_jax.run.progress import progress
from star_jax.tasks.task import ReasoningTask

GENERATED, LIKELIHOOD = "generated", "likelihood"
GRADINGS = {
    GENERATED: "the answer that the model writes",
    LIKELIHOOD: "likelihood of the choices' text (not comparable with the paper's numbers)",
}


def evaluate_model(
    model: DecodingModel, questions: Sequence[Question], asking: Asking
) -> list[Attempt]:
    """One graded attempt for each held-out question."""
    return ask(model, questions, asking, hinted=False, stage="evaluate")


def evaluate_by_likelihood(
    model: DecodingModel, questions: Sequence[Question], asking: Asking, normalize: str = "bytes"
) -> list[Attempt]:
    """The likeliest choice of each held-out question, the first one of equals.

    Nothing is generated: an attempt's completion is the choice's text, its log-probability that
    of the text, and `ended` is False because EOS is not scored.

    Args:
      model: that chooses, as `Sampler.prepare` makes it.
      questions: of a task with choices.
      asking: sampler, task and few-shot examples; seed and temperature do not matter.
      normalize: what a choice's log-probability is divided by, see `score.normalized`.

    Raises:
      UserError: as `check_grading`.
    """
    task, sampler = asking.task, asking.sampler
    check_grading(LIKELIHOOD, normalize, task, questions)
    # Choices that the prompt lists, a small model likes for being listed: they are not shown.
    prompts = [
        dataclasses.replace(
            task.prompt(question, hinted=False, few_shot=asking.few_shot),
            text=task.open_text(question),
        )
        for question in questions
    ]
    texts = [list(task.choices(question).values()) for question in questions]
    with progress("evaluate", len(prompts), "questions") as advance:
        scores = score_continuations(sampler, model, prompts, texts, advance)

    def choose(question: Question, prompt: Prompt, sums: list[float] | None) -> Attempt:
        if sums is None:
            return grade(task, question, prompt, None)
        choices = [
            (*choice, x) for choice, x in zip(task.choices(question).items(), sums, strict=True)
        ]
        answer, text, log_probability = max(
            choices, key=lambda c: normalized(c[2], c[1], sampler.vocabulary, normalize)
        )
        ids = tuple(sampler.vocabulary.encode(text))
        chosen = Completion(text, ids, ended=False, log_probability=log_probability)
        return dataclasses.replace(
            grade(task, question, prompt, chosen),
            answer=answer,
            correct=task.is_correct(question, answer),
        )

    return [choose(*triple) for triple in zip(questions, prompts, scores, strict=True)]


def check_grading(
    grading: str, normalize: str, task: ReasoningTask, questions: Sequence[Question]
) -> None:
    """Raises UserError for an unknown grading, or one that `task` has no choices for."""
    for name, value, known in (
        ("grading", grading, tuple(GRADINGS)),
        ("normalize", normalize, NORMALIZATIONS),
    ):
        if value not in known:
            raise UserError(f"evaluate.{name} = {value!r}: give one of {known}")
    open_ended = [q.id for q in questions if not task.choices(q)] if grading == LIKELIHOOD else []
    if open_ended:
        raise UserError(
            f"evaluate.grading = 'likelihood' needs choices, and task {task.name} has none (in "
            f"question {open_ended[0]}); give evaluate.grading = 'generated'"
        )


def chance(task: ReasoningTask, questions: Sequence[Question]) -> float | None:
    """The accuracy of guessing among the choices; None where a question has none."""
    counts = [len(task.choices(question)) for question in questions]
    return sum(1 / n for n in counts) / len(counts) if counts and all(counts) else None


def evaluation_metrics(
    attempts: Sequence[Attempt], guessing: float | None = None
) -> dict[str, Any]:
    """The fields of `metrics.IterationMetrics` that evaluation fills; `guessing` is `chance`."""
    classes = metrics.by_class(attempts)
    return {
        "accuracy": metrics.accuracy(attempts),
        "chance": guessing,
        "accuracy_by_class": {name: metrics.accuracy(group) for name, group in classes.items()},
        "n_eval": len(attempts),
        "n_eval_by_class": {name: len(group) for name, group in classes.items()},
        "unparsable": metrics.unparsable(attempts),
        "left_out": sum(attempt.left_out for attempt in attempts),
    }


def evaluation_only(
    iteration: int,
    seed: int,
    rationalize: bool,
    seconds: float,
    attempts: Sequence[Attempt],
    guessing: float | None = None,
) -> metrics.IterationMetrics:
    """The metrics of a model that was evaluated and not trained: the base, above all."""
    return metrics.IterationMetrics(
        iteration=iteration,
        rationalize=rationalize,
        kept_generated=0,
        kept_rationalized=0,
        n_sampled=0,
        hint_leaks=0,
        train_fraction=0.0,
        train_steps=0,
        train_loss=None,
        seconds_generate=0.0,
        seconds_rationalize=0.0,
        seconds_finetune=0.0,
        seconds_evaluate=seconds,
        seed=seed,
        **evaluation_metrics(attempts, guessing),
    )
