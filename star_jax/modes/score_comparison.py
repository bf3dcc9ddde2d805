"""Run mode `score_comparison`: what the raters of a comparison preferred."""

import dataclasses
from collections.abc import Sequence

from star_jax.modes.mode import RunMode


@dataclasses.dataclass(frozen=True)
class ScoreComparisonMode(RunMode):
    """Counts the raters' answers."""

    help = "what the raters of a comparison preferred"

    key: str  # the comparison's key.json
    answers: Sequence[str]  # filled-in CSV files, one per rater, or folders of them
    output_file: str = ""  # "" for scores.json next to the key

    def __call__(self) -> int:
        """Prints the preferences and writes them as JSON."""
        from star_jax.tools.comparison.command import score_comparison

        score_comparison(self.key, self.answers, self.output_file)
        return 0
