"""Accuracy of a model on held-out questions, without hints.

A model is graded by its completions, exactly as in sampling. Run mode `evaluate` can also grade it
by the likelihood of the choices' text.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import seqio

from star_jax.errors import UserError
from star_jax.loop.stages import EVALUATE, Rollout, Stages, read_attempt
from star_jax.records import Attempt, Completion, Prompt, Question
from star_jax.rollout.engine import Loaded
from star_jax.run import metrics
from star_jax.run.progress import progress
from star_jax.run.stage_dir import Lazy
from star_jax.tasks.task import ReasoningTask

UNTRAINED = {"steps": 0, "loss": None, "packing_efficiency": None}
NORMALIZATIONS = ("bytes", "tokens", "none")
GENERATED, LIKELIHOOD = "generated", "likelihood"
GRADINGS = {
    GENERATED: "the answer in the model's completion",
    LIKELIHOOD: "likelihood of the choices' text (not comparable with the paper's numbers)",
}


def evaluate_by_likelihood(
    model: Loaded, questions: Sequence[Question], rollout: Rollout, normalize: str = "bytes"
) -> list[Attempt]:
    """The likeliest choice of each held-out question, the first one of equals.

    Nothing is generated: an attempt's completion is the choice's text, its log-probability that
    of the text, and `ended` is False because EOS is not scored. Raises UserError as
    `check_choices`.

    Args:
      model: that chooses, loaded by the engine.
      questions: of a task with choices.
      rollout: engine, task and few-shot examples; seed and temperature do not matter.
      normalize: what a choice's log-probability is divided by, see `length`.
    """
    task, engine = rollout.task, rollout.engine
    check_choices(task, questions)
    # A small model prefers choices that the prompt lists, whichever they are: none are shown.
    prompts = [
        dataclasses.replace(
            task.prompt(question, hinted=False, few_shot=rollout.few_shot),
            text=task.open_text(question),
        )
        for question in questions
    ]
    texts = [list(task.choices(question).values()) for question in questions]
    with progress("evaluate", len(prompts), "questions") as advance:
        scores = engine.score(model, prompts, texts, advance)

    def choose(question: Question, prompt: Prompt, sums: list[float] | None) -> Attempt:
        if sums is None:
            return read_attempt(rollout, question, prompt, None, EVALUATE)
        choices = [
            (*choice, x) for choice, x in zip(task.choices(question).items(), sums, strict=True)
        ]
        answer, text, log_probability = max(
            choices, key=lambda c: c[2] / length(c[1], engine.vocabulary, normalize)
        )
        ids = tuple(engine.vocabulary.encode(text))
        chosen = Completion(text, ids, ended=False, log_probability=log_probability)
        attempt = read_attempt(rollout, question, prompt, chosen, EVALUATE)
        correct = task.is_correct(question, answer)
        reading = dataclasses.replace(attempt.reading, answer=answer, correct=correct)
        reward = rollout.reward(question, text, reading)
        return dataclasses.replace(attempt, reading=reading, reward=reward)

    return [choose(*triple) for triple in zip(questions, prompts, scores, strict=True)]


def length(text: str, vocabulary: seqio.Vocabulary, normalize: str = "bytes") -> int:
    """What a continuation's log-probability is divided by to compare long and short ones.

    "bytes": of UTF-8, much like acc_norm of lm-evaluation-harness; independent of the vocabulary.
    "tokens": as GPT-3 was evaluated (Brown et al. 2020, section 2.4). "none": 1, which favours
    short texts.
    """
    units = {"tokens": len(vocabulary.encode(text)), "bytes": len(text.encode()), "none": 1}
    return units[normalize]


def check_choices(task: ReasoningTask, questions: Sequence[Question]) -> None:
    """Raises UserError if one of the questions has no choices to score."""
    if open_ended := [question.id for question in questions if not task.choices(question)]:
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
    groups = metrics.by_group(attempts)
    return {
        "accuracy": metrics.accuracy(attempts),
        "chance": guessing,
        "accuracy_by_group": {name: metrics.accuracy(group) for name, group in groups.items()},
        "n_eval": len(attempts),
        "n_eval_by_group": {name: len(group) for name, group in groups.items()},
        "unparsable": sum(a.reading.answer is None and not a.dropped for a in attempts),
        "dropped": sum(attempt.dropped for attempt in attempts),
    }


def measured(
    stages: Stages,
    model: Lazy[Loaded],
    questions: Sequence[Question],
    few_shot: bool,
    **trained: Any,
) -> metrics.IterationMetrics:
    """The metrics of a model: evaluates it, as a stage of its iteration.

    Args:
      stages: of the iteration.
      model: loaded only if the stage is not finished.
      questions: held out.
      few_shot: put the few-shot examples P before each question.
      **trained: the metrics' fields on training; by default those of a model without any.
    """
    rollout = stages.rollout
    attempts = stages.sample(EVALUATE, model, questions, few_shot=few_shot)
    return metrics.IterationMetrics(
        iteration=rollout.iteration,
        seed=rollout.seed,
        seconds=stages.seconds,
        **evaluation_metrics(attempts, chance(rollout.task, questions)),
        **{"rationalize": False, "training": UNTRAINED, **trained},
    )
