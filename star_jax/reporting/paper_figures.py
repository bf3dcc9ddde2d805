"""The paper's Figures 4 to 6: accuracy per digit count, digits that enter later, solution steps."""

from collections import Counter
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from star_jax.reporting import figures
from star_jax.reporting.figures import Layout
from star_jax.reporting.runs import TINY, TWIN, Arm, RunReport, arms, group_kind, runs_of, twins
from star_jax.reporting.tables import TEXTS, Section, Table, comparison_table, share_cells, table_of
from star_jax.run.metrics import group_names, iteration_name, number

DIRECT = "figure4/direct_finetuned"
FIGURE4 = {
    "figure4/with_rationalization": ("with rationalization", "C0"),
    "figure4/without_rationalization": ("without rationalization", "C1"),
    DIRECT: ("direct answers, fine-tuned", "0.35"),
}
MOST_STEPS = 10  # on an axis of Figure 6; more are counted there
Steps: TypeAlias = Counter[tuple[int, int]]  # (data set's, model's) -> held-out questions


def figure_sections(runs: Sequence[RunReport]) -> list[Section]:
    """Figure 4 of the runs with its rows, Figure 5 of those whose groups enter late, Figure 6."""
    shown = arms(runs)
    figure4 = [*_figure4_section(shown, ""), *_figure4_section(shown, TINY)]
    return [*figure4, *_figure5_section(shown), *_figure6_section(shown)]


# Figure 4


def _figure4_section(among: Sequence[Arm], ending: str) -> list[Section]:
    wanted = {row + ending: name for row, (name, _) in FIGURE4.items()}
    found = {arm.row: arm for arm in among if arm.row in wanted}
    if not found:
        return []
    title = f"Figure 4: accuracy per digit count{f' ({TWIN})' if ending else ''}"
    missing = [name for row, name in wanted.items() if row not in found]
    shown = [found[row] for row in wanted if row in found]
    text = [f"Not run: {', '.join(missing)}."] if missing else []
    alt = "Accuracy per digit count after each outer iteration, with and without rationalization"
    drawn = figures.picture(f"figure4{ending}.png", alt, draw_figure4(shown))
    note = "Each run after its last iteration; held-out problems, the interval is Wilson's."
    table = table_of(comparison_table(runs_of(shown)), "Last iteration", note)
    return [Section(title, tuple(text), (table,), (drawn,))]


def draw_figure4(shown: Sequence[Arm]) -> Figure:
    """A panel for each arm that iterates, and one with the overall accuracy of all arms."""
    iterating = [arm for arm in shown if arm.paper_row != DIRECT]
    figure, panels = figures.draw_groups(iterating, Layout(), extra=1)
    for panel, arm in zip(panels, iterating, strict=False):
        panel.title.set_text(f"STaR {FIGURE4[arm.paper_row][0]}")
    figures.style_panel(panels[-1], shown, "all questions")
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


def _entries(run: RunReport) -> dict[str, int]:
    """Group -> outer iteration in which it was first trained on, of those that enter late."""
    first: dict[str, int] = {}
    for n, digest in enumerate(run.iterations):
        for name in digest.questions or ():
            first.setdefault(name, n)
    begin = min(first.values(), default=0)
    return {name: n for name, n in first.items() if name and n > begin}


def _figure5_section(among: Sequence[Arm]) -> list[Section]:
    title = "Figure 5: more digits later"
    late = [arm for arm in among if any(_entries(run) for run in arm.runs)]
    if not late:
        text = "The groups that are to enter late have not entered yet."
        waiting = any(arm.paper_row == "figure5" for arm in among)
        return [Section(title, (text,))] if waiting else []
    tables = tuple(_before_and_after(run) for run in runs_of(late) if _entries(run))
    alt = "Accuracy per digit count; a vertical line marks where more digits enter"
    drawn = figures.picture("figure5.png", alt, draw_figure5(late))
    return [Section(title, twins(late), tables, (drawn,))]


def draw_figure5(shown: Sequence[Arm]) -> Figure:
    """Accuracy per group, with a vertical line where groups enter."""
    figure, panels = figures.draw_groups(shown, Layout(width=6.4))
    for panel, arm in zip(panels, shown, strict=True):
        first = {name: n for run in arm.runs for name, n in _entries(run).items()}
        for n in sorted({*first.values()}):
            names = [name for name in arm.groups if first.get(name) == n]
            panel.axvline(n - 0.5, color="0.3", linestyle="--", linewidth=1.2)
            panel.text(
                n - 0.8, 50, f"{_named(names)}\nenter in\niteration {n}",
                ha="right", va="center", fontsize=9, color="0.3",
            )  # fmt: skip
    return figure


def _named(groups: Sequence[str]) -> str:
    if group_kind(groups) == "group":
        return ", ".join(groups)
    return f"{groups[0]}-{groups[-1]} digits" if len(groups) > 1 else f"{groups[0]} digits"


def _before_and_after(run: RunReport) -> Table:
    first = _entries(run)
    earliest, last = min(first.values()), run.last.iteration
    cells = [["digits", "enter in", "n", "before %", "95 %", "then %", "95 %", "last %", "95 %"]]
    for name in group_names(run.rows):
        n = first.get(name, earliest)
        size = number(run.last.n_eval_by_group.get(name, 0))
        cells.append([name, str(first.get(name, "the start")), size])
        for row in (run.rows[n - 1], run.rows[n], run.last):
            total = row.n_eval_by_group.get(name, 0)
            right = round(row.accuracy_by_group.get(name, 0) * total)
            cells[-1] += share_cells(right, total)
    note = (
        f"`before` is the iteration before they enter ({iteration_name(earliest - 1)} for those in "
        f"from the start), `then` the one in which they were first trained on, `last` is {last}. "
        "Intervals are Wilson's."
    )
    return table_of(cells, f"{run.label}, seed {run.seed}", note)


# Figure 6


def _figure6_section(among: Sequence[Arm]) -> list[Section]:
    """Of the runs whose held-out attempts have steps to count.

    Digit counts determine the steps of a sum, so there is nothing to compare.
    """
    shown = [
        arm
        for arm in among
        if any(run.iterations[-1].steps for run in arm.runs)
        and not (arm.groups and group_kind(arm.groups) == "digit count")
    ]
    if not shown:
        return []
    header = ["run", "seed", "answers", "n", "as many %", "95 %", "fewer %", "more %"]
    cells = [header, *(line for run in runs_of(shown) for line in _step_shares(run))]
    alt = "Counts of questions by the steps of the data set's solution and of the model's"
    drawn = figures.picture("figure6.png", alt, draw_figure6(shown))
    table = table_of(cells, note=TEXTS["figure6"])
    return [Section("Figure 6: calculator steps", twins(shown), (table,), (drawn,))]


def draw_figure6(shown: Sequence[Arm]) -> Figure:
    """For each arm a panel of all answers, and one of the correct ones."""
    figure, panels = figures.panels_for(2 * len(shown), Layout(margin=0.2, sharey=False))
    wanted = [(arm, right_only) for arm in shown for right_only in (False, True)]
    for panel, (arm, right_only) in zip(panels, wanted, strict=True):
        counts = _step_counts(arm.runs, right_only)
        _draw_steps(panel, counts)
        what = "correct answers" if right_only else "all answers"
        title = f"{figures.wrapped(arm)}: {what}"
        figures.title_panel(panel, title, f"n = {counts.total():,}, {arm.seeds}")
    return figure


def _step_counts(runs: Sequence[RunReport], right_only: bool) -> Steps:
    """Those after the last iteration of the runs."""
    counts: Steps = Counter()
    for run in runs:
        for (theirs, ours, correct), n in run.iterations[-1].steps.items():
            counts[theirs, ours] += n if correct or not right_only else 0
    return +counts


def _draw_steps(panel: Axes, counts: Steps) -> None:
    size = min(MOST_STEPS, max([1, *(max(steps) for steps in counts)])) + 1
    grid = np.zeros((size, size), int)  # [the model's, the data set's]
    for (theirs, ours), n in counts.items():
        grid[min(ours, MOST_STEPS), min(theirs, MOST_STEPS)] += n
    panel.imshow(grid, origin="lower", cmap="Blues", vmax=max(1, grid.max()), aspect="equal")
    for i in range(size):  # as many steps
        panel.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, color="0.6", linewidth=0.8))
    for (ours, theirs), n in np.ndenumerate(grid):
        if n:
            color = "white" if n > 0.6 * grid.max() else "0.15"
            panel.text(theirs, ours, f"{n}", ha="center", va="center", fontsize=8, color=color)
    labels = [f"{i}+" if i == MOST_STEPS else str(i) for i in range(size)]
    panel.set_xticks(range(size), labels)
    panel.set_yticks(range(size), labels)
    panel.set_xlabel("steps in the data set's solution")
    panel.set_ylabel("steps in the model's solution")


def _step_shares(run: RunReport) -> list[list[str]]:
    lines = []
    for what, right_only in (("all", False), ("correct", True)):
        counts = _step_counts([run], right_only)
        n = counts.total()
        same = sum(k for (theirs, ours), k in counts.items() if ours == theirs)
        fewer = sum(k for (theirs, ours), k in counts.items() if ours < theirs)
        others = (share_cells(k, n)[0] for k in (fewer, n - same - fewer))
        lines.append([run.label, str(run.seed), what, number(n), *share_cells(same, n), *others])
    return lines
