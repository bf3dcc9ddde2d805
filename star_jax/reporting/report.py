"""Run mode `report`: what one or many runs did, as Markdown, a page, JSON and pictures."""

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_jax.errors import UserError
from star_jax.reporting.attempts import collect_attempts
from star_jax.reporting.document import Section
from star_jax.reporting.markdown import as_markdown
from star_jax.reporting.page import render_page
from star_jax.reporting.runs import Run, load_run, load_runs
from star_jax.reporting.sections import FIGURE_NAME, sections
from star_jax.reporting.tables import (
    aligned,
    comparison_table,
    interval,
    metrics_table,
    sample,
    wilson_interval,
)
from star_jax.run.files import write_together
from star_jax.run.paths import path_of

__all__ = ["load_run", "report", "wilson_interval", "write_report"]


def report(model_dirs: Sequence[str], output_dir: str = "") -> None:
    """Reports on finished or unfinished runs, by default into <first model_dir>/report.

    Raises:
      UserError: a directory or a file in it cannot be read, or the report not be written.
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
    """Writes report.md, which quotes `command`, and what is beside it; returns its path.

    Raises:
      UserError: a directory or a file in it cannot be read, or the report not be written.
    """
    return _write(load_runs(model_dirs), path_of(output_dir), command)[-1]


def _write(runs: Sequence[Run], output_dir: Path, command: str) -> list[Path]:
    parts = sections(runs)
    attempts = collect_attempts({run.name: run.directory for run in runs})
    contents = {  # report.md last: what it links to is there when it appears
        **{picture.name: picture.png for part in parts for picture in part.pictures},
        "report.json": json.dumps(
            _as_json(runs, parts, command), indent=2, allow_nan=False
        ).encode(),
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


def _as_json(runs: Sequence[Run], parts: Sequence[Section], command: str) -> dict[str, Any]:
    return {
        "command": command,
        "figure": FIGURE_NAME,
        "runs": [_run_as_json(run) for run in runs],
        "sections": [_section_as_json(part) for part in parts],
    }


def _run_as_json(run: Run) -> Mapping[str, Any]:
    rows = [{**row, "accuracy_interval_95": interval(row)} for row in run.rows]
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


def _section_as_json(part: Section) -> Mapping[str, Any]:
    pictures = [{"name": picture.name, "alt": picture.alt} for picture in part.pictures]
    return {**dataclasses.asdict(dataclasses.replace(part, pictures=())), "pictures": pictures}
