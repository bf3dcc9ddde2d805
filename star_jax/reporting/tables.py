"""What a report contains, in whatever format: sections of text, tables and pictures.

Cells are text: numbers and intervals, runs and their iterations.
"""

import dataclasses
import math
import statistics
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from star_jax.reporting.runs import RunReport, groups_of
from star_jax.run import metrics
from star_jax.run.metrics import NOTHING, IterationMetrics, percent

ASSETS = Path(__file__).parent / "assets"
TEXTS: dict[str, Any] = tomllib.loads((ASSETS / "texts.toml").read_text("utf-8"))
Cells: TypeAlias = list[list[str]]  # rows of a table, its header first


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text; every row is as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # needed to read it: units, n, what "not run" means


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that is already drawn."""

    name: str  # of its file, e.g. "figure4.png"
    png: bytes
    alt: str  # a description for those who cannot see it


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report with a title."""

    title: str
    text: tuple[str, ...] = ()  # paragraphs, plain text
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """(low, high) of the 95 % interval of k successes in n trials (Wilson 1927, JASA 22:209)."""
    assert 0 <= k <= n and n > 0, (k, n)
    z = statistics.NormalDist().inv_cdf(0.975)
    center = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    return max(0.0, center - half), min(1.0, center + half)  # k = 0 or n: removes rounding errors


def interval_text(k: int, n: int) -> str:
    """The same in percent: 65 of 100 -> "55.3 to 73.6"."""
    low, high = wilson_interval(k, n)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def right_of(row: IterationMetrics) -> tuple[int, int]:
    """(correct, all) evaluation questions of a line of metrics."""
    return round(row.accuracy * row.n_eval), row.n_eval


def share_cells(k: int, n: int) -> tuple[str, str]:
    """(k of n in percent, its interval); "-" for both if n is 0."""
    return (percent(k / n), interval_text(k, n)) if n else (NOTHING, NOTHING)


def ratio(part: float | None, whole: float | None) -> float | None:
    """Part / whole, None where one is not known or the whole is 0."""
    return None if part is None or not whole else part / whole


def times(factor: float, value: float | None) -> float | None:
    """Factor * value, None where the value is not known."""
    return None if value is None else factor * value


def comparison_table(runs: Sequence[RunReport]) -> Cells:
    """The last iteration of each run: its accuracy, overall and by group (%)."""
    groups = groups_of(runs)
    n_accuracies = 2 + len(groups)  # iteration, overall, each group
    table = [["run", *metrics.header_cells(groups)[:n_accuracies], "95 % interval", "n", "seed"]]
    for run in runs:
        cells = metrics.row_cells(run.last, groups)[:n_accuracies]
        interval = interval_text(*right_of(run.last))
        table.append([run.label, *cells, interval, str(run.last.n_eval), str(run.seed)])
    return table


def run_cells(run: RunReport) -> Cells:
    """The metrics table with the sample behind each accuracy: interval, n and seed."""
    groups = metrics.group_names(run.rows)
    header = metrics.header_cells(groups)
    table = [[*header[:2], "95 % interval", "n", *header[2:], "seed"]]
    for row in run.rows:
        cells = metrics.row_cells(row, groups)
        sample = [interval_text(*right_of(row)), str(row.n_eval)]
        table.append([*cells[:2], *sample, *cells[2:], str(row.seed)])
    return table


def table_of(cells: Cells, title: str = "", note: str = "") -> Table:
    """A table from its cells."""
    header, *rows = map(tuple, cells)
    return Table(title, header, tuple(rows), note)


def run_table(run: RunReport, cells: Cells, device: str = "") -> Table:
    """A table of one run, with its name, sample and device as the title."""
    return table_of(cells, f"{run.label}: {run.sample}{device}")
