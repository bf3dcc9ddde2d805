"""Cells and tables of the report: numbers and intervals as text, runs and their iterations."""

import math
import statistics
from collections.abc import Sequence
from typing import TypeAlias

from star_jax.reporting.document import Table
from star_jax.reporting.runs import RunReport, groups_of
from star_jax.run.metrics import IterationMetrics
from star_jax.run.tables import NOTHING, group_names, header_cells, row_cells

Cells: TypeAlias = list[list[str]]  # rows of a table, its header first


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


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, "-" for None."""
    return NOTHING if value is None else format(value, form)


def percent(share: float | None) -> str:
    """A share in percent, "-" for None."""
    return number(times(100, share), ".1f")


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
    table = [["run", *header_cells(groups)[:n_accuracies], "95 % interval", "n", "seed"]]
    for run in runs:
        cells = row_cells(run.last, groups)[:n_accuracies]
        interval = interval_text(*right_of(run.last))
        table.append([run.label, *cells, interval, str(run.last.n_eval), str(run.seed)])
    return table


def run_cells(run: RunReport) -> Cells:
    """The metrics table with the sample behind each accuracy: interval, n and seed."""
    groups = group_names(run.rows)
    header = header_cells(groups)
    table = [[*header[:2], "95 % interval", "n", *header[2:], "seed"]]
    for row in run.rows:
        cells = row_cells(row, groups)
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
