"""Figure 6: calculator steps in the model's solutions compared with those in the data set's."""

import collections
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from star_jax.reporting import figures
from star_jax.reporting.document import Section
from star_jax.reporting.runs import Arm, RunReport, arms, commands, group_kind, runs_of
from star_jax.reporting.tables import number, percent, ratio, share_cells, table_of

MOST = 10  # steps on an axis; more are counted there
Counts: TypeAlias = Mapping[tuple[int, int], int]  # (data set's steps, model's) -> questions


def calculator_section(runs: Sequence[RunReport]) -> list[Section]:
    """Figure 6, of the runs whose held-out attempts have steps to count."""
    shown = [arm for arm in arms(runs) if _counted(arm) and not _of_digits(arm)]
    if not shown:
        return []
    header = ["run", "seed", "answers", "n", "as many %", "95 %", "fewer %", "more %"]
    cells = [header, *(line for run in runs_of(shown) for line in _shares(run))]
    note = (
        "Steps of the model's solution compared with the data set's own solution of the same "
        "held-out question, after the last iteration. The interval is Wilson's, of `as many`."
    )
    alt = "Counts of questions by the steps of the data set's solution and of the model's"
    drawn = figures.picture("figure6.png", alt, draw_figure6(shown))
    tables = (table_of(cells, note=note),)
    return [Section("Figure 6: calculator steps", tuple(commands(shown)), tables, (drawn,))]


def draw_figure6(shown: Sequence[Arm]) -> Figure:
    """For each arm a panel of all answers, and one of the correct ones."""
    figure, panels = figures.panels_for(2 * len(shown), sharey=False, margin=0.2)
    wanted = [(arm, right_only) for arm in shown for right_only in (False, True)]
    for panel, (arm, right_only) in zip(panels, wanted, strict=True):
        counts: collections.Counter[tuple[int, int]] = collections.Counter()
        for run in arm.runs:
            counts.update(_counts(run, right_only))
        _draw_counts(panel, counts)
        what = "correct answers" if right_only else "all answers"
        title = f"{figures.wrapped(arm)}: {what}"
        figures.title_panel(panel, title, f"n = {counts.total():,}, {arm.seeds}")
    return figure


def _draw_counts(panel: Axes, counts: Counts) -> None:
    grid = np.zeros((MOST + 1, MOST + 1), int)  # [the model's, the data set's]
    for (theirs, ours), n in counts.items():
        grid[min(ours, MOST), min(theirs, MOST)] += n
    size = max([1, *(max(steps) for steps in counts)])
    size = min(size, MOST) + 1
    grid = grid[:size, :size]
    panel.imshow(grid, origin="lower", cmap="Blues", vmax=max(1, grid.max()), aspect="equal")
    for i in range(size):  # as many steps
        panel.add_patch(Rectangle((i - 0.5, i - 0.5), 1, 1, fill=False, color="0.6", linewidth=0.8))
    for (ours, theirs), n in np.ndenumerate(grid):
        if n:
            color = "white" if n > 0.6 * grid.max() else "0.15"
            panel.text(theirs, ours, f"{n}", ha="center", va="center", fontsize=8, color=color)
    labels = [f"{i}+" if i == MOST else str(i) for i in range(size)]
    panel.set_xticks(range(size), labels)
    panel.set_yticks(range(size), labels)
    panel.set_xlabel("steps in the data set's solution")
    panel.set_ylabel("steps in the model's solution")


def _shares(run: RunReport) -> list[list[str]]:
    lines = []
    for what, right_only in (("all", False), ("correct", True)):
        counts = _counts(run, right_only)
        n = sum(counts.values())
        same = sum(k for (theirs, ours), k in counts.items() if ours == theirs)
        fewer = sum(k for (theirs, ours), k in counts.items() if ours < theirs)
        others = (percent(ratio(k, n)) for k in (fewer, n - same - fewer))
        lines.append([run.label, str(run.seed), what, number(n), *share_cells(same, n), *others])
    return lines


def _counts(run: RunReport, right_only: bool) -> Counts:
    """Of the last iteration."""
    counts: collections.Counter[tuple[int, int]] = collections.Counter()
    for (theirs, ours, correct), n in run.iterations[-1].steps.items():
        if correct or not right_only:
            counts[theirs, ours] += n
    return counts


def _counted(arm: Arm) -> bool:
    return any(run.iterations[-1].steps for run in arm.runs)


def _of_digits(arm: Arm) -> bool:
    """Whether its groups are digit counts, which determine the steps of a sum."""
    return bool(arm.groups) and group_kind(arm.groups) == "digit count"
