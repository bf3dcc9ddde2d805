"""The number of optimizer steps of each outer iteration, and the learning rate in them."""

import dataclasses
import math
from collections.abc import Callable

import optax


@dataclasses.dataclass(frozen=True)
class GeometricSteps:
    """The paper's schedule: 40 steps in the first outer iteration, 20 % more in each next one.

    Source: STaR, section 4.1; GSM8K caps it at 7,912.
    """

    first: int = 40  # optimizer steps in outer iteration 1
    growth: float = 1.2  # factor from one outer iteration to the next
    cap: int | None = None  # at most so many steps

    def __call__(self, iteration: int, n_examples: int, examples_per_step: float) -> int:
        """Optimizer steps of outer iteration `iteration` (1, 2, ...): first * growth^(n-1)."""
        return _capped(self.first * self.growth ** (iteration - 1), self.cap)


@dataclasses.dataclass(frozen=True)
class LinearSteps:
    """first + increment * (n-1) steps in outer iteration n."""

    first: int = 40  # optimizer steps in outer iteration 1
    increment: int = 40  # steps added in each next one
    cap: int | None = None  # at most so many steps

    def __call__(self, iteration: int, n_examples: int, examples_per_step: float) -> int:
        """Optimizer steps of outer iteration `iteration` (1, 2, ...)."""
        return _capped(self.first + self.increment * (iteration - 1), self.cap)


@dataclasses.dataclass(frozen=True)
class EpochSteps:
    """As many steps as it takes to see every kept example `epochs` times."""

    epochs: float = 1.0
    cap: int | None = None  # at most so many steps

    def __call__(self, iteration: int, n_examples: int, examples_per_step: float) -> int:
        """Optimizer steps to see `n_examples` `epochs` times at `examples_per_step`."""
        return _capped(math.ceil(self.epochs * n_examples / examples_per_step), self.cap)


# Optimizer steps by outer iteration (1, 2, ...), number of examples and examples per step.
StepSchedule = Callable[[int, int, float], int]


def warmup_then_constant(peak: float, warmup_steps: int) -> optax.Schedule:
    """Learning rate: linear up to `peak` at step `warmup_steps`, then constant (section 4.1).

    The first step already moves: it has peak / warmup_steps, not 0.
    """
    if warmup_steps <= 1:
        return optax.constant_schedule(peak)
    return optax.linear_schedule(peak / warmup_steps, peak, warmup_steps - 1)


def final_decay(step: int, n_steps: int, share: float) -> float:
    """Factor on the learning rate of step 1..n_steps: 1, then linearly down in the last `share`.

    With share 0.5 and 4 steps: 1, 1, 1, 0.5. The factor would be 0 at the step after the last.
    """
    length = share * n_steps
    return 1.0 if length <= 1 else min(1.0, (n_steps + 1 - step) / length)


def _capped(steps: float, cap: int | None) -> int:
    steps = max(1, int(steps + 1e-9))
    return steps if cap is None else min(steps, cap)
