"""Run mode `report`: the results of one or many runs, as Markdown, a page, JSON and pictures."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from star_jax.reporting import cost, figures, iterations, paper_figures, paper_tables, tables
from star_jax.reporting.attempts import collect_attempts
from star_jax.reporting.page import render_markdown, render_page
from star_jax.reporting.runs import RunReport, load_runs
from star_jax.reporting.tables import Section
from star_jax.run.metrics import live_table
from star_jax.run.paths import path_of, write_together
from star_jax.run.progress import aligned

FIGURE_NAME = "accuracy_by_group.png"


def report(model_dirs: Sequence[str], output_dir: str = "") -> None:
    """Reports on finished or unfinished runs, by default into <first model_dir>/report.

    Raises UserError if a file cannot be read or written.
    """
    model_dirs = [model_dirs] if isinstance(model_dirs, str) else list(model_dirs)
    runs = load_runs(model_dirs)
    output = path_of(output_dir) if output_dir else path_of(model_dirs[0]) / "report"
    written = write_report(runs, output, shlex.join(sys.orig_argv))
    for run in runs:
        print(f"{run.label}: {run.sample}", *live_table(run.rows), "", sep="\n")
    if len(runs) > 1:
        print("Last iteration of each run", *aligned(tables.comparison_table(runs)), "", sep="\n")
    print(*written, sep="\n")


def write_report(runs: Sequence[RunReport], output_dir: Path, command: str) -> list[Path]:
    """Writes report.md, which quotes `command`, and the files next to it; returns their paths."""
    parts = sections(runs, command)
    attempts = collect_attempts({run.name: run.directory for run in runs})
    as_json = {
        "command": command,
        "figure": FIGURE_NAME,
        "runs": [_run_as_json(run) for run in runs],
        "sections": [
            dataclasses.asdict(part, dict_factory=lambda of: {k: x for k, x in of if k != "png"})
            for part in parts
        ],
    }
    contents = {  # report.md last: the files that it links to are there before it
        **{picture.name: picture.png for part in parts for picture in part.pictures},
        "report.json": json.dumps(as_json, indent=2, allow_nan=False).encode(),
        "report.html": render_page(command, parts, attempts).encode(),
        "report.md": render_markdown(command, parts).encode(),
    }
    way_out = "set report.output_dir to a directory that can be written"
    write_together(output_dir, contents, way_out)
    return [output_dir / name for name in reversed(contents)]


def sections(runs: Sequence[RunReport], command: str = "") -> list[Section]:
    """All sections of a report of at least one run, in order; `command` made the report."""
    title = "Accuracy after each outer iteration"
    drawn = figures.picture(FIGURE_NAME, title, figures.draw_accuracies(runs))
    found = [Section(title, pictures=(drawn,))]
    if len(runs) > 1:
        table = tables.table_of(tables.comparison_table(runs))
        found.append(Section("Last iteration of each run", tables=(table,)))
    found += paper_tables.paper_sections(runs)
    found += paper_figures.figure_sections(runs)
    found += iterations.iteration_sections(runs)
    found += [
        cost.cost_section(runs),
        Section("Iteration by iteration", (tables.TEXTS["metrics"],)),
    ]
    for run in runs:
        text = [f"{run.sample}; `{run.directory}`"]
        if run.facts.command != command:  # a run reports on itself: the page has its command
            text.append(f"Command: {run.command}")
        found.append(Section(run.label, tuple(text), (tables.table_of(tables.run_cells(run)),)))
    return found


def _run_as_json(run: RunReport) -> dict[str, object]:
    rows = [
        {
            **dataclasses.asdict(row),
            "accuracy_interval_95": tables.wilson_interval(*tables.right_of(row)),
        }
        for row in run.rows
    ]
    names = {"name": run.name, "label": run.label, "directory": str(run.directory)}
    digests = []
    for digest in run.iterations:
        fields = dataclasses.asdict(digest)
        steps = [
            {"reference": theirs, "model": ours, "correct": correct, "n": n}
            for (theirs, ours, correct), n in fields.pop("steps").items()
        ]
        digests.append({**fields, "steps": steps})
    return {**names, **dataclasses.asdict(run.facts), "rows": rows, "iterations": digests}
