"""Cells and tables of the report: numbers as text, the table of a run, runs next to each other."""

from collections.abc import Sequence

from star_jax.reporting.document import Table
from star_jax.reporting.intervals import interval_text
from star_jax.reporting.runs import Arm, RunReport, groups_of
from star_jax.run.metrics import IterationMetrics
from star_jax.run.tables import NOTHING, header_cells, live_line, row_cells


def right_of(row: IterationMetrics) -> tuple[int, int]:
    """(correct, all) evaluation questions of a line of metrics."""
    return round(row.accuracy * row.n_eval), row.n_eval


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent, "-" for None."""
    return NOTHING if share is None else f"{100 * share:.{digits}f}"


def number(value: float | None, form: str = ",.0f") -> str:
    """A number, "-" for None."""
    return NOTHING if value is None else format(value, form)


def share_cells(k: int, n: int) -> tuple[str, str]:
    """(k of n in percent, its interval); "-" for both if n is 0."""
    return (percent(k / n), interval_text(k, n)) if n else (NOTHING, NOTHING)


def ratio(part: float | None, whole: float | None) -> float | None:
    """Part / whole, None where one is not known or the whole is 0."""
    return None if part is None or not whole else part / whole


def times(factor: float, value: float | None) -> float | None:
    """Factor * value, None where the value is not known."""
    return None if value is None else factor * value


def metrics_table(run: RunReport) -> list[str]:
    """The header and a line per row, as in the live table."""
    groups = groups_of([run])
    cells = [header_cells(groups), *(row_cells(row, groups) for row in run.rows)]
    return [live_line(line, groups) for line in cells]


def comparison_table(runs: Sequence[RunReport]) -> list[list[str]]:
    """Header and one row per run: its last iteration's accuracy, overall and by group (%)."""
    groups = groups_of(runs)
    n_accuracies = 2 + len(groups)  # iteration, overall, each group
    table = [["run", *header_cells(groups)[:n_accuracies], "95 % interval", "n", "seed"]]
    for run in runs:
        cells = row_cells(run.last, groups)[:n_accuracies]
        interval = interval_text(*right_of(run.last))
        table.append([run.label, *cells, interval, str(run.last.n_eval), str(run.seed)])
    return table


def run_cells(run: RunReport) -> list[list[str]]:
    """The metrics table with the sample behind each accuracy: interval, n and seed."""
    groups = groups_of([run])
    header = header_cells(groups)
    table = [[*header[:2], "95 % interval", "n", *header[2:], "seed"]]
    for row in run.rows:
        cells = row_cells(row, groups)
        sample = [interval_text(*right_of(row)), str(row.n_eval)]
        table.append([*cells[:2], *sample, *cells[2:], str(row.seed)])
    return table


def table_of(cells: Sequence[Sequence[str]], title: str = "", note: str = "") -> Table:
    """A table from its cells, the header first."""
    header, *rows = map(tuple, cells)
    return Table(title, header, tuple(rows), note)


def run_table(run: RunReport, cells: Sequence[Sequence[str]], device: str = "") -> Table:
    """A table of one run: its name and sample are the title, its command the note.

    Args:
      run: whose table it is.
      cells: the header first.
      device: that the title names.
    """
    return table_of(cells, f"{run.label}: {sample(run)}{device}", command_note(run))


def sample(run: RunReport) -> str:
    """Sample size and seed, e.g. `n = 200 per digit count, seed 0`."""
    return Arm(run.label, (run,)).sample


def command_note(run: RunReport) -> str:
    """The note that says how a run was started."""
    return f"Command: {run.command}"
