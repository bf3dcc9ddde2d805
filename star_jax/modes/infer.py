"""Run mode `infer`: a checkpoint's completions for your own questions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from star_jax.errors import UserError
from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class InferMode(mode.CheckpointMode):
    """Prints prompts and completions."""

    help = "print a checkpoint's completions for your own questions"

    questions: Sequence[str]  # each as the task writes its questions
    json: bool = dataclasses.field(default=False, kw_only=True)  # a line of JSON for each

    def __call__(self) -> int:
        """Prints one completion per question."""
        from star_jax.loop.stages import EVALUATE, draw_attempts
        from star_jax.modes import build
        from star_jax.parallel import processes
        from star_jax.records import to_json

        texts = [self.questions] if isinstance(self.questions, str) else self.questions
        is_list = isinstance(texts, list | tuple) and len(texts) > 0
        if not is_list or not all(isinstance(text, str) for text in texts):
            raise UserError(f"infer.questions = {self.questions!r}: give at least one text")
        questions = [self.task.make_question(f"infer_{i}", text) for i, text in enumerate(texts)]
        rollout = build.rollout(self, "infer", questions)
        weights = build.weights(self, rollout)
        stage = dataclasses.replace(EVALUATE, name="infer")
        attempts = draw_attempts(weights, questions, rollout, stage)
        for i, attempt in enumerate(attempts if processes.is_lead() else (), start=1):
            place = f"{i} of {len(attempts)}"
            print(json.dumps(to_json(attempt)) if self.json else _as_text(place, attempt))
        return 0


def _as_text(place: str, attempt: mode.Attempt) -> str:
    """Prompt and completion below a heading each; the second says what was read."""
    answer = attempt.reading.answer
    said = ["no answer can be read" if answer is None else f"answer: {answer}"]
    if attempt.dropped:
        said = ["none, the question exceeds the context length"]
    said += [f"expected: {attempt.expected}"] * bool(attempt.expected)
    said += ["truncated"] * (not attempt.ended and not attempt.dropped)
    heads = f"[{place}] prompt", f"[{place}] completion ({', '.join(said)})"
    return f"{heads[0]}\n{attempt.prompt.rstrip()}\n{heads[1]}\n{attempt.completion.strip()}\n"
