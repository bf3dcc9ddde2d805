"""Accuracy of a model on held-out questions, graded exactly as in sampling, without hints."""

from collections.abc import Sequence
from typing import Any

from star_jax import metrics
from star_jax.records import Attempt, Question
from star_jax.sampling.ask import Asking, ask


def evaluate_model(params: Any, questions: Sequence[Question], asking: Asking) -> list[Attempt]:
    """One graded attempt for each held-out question."""
    return ask(params, questions, asking, hinted=False, stage="evaluate")


def evaluation_metrics(attempts: Sequence[Attempt]) -> dict[str, Any]:
    """The fields of `metrics.IterationMetrics` that evaluation fills."""
    classes = metrics.by_class(attempts)
    return {
        "accuracy": metrics.accuracy(attempts),
        "accuracy_by_class": {name: metrics.accuracy(group) for name, group in classes.items()},
        "n_eval": len(attempts),
        "n_eval_by_class": {name: len(group) for name, group in classes.items()},
        "unparsable": metrics.unparsable(attempts),
    }


def evaluation_only(
    iteration: int, seed: int, rationalize: bool, seconds: float, attempts: Sequence[Attempt]
) -> metrics.IterationMetrics:
    """The metrics of a model that was evaluated and not trained: the base, above all."""
    return metrics.IterationMetrics(
        iteration=iteration,
        rationalize=rationalize,
        kept_generated=0,
        kept_rationalized=0,
        n_sampled=0,
        train_fraction=0.0,
        train_steps=0,
        train_loss=None,
        seconds_generate=0.0,
        seconds_rationalize=0.0,
        seconds_finetune=0.0,
        seconds_evaluate=seconds,
        seed=seed,
        **evaluation_metrics(attempts),
    )
