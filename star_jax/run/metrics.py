"""Accuracy over attempts, and the line that an outer iteration leaves in `metrics.jsonl`."""

import dataclasses
from collections.abc import Callable, Sequence

from star_jax.records import Attempt


@dataclasses.dataclass(frozen=True)
class IterationMetrics:
    """One line of `metrics.jsonl`; iteration 0 is the base model, which was not trained.

    Dicts by stage have the stages that ran: generate, rationalize and so on.
    """

    iteration: int
    seed: int
    rationalize: bool
    accuracy: float  # 0..1 over all evaluation questions
    accuracy_by_group: dict[str, float]
    n_eval: int
    n_eval_by_group: dict[str, int]
    unparsable: int  # evaluation completions without an answer; counted as wrong too
    dropped: int  # evaluation questions that exceed the context length; counted as wrong too
    chance: float | None = None  # accuracy of guessing among the choices, where there are any
    n_questions: int = 0  # sampled for training in this outer iteration
    # By stage: examples kept, |D_n| and |D_n^rat|; seconds it took; and of its attempts
    # `attempts`, `right` (right answers that leak no hint), of them `checkable` (their steps can
    # be checked), of these `right_steps`.
    kept: dict[str, int] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    counts: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    # Filter -> stage -> attempts that it dropped.
    filtered: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    # `steps`, `loss` (nats per weighted token, mean over the last tenth of the steps) and
    # `packing_efficiency` (share of training's places that held a token).
    training: dict[str, float | int | None] = dataclasses.field(default_factory=dict)

    @property
    def train_fraction(self) -> float:
        """All that was kept, per question sampled (Tables 1 and 2)."""
        return sum(self.kept.values()) / self.n_questions if self.n_questions else 0.0


OnMetrics = Callable[[IterationMetrics], None]


def accuracy(attempts: Sequence[Attempt]) -> float:
    """Share of attempts that are right; 0.0 of none."""
    return sum(attempt.correct for attempt in attempts) / max(1, len(attempts))


def by_group(attempts: Sequence[Attempt]) -> dict[str, list[Attempt]]:
    """Attempts by their question's group, in `group_order`; {} without groups."""
    groups = sorted({attempt.group for attempt in attempts} - {""}, key=group_order)
    return {group: [a for a in attempts if a.group == group] for group in groups}


def group_order(group: str) -> tuple[bool, int, str]:
    """Sorts digit counts by size ("2" before "10"), then other groups by name."""
    is_name = not group.isdecimal()
    return is_name, 0 if is_name else int(group), group
