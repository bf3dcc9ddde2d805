"""Checks of settings that raise UserError."""

import dataclasses

import pytest

from star_jax import errors
from star_jax.errors import UserError, check_one_of

NO_NUMBERS = (float("nan"), "8", True, None)


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str = "n"
    size: object = 1


@pytest.mark.parametrize(
    ("check", "good", "bad", "rule"),
    [
        (errors.check_positive, (1, 0.1), (0, -1), "must be positive"),
        (errors.check_not_negative, (0, 2.5), (-1, -0.1), "must not be negative"),
        (errors.check_share, (0, 0.5, 1), (-0.1, 1.1), "is not a share; give 0 to 1"),
    ],
)
def test_numbers_of_a_record(check, good, bad, rule):
    for size in good:
        check(Settings(size=size), "size")
    for size in (*bad, *NO_NUMBERS):
        with pytest.raises(UserError) as caught:
            check(Settings(size=size), "size")
        assert caught.value.message == f"Settings.size = {size!r} {rule}"


def test_the_first_wrong_field_is_named():
    with pytest.raises(UserError, match=r"Settings.name = 'n' must be positive"):
        errors.check_positive(Settings(), "size", "name")


def test_one_of():
    check_one_of("Task.hint", "none", ("none", "solution"))
    with pytest.raises(UserError) as caught:
        check_one_of("Task.hint", "solutoin", ("none", "solution"))
    assert caught.value.message == (
        "Task.hint = 'solutoin' is none of ('none', 'solution'); did you mean 'solution'?"
    )
