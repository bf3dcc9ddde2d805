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
