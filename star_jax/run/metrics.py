"""Accuracy over attempts, and the line an outer iteration leaves in `metrics.jsonl`."""

import dataclasses
from collections.abc import Sequence

from star_jax.records import Attempt


@dataclasses.dataclass(frozen=True)
class IterationMetrics:
    """One line of `metrics.jsonl`; iteration 0 is the base model, which was not trained."""

    iteration: int
    rationalize: bool
    accuracy: float  # 0..1 over all evaluation questions
    accuracy_by_class: dict[str, float]
    n_eval: int
    n_eval_by_class: dict[str, int]
    kept_generated: int  # |D_n|
    kept_rationalized: int  # |D_n^rat|
    n_sampled: int  # questions asked for training in this outer iteration
    train_fraction: float  # all that is kept / n_sampled
    unparsable: int  # evaluation completions without an answer; counted as wrong too
    left_out: int  # evaluation questions too long for the model's context; counted as wrong too
    hint_leaks: int  # right rationalizations that repeat their hint, and were not kept
    train_steps: int
    train_loss: float | None  # nats per weighted token, mean over the last tenth of the steps
    seconds_generate: float
    seconds_rationalize: float
    seconds_finetune: float
    seconds_evaluate: float
    seed: int
    chance: float | None = None  # accuracy of guessing among the choices, where there are any
    packing_efficiency: float | None = None  # share of training's places that held a token
    kept_resampled: int = 0  # right only at a higher temperature; in train_fraction too
    seconds_resample: float = 0.0
    right_answers: dict[str, int] = dataclasses.field(default_factory=dict)  # by source
    checkable: dict[str, int] = dataclasses.field(
        default_factory=dict
    )  # of them, steps can be told
    right_steps: dict[str, int] = dataclasses.field(default_factory=dict)  # of these, all are right


def accuracy(attempts: Sequence[Attempt]) -> float:
    """Share of attempts that are right; 0.0 of none."""
    return sum(attempt.correct for attempt in attempts) / max(1, len(attempts))


def by_class(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """Attempts by their question's group, groups in sorted order; without groups: {}."""
    groups = sorted({attempt.group for attempt in attempts} - {""}, key=_numeric_first)
    return {group: [a for a in attempts if a.group == group] for group in groups}


def unparsable(attempts: Sequence[Attempt]) -> int:
    """How many questions were asked and got no answer that could be read."""
    return sum(attempt.answer is None and not attempt.left_out for attempt in attempts)


def _numeric_first(group: str) -> tuple[int, str]:
    return (int(group) if group.isdigit() else 1 << 30, group)
