"""The settings of the outer loop."""

import dataclasses
from collections.abc import Mapping, Sequence

from star_jax import errors
from star_jax.errors import UserError
from star_jax.loop.filters import Filter, NoHintLeak, RightAnswer
from star_jax.loop.stages import RATIONALIZE, RESAMPLE, Reward, Stage, right_or_wrong

FEW_SHOT_POLICIES = ("always", "first", "never")


@dataclasses.dataclass(frozen=True)
class StarConfig:
    """The outer loop's settings; the defaults are the paper's."""

    iterations: int = 16  # outer iterations N
    questions_per_iteration: int = 0  # drawn anew in each outer iteration; 0 takes all
    rationalize: bool = True  # lines 4 and 6; False is "STaR without rationalization"
    few_shot: str = "always"  # sampling with few-shot prompts: always, first (only M_0) or never
    hinted_share: float = 0.0  # of rationalized examples, trained on with their hint in the prompt
    few_shot_in_training: bool = False  # the few-shot prompts come before what is trained on, too
    resample_temperature: float = 0.0  # instead of rationalizing, failures are resampled at it
    filters: Sequence[Filter] = (RightAnswer(), NoHintLeak())  # lines 5-6, in this order
    reward: Reward = right_or_wrong  # of each attempt; noted with it
    first_iteration: Mapping[str, int] = dataclasses.field(default_factory=dict)
    # ^ group of questions -> outer iteration from which on they are trained on; others from 1
    seed: int = 0

    def __post_init__(self):
        """Raises UserError for settings that mean nothing."""
        errors.check_types(self)
        errors.check_one_of("StarConfig.few_shot", self.few_shot, FEW_SHOT_POLICIES)
        errors.check_positive(self, "iterations")
        errors.check_not_negative(self, "questions_per_iteration", "seed")
        errors.check_share(self, "hinted_share")
        if self.resample_temperature < 0 or (self.resample_temperature and self.rationalize):
            raise UserError(
                f"StarConfig.resample_temperature = {self.resample_temperature}: give 0 for none, "
                f"or a temperature, and rationalize = False: it replaces rationalization"
            )
        for name, functions in (("filters", self.filters), ("reward", [self.reward])):
            if not isinstance(functions, list | tuple) or not all(map(_is_function, functions)):
                raise UserError(
                    f"StarConfig.{name} = {getattr(self, name)!r}: give functions, such as "
                    f"[@right_answer(), @no_hint_leak()] for filters, with their parentheses"
                )
        if not isinstance(self.first_iteration, Mapping):
            raise UserError(f"StarConfig.first_iteration = {self.first_iteration!r} is not a dict")
        object.__setattr__(self, "first_iteration", dict(self.first_iteration))
        for group, n in self.first_iteration.items():
            if not isinstance(group, str) or not isinstance(n, int) or n < 1:
                raise UserError(
                    f"StarConfig.first_iteration has {group!r}: {n!r}; give groups of questions "
                    f"as text and outer iterations from 1 on, such as {{'6': 20}}"
                )

    @property
    def retries(self) -> tuple[Stage, ...]:
        """The stages that sample the failures again."""
        warmer = dataclasses.replace(RESAMPLE, temperature=self.resample_temperature)
        wanted = ((RATIONALIZE, self.rationalize), (warmer, self.resample_temperature > 0))
        return tuple(stage for stage, is_wanted in wanted if is_wanted)

    def shows_examples(self, model: int) -> bool:
        """Whether M_model is prompted with the few-shot examples."""
        return self.few_shot == "always" or (self.few_shot == "first" and model == 0)


def _is_function(value: object) -> bool:
    return callable(value) and not isinstance(value, type)
