"""Run mode `evaluate`: a checkpoint's accuracy on a split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

from star_jax.errors import check_one_of
from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class EvaluateMode(mode.CheckpointMode):
    """Prints a checkpoint's accuracy on a split."""

    help = "accuracy of a checkpoint on a task"

    split: str = "validation"
    output_file: str = ""  # gets every attempt as JSON lines
    grading: str = "generated"  # by the answer in the completion, or by "likelihood" of the choices
    normalize: str = "bytes"  # the choices' log-probability is a mean over; "none" for the sum

    def __call__(self) -> int:
        """Evaluates, prints accuracies with their intervals, and writes `output_file`."""
        from star_jax.loop import evaluate
        from star_jax.loop.stages import EVALUATE, draw_attempts
        from star_jax.modes import build
        from star_jax.parallel import processes
        from star_jax.records import to_json
        from star_jax.run.paths import check_writable, path_of, write_atomically

        if self.output_file:
            check_writable(path_of(self.output_file))
        questions = self.task.questions(self.split)
        rollout = build.rollout(self, "evaluate", questions)
        check_one_of("evaluate.grading", self.grading, evaluate.GRADINGS)
        check_one_of("evaluate.normalize", self.normalize, evaluate.NORMALIZATIONS)
        if self.grading == evaluate.LIKELIHOOD:
            evaluate.check_choices(self.task, questions)
        weights = build.weights(self, rollout)
        if self.grading == evaluate.LIKELIHOOD:
            choose = evaluate.evaluate_by_likelihood
            attempts = choose(weights, questions, rollout, self.normalize)
        else:
            attempts = draw_attempts(weights, questions, rollout, EVALUATE)
        if not processes.is_lead():
            return 0
        self._print(attempts, evaluate.chance(self.task, questions))
        if self.output_file:
            lines = ({"grading": self.grading, **to_json(attempt)} for attempt in attempts)
            text = "".join(json.dumps(line) + "\n" for line in lines)
            write_atomically(path_of(self.output_file), text.encode())
        return 0

    def _print(self, attempts: Sequence[mode.Attempt], chance: float | None) -> None:
        from star_jax.loop import evaluate
        from star_jax.reporting.tables import interval_text

        result = evaluate.evaluation_metrics(attempts)
        print(f"grading: {evaluate.GRADINGS[self.grading]}")
        # Each line names the grading, so that a copied line cannot be misread.
        how = f"seed {self.seed}"
        if self.grading != evaluate.GENERATED:
            how = f"{self.grading} per choice, by {self.normalize}"
        for name, accuracy in {**result["accuracy_by_group"], "all": result["accuracy"]}.items():
            n = result["n_eval_by_group"].get(name, result["n_eval"])
            print(
                f"{self.task.name} {self.split} {name}: {100 * accuracy:.1f} % "
                f"(95 %: {interval_text(round(accuracy * n), n)}, n = {n}, {how})"
            )
        if chance:
            print(f"chance: {100 * chance:.1f} %")
        print(f"without a readable answer: {result['unparsable']} of {result['n_eval']}")
