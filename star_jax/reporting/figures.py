"""What the report's pictures have in common, and the picture that every report has."""

import io
import math
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from star_jax.reporting.document import Picture
from star_jax.reporting.runs import Arm, Run, arms
from star_jax.reporting.tables import interval
from star_jax.run.progress import group_names

MAX_COLUMNS = 4  # panels side by side; more go on the next line
DPI = 150
LINE = {"markersize": 5, "linewidth": 1.6}
MARKERS = "osD^vP*X<>"  # a second cue beside the colour
BAND = {"alpha": 0.18, "linewidth": 0}

Points = Mapping[int, Sequence[float]]  # outer iteration -> a value of each run that has one
Measure = Callable[[Run, int], float | None]  # of a run and an outer iteration


def picture(name: str, alt: str, figure: Figure) -> Picture:
    """A figure, drawn to a PNG of 150 dots an inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return Picture(name, buffer.getvalue(), alt)


def panels_for(
    n: int, *, sharey: bool = True, width: float = 4.4, height: float = 4.0, margin: float = 1.4
) -> tuple[Figure, list[Axes]]:
    """A figure of `n` panels in lines of `MAX_COLUMNS`; sizes are in inches, of a panel."""
    columns = min(n, MAX_COLUMNS)
    lines = math.ceil(n / columns)
    size = (width * columns + margin, height * lines)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    panels = list(figure.subplots(lines, columns, sharey=sharey, squeeze=False).flatten())
    for unused in panels[n:]:
        unused.remove()
    return figure, panels[:n]


def style_panel(panel: Axes, title: str, under: str, last_iteration: int) -> None:
    """Title with a grey line under it, and an axis of outer iterations."""
    panel.set_title(title, fontsize=11, pad=20, parse_math=False)  # "$" is no formula here
    panel.text(
        0.5, 1.025, under, transform=panel.transAxes, ha="center", color="0.35", fontsize=9,
        parse_math=False,
    )  # fmt: skip
    panel.set_xlabel("outer iteration")
    panel.set_xlim(-0.5, last_iteration + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "base" if x == 0 else f"{x:.0f}"))
    plain(panel)


def plain(panel: Axes) -> None:
    """Horizontal rules behind the data, no box around it."""
    panel.grid(axis="y", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def wrapped(arm: Arm) -> str:
    """An arm's label on lines short enough for a panel; what is in parentheses on its own."""
    name = arm.row or arm.runs[0].name
    name = name if arm.label.startswith(name) else arm.label
    suffix = arm.label.removeprefix(name)
    return "\n".join([*textwrap.wrap(name, 40), *filter(None, [suffix.strip()])])


def sample_line(arm: Arm, of_several: str = "mean and range") -> str:
    """The sample behind an arm, and what is shown of several runs: all seeds, or only some."""
    if len(arm.runs) == 1:
        return arm.sample
    unequal = len({len(run.rows) for run in arm.runs}) > 1
    return f"{arm.sample} ({'mean; dotted: some seeds' if unequal else of_several})"


def last_iteration(arms_: Iterable[Arm]) -> int:
    """The last outer iteration of any run."""
    return max(row["iteration"] for arm in arms_ for run in arm.runs for row in run.rows)


def class_style(classes: Sequence[str], name: str) -> dict[str, Any]:
    """Colour and marker of a class, the same in every panel; viridis reads without hue too."""
    index = classes.index(name)
    share = index / max(len(classes) - 1, 1)
    color = matplotlib.colormaps["viridis"](0.88 * share)  # its yellow end is lost on white
    return {"color": color, "marker": MARKERS[index % len(MARKERS)], **LINE}


def class_legend(figure: Figure, classes: Sequence[str]) -> None:
    """A legend of the classes, right of the panels."""
    handles = [Line2D([], [], label=name, **class_style(classes, name)) for name in classes]
    title = "digits" if all(name.isdecimal() for name in classes) else "class"
    figure.legend(handles=handles, title=title, loc="outside right center", frameon=False)


def plot_mean(panel: Axes, points: Points, **style: Any) -> None:
    """The mean of the runs over iterations, and behind it a band from their least to their most.

    Where some of the runs have not come, which would bend the line, it is dotted.
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
    if any(len(points[x]) > 1 for x in xs):
        lows, highs = [min(points[x]) for x in xs], [max(points[x]) for x in xs]
        panel.fill_between(xs, lows, highs, color=style["color"], **BAND)


def arm_points(arm: Arm, measure: Measure) -> Points:
    """What `measure` says of each run and iteration, where it says anything."""
    points: dict[int, list[float]] = {}
    for run in arm.runs:
        for n in range(len(run.rows)):
            if (value := measure(run, n)) is not None:
                points.setdefault(n, []).append(value)
    return dict(sorted(points.items()))


def class_points(arm: Arm, name: str) -> Points:
    """Accuracy (%) on a class, of every run; a class may join later."""

    def measure(run: Run, n: int) -> float | None:
        accuracy = run.rows[n]["accuracy_by_class"].get(name)
        return None if accuracy is None else 100 * accuracy

    return arm_points(arm, measure)


def overall_points(arm: Arm) -> Points:
    """Accuracy (%) over all questions, of every run."""
    return arm_points(arm, lambda run, n: 100 * run.rows[n]["accuracy"])


def draw_arms(
    shown: Sequence[Arm],
    measures: Sequence[tuple[str, str, Measure]],
    ylim: tuple[float, float] | None = None,
) -> Figure:
    """A panel for each (title, label of its axis, measure), in all of them a line for each arm."""
    lines = math.ceil(len(shown) / len(measures))  # of the legend, one column a panel
    figure, panels = panels_for(len(measures), sharey=False, height=3.4 + 0.4 * lines, margin=0)
    for panel, (title, label, measure) in zip(panels, measures, strict=True):
        style_panel(panel, title, "", last_iteration(shown))
        panel.set_ylabel(label)
        for i, arm in enumerate(shown):
            if not (points := arm_points(arm, measure)):
                continue  # the box around a line without points reaches to the figure's corner
            style = {"color": f"C{i % 10}", "marker": MARKERS[i // 10 % len(MARKERS)], **LINE}
            plot_mean(panel, points, **style)
        panel.set_ylim(*(ylim or (0, None)))
    handles = [
        Line2D([], [], label=f"{arm.label}\n{sample_line(arm)}", color=f"C{i % 10}",
               marker=MARKERS[i // 10 % len(MARKERS)], **LINE)
        for i, arm in enumerate(shown)
    ]  # fmt: skip
    figure.legend(
        handles=handles, loc="outside lower center", ncols=len(measures), frameon=False, fontsize=8
    )
    return figure


def draw_figure4(runs: Sequence[Run]) -> Figure:
    """The paper's Figure 4: accuracy (%) per class over outer iterations, one panel an arm."""
    shown = arms(runs)
    classes = group_names(row for run in runs for row in run.rows)
    alike = len({bool(arm.classes) for arm in shown}) == 1
    figure, panels = panels_for(len(shown), sharey=alike)
    bounds = [interval(row)[1] for run in runs if not run.classes for row in run.rows]
    for panel, arm in zip(panels, shown, strict=True):
        style_panel(panel, wrapped(arm), sample_line(arm), last_iteration(shown))
        if arm.classes:
            draw_classes(panel, arm, classes)
            panel.set_ylim(-2, 102)
        else:
            draw_overall(panel, arm)
            # It ends above the highest bound: GSM8K would vanish on 0 to 100.
            panel.set_ylim(0, min(102, 115 * max(bounds)))
    for line_start in panels[::MAX_COLUMNS]:
        line_start.set_ylabel("accuracy (%)")
    if classes:
        class_legend(figure, classes)
    figure.suptitle("Accuracy after each outer iteration", fontsize=13)
    return figure


def draw_classes(panel: Axes, arm: Arm, classes: Sequence[str]) -> None:
    """A line for each class of the arm."""
    for name in arm.classes:
        plot_mean(panel, class_points(arm, name), label=name, **class_style(classes, name))


def draw_overall(panel: Axes, arm: Arm) -> None:
    """One line; around that of a single run the Wilson interval of each point."""
    style = {"label": "all", "color": "C0", "marker": "o", **LINE}
    plot_mean(panel, overall_points(arm), **style)
    if len(arm.runs) == 1:
        rows = arm.runs[0].rows
        xs = [row["iteration"] for row in rows]
        lows, highs = zip(*[interval(row) for row in rows], strict=True)
        lows, highs = [100 * low for low in lows], [100 * high for high in highs]
        panel.fill_between(xs, lows, highs, color="C0", **BAND)
        panel.vlines(xs, lows, highs, color="C0", alpha=0.5, linewidth=1)  # for a lone point
