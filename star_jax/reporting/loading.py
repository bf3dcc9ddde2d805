"""Loads runs: metrics.jsonl, checked line by line, row.json, and the digests of the attempts."""

import dataclasses
import itertools
import json
import sys
import typing
from collections.abc import Sequence
from dataclasses import MISSING
from pathlib import Path

from star_jax.errors import UserError, check_types
from star_jax.reporting.digests import read_iterations
from star_jax.reporting.former_format import Row, metrics_row
from star_jax.reporting.runs import RunReport
from star_jax.reporting.stage_files import malformed
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import is_dir, is_remote, path_of, read_if_there
from star_jax.run.run_dir import FORMAT, RunDir, RunFacts, gin_bindings

SHARES = ("accuracy", "chance")  # the beginnings of the names of what is at most 1
MOST = sys.float_info.max  # JSON can have infinity


def load_runs(model_dirs: Sequence[str]) -> list[RunReport]:
    """Loads different runs, those of equal name by their paths; raises UserError as `load_run`."""
    if not model_dirs:
        raise UserError("report has no runs; set report.model_dirs to at least one MODEL_DIR")
    paths = [path_of(model_dir).resolve() for model_dir in model_dirs]
    for model_dir, path in zip(model_dirs, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"report.model_dirs names {model_dir} twice; name each run once")
    runs = [load_run(model_dir) for model_dir in model_dirs]
    names = [run.name for run in runs]
    full = [dataclasses.replace(run, name=str(run.directory)) for run in runs]
    return [b if names.count(a.name) > 1 else a for a, b in zip(runs, full, strict=True)]


def load_run(model_dir: str | Path) -> RunReport:
    """Reads a run's directory; raises UserError if a file is malformed or has no metrics yet."""
    directory = path_of(model_dir)
    if not is_dir(directory):
        where = "" if is_remote(directory) else " on this machine"
        raise UserError(f"MODEL_DIR {model_dir} is not a directory{where}; check the path")
    if (found := RunDir(directory).format()) > FORMAT:
        raise UserError(
            f"MODEL_DIR {model_dir} has format {found} of a later version of star_jax, and this "
            f"one reports on formats up to {FORMAT}; use that version"
        )
    path = directory / "metrics.jsonl"
    try:
        lines = path.read_bytes().rstrip().split(b"\n")
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror or 'not found'}); name the MODEL_DIR of a run "
            "that has evaluated at least its base model"
        ) from error
    if lines == [b""]:
        raise UserError(f"{path} is empty; wait until the run has evaluated its base model")
    rows = tuple(_read_line(path, iteration, line) for iteration, line in enumerate(lines))
    config = (read_if_there(directory / "config.gin") or b"").decode(errors="replace")
    return RunReport(
        directory.resolve().name,
        directory,
        rows,
        _read_facts(directory / "row.json"),
        tuple(itertools.islice(read_iterations(directory), len(rows))),
        gin_bindings(config),
    )


def _read_facts(file: Path) -> RunFacts:
    data = read_if_there(file)
    known = [field.name for field in dataclasses.fields(RunFacts)]
    with malformed(file, 'write {"row": "..."}, or remove the file'):
        found = {} if data is None else json.loads(data)
        facts = RunFacts(**{name: value for name, value in found.items() if name in known})
        check_types(facts)
    return facts


def _read_line(path: Path, iteration: int, line: bytes) -> IterationMetrics:
    way_out = "resume the run to write it again, or delete this line and those below it"
    with malformed(f"{path}, line {iteration + 1}", way_out):
        row = json.loads(line, parse_constant=_reject_constant)
        if not isinstance(row, dict):
            raise ValueError(f"expected a JSON object, found {type(row).__name__}")
        return _checked(metrics_row(row), iteration)


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _checked(fields: Row, iteration: int) -> IterationMetrics:
    """The row of these fields; raises ValueError with the name, the value and what was expected."""
    known = dataclasses.fields(IterationMetrics)
    for field in known:
        if field.name in fields:
            _check(field.name, fields[field.name], field.type)
        elif MISSING is field.default is field.default_factory:
            raise ValueError(f"{field.name} is missing")
    row = IterationMetrics(**{x.name: fields[x.name] for x in known if x.name in fields})
    if row.iteration != iteration:
        raise ValueError(f"expected iteration {iteration}, found {row.iteration}")
    if row.n_eval < 1:
        raise ValueError(f"n_eval is {row.n_eval}, expected at least 1")
    groups, counted = [*row.accuracy_by_group], [*row.n_eval_by_group]
    if groups != counted:
        raise ValueError(f"accuracy_by_group has {groups}, n_eval_by_group {counted}")
    for stage, counts in row.counts.items():
        if not counts.get("right_steps", 0) <= counts.get("checkable", 0):
            raise ValueError(f"counts[{stage!r}] has more right_steps than checkable")
    return row


def _check(name: str, value: object, kind: object) -> None:
    """Raises ValueError for a value that is not of this type, or a number out of range."""
    kinds = typing.get_args(kind) or (kind,)
    if typing.get_origin(kind) is dict:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {value!r}, expected an object")
        for key, inner in value.items():
            _check(f"{name}[{key!r}]", inner, kinds[1])
        return
    if type(value) not in (*kinds, int if float in kinds else None):
        expected = {int: "an integer", bool: "true or false"}.get(kinds[0], "a number")
        raise ValueError(f"{name} is {value!r}, expected {expected}")
    high, words = (1, "0 to 1") if name.startswith(SHARES) else (MOST, "at least 0")
    if isinstance(value, int | float) and not 0 <= value <= high:
        raise ValueError(f"{name} is {value!r}, expected {words}")
