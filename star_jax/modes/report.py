"""Run mode `report`: tables and figures of one or many runs."""

import dataclasses
from collections.abc import Sequence

from star_jax.modes.mode import RunMode


@dataclasses.dataclass(frozen=True)
class ReportMode(RunMode):
    """Reports on finished or unfinished runs."""

    help = "tables and figures of finished runs, side by side"

    model_dirs: Sequence[str]
    output_dir: str = ""  # "" for <first model_dir>/report

    def __call__(self) -> int:
        """Writes the report and prints its tables."""
        from star_jax.reporting.report import report

        report(self.model_dirs, self.output_dir)
        return 0
