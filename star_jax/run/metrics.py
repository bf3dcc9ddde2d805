"""Accuracy over attempts, the line of an outer iteration in `metrics.jsonl`, and its table."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence

from star_jax.records import Attempt, groups_in
from star_jax.run.progress import aligned

NOTHING = "-"  # does not apply, or is not known


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
    """Attempts by each of their question's groups, in `group_order`; {} without groups."""
    found: dict[str, list[Attempt]] = {}
    for attempt in attempts:
        for group in groups_in(attempt.group):
            found.setdefault(group, []).append(attempt)
    return {group: found[group] for group in sorted(found, key=group_order)}


def group_order(group: str) -> tuple[bool, int, str]:
    """Sorts digit counts by size ("2" before "10"), then other groups by name."""
    is_name = not group.isdecimal()
    return is_name, 0 if is_name else int(group), group


def iteration_name(n: int) -> str:
    """An outer iteration as tables, figures and the page name it: "base", "1", "2" ..."""
    return str(n) if n else "base"


def group_names(rows: Iterable[IterationMetrics]) -> tuple[str, ...]:
    """Groups that occur in any row, in `group_order`."""
    return tuple(sorted({name for row in rows for name in row.accuracy_by_group}, key=group_order))


def header_cells(groups: Sequence[str]) -> list[str]:
    """Column names of the metrics table."""
    by_group = [f"{name} dig" if name.isdecimal() else name for name in groups]
    trained = ["kept gen", "kept rat", "train %", "unparsed", "steps", "loss", "seconds"]
    return ["iter", "acc %", *by_group, *trained]


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, "-" for None."""
    return NOTHING if value is None else format(value, form)


def percent(share: float | None) -> str:
    """A share in percent, "-" for None."""
    return number(None if share is None else 100 * share, ".1f")


def row_cells(row: IterationMetrics, groups: Sequence[str]) -> list[str]:
    """One outer iteration as text, "-" for what does not apply; accuracies in percent."""
    trained = row.iteration > 0
    return [
        iteration_name(row.iteration),
        percent(row.accuracy),
        *(percent(row.accuracy_by_group.get(name)) for name in groups),
        number(row.kept.get("generate"), ".0f"),
        number(row.kept.get("rationalize"), ".0f"),
        percent(row.train_fraction if trained else None),
        number(row.unparsable, ".0f"),
        number(row.training.get("steps") if trained else None, ".0f"),
        number(row.training.get("loss"), ".4f"),
        number(sum(row.seconds.values()), ".1f"),
    ]


def live_table(rows: Sequence[IterationMetrics]) -> list[str]:
    """The table on the screen: a line of names, and one for each row."""
    groups = group_names(rows)
    header = header_cells(groups)
    # Widths come from the header alone, so a row can be printed before the next one is known.
    widths = [max(6, len(name)) for name in header]
    lines = [header, *(row_cells(row, groups) for row in rows)]
    return [aligned([cells], widths=widths)[0] for cells in lines]
