"""Figures 4 and 5: accuracy per digit count over outer iterations."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from star_jax.reporting import figures
from star_jax.reporting.document import Section, Table
from star_jax.reporting.paper_tables import TWIN
from star_jax.reporting.runs import TINY, Arm, Run, arms
from star_jax.reporting.tables import NOTHING, interval_text, percent
from star_jax.run.progress import group_names, header_cells

FIGURE4 = {
    "figure4/with_rationalization": ("with rationalization", "C0"),
    "figure4/without_rationalization": ("without rationalization", "C1"),
    "figure4/direct_finetuned": ("direct answers, fine-tuned", "0.35"),
}
DIRECT = "figure4/direct_finetuned"


def digit_sections(runs: Sequence[Run]) -> list[Section]:
    """Figure 4 of the runs that are labelled so, and Figure 5 of those whose classes enter late."""
    return [
        *_figure4_section(runs, twins=False),
        *_figure4_section(runs, twins=True),
        *_figure5_section(runs),
    ]


# Figure 4


def _figure4_section(runs: Sequence[Run], twins: bool) -> list[Section]:
    wanted = {row + TINY * twins: name for row, (name, _) in FIGURE4.items()}
    shown = {arm.row: arm for arm in arms(runs) if arm.row in wanted}
    if not shown:
        return []
    title = f"Figure 4: accuracy per digit count{f' ({TWIN})' if twins else ''}"
    missing = [name for row, name in wanted.items() if row not in shown]
    text = [f"Not run: {', '.join(missing)}."] if missing else []
    ordered = [shown[row] for row in wanted if row in shown]
    text += [f"{a.row}, seed {run.seed}: {run.command}" for a in ordered for run in a.runs]
    alt = "Accuracy per digit count after each outer iteration, with and without rationalization"
    name = f"figure4{TINY * twins}.png"
    drawn = figures.picture(name, alt, draw_comparison(ordered))
    return [Section(title, tuple(text), (_last_table(ordered),), (drawn,))]


def draw_comparison(shown: Sequence[Arm]) -> Figure:
    """A panel for each arm that iterates, and one with the overall accuracy of them all."""
    iterating = [arm for arm in shown if arm.row.removesuffix(TINY) != DIRECT]
    classes = group_names(row for arm in shown for run in arm.runs for row in run.rows)
    last = figures.last_iteration(shown)
    figure, panels = figures.panels_for(len(iterating) + 1)
    for panel, arm in zip(panels, iterating, strict=False):
        name = FIGURE4[arm.row.removesuffix(TINY)][0]
        figures.style_panel(panel, f"STaR {name}", figures.sample_line(arm), last)
        figures.draw_classes(panel, arm, classes)
    figures.style_panel(panels[-1], "over all questions", "", last)
    for arm in shown:
        _draw_overall(panels[-1], arm)
    # Below the panels: in them a legend would hide a line, wherever it stood.
    handles, names = panels[-1].get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower right", ncols=len(names), frameon=False, fontsize=8.5
    )
    panels[0].set_ylim(-2, 102)
    panels[0].set_ylabel("accuracy (%)")
    if classes:
        figures.class_legend(figure, classes)
    return figure


def _draw_overall(panel: Axes, arm: Arm) -> None:
    """A curve over iterations; of direct fine-tuning, which has none, a level line."""
    name, color = FIGURE4[arm.row.removesuffix(TINY)]
    points = figures.overall_points(arm)
    if arm.row.removesuffix(TINY) != DIRECT:
        figures.plot_mean(panel, points, label=name, color=color, marker="o", **figures.LINE)
        return
    ends = [100 * run.rows[-1]["accuracy"] for run in arm.runs]
    label = f"{name} ({arm.sample.rpartition(', ')[2]})" if len(ends) == 1 else name
    panel.axhline(sum(ends) / len(ends), color=color, linestyle="--", linewidth=1.4, label=label)
    if len(ends) > 1:
        panel.axhspan(min(ends), max(ends), color=color, alpha=0.12, linewidth=0)


def _last_table(shown: Sequence[Arm]) -> Table:
    classes = group_names(row for arm in shown for run in arm.runs for row in run.rows)
    header = (
        "arm",
        "seed",
        "iteration",
        "n",
        "all %",
        "95 % interval",
        *header_cells(classes)[2:][: len(classes)],
    )
    rows = []
    for arm in shown:
        for run in arm.runs:
            last = run.rows[-1]
            k = round(last["accuracy"] * last["n_eval"])
            by_class = (percent(last["accuracy_by_class"].get(name)) for name in classes)
            rows.append(
                (
                    FIGURE4[arm.row.removesuffix(TINY)][0],
                    str(run.seed),
                    str(last["iteration"]),
                    f"{last['n_eval']:,}",
                    percent(last["accuracy"]),
                    interval_text(k, last["n_eval"]),
                    *by_class,
                )
            )
    note = "Each run after its last iteration; held-out problems, the interval is Wilson's."
    return Table("Last iteration", header, tuple(rows), note)


# Figure 5


def entries(run: Run) -> dict[str, int]:
    """The outer iteration in which each class was first trained on, of those that enter late."""
    first: dict[str, int] = {}
    for n, digest in enumerate(run.iterations):
        for name in digest.asked or ():
            first.setdefault(name, n)
    begin = min(first.values(), default=0)
    return {name: n for name, n in first.items() if name and n > begin}


def _figure5_section(runs: Sequence[Run]) -> list[Section]:
    late = [arm for arm in arms(runs) if any(entries(run) for run in arm.runs)]
    waiting = [arm for arm in arms(runs) if arm.row.removesuffix(TINY) == "figure5"]
    if not late:
        text = "The classes that are to enter late have not entered yet."
        return [Section("Figure 5: more digits later", (text,))] if waiting else []
    text = [f"{arm.label}, seed {run.seed}: {run.command}" for arm in late for run in arm.runs]
    if twins := [arm.label for arm in late if arm.row.endswith(TINY)]:
        text.insert(0, f"Each is a {TWIN}: {', '.join(twins)}.")
    tables = tuple(_before_and_after(run) for arm in late for run in arm.runs if entries(run))
    alt = "Accuracy per digit count; a vertical line stands where more digits enter"
    drawn = figures.picture("figure5.png", alt, draw_figure5(late))
    return [Section("Figure 5: more digits later", tuple(text), tables, (drawn,))]


def draw_figure5(shown: Sequence[Arm]) -> Figure:
    """Accuracy per class, with a vertical line where classes enter."""
    classes = group_names(row for arm in shown for run in arm.runs for row in run.rows)
    figure, panels = figures.panels_for(len(shown), width=6.4)
    for panel, arm in zip(panels, shown, strict=True):
        last = figures.last_iteration(shown)
        figures.style_panel(panel, figures.wrapped(arm), figures.sample_line(arm), last)
        figures.draw_classes(panel, arm, classes)
        for n, names in _by_iteration(arm).items():
            panel.axvline(n - 0.5, color="0.3", linestyle="--", linewidth=1.2)
            panel.text(
                n - 0.8, 50, f"{_told(names)}\nenter in\niteration {n}",
                ha="right", va="center", fontsize=9, color="0.3",
            )  # fmt: skip
    panels[0].set_ylim(-2, 102)
    for line_start in panels[:: figures.MAX_COLUMNS]:
        line_start.set_ylabel("accuracy (%)")
    if classes:
        figures.class_legend(figure, classes)
    return figure


def _by_iteration(arm: Arm) -> Mapping[int, list[str]]:
    """The classes that enter in each outer iteration, in order."""
    first = {name: n for run in arm.runs for name, n in entries(run).items()}
    return {
        n: [name for name in arm.classes if first.get(name) == n] for n in sorted({*first.values()})
    }


def _told(names: Sequence[str]) -> str:
    if all(name.isdecimal() for name in names):
        return f"{names[0]}-{names[-1]} digits" if len(names) > 1 else f"{names[0]} digits"
    return ", ".join(names)


def _before_and_after(run: Run) -> Table:
    first = entries(run)
    earliest, last = min(first.values()), run.rows[-1]["iteration"]
    header = ("digits", "enter in", "n", "before %", "95 %", "then %", "95 %", "last %", "95 %")
    rows = []
    for name in run.classes:
        n = first.get(name, earliest)
        cells = [cell for at in (n - 1, n, last) for cell in _accuracy(run, at, name)]
        size = run.rows[-1]["n_eval_by_class"].get(name, 0)
        rows.append((name, str(first.get(name, "the start")), f"{size:,}", *cells))
    note = (
        f"`before` is the iteration before they enter (for those in from the start, iteration "
        f"{earliest - 1}), `then` the one in which they were first trained on, `last` iteration "
        f"{last}. Intervals are Wilson's."
    )
    return Table(f"{run.label}, seed {run.seed}", header, tuple(rows), note)


def _accuracy(run: Run, iteration: int, name: str) -> tuple[str, str]:
    row = run.rows[iteration]
    accuracy, n = row["accuracy_by_class"].get(name), row["n_eval_by_class"].get(name)
    if accuracy is None or not n:
        return NOTHING, NOTHING
    return percent(accuracy), interval_text(round(accuracy * n), n)
