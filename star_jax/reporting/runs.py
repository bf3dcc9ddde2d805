"""Reads what a run left for its report: metrics.jsonl, row.json, and its stages' digests."""

import dataclasses
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from star_jax.errors import UserError
from star_jax.reporting.stages import IterationDigest, read_iterations
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import is_dir, is_remote, path_of, read_if_there
from star_jax.run.progress import group_names
from star_jax.run.run_dir import RunFacts, gin_bindings

REQUIRED = ("iteration", "accuracy", "n_eval", "seed")  # the other numbers of a line may be null
FIELDS = {field.name: field.type for field in dataclasses.fields(IterationMetrics)}
SHARES = ("accuracy", "train_fraction")
NUMBERS = [name for name, kind in FIELDS.items() if kind in (int, float, float | None)]
COUNTS_BY_SOURCE = ("right_answers", "checkable", "right_steps")
OF_A_SEED = ("SEED", "MODEL_DIR", "MODEL_CHECKPOINT")  # what seeds of the same run differ in
MOST_NAMED = 3  # settings in the label of an arm
TINY = "_tiny"  # ends the row of a run that stands in for the paper's: another task and model


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: row 0 is the base model, row n the model after outer iteration n."""

    name: str
    directory: Path
    rows: tuple[Mapping[str, Any], ...]
    facts: RunFacts = RunFacts()  # noqa: RUF009  frozen
    iterations: tuple[IterationDigest, ...] = ()  # one for each of `rows`
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of its config.gin

    @property
    def label(self) -> str:
        """The name in tables; says which row of the paper it is, or that it did not rationalize."""
        if self.facts.row:
            return f"{self.name} ({self.facts.row})"
        without = any(row.get("rationalize") is False for row in self.rows)
        return f"{self.name} (no rationalization)" if without else self.name

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of its questions in order, () for a task that has none."""
        return group_names(self.rows)

    @property
    def seed(self) -> int:
        """That all its draws come from."""
        return self.rows[-1]["seed"]

    @property
    def command(self) -> str:
        """That it was started with, in backquotes, as far as it is known."""
        config = self.directory / "config.gin"
        told = self.facts.command
        return f"`{told}`" if told else f"not recorded; its configuration is `{config}`"


@dataclasses.dataclass(frozen=True)
class Arm:
    """Runs that are the same but for their seeds."""

    label: str
    runs: tuple[Run, ...]

    @property
    def row(self) -> str:
        """Of the paper, "" for none."""
        return self.runs[0].facts.row

    @property
    def classes(self) -> tuple[str, ...]:
        """Classes of its questions in order."""
        return group_names(row for run in self.runs for row in run.rows)

    @property
    def sample(self) -> str:
        """Sample size and seeds, e.g. `n = 200 per digit count, seed 0`."""
        lasts = [run.rows[-1] for run in self.runs]
        counts = [n for last in lasts for n in last["n_eval_by_class"].values() or [last["n_eval"]]]
        low, high = min(counts), max(counts)
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        kind = "digit count" if all(name.isdecimal() for name in self.classes) else "class"
        per_class = f" per {kind}" if self.classes else ""
        seeds = ", ".join(str(run.seed) for run in self.runs)
        chance = f", chance {100 * lasts[0]['chance']:.1f} %" if lasts[0].get("chance") else ""
        return f"n = {size}{per_class}, seed{'s' * (len(lasts) > 1)} {seeds}{chance}"


def arms(runs: Sequence[Run]) -> list[Arm]:
    """Runs of one row of the paper together, and those that differ in nothing but their seeds.

    Where a seed comes twice, something else differs (the base, say), and each run stands alone.
    In the order of appearance.
    """
    groups: dict[Any, list[Run]] = {}
    for run in runs:
        alone = f"/{run.directory}"
        groups.setdefault(run.facts.row or _settings(run) or alone, []).append(run)
    parted: list[tuple[Run, ...]] = []
    for members in groups.values():
        one_a_seed = len({run.seed for run in members}) == len(members)
        together = members[0].facts.row or one_a_seed
        parted += [tuple(members)] if together else [(run,) for run in members]
    differing = _differing([m[0] for m in parted if len(m) > 1 and not m[0].facts.row])
    return [Arm(_label(members, differing), members) for members in parted]


def _settings(run: Run) -> frozenset[tuple[str, str]]:
    """What the run was told, but for its seed, where it was and which base it was given."""
    return frozenset((name, value) for name, value in run.bindings.items() if name not in OF_A_SEED)


def _differing(runs: Sequence[Run]) -> list[str]:
    """The settings that are not the same in all of these runs."""
    settings = [_settings(run) for run in runs] or [frozenset()]
    common = frozenset.intersection(*settings)
    return sorted({name for bound in settings for name, _ in bound - common})


def _label(members: Sequence[Run], differing: Sequence[str]) -> str:
    """Of an arm: its row, or what tells it from other arms of several runs."""
    first = members[0]
    if first.facts.row or len(members) == 1:
        return first.facts.row or first.label
    if not 0 < len(differing) <= MOST_NAMED:
        return f"{first.name} and {len(members) - 1} more"
    return ", ".join(
        f"{name.rpartition('/')[2]} = {first.bindings.get(name, 'unset')}" for name in differing
    )


def load_runs(model_dirs: Sequence[str]) -> list[Run]:
    """Loads every run; runs of equal name are told apart by their paths.

    Raises:
      UserError: no run, the same one twice, or as `load_run`.
    """
    if not model_dirs:
        raise UserError("report has no runs; set report.model_dirs to at least one MODEL_DIR")
    directories = [path_of(model_dir) for model_dir in model_dirs]
    paths = [directory.resolve() for directory in directories]
    for directory, path in zip(directories, paths, strict=True):
        if paths.count(path) > 1:
            raise UserError(f"report.model_dirs names {directory} twice; name each run once")
    runs = [load_run(model_dir) for model_dir in model_dirs]
    names = [run.name for run in runs]
    full = [dataclasses.replace(run, name=str(run.directory)) for run in runs]
    return [b if names.count(a.name) > 1 else a for a, b in zip(runs, full, strict=True)]


def load_run(model_dir: str | Path) -> Run:
    """Reads and checks a run's metrics.jsonl, and what else is there.

    Raises:
      UserError: there is no such directory or metrics.jsonl, or a line is malformed.
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
    iterations = tuple(itertools.islice(read_iterations(directory), len(rows)))
    config = (read_if_there(directory / "config.gin") or b"").decode(errors="replace")
    return Run(
        directory.resolve().name,
        directory,
        rows,
        _read_facts(directory),
        iterations,
        gin_bindings(config),
    )


def _read_facts(directory: Path) -> RunFacts:
    file = directory / "row.json"
    data = read_if_there(file)
    try:
        found = {} if data is None else json.loads(data)
        known = {field.name: field.type for field in dataclasses.fields(RunFacts)}
        for name, value in found.items():
            if type(value) is not known.get(name, type(value)):
                raise ValueError(f"{name} is {value!r}, expected {known[name].__name__}")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UserError(f'{file}: {error}; write {{"row": "..."}}, or remove the file') from error
    return RunFacts(**{name: found[name] for name in known if name in found})


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
    for key in COUNTS_BY_SOURCE:
        if not isinstance(row.get(key) or {}, dict):
            raise ValueError(f"{key} is {row[key]!r}, expected an object")
        for name in row.get(key) or {}:
            _check_number(row[key], name, key, whole=True)
    for name, n in (row.get("checkable") or {}).items():
        if not (row.get("right_steps") or {}).get(name, n + 1) <= n:
            raise ValueError(f"right_steps[{name!r}] is not among the {n} that are checkable")


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
