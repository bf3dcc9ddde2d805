"""Run mode `compare`: a blind comparison of rationales by people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from star_jax.errors import UserError
from star_jax.modes import mode


@dataclasses.dataclass(frozen=True)
class CompareMode(mode.RunMode):
    """Writes raters/ for the raters, and key.json for you alone."""

    help = "pairs of rationales for a blind comparison by people, and the key"

    sources: Mapping[str, str]  # name -> directory of a run or an iteration, attempts, or "gold"
    task: mode.ReasoningTask
    output_dir: str
    n: int = 50  # pairs of rationales for each two sources
    seed: int = 0  # of the draw, the order and the sides
    split: str = "validation"  # of the questions
    only_right: bool = True  # only questions that both answered correctly, as in the paper

    def __call__(self) -> int:
        """Draws the pairs; UserError if there are none, or if another comparison's key is there."""
        from star_jax.run.paths import path_of, read_if_there, write_together
        from star_jax.tools.comparison import items, sheets
        from star_jax.tools.comparison.items import read_rationales

        self._check()
        task = self.task
        questions = {question.id: question for question in task.questions(self.split)}
        paths = {name: str(where) for name, where in self.sources.items()}
        rationales = {
            name: read_rationales(path, questions, task, self.only_right)
            for name, path in paths.items()
        }
        texts = {
            id_: items.normalized(task.question_text(question, hinted=False))
            for id_, question in questions.items()
        }
        drawn = items.draw_items(rationales, texts, self.n, self.seed)
        settings = {name: getattr(self, name) for name in ("split", "only_right", "n", "seed")}
        key = sheets.as_key(drawn, paths, {"task": task.name, **settings})
        output = path_of(self.output_dir)
        if read_if_there(output / "key.json") not in (None, key):
            raise UserError(
                f"{output / 'key.json'} is the key of another comparison, which its raters' "
                f"answers need; give another compare.output_dir"
            )
        raters = {
            "instructions.txt": sheets.INSTRUCTIONS.encode(),
            "comparison.html": sheets.as_html(drawn),
            "comparison.csv": sheets.as_csv(drawn),
        }
        way_out = "give another compare.output_dir"
        write_together(output, {"key.json": key}, way_out)
        write_together(output / "raters", raters, way_out)
        for name, found in rationales.items():
            print(f"{name}: {len(found)} rationales to compare, of {len(questions)} questions")
        print(f"{len(drawn)} items for the raters: {output / 'raters'}")
        print(f"the key: {output / 'key.json'} (do not give it to the raters)")
        return 0

    def _check(self) -> None:
        if not isinstance(self.sources, Mapping) or len(self.sources) < 2 or not all(self.sources):
            raise UserError(
                f"compare.sources = {str(self.sources)[:200]!r}: give two or more, as "
                f"{{'few_shot': 'runs/a/iter_000', 'star': 'runs/a/iter_016'}}"
            )
        for name, value, least in (("n", self.n, 1), ("seed", self.seed, 0)):
            if type(value) is not int or value < least:
                raise UserError(
                    f"compare.{name} = {value!r}: give a whole number of at least {least}"
                )
