"""Run mode `compare`: a blind comparison of rationales by people."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING

from star_jax.modes.mode import RunMode

if TYPE_CHECKING:
    from star_jax.tasks.task import ReasoningTask


@dataclasses.dataclass(frozen=True)
class CompareMode(RunMode):
    """Draws the pairs and writes the raters' files and the key."""

    help = "pairs of rationales for a blind comparison by people, and the key"

    sources: Mapping[str, str]  # name -> directory of a run or an iteration, attempts, or "gold"
    task: ReasoningTask
    output_dir: str
    n: int = 50  # questions for each pair of sources
    seed: int = 0
    split: str = "validation"
    only_right: bool = True  # only questions that both answered correctly, as in the paper

    def __call__(self) -> int:
        """Writes raters/ and key.json."""
        from star_jax.tools.comparison.command import compare

        drawn = self.n, self.seed, self.split, self.only_right
        compare(self.sources, self.task, self.output_dir, *drawn)
        return 0
