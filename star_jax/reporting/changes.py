"""Which held-out questions an outer iteration gained, and which it lost."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from star_jax.reporting import figures
from star_jax.reporting.document import Section
from star_jax.reporting.runs import Arm, RunReport, arms
from star_jax.reporting.tables import number, percent, run_table


def changes_section(runs: Sequence[RunReport]) -> list[Section]:
    """Newly solved and newly lost questions, of the runs whose attempts are there."""
    known = [run for run in runs if any(d.newly_solved is not None for d in run.iterations)]
    if not known:
        return []
    text = (
        "Held-out questions that were answered incorrectly after the previous iteration and "
        "correctly after this one are newly solved; the other way round, newly lost.",
    )
    alt = "Newly solved and newly lost held-out questions of each outer iteration"
    drawn = figures.picture("changes.png", alt, draw_changes(arms(known)))
    tables = tuple(run_table(run, _cells(run)) for run in known)
    return [Section("What changed from iteration to iteration", text, tables, (drawn,))]


def _cells(run: RunReport) -> list[list[str]]:
    cells = [["iteration", "accuracy %", "n", "newly solved", "newly lost"]]
    for n in run.trained:
        digest, row = run.iterations[n], run.rows[n]
        changes = [number(digest.newly_solved), number(digest.newly_lost)]
        cells.append([str(n), percent(row.accuracy), number(row.n_eval), *changes])
    return cells


def draw_changes(shown: Sequence[Arm]) -> Figure:
    """Bars up for solved and down for lost questions, means over an arm's runs."""

    def share(run: RunReport, n: int, count: int | None) -> float | None:
        return None if count is None else 100 * count / run.rows[n].n_eval

    def lost(run: RunReport, n: int) -> float | None:
        found = share(run, n, run.iterations[n].newly_lost)
        return None if found is None else -found

    series = [
        ("newly solved", "#3b8f5a", lambda run, n: share(run, n, run.iterations[n].newly_solved)),
        ("newly lost", "#b8453a", lost),
    ]
    return figures.draw_bars(shown, series, "% of held-out questions")
