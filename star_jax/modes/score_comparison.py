"""Run mode `score_comparison`: what the raters of a comparison preferred."""

import dataclasses
import json
from collections.abc import Sequence

from star_jax.errors import UserError
from star_jax.modes.mode import RunMode


@dataclasses.dataclass(frozen=True)
class ScoreComparisonMode(RunMode):
    """Counts the raters' answers."""

    help = "what the raters of a comparison preferred"

    key: str  # the comparison's key.json
    answers: Sequence[str]  # filled-in CSV files, one per rater, or folders of them
    output_file: str = ""  # of the JSON; "" for scores.json in the directory of the key

    def __call__(self) -> int:
        """Prints the preferences and writes them as JSON; UserError for invalid answers or none."""
        from star_jax.run.paths import path_of, write_together
        from star_jax.tools.comparison.scores import score, score_lines
        from star_jax.tools.comparison.sheets import read_all_answers, read_key

        known = read_key(self.key)
        files = [self.answers] if isinstance(self.answers, str) else list(self.answers)
        scores = score(read_all_answers(files, known), known)
        print(*score_lines(scores), sep="\n")
        if not scores["pairs"]:
            raise UserError("score_comparison.answers: no file has a valid preference in it")
        default = path_of(self.key).with_name("scores.json")
        output = path_of(self.output_file) if self.output_file else default
        text = json.dumps(scores, indent=1, ensure_ascii=False) + "\n"
        way_out = "give another score_comparison.output_file"
        write_together(output.parent, {output.name: text.encode()}, way_out)
        print(output)
        return 0
