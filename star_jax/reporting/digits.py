"""Figures 4 and 5: accuracy per digit count over outer iterations."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from star_jax.reporting import figures
from star_jax.reporting.document import Section, Table
from star_jax.reporting.runs import (
    TINY,
    TWIN,
    Arm,
    RunReport,
    arms,
    commands,
    group_kind,
    groups_of,
    runs_of,
)
from star_jax.reporting.tables import comparison_table, number, share_cells, table_of

FIGURE4 = {
    "figure4/with_rationalization": ("with rationalization", "C0"),
    "figure4/without_rationalization": ("without rationalization", "C1"),
    "figure4/direct_finetuned": ("direct answers, fine-tuned", "0.35"),
}
DIRECT = "figure4/direct_finetuned"


def digit_sections(runs: Sequence[RunReport]) -> list[Section]:
    """Figure 4 of the runs with its rows, and Figure 5 of those whose groups enter late."""
    return [
        *_figure4_section(runs, twins=False),
        *_figure4_section(runs, twins=True),
        *_figure5_section(runs),
    ]


# Figure 4


def _figure4_section(runs: Sequence[RunReport], twins: bool) -> list[Section]:
    wanted = {row + TINY * twins: name for row, (name, _) in FIGURE4.items()}
    found = {arm.row: arm for arm in arms(runs) if arm.row in wanted}
    if not found:
        return []
    title = f"Figure 4: accuracy per digit count{f' ({TWIN})' if twins else ''}"
    missing = [name for row, name in wanted.items() if row not in found]
    text = [f"Not run: {', '.join(missing)}."] if missing else []
    shown = [found[row] for row in wanted if row in found]
    text += [f"{arm.row}, seed {run.seed}: {run.command}" for arm in shown for run in arm.runs]
    alt = "Accuracy per digit count after each outer iteration, with and without rationalization"
    drawn = figures.picture(f"figure4{TINY * twins}.png", alt, draw_comparison(shown))
    note = "Each run after its last iteration; held-out problems, the interval is Wilson's."
    table = table_of(comparison_table(runs_of(shown)), "Last iteration", note)
    return [Section(title, tuple(text), (table,), (drawn,))]


def draw_comparison(shown: Sequence[Arm]) -> Figure:
    """A panel for each arm that iterates, and one with the overall accuracy of all arms."""
    iterating = [arm for arm in shown if arm.paper_row != DIRECT]
    titles = [f"STaR {FIGURE4[arm.paper_row][0]}" for arm in iterating]
    figure, panels = figures.draw_groups(iterating, titles, extra=1)
    figures.style_panel(panels[-1], "all questions", "", figures.last_iteration(shown))
    for arm in shown:
        _draw_overall(panels[-1], arm)
    # Below the panels: inside them a legend would hide a line.
    handles, names = panels[-1].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower right", ncols=len(names), frameon=False, fontsize=8.5
    )
    panels[0].set_ylim(-2, 102)
    return figure


def _draw_overall(panel: Axes, arm: Arm) -> None:
    """A curve over iterations; for direct fine-tuning, which does not iterate, a level line."""
    name, color = FIGURE4[arm.paper_row]
    if arm.paper_row != DIRECT:
        style = {"color": color, "marker": "o", "label": name, **figures.LINE}
        figures.plot_mean(panel, figures.accuracies(arm), style)
        return
    ends = [100 * run.last.accuracy for run in arm.runs]
    label = f"{name} ({arm.seeds})" if len(ends) == 1 else name
    panel.axhline(sum(ends) / len(ends), color=color, linestyle="--", linewidth=1.4, label=label)
    if len(ends) > 1:
        panel.axhspan(min(ends), max(ends), color=color, alpha=0.12, linewidth=0)


# Figure 5


def entries(run: RunReport) -> dict[str, int]:
    """Group -> outer iteration in which it was first trained on, of those that enter late."""
    first: dict[str, int] = {}
    for n, digest in enumerate(run.iterations):
        for name in digest.questions or ():
            first.setdefault(name, n)
    begin = min(first.values(), default=0)
    return {name: n for name, n in first.items() if name and n > begin}


def _figure5_section(runs: Sequence[RunReport]) -> list[Section]:
    title, shown = "Figure 5: more digits later", arms(runs)
    late = [arm for arm in shown if any(entries(run) for run in arm.runs)]
    if not late:
        text = "The groups that are to enter late have not entered yet."
        waiting = any(arm.paper_row == "figure5" for arm in shown)
        return [Section(title, (text,))] if waiting else []
    tables = tuple(_before_and_after(run) for run in runs_of(late) if entries(run))
    alt = "Accuracy per digit count; a vertical line marks where more digits enter"
    drawn = figures.picture("figure5.png", alt, draw_figure5(late))
    return [Section(title, tuple(commands(late)), tables, (drawn,))]


def draw_figure5(shown: Sequence[Arm]) -> Figure:
    """Accuracy per group, with a vertical line where groups enter."""
    titles = [figures.wrapped(arm) for arm in shown]
    figure, panels = figures.draw_groups(shown, titles, width=6.4)
    for panel, arm in zip(panels, shown, strict=True):
        for n, names in _by_iteration(arm).items():
            panel.axvline(n - 0.5, color="0.3", linestyle="--", linewidth=1.2)
            panel.text(
                n - 0.8, 50, f"{_named(names)}\nenter in\niteration {n}",
                ha="right", va="center", fontsize=9, color="0.3",
            )  # fmt: skip
    return figure


def _by_iteration(arm: Arm) -> Mapping[int, list[str]]:
    """The groups that enter in each outer iteration, in order."""
    first = {name: n for run in arm.runs for name, n in entries(run).items()}
    return {
        n: [name for name in arm.groups if first.get(name) == n] for n in sorted({*first.values()})
    }


def _named(groups: Sequence[str]) -> str:
    if group_kind(groups) == "group":
        return ", ".join(groups)
    return f"{groups[0]}-{groups[-1]} digits" if len(groups) > 1 else f"{groups[0]} digits"


def _before_and_after(run: RunReport) -> Table:
    first = entries(run)
    earliest, last = min(first.values()), run.last.iteration
    cells = [["digits", "enter in", "n", "before %", "95 %", "then %", "95 %", "last %", "95 %"]]
    for name in groups_of([run]):
        n = first.get(name, earliest)
        accuracies = [cell for at in (n - 1, n, last) for cell in _accuracy(run, at, name)]
        size = number(run.last.n_eval_by_group.get(name, 0))
        cells.append([name, str(first.get(name, "the start")), size, *accuracies])
    note = (
        f"`before` is the iteration before they enter (for those in from the start, iteration "
        f"{earliest - 1}), `then` the one in which they were first trained on, `last` iteration "
        f"{last}. Intervals are Wilson's."
    )
    return table_of(cells, f"{run.label}, seed {run.seed}", note)


def _accuracy(run: RunReport, iteration: int, name: str) -> tuple[str, str]:
    row = run.rows[iteration]
    n = row.n_eval_by_group.get(name, 0)
    return share_cells(round(row.accuracy_by_group.get(name, 0) * n), n)
