"""Which held-out questions an outer iteration gained, and which it lost."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from star_jax.reporting import figures
from star_jax.reporting.document import Section, Table
from star_jax.reporting.runs import Arm, Run, arms
from star_jax.reporting.tables import command_note, number, percent, run_title

SOLVED, LOST = "#3b8f5a", "#b8453a"


def changes_section(runs: Sequence[Run]) -> list[Section]:
    """Newly solved and newly lost questions, of the runs whose attempts are there."""
    known = [run for run in runs if any(d.newly_solved is not None for d in run.iterations)]
    if not known:
        return []
    text = (
        "Held-out questions that were answered wrongly after the iteration before and rightly "
        "after this one are newly solved; the other way round, newly lost.",
    )
    alt = "Newly solved and newly lost held-out questions of each outer iteration"
    drawn = figures.picture("changes.png", alt, draw_changes(arms(known)))
    title = "What changed from iteration to iteration"
    return [Section(title, text, tuple(map(_table, known)), (drawn,))]


def _table(run: Run) -> Table:
    rows = []
    for n in range(1, len(run.rows)):
        digest, row = run.iterations[n], run.rows[n]
        changes = [number(digest.newly_solved), number(digest.newly_lost)]
        rows.append((str(n), percent(row["accuracy"]), f"{row['n_eval']:,}", *changes))
    header = ("iteration", "accuracy %", "n", "newly solved", "newly lost")
    return Table(run_title(run), header, tuple(rows), command_note(run))


def draw_changes(shown: Sequence[Arm]) -> Figure:
    """Bars up for solved and down for lost questions, means over an arm's runs."""
    figure, panels = figures.panels_for(len(shown), height=3.2)
    last = figures.last_iteration(shown)
    for panel, arm in zip(panels, shown, strict=True):
        figures.style_panel(panel, figures.wrapped(arm), figures.sample_line(arm, "mean"), last)
        panel.set_xlim(0.3, last + 0.7)
        for key, sign, color in (("newly_solved", 1, SOLVED), ("newly_lost", -1, LOST)):
            points = figures.arm_points(arm, lambda run, n, key=key: _share(run, n, key))
            means = [sign * sum(values) / len(values) for values in points.values()]
            label = key.replace("_", " ")
            panel.bar(list(points), means, 0.8, color=color, label=label)
        panel.axhline(0, color="0.3", linewidth=0.8)
    for line_start in panels[:: figures.MAX_COLUMNS]:
        line_start.set_ylabel("% of held-out questions")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def _share(run: Run, n: int, key: str) -> float | None:
    count = getattr(run.iterations[n], key)
    return None if count is None else 100 * count / run.rows[n]["n_eval"]
