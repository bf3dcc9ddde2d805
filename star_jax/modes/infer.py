"""Run mode `infer`: a checkpoint's completions for your own questions."""

import dataclasses
import sys
from collections.abc import Sequence

from star_jax.errors import UserError
from star_jax.modes.mode import CheckpointMode


@dataclasses.dataclass(frozen=True)
class InferMode(CheckpointMode):
    """Prints prompts and completions."""

    help = "print a checkpoint's completions for your own questions"

    questions: Sequence[str]  # each as the task writes its questions

    def __call__(self) -> int:
        """Prints one completion per question."""
        from star_jax.loop.rationales import draw_attempts
        from star_jax.loop.stages import EVALUATE
        from star_jax.modes import build
        from star_jax.parallel import processes

        if not self.questions or isinstance(self.questions, str):
            raise UserError(
                f"infer.questions = {self.questions!r}: give a list of texts, at least one"
            )
        rollout = build.rollout(self)
        make = self.task.make_question
        questions = [make(f"infer_{i}", text) for i, text in enumerate(self.questions)]
        weights = build.weights(self, rollout)
        stage = dataclasses.replace(EVALUATE, name="infer")
        attempts = draw_attempts(weights, questions, rollout, stage)
        if processes.is_lead():
            sys.stdout.writelines(f"{one.prompt}{one.completion}\n\n" for one in attempts)
        return 0
