"""Run mode `report`: the results of one or many runs, as Markdown, a page, JSON and pictures."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from star_jax.errors import UserError
from star_jax.reporting.attempts import collect_attempts
from star_jax.reporting.document import Section, as_markdown
from star_jax.reporting.intervals import wilson_interval
from star_jax.reporting.loading import load_runs
from star_jax.reporting.page import render_page
from star_jax.reporting.runs import RunReport
from star_jax.reporting.sections import FIGURE_NAME, sections
from star_jax.reporting.tables import comparison_table, metrics_table, right_of, sample
from star_jax.run.files import write_together
from star_jax.run.paths import path_of
from star_jax.run.tables import aligned


def report(model_dirs: Sequence[str], output_dir: str = "") -> None:
    """Reports on finished or unfinished runs, by default into <first model_dir>/report.

    Raises:
      UserError: a directory or a file in it cannot be read, or the report cannot be written.
    """
    model_dirs = [model_dirs] if isinstance(model_dirs, str) else list(model_dirs)
    runs = load_runs(model_dirs)
    output = path_of(output_dir) if output_dir else path_of(model_dirs[0]) / "report"
    written = _write(runs, output, shlex.join(sys.orig_argv))
    for run in runs:
        print(f"{run.label}: {sample(run)}", *metrics_table(run), "", sep="\n")
    if len(runs) > 1:
        print("Last iteration of each run", *aligned(comparison_table(runs)), "", sep="\n")
    print(*reversed(written), sep="\n")


def write_report(model_dirs: Sequence[str], output_dir: str, command: str) -> Path:
    """Writes report.md, which quotes `command`, and the files next to it; returns its path.

    Raises:
      UserError: a directory or a file in it cannot be read, or the report cannot be written.
    """
    return _write(load_runs(model_dirs), path_of(output_dir), command)[-1]


def _write(runs: Sequence[RunReport], output_dir: Path, command: str) -> list[Path]:
    parts = sections(runs)
    attempts = collect_attempts({run.name: run.directory for run in runs})
    as_json = {
        "command": command,
        "figure": FIGURE_NAME,
        "runs": [_run_as_json(run) for run in runs],
        "sections": [_section_as_json(part) for part in parts],
    }
    contents = {  # report.md last: the files that it links to are there before it
        **{picture.name: picture.png for part in parts for picture in part.pictures},
        "report.json": json.dumps(as_json, indent=2, allow_nan=False).encode(),
        "report.html": render_page("STaR report", command, parts, attempts).encode(),
        "report.md": as_markdown(parts, command).encode(),
    }
    try:
        write_together(output_dir, contents)
    except OSError as error:
        raise UserError(
            f"cannot write to {output_dir} ({error.strerror}); set report.output_dir to a "
            "directory that can be written"
        ) from error
    return [output_dir / name for name in contents]


def _run_as_json(run: RunReport) -> dict[str, object]:
    rows = [
        {**dataclasses.asdict(row), "accuracy_interval_95": wilson_interval(*right_of(row))}
        for row in run.rows
    ]
    names = {"name": run.name, "label": run.label, "directory": str(run.directory)}
    iterations = []
    for digest in run.iterations:
        fields = dataclasses.asdict(digest)
        steps = [
            {"reference": theirs, "model": ours, "correct": correct, "n": n}
            for (theirs, ours, correct), n in fields.pop("steps").items()
        ]
        iterations.append({**fields, "steps": steps})
    return {**names, **dataclasses.asdict(run.facts), "rows": rows, "iterations": iterations}


def _section_as_json(part: Section) -> dict[str, object]:
    pictures = [{"name": picture.name, "alt": picture.alt} for picture in part.pictures]
    return {**dataclasses.asdict(dataclasses.replace(part, pictures=())), "pictures": pictures}
