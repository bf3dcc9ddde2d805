"""Algorithm 1, lines 5-6: which attempts are kept to train on.

A filter is a function from attempts to the ones that stay; gin binds the list:

    StarConfig.filters = [@right_answer(), @no_hint_leak(), @right_steps(), @at_most(4)]

Whatever is kept is stored with its question WITHOUT the hint (see `examples`).
"""

import collections
import dataclasses
import re
from collections.abc import Callable, Sequence

from star_jax.errors import UserError
from star_jax.loop.stages import by_stage, named_errors
from star_jax.records import Attempt

Filter = Callable[[Sequence[Attempt]], Sequence[Attempt]]


@dataclasses.dataclass(frozen=True)
class RightAnswer:
    """D_n and D_n^rat: only attempts that reached the right answer."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Those with a correct answer."""
        return [attempt for attempt in attempts if attempt.correct]


@dataclasses.dataclass(frozen=True)
class NoHintLeak:
    """No rationale that repeats its hint: what is kept never contains one."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Those without a hint, and those whose rationale does not repeat it."""
        return [a for a in attempts if not (a.hinted and a.reading.hint_leaked)]


@dataclasses.dataclass(frozen=True)
class RightSteps:
    """No rationale with a wrong step; the paper filters by the answer alone."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """Those whose steps are right, or cannot be checked."""
        return [attempt for attempt in attempts if attempt.reading.steps_right is not False]


@dataclasses.dataclass(frozen=True)
class Distinct:
    """No text twice among the completions for one question; the first one stays."""

    def __call__(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """The first attempt with each question's each text, up to the end of its answer."""
        first = {(a.question_id, a.trimmed): a for a in reversed(attempts)}
        return [a for a in attempts if first[a.question_id, a.trimmed] is a]


@dataclasses.dataclass(frozen=True)
class AtMost:
    """At most so many attempts for a question; the first ones stay."""

    n: int

    def __post_init__(self):
        """Raises UserError for a number below 1."""
        if not isinstance(self.n, int) or isinstance(self.n, bool) or self.n < 1:
            raise UserError(f"at_most.n = {self.n!r}: give a whole number, 1 or more")

    def __call__(self, attempts: Sequence[Attempt]) -> list[Attempt]:
        """The first `n` of each question."""
        seen: collections.Counter[str] = collections.Counter()
        kept = []
        for attempt in attempts:
            seen[attempt.question_id] += 1
            if seen[attempt.question_id] <= self.n:
                kept.append(attempt)
        return kept


BUILT_IN = (RightAnswer, NoHintLeak, RightSteps, Distinct, AtMost)


def keep(
    attempts: Sequence[Attempt], filters: Sequence[Filter]
) -> tuple[list[Attempt], dict[str, dict[str, int]]]:
    """What all filters leave, and what each one dropped: filter -> stage -> attempts.

    What was dropped before, since its question exceeds the context length, reaches no filter.
    Raises UserError if a filter failed, or returned something that it was not given.
    """
    kept, dropped = [attempt for attempt in attempts if not attempt.dropped], {}
    for name, apply in zip(names_of(filters), filters, strict=True):
        with named_errors(f"the filter {name}"):
            left = list(apply(tuple(kept)))
        if {id(a) for a in left} - {id(a) for a in kept} or len({id(a) for a in left}) < len(left):
            raise UserError(
                f"the filter {name} returned something other than a part of the attempts it was "
                f"given; a filter returns those of them that stay"
            )
        before, after = by_stage(kept), by_stage(left)
        dropped[name] = {stage: len(n) - len(after.get(stage, ())) for stage, n in before.items()}
        kept = left
    return kept, dropped


def step_counts(attempts: Sequence[Attempt]) -> dict[str, dict[str, int]]:
    """Of each stage's attempts: `attempts`, `right`, `checkable` and `right_steps`, see metrics."""
    counts = {}
    for stage, drawn in by_stage(attempts).items():
        right, _ = keep(drawn, (RightAnswer(), NoHintLeak()))
        verdicts = [attempt.reading.steps_right for attempt in right]
        counts[stage] = {
            "attempts": len(drawn),
            "right": len(right),
            "checkable": sum(verdict is not None for verdict in verdicts),
            "right_steps": sum(verdict is True for verdict in verdicts),
        }
    return counts


def names_of(filters: Sequence[Filter]) -> list[str]:
    """A name for each filter: right_answer, at_most, at_most_2, or its function's own."""
    names: list[str] = []
    for each in filters:
        own = getattr(each, "__name__", "") or gin_name(type(each))
        n = sum(name == own or name.startswith(f"{own}_") for name in names)
        names.append(f"{own}_{n + 1}" if n and own in names else own)
    return names


def gin_name(kind: type) -> str:
    """RightAnswer -> right_answer."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", kind.__name__).lower()
