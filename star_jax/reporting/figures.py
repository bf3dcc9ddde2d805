"""What the report's pictures have in common, and the picture that every report has."""

import dataclasses
import io
import math
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from star_jax.reporting.runs import Arm, RunReport, arms, group_kind, groups_of, runs_of
from star_jax.reporting.tables import Picture, right_of, times, wilson_interval
from star_jax.run.metrics import iteration_name

MAX_COLUMNS = 4  # panels per line
DPI = 150
MARKERS = "osD^vP*X<>"  # a second cue in addition to the colour

Points: TypeAlias = Mapping[int, Sequence[float]]  # outer iteration -> a value of each run with one
Measure: TypeAlias = Callable[[RunReport, int], float | None]  # of a run and an outer iteration
Style: TypeAlias = dict[str, Any]  # of a matplotlib line

LINE: Style = {"markersize": 5, "linewidth": 1.6}
BAND: Style = {"alpha": 0.18, "linewidth": 0}


def picture(name: str, alt: str, figure: Figure) -> Picture:
    """A figure, drawn to a PNG of 150 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Picture(name, buffer.getvalue(), alt)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Of the panels of a figure, in lines of `MAX_COLUMNS`; inches."""

    width: float = 4.4  # of a panel
    height: float = 4.0
    margin: float = 1.4  # right of the panels, for a legend
    sharey: bool = True  # whether all panels have one y axis


def panels_for(n: int, layout: Layout, ylabel: str = "") -> tuple[Figure, list[Axes]]:
    """(figure, its `n` panels); `ylabel` is of the first panel of each line."""
    columns = min(n, MAX_COLUMNS)
    lines = math.ceil(n / columns)
    size = (layout.width * columns + layout.margin, layout.height * lines)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    panels = list(figure.subplots(lines, columns, sharey=layout.sharey, squeeze=False).flatten())
    for unused in panels[n:]:
        unused.remove()
    for line_start in panels[:n:MAX_COLUMNS]:
        line_start.set_ylabel(ylabel)
    return figure, panels[:n]


def title_panel(panel: Axes, title: str, subtitle: str = "") -> None:
    """Title with a grey line under it; "$" is no formula in them."""
    panel.set_title(title, fontsize=11, pad=20, parse_math=False)
    panel.text(
        0.5, 1.025, subtitle, transform=panel.transAxes, ha="center", color="0.35", fontsize=9,
        parse_math=False,
    )  # fmt: skip


def style_panel(panel: Axes, shown: Sequence[Arm], *titles: str) -> None:
    """A panel with `title_panel` whose x axis has the outer iterations, up to the arms' last."""
    title_panel(panel, *titles)
    panel.set_xlabel("outer iteration")
    panel.set_xlim(-0.5, max((run.last.iteration for run in runs_of(shown)), default=0) + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: iteration_name(round(x))))
    panel.grid(axis="y", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def wrapped(arm: Arm) -> str:
    """An arm's label on lines short enough for a panel; what is in parentheses on its own."""
    name = arm.row or arm.runs[0].name
    name = name if arm.label.startswith(name) else arm.label
    suffix = arm.label.removeprefix(name).strip()
    return "\n".join(textwrap.wrap(name, 40) + [suffix] * bool(suffix))


def sample_line(arm: Arm, of_several: str = "mean and range") -> str:
    """The sample behind an arm, and what is shown of several runs: all seeds, or only some."""
    if len(arm.runs) == 1:
        return arm.sample
    unequal = len({len(run.rows) for run in arm.runs}) > 1
    return f"{arm.sample} ({'mean; dotted: some seeds' if unequal else of_several})"


def plot_mean(panel: Axes, points: Points, style: Style) -> None:
    """The mean of the runs over iterations, and a band from their lowest to their highest value.

    Where some of the runs are not that far yet, which would bend the line, it is dotted.
    """
    xs = sorted(points)
    means = [sum(points[x]) / len(points[x]) for x in xs]
    most = max(map(len, points.values()), default=0)
    n_full = next((i for i, x in enumerate(xs) if len(points[x]) < most), len(xs))
    panel.plot(xs[:n_full], means[:n_full], clip_on=False, **style)
    if n_full < len(xs):
        beyond = {**style, "linestyle": ":", "markerfacecolor": "white", "label": None}
        start = max(n_full - 1, 0)
        panel.plot(xs[start:], means[start:], clip_on=False, zorder=1.9, **beyond)
    if most > 1:
        lows, highs = [min(points[x]) for x in xs], [max(points[x]) for x in xs]
        panel.fill_between(xs, lows, highs, color=style["color"], **BAND)


def arm_points(arm: Arm, measure: Measure) -> Points:
    """The values of `measure` for each run and iteration, where it has one."""
    points: dict[int, list[float]] = {}
    for run in arm.runs:
        for n in range(len(run.rows)):
            if (value := measure(run, n)) is not None:
                points.setdefault(n, []).append(value)
    return dict(sorted(points.items()))


def accuracies(arm: Arm, group: str = "") -> Points:
    """Accuracy (%) of every run, over all questions or on a group, which may enter later."""
    if not group:
        return arm_points(arm, lambda run, n: 100 * run.rows[n].accuracy)
    return arm_points(arm, lambda run, n: times(100, run.rows[n].accuracy_by_group.get(group)))


def draw_arms(
    shown: Sequence[Arm],
    measures: Sequence[tuple[str, str, Measure]],
    ylim: tuple[float, float | None] = (0, None),
) -> Figure:
    """A panel for each (title, label of its axis, measure), with a line for each arm."""
    lines = math.ceil(len(shown) / len(measures))  # of the legend, which has a column per panel
    layout = Layout(height=3.4 + 0.4 * lines, margin=0, sharey=False)
    figure, panels = panels_for(len(measures), layout)
    styles: list[Style] = [
        {"color": f"C{i % 10}", "marker": MARKERS[i // 10 % len(MARKERS)], **LINE}
        for i in range(len(shown))
    ]
    for panel, (title, label, measure) in zip(panels, measures, strict=True):
        style_panel(panel, shown, title)
        panel.set_ylabel(label)
        for arm, style in zip(shown, styles, strict=True):
            if points := arm_points(arm, measure):  # the box of an empty line begins at (0, 0)
                plot_mean(panel, points, style)
        panel.set_ylim(*ylim)
    handles = [
        Line2D([], [], label=f"{arm.label}\n{sample_line(arm)}", **style)
        for arm, style in zip(shown, styles, strict=True)
    ]
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(measures), frameon=False, fontsize=8
    )
    return figure


def draw_bars(
    shown: Sequence[Arm], series: Sequence[tuple[str, str, Measure]], ylabel: str
) -> Figure:
    """A panel per arm of bars, means over its runs, from iteration 1 on.

    Each of `series` is a (label, colour, measure); its positive bars are stacked upwards, its
    negative ones downwards.
    """
    figure, panels = panels_for(len(shown), Layout(height=3.3), ylabel)
    for panel, arm in zip(panels, shown, strict=True):
        style_panel(panel, shown, wrapped(arm), sample_line(arm, "mean"))
        panel.set_xlim(0.3, panel.get_xlim()[1] + 0.2)
        ends: dict[tuple[int, bool], float] = {}  # (iteration, downwards?) -> end of the bars there
        for label, color, measure in series:
            points = arm_points(arm, measure)
            means = {n: sum(values) / len(values) for n, values in points.items() if n}
            starts = [ends.get((n, mean < 0), 0.0) for n, mean in means.items()]
            panel.bar([*means], [*means.values()], 0.8, bottom=starts, color=color, label=label)
            for (n, mean), start in zip(means.items(), starts, strict=True):
                ends[n, mean < 0] = start + mean
        panel.axhline(0, color="0.3", linewidth=0.8)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


def draw_groups(shown: Sequence[Arm], layout: Layout, extra: int = 0) -> tuple[Figure, list[Axes]]:
    """(figure, panels): accuracy (%) over outer iterations, a panel per arm, a line per group.

    `extra` empty panels follow.
    """
    groups = groups_of(runs_of(shown))
    styles: dict[str, Style] = {}
    for i, name in enumerate(groups):
        # viridis can be read without hue too; its yellow end is hard to see on white.
        color = matplotlib.colormaps["viridis"](0.88 * (i / max(len(groups) - 1, 1)))
        styles[name] = {"color": color, "marker": MARKERS[i % len(MARKERS)], "label": name, **LINE}
    figure, panels = panels_for(len(shown) + extra, layout, "accuracy (%)")
    for panel, arm in zip(panels, shown, strict=False):
        style_panel(panel, shown, wrapped(arm), sample_line(arm))
        for name in arm.groups:
            plot_mean(panel, accuracies(arm, name), styles[name])
            panel.set_ylim(-2, 102)
    if groups:
        handles = [Line2D([], [], **style) for style in styles.values()]
        title = "digits" if group_kind(groups) == "digit count" else "group"
        figure.legend(handles=handles, title=title, loc="outside right center", frameon=False)
    return figure, panels


def draw_accuracies(runs: Sequence[RunReport]) -> Figure:
    """As the paper's Figure 4: accuracy (%) by group over outer iterations, one panel per arm."""
    shown = arms(runs)
    alike = len({bool(arm.groups) for arm in shown}) == 1
    figure, panels = draw_groups(shown, Layout(sharey=alike))
    without = [(panel, arm) for panel, arm in zip(panels, shown, strict=True) if not arm.groups]
    rows = [row for _, arm in without for run in arm.runs for row in run.rows]
    for panel, arm in without:
        _draw_overall(panel, arm)
        # It ends above the highest bound: GSM8K would vanish on 0 to 100.
        panel.set_ylim(0, min(102, 115 * max(wilson_interval(*right_of(row))[1] for row in rows)))
    figure.suptitle("Accuracy after each outer iteration", fontsize=13)
    return figure


def _draw_overall(panel: Axes, arm: Arm) -> None:
    """One line; for a single run with the Wilson interval of each point."""
    plot_mean(panel, accuracies(arm), {"color": "C0", "marker": "o", "label": "all", **LINE})
    if len(arm.runs) == 1:
        rows = arm.runs[0].rows
        xs = [row.iteration for row in rows]
        bounds = zip(*[wilson_interval(*right_of(row)) for row in rows], strict=True)
        lows, highs = ([100 * bound for bound in side] for side in bounds)
        panel.fill_between(xs, lows, highs, color="C0", **BAND)
        panel.vlines(xs, lows, highs, color="C0", alpha=0.5, linewidth=1)  # for a single point
