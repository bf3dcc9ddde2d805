import itertools

import pytest

from star_jax.training.schedules import (
    EpochSteps,
    GeometricSteps,
    LinearSteps,
    final_decay,
    warmup_then_constant,
)


def steps(schedule, n):
    return [schedule(i, 100, 8.0) for i in range(1, n + 1)]


def test_paper_schedule_starts_at_40_and_grows_by_a_fifth():
    assert steps(GeometricSteps(), 8) == [40, 48, 57, 69, 82, 99, 119, 143]


def test_growth_is_exact_and_does_not_pile_up_roundings():
    """Iteration 30 of the paper's schedule is its cap on GSM8K: 40 * 1.2^29 = 7912.5..."""
    assert GeometricSteps()(30, 0, 1) == 7912
    assert GeometricSteps(first=5, growth=1.1)(3, 0, 1) == 6  # 6.05
    assert GeometricSteps(first=100, growth=1.1)(2, 0, 1) == 110  # 110.00000000000001


def test_the_cap_of_gsm8k_holds():
    capped = GeometricSteps(cap=7912)
    assert steps(capped, 29) == steps(GeometricSteps(), 29)
    assert [capped(n, 0, 1) for n in (30, 31, 60)] == [7912] * 3


def test_linear_steps():
    assert steps(LinearSteps(), 4) == [40, 80, 120, 160]
    assert steps(LinearSteps(first=10, increment=5, cap=18), 4) == [10, 15, 18, 18]


@pytest.mark.parametrize(
    ("epochs", "n_examples", "per_step", "expected"),
    [(1, 80, 8, 10), (1, 81, 8, 11), (2, 80, 8, 20), (0.5, 80, 8, 5), (1, 3, 8, 1), (1, 7, 3.5, 2)],
)
def test_epoch_steps_see_every_example(epochs, n_examples, per_step, expected):
    assert EpochSteps(epochs)(1, n_examples, per_step) == expected
    assert EpochSteps(epochs)(9, n_examples, per_step) == expected  # the same in each iteration


def test_epoch_steps_are_capped():
    assert EpochSteps(3.0, cap=7)(1, 100, 8) == 7


def test_a_fine_tuning_has_at_least_one_step():
    assert GeometricSteps(first=1, growth=0.5)(5, 0, 1) == 1


def test_learning_rate_warms_up_and_stays():
    rate = warmup_then_constant(1e-6, 100)
    rates = [float(rate(step)) for step in range(200)]
    assert rates[0] == pytest.approx(1e-8)  # the first step already moves
    assert rates[49] == pytest.approx(5e-7)
    assert rates[99] == pytest.approx(1e-6)
    assert all(later > earlier for earlier, later in itertools.pairwise(rates[:100]))
    assert rates[100:] == pytest.approx([1e-6] * 100)


@pytest.mark.parametrize("warmup_steps", [0, 1])
def test_no_warm_up_is_constant_from_the_first_step(warmup_steps):
    rate = warmup_then_constant(0.5, warmup_steps)
    assert [float(rate(step)) for step in (0, 1, 100)] == [0.5] * 3


@pytest.mark.parametrize(
    ("n_steps", "share", "expected"),
    [
        (4, 0.0, [1, 1, 1, 1]),
        (4, 0.5, [1, 1, 1, 0.5]),
        (4, 1.0, [1, 0.75, 0.5, 0.25]),
        (1, 1.0, [1]),
    ],
)
def test_final_decay_falls_linearly_in_the_last_share(n_steps, share, expected):
    assert [final_decay(step, n_steps, share) for step in range(1, n_steps + 1)] == expected
