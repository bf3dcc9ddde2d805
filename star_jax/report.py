"""The tables and the figure of one or many runs, from their metrics.jsonl."""

import dataclasses
import io
import json
import math
import shlex
import statistics
import sys
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from star_jax.errors import UserError
from star_jax.metrics import IterationMetrics
from star_jax.paths import is_dir, is_remote, path_of
from star_jax.progress import class_names, format_header, format_row, header_cells, row_cells
from star_jax.run_dir import write_together

FIGURE_NAME = "accuracy_by_class.png"
MAX_COLUMNS = 4  # panels side by side; more runs go on the next line
LINE = {"markersize": 5, "linewidth": 1.6}
MARKERS = "osD^vP*X<>"  # a second cue beside the colour

REQUIRED = ("iteration", "accuracy", "n_eval", "seed")  # the other numbers of a line may be null
FIELDS = {field.name: field.type for field in dataclasses.fields(IterationMetrics)}
SHARES = ("accuracy", "train_fraction")
NUMBERS = [name for name, kind in FIELDS.items() if kind in (int, float, float | None)]


@dataclasses.dataclass(frozen=True)
class Run:
    """One arm: row 0 is the base model, row n the model after outer iteration n."""

    name: str
    directory: Path
    rows: tuple[Mapping[str, Any], ...]

    @property
    def label(self) -> str:
        """The name in legends; says so when the run did not rationalize."""
        without = any(row.get("rationalize") is False for row in self.rows)
        return f"{self.name} (no rationalization)" if without else self.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of its questions in order, () for a task that has none."""
        return class_names(self.rows)


def report(model_dirs: Sequence[str], output_dir: str = "") -> None:
    """Reports on finished or unfinished runs, by default into <first model_dir>/report.

    Raises:
      UserError: a directory or its metrics.jsonl cannot be read, or the report not be written.
    """
    model_dirs = [model_dirs] if isinstance(model_dirs, str) else list(model_dirs)
    runs = _load_runs(model_dirs)
    output = path_of(output_dir) if output_dir else path_of(model_dirs[0]) / "report"
    path = _write(runs, output, shlex.join(sys.orig_argv))
    for run in runs:
        print(f"{run.label}: {_sample(run)}", *metrics_table(run), "", sep="\n")
    if len(runs) > 1:
        print("Last iteration of each run", *_aligned(comparison_table(runs)), "", sep="\n")
    print(path, path.with_name(FIGURE_NAME), path.with_suffix(".json"), sep="\n")


def write_report(model_dirs: Sequence[str], output_dir: str, command: str) -> Path:
    """Writes report.md, which quotes `command`, report.json and the figure; returns the first.

    Raises:
      UserError: a directory or its metrics.jsonl cannot be read, or the report not be written.
    """
    return _write(_load_runs(model_dirs), path_of(output_dir), command)


def _write(runs: Sequence[Run], output_dir: Path, command: str) -> Path:
    contents = {  # report.md last: what it links to is there when it appears
        FIGURE_NAME: _png(draw_figure4(runs)),
        "report.json": json.dumps(_as_json(runs, command), indent=2, allow_nan=False).encode(),
        "report.md": _as_markdown(runs, command).encode(),
    }
    _write_files(output_dir, contents)
    return output_dir / "report.md"


# Reading


def load_run(model_dir: str | Path) -> Run:
    """Reads and checks MODEL_DIR/metrics.jsonl.

    Raises:
      UserError: there is no such directory or file, or a line is malformed.
    """
    directory = path_of(model_dir)
    if not is_dir(directory):
        where = "" if is_remote(directory) else " on this machine"
        raise UserError(f"MODEL_DIR {model_dir} is not a directory{where}; check the path")
    path = directory / "metrics.jsonl"
    try:
        lines = path.read_bytes().rstrip().split(b"\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or 'not there'}); name the MODEL_DIR of a run "
            "that has evaluated at least its base model"
        ) from error
    if lines == [b""]:
        raise UserError(f"{path} is empty; wait until the run has evaluated its base model")
    rows = tuple(_read_line(path, iteration, line) for iteration, line in enumerate(lines))
    return Run(directory.resolve().name, directory, rows)


def _read_line(path: Path, iteration: int, line: bytes) -> Mapping[str, Any]:
    try:
        row = json.loads(line, parse_constant=_reject_constant)
        _check_row(row, iteration)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}, line {iteration + 1}: {error}; "
            "resume the run to have it written again, or delete this line and those below it"
        ) from error
    return row


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _check_row(row: Any, iteration: int) -> None:
    """Raises ValueError with the key, the value and what was expected."""
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    for key in NUMBERS:
        if key in REQUIRED or row.get(key) is not None:
            _check_number(row, key, whole=FIELDS[key] is int, high=1 if key in SHARES else math.inf)
    if row["iteration"] != iteration:
        raise ValueError(f"expected iteration {iteration}, found {row['iteration']}")
    if row["n_eval"] < 1:
        raise ValueError(f"n_eval is {row['n_eval']}, expected at least 1")
    for key in ("accuracy_by_class", "n_eval_by_class"):
        if not isinstance(row.get(key), dict):
            raise ValueError(f"{key} is {row.get(key)!r}, expected an object, {{}} if no classes")
    accuracies, counts = row["accuracy_by_class"], row["n_eval_by_class"]
    if accuracies.keys() != counts.keys():
        raise ValueError(f"accuracy_by_class has {[*accuracies]}, n_eval_by_class {[*counts]}")
    for name in accuracies:
        _check_number(accuracies, name, "accuracy_by_class", high=1)
        _check_number(counts, name, "n_eval_by_class", whole=True)


def _check_number(
    values: dict, key: str, within: str = "", whole: bool = False, high: float = math.inf
) -> None:
    name = f"{within}[{key!r}]" if within else key
    if key not in values:
        raise ValueError(f"{name} is missing")
    value = values[key]
    kinds = int if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds):
        raise ValueError(f"{name} is {value!r}, expected {'an integer' if whole else 'a number'}")
    if not (0 <= value <= high and math.isfinite(value)):
        expected = "at least 0" if high == math.inf else f"0 to {high}"
        raise ValueError(f"{name} is {value!r}, expected {expected}")


def _load_runs(model_dirs: Sequence[str]) -> list[Run]:
    """Loads every run; runs of equal name are told apart by their paths."""
    if not model_dirs:
        raise UserError("report has no runs; set report.model_dirs to at least one MODEL_DIR")
    runs = [load_run(model_dir) for model_dir in model_dirs]
    names = [run.name for run in runs]
    paths = [run.directory.resolve() for run in runs]
    for run, path in zip(runs, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"report.model_dirs names {run.directory} twice; name each run once")
    full = [dataclasses.replace(run, name=str(run.directory)) for run in runs]
    return [b if names.count(a.name) > 1 else a for a, b in zip(runs, full, strict=True)]


# Tables


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion, k successes of n (Wilson 1927, JASA 22:209)."""
    assert 0 <= k <= n and n > 0, (k, n)
    z = statistics.NormalDist().inv_cdf(0.975)
    center = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    return max(0.0, center - half), min(1.0, center + half)  # k = 0 or n: only rounding is cut


def metrics_table(run: Run) -> list[str]:
    """The header and a line per row, as the live table shows them."""
    return [format_header(run.classes), *(format_row(row, run.classes) for row in run.rows)]


def comparison_table(runs: Sequence[Run]) -> list[list[str]]:
    """Header and one row per run: its last iteration's accuracy, overall and by class (%)."""
    classes = class_names(row for run in runs for row in run.rows)
    n_accuracies = 2 + len(classes)  # iteration, overall, each class
    header = ["run", *header_cells(classes)[:n_accuracies], "95 % interval", "n", "seed"]
    table = [header]
    for run in runs:
        last = run.rows[-1]
        cells = row_cells(last, classes)[:n_accuracies]
        tail = [_interval_text(last), str(last["n_eval"]), str(last["seed"])]
        table.append([run.label, *cells, *tail])
    return table


def _run_cells(run: Run) -> list[list[str]]:
    """The metrics table with the sample behind each accuracy: interval, n and seed."""
    header = header_cells(run.classes)
    table = [[*header[:2], "95 % interval", "n", *header[2:], "seed"]]
    for row in run.rows:
        cells = row_cells(row, run.classes)
        sample = [_interval_text(row), str(row["n_eval"])]
        table.append([*cells[:2], *sample, *cells[2:], str(row["seed"])])
    return table


def _interval(row: Mapping[str, Any]) -> tuple[float, float]:
    return wilson_interval(round(row["accuracy"] * row["n_eval"]), row["n_eval"])


def _interval_text(row: Mapping[str, Any]) -> str:
    low, high = _interval(row)
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _sample(run: Run) -> str:
    """Sample size and seed, e.g. `n = 200 per digit count, seed 0`."""
    last = run.rows[-1]
    counts = last["n_eval_by_class"].values() or [last["n_eval"]]
    low, high = min(counts), max(counts)
    size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    kind = "digit count" if all(name.isdecimal() for name in run.classes) else "class"
    per_class = f" per {kind}" if run.classes else ""
    chance = f", chance {100 * last['chance']:.1f} %" if last.get("chance") else ""
    return f"n = {size}{per_class}, seed {last['seed']}{chance}"


def _markdown_table(cells: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    rule = "| " + " | ".join(["---:"] * len(cells[0])) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])


def _aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]


def _as_markdown(runs: Sequence[Run], command: str) -> str:
    parts = ["# STaR report", "Command:", textwrap.indent(command, "    ")]
    parts.append(f"![Accuracy after each outer iteration]({FIGURE_NAME})")
    if len(runs) > 1:
        parts += ["## Last iteration of each run", _markdown_table(comparison_table(runs))]
    for run in runs:
        parts += [f"## {run.label}", f"{_sample(run)}; `{run.directory}`"]
        parts.append(_markdown_table(_run_cells(run)))
    parts.append(
        "Accuracies are in percent of all evaluation questions, with the 95 % Wilson interval "
        "for the overall one. `train %` is the share of the sampled questions that end up "
        "trained on, `unparsed` counts completions without an answer, `seconds` is the whole "
        "outer iteration. `base` is the model before any outer iteration."
    )
    return "\n\n".join(parts) + "\n"


def _as_json(runs: Sequence[Run], command: str) -> dict[str, Any]:
    entries = []
    for run in runs:
        rows = [{**row, "accuracy_interval_95": _interval(row)} for row in run.rows]
        names = {"name": run.name, "label": run.label, "directory": str(run.directory)}
        entries.append({**names, "rows": rows})
    return {"command": command, "figure": FIGURE_NAME, "runs": entries}


# The figure


def figure4(runs: Sequence[Run], path: str | Path) -> None:
    """Writes the paper's Figure 4 as a PNG.

    Raises:
      UserError: `path` cannot be written.
    """
    path = path_of(path)
    _write_files(path.parent, {path.name: _png(draw_figure4(runs))})


def draw_figure4(runs: Sequence[Run]) -> Figure:
    """The paper's Figure 4: accuracy (%) per class over outer iterations, one panel a run."""
    classes = class_names(row for run in runs for row in run.rows)
    columns = min(len(runs), MAX_COLUMNS)
    lines = math.ceil(len(runs) / columns)
    figure = Figure(figsize=(4.4 * columns + 1.4, 4 * lines), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False).flatten()
    last = max(row["iteration"] for run in runs for row in run.rows)
    for panel, run in zip(panels, runs, strict=False):
        _style_panel(panel, run, last)
        if run.classes:
            _draw_classes(panel, run, classes)
        else:
            _draw_overall(panel, run)
    for unused in panels[len(runs) :]:
        unused.remove()
    # Without classes the axis ends above the highest bound: GSM8K would vanish on 0 to 100.
    highest = max(_interval(row)[1] for run in runs for row in run.rows)
    panels[0].set_ylim(-2 if classes else 0, 102 if classes else min(102, 115 * highest))
    for row_start in panels[: len(runs) : columns]:
        row_start.set_ylabel("accuracy (%)")
    if classes:
        handles = [Line2D([], [], label=name, **_class_style(classes, name)) for name in classes]
        title = "digits" if all(name.isdecimal() for name in classes) else "class"
        figure.legend(handles=handles, title=title, loc="outside right center", frameon=False)
    figure.suptitle("Accuracy after each outer iteration", fontsize=13)
    return figure


def _style_panel(panel: Axes, run: Run, last_iteration: int) -> None:
    suffix = run.label.removeprefix(run.name)  # on a line of its own: names are often long
    title = "\n".join([*textwrap.wrap(run.name, 40), *filter(None, [suffix.strip()])])
    panel.set_title(title, fontsize=11, pad=20, parse_math=False)  # "$" is no formula here
    panel.text(
        0.5, 1.025, _sample(run), transform=panel.transAxes, ha="center", color="0.35", fontsize=9
    )
    panel.set_xlabel("outer iteration")
    panel.set_xlim(-0.5, last_iteration + 0.5)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=9, integer=True, min_n_ticks=1))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda x, _: "base" if x == 0 else f"{x:.0f}"))
    panel.grid(axis="y", color="0.9")
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)


def _class_style(classes: Sequence[str], name: str) -> dict[str, Any]:
    """Colour and marker of a class, the same in every panel; viridis reads without hue too."""
    index = classes.index(name)
    share = index / max(len(classes) - 1, 1)
    color = matplotlib.colormaps["viridis"](0.88 * share)  # its yellow end is lost on white
    return {"color": color, "marker": MARKERS[index % len(MARKERS)], **LINE}


def _draw_classes(panel: Axes, run: Run, classes: Sequence[str]) -> None:
    for name in run.classes:  # a class may join later, as the digits 6-10 of Figure 5 do
        rows = [row for row in run.rows if name in row["accuracy_by_class"]]
        xs = [row["iteration"] for row in rows]
        ys = [100 * row["accuracy_by_class"][name] for row in rows]
        panel.plot(xs, ys, label=name, clip_on=False, **_class_style(classes, name))


def _draw_overall(panel: Axes, run: Run) -> None:
    xs = [row["iteration"] for row in run.rows]
    ys = [100 * row["accuracy"] for row in run.rows]
    lows, highs = zip(*[_interval(row) for row in run.rows], strict=True)
    lows, highs = [100 * low for low in lows], [100 * high for high in highs]
    panel.plot(xs, ys, label="all", color="C0", marker="o", **LINE)
    panel.fill_between(xs, lows, highs, color="C0", alpha=0.18, linewidth=0)
    panel.vlines(xs, lows, highs, color="C0", alpha=0.5, linewidth=1)  # a lone point has no band


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


# Writing


def _write_files(directory: Path, contents: Mapping[str, bytes]) -> None:
    try:
        write_together(directory, contents)
    except OSError as error:
        raise UserError(
            f"cannot write to {directory} ({error.strerror}); set report.output_dir to a "
            "directory that can be written"
        ) from error
