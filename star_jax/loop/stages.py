"""The stages of an outer iteration: what each samples, and its place on disk.

A stage is one object here. Adding one is adding an object, and its place in the loop.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TypeVar

from star_jax.loop.rationales import Rollout, Stage, draw_attempts
from star_jax.records import (
    GENERATED,
    RATIONALIZED,
    RESAMPLED,
    Attempt,
    KeptExample,
    Question,
)
from star_jax.rollout.engine import Loaded
from star_jax.run.stage_dir import Lazy, StageDir

Sampled = TypeVar("Sampled", Attempt, KeptExample)

GENERATE = Stage("generate", "generations", GENERATED)  # Algorithm 1, line 3
RATIONALIZE = Stage("rationalize", "rationalizations", RATIONALIZED, hinted=True)  # line 4
RESAMPLE = Stage("resample", "resamplings", RESAMPLED, first_sample=1)  # section 4.6, an ablation
EVALUATE = Stage("evaluate", "eval", "evaluated")
SAMPLED = (GENERATE, RATIONALIZE, RESAMPLE)  # those that may give examples to train on
FINETUNE, TRAIN_FILE, CHECKPOINT = "finetune", "train", "checkpoint"


@dataclasses.dataclass
class Stages:
    """The stages of one outer iteration in its directory: finished ones are read, not done again.

    `seconds` has how long each took when it was done.
    """

    directory: StageDir
    rollout: Rollout
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def sample(
        self, stage: Stage, model: Lazy[Loaded], questions: Sequence[Question], *, few_shot: bool
    ) -> list[Attempt]:
        """One attempt for each question, in their order.

        Args:
          stage: how the model is prompted.
          model: loaded by the engine only if the stage is not finished.
          questions: to be answered.
          few_shot: put the few-shot examples P before each.
        """
        rollout = dataclasses.replace(
            self.rollout,
            few_shot=few_shot,
            on_stats=lambda stats: self.directory.write_stats(stage.name, stats),
        )
        done = self.directory.records(
            stage.file, Attempt, lambda: draw_attempts(model(), questions, rollout, stage)
        )
        self.seconds[stage.name] = done.seconds
        return done.value

    def kept(self, examples: Sequence[KeptExample]) -> list[KeptExample]:
        """What is trained on, as it is on disk."""
        return self.directory.records(TRAIN_FILE, KeptExample, lambda: examples).value


def by_stage(items: Sequence[Sampled]) -> Mapping[str, list[Sampled]]:
    """What is there of each stage that sampled, by the stage's name, in order."""
    names = {stage.source: stage.name for stage in SAMPLED}
    groups: dict[str, list[Sampled]] = {}
    for item in items:
        groups.setdefault(names[item.source], []).append(item)
    return groups
