"""Numbers as a report writes them: intervals, means over seeds, the table of a run."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.reporting.document import Table
from star_jax.reporting.runs import Arm, Run
from star_jax.run.progress import format_header, format_row, group_names, header_cells, row_cells

NOTHING = "-"  # what does not apply, or is not known


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion, k successes of n (Wilson 1927, JASA 22:209)."""
    assert 0 <= k <= n and n > 0, (k, n)
    z = statistics.NormalDist().inv_cdf(0.975)
    center = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    return max(0.0, center - half), min(1.0, center + half)  # k = 0 or n: only rounding is cut


def interval(row: Mapping[str, Any]) -> tuple[float, float]:
    """The 95 % Wilson interval of a metrics line's accuracy."""
    return wilson_interval(round(row["accuracy"] * row["n_eval"]), row["n_eval"])


def interval_text(k: int, n: int) -> str:
    """The same in percent: 65 of 100 -> "55.3 to 73.6"."""
    low, high = wilson_interval(k, n)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def accuracy_interval(row: Mapping[str, Any]) -> str:
    """The interval of a metrics line's accuracy in percent."""
    return interval_text(round(row["accuracy"] * row["n_eval"]), row["n_eval"])


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, "-" for None."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}"


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, "-" for None."""
    return NOTHING if value is None else format(value, form)


def ratio(part: float | None, whole: float | None) -> float | None:
    """What `part` is of `whole`, None where one is not known or the whole is nothing."""
    return None if part is None or not whole else part / whole


def metrics_table(run: Run) -> list[str]:
    """The header and a line per row, as the live table shows them."""
    return [format_header(run.classes), *(format_row(row, run.classes) for row in run.rows)]


def comparison_table(runs: Sequence[Run]) -> list[list[str]]:
    """Header and one row per run: its last iteration's accuracy, overall and by class (%)."""
    classes = group_names(row for run in runs for row in run.rows)
    n_accuracies = 2 + len(classes)  # iteration, overall, each class
    header = ["run", *header_cells(classes)[:n_accuracies], "95 % interval", "n", "seed"]
    table = [header]
    for run in runs:
        last = run.rows[-1]
        cells = row_cells(last, classes)[:n_accuracies]
        tail = [accuracy_interval(last), str(last["n_eval"]), str(last["seed"])]
        table.append([run.label, *cells, *tail])
    return table


def run_cells(run: Run) -> list[list[str]]:
    """The metrics table with the sample behind each accuracy: interval, n and seed."""
    header = header_cells(run.classes)
    table = [[*header[:2], "95 % interval", "n", *header[2:], "seed"]]
    for row in run.rows:
        cells = row_cells(row, run.classes)
        sample = [accuracy_interval(row), str(row["n_eval"])]
        table.append([*cells[:2], *sample, *cells[2:], str(row["seed"])])
    return table


def table_of(cells: Sequence[Sequence[str]], title: str = "", note: str = "") -> Table:
    """A table from its cells, the header first."""
    header, *rows = map(tuple, cells)
    return Table(title, header, tuple(rows), note)


def sample(run: Run) -> str:
    """Sample size and seed, e.g. `n = 200 per digit count, seed 0`."""
    return Arm(run.label, (run,)).sample


def run_title(run: Run) -> str:
    """What stands over a table of one run: its name and the sample behind it."""
    return f"{run.label}: {sample(run)}"


def command_note(run: Run) -> str:
    """What stands under it."""
    return f"Command: {run.command}"


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """Lines of text in which the columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
