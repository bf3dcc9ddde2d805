"""Figure 6: calculator steps in the model's solutions against those in the data set's."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from star_jax.reporting import figures
from star_jax.reporting.document import Section
from star_jax.reporting.paper_tables import TWIN
from star_jax.reporting.runs import TINY, Arm, Run, arms
from star_jax.reporting.tables import NOTHING, interval_text, percent, ratio, table_of

MOST = 10  # steps on an axis; more are counted there
Counts = Mapping[tuple[int, int], int]  # (the data set's steps, the model's) -> questions


def calculator_section(runs: Sequence[Run]) -> list[Section]:
    """Figure 6, of the runs whose held-out attempts have steps to count."""
    shown = [arm for arm in arms(runs) if _counted(arm) and not _of_digits(arm)]
    if not shown:
        return []
    text = [f"{arm.label}, seed {run.seed}: {run.command}" for arm in shown for run in arm.runs]
    if twins := [arm.label for arm in shown if arm.row.endswith(TINY)]:
        text.insert(0, f"Each is a {TWIN}: {', '.join(twins)}.")
    header = ["run", "seed", "answers", "n", "as many %", "95 %", "fewer %", "more %"]
    cells = [header, *(line for arm in shown for run in arm.runs for line in _shares(run))]
    note = (
        "Steps of the model's solution against the data set's own solution of the same held-out "
        "question, after the last iteration. The interval is Wilson's, of `as many`."
    )
    alt = "Counts of questions by the steps of the data set's solution and of the model's"
    drawn = figures.picture("figure6.png", alt, draw_figure6(shown))
    title = "Figure 6: calculator steps"
    return [Section(title, tuple(text), (table_of(cells, note=note),), (drawn,))]


def draw_figure6(shown: Sequence[Arm]) -> Figure:
    """For each arm a panel of all answers, and one of the right ones."""
    figure, panels = figures.panels_for(2 * len(shown), sharey=False, margin=0.2)
    for i, arm in enumerate(shown):
        for panel, right_only in zip(panels[2 * i : 2 * i + 2], (False, True), strict=True):
            counts = collections.Counter()
            for run in arm.runs:
                counts.update(_counts(run, right_only))
            what = "right answers" if right_only else "all answers"
            seeds = arm.sample[arm.sample.index("seed") :]
            title = f"{figures.wrapped(arm)}: {what}"
            _draw_counts(panel, counts)
            panel.set_title(title, fontsize=11, pad=20, parse_math=False)
            panel.text(
                0.5, 1.025, f"n = {sum(counts.values()):,}, {seeds}", transform=panel.transAxes,
                ha="center", color="0.35", fontsize=9,
            )  # fmt: skip
    return figure


def _draw_counts(panel: Axes, counts: Counts) -> None:
    grid = np.zeros((MOST + 1, MOST + 1), int)  # [the model's, the data set's]
    for (theirs, ours), n in counts.items():
        grid[min(ours, MOST), min(theirs, MOST)] += n
    size = max([1, *(max(theirs, ours) for theirs, ours in counts)])
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


def _shares(run: Run) -> list[list[str]]:
    lines = []
    for what, right_only in (("all", False), ("right", True)):
        counts = _counts(run, right_only)
        n = sum(counts.values())
        same = sum(k for (theirs, ours), k in counts.items() if ours == theirs)
        fewer = sum(k for (theirs, ours), k in counts.items() if ours < theirs)
        more = n - same - fewer
        cells = [percent(ratio(k, n)) for k in (same, fewer, more)]
        cells.insert(1, interval_text(same, n) if n else NOTHING)
        lines.append([run.label, str(run.seed), what, f"{n:,}", *cells])
    return lines


def _counts(run: Run, right_only: bool) -> Counts:
    """Of the last iteration."""
    counts: collections.Counter = collections.Counter()
    for (theirs, ours, correct), n in run.iterations[-1].steps.items():
        if correct or not right_only:
            counts[theirs, ours] += n
    return counts


def _counted(arm: Arm) -> bool:
    return any(run.iterations[-1].steps for run in arm.runs)


def _of_digits(arm: Arm) -> bool:
    """Whether its classes are digit counts, which settle the steps of a sum."""
    return bool(arm.classes) and all(name.isdecimal() for name in arm.classes)
