"""What the report knows of runs: their files, and the arms of an experiment.

A run is loaded from its metrics.jsonl, checked line by line, its row.json and the digests of its
attempts. An arm has runs of different seeds.
"""

import dataclasses
import itertools
import json
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path

from star_jax.errors import UserError, check_types
from star_jax.loop.stages import SAMPLED
from star_jax.reporting.digests import IterationDigest, read_iterations
from star_jax.reporting.stage_files import Row, malformed, metrics_row
from star_jax.run.metrics import IterationMetrics, group_names
from star_jax.run.paths import is_dir, is_remote, path_of, read_if_there
from star_jax.run.run_dir import FORMAT, RunDir, RunFacts, gin_bindings

OF_A_SEED = ("SEED", "MODEL_DIR", "MODEL_CHECKPOINT")  # bindings that differ between seeds
STAGE_OF = {stage.source: stage.name for stage in SAMPLED}  # source of kept examples -> stage
MOST_NAMED = 3  # settings in the label of an arm
TINY = "_tiny"  # ends the row of a run that replaces the paper's: another task and model
TWIN = "tiny twin: another task and model"
SHARES = ("accuracy", "chance")  # the beginnings of the names of what is at most 1
MOST = sys.float_info.max  # JSON can have infinity


@dataclasses.dataclass(frozen=True)
class RunReport:
    """One run: row 0 is the base model, row n the model after outer iteration n."""

    name: str
    directory: Path
    rows: tuple[IterationMetrics, ...]
    facts: RunFacts = RunFacts()  # noqa: RUF009  frozen
    iterations: tuple[IterationDigest, ...] = ()  # one for each of `rows`
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of its config.gin

    @property
    def label(self) -> str:
        """The name in tables; says which row of the paper it is, or that it did not rationalize."""
        if self.facts.row:
            return f"{self.name} ({self.facts.row})"
        without = not all(row.rationalize for row in self.rows)
        return f"{self.name} (no rationalization)" if without else self.name

    @property
    def last(self) -> IterationMetrics:
        """Its last row."""
        return self.rows[-1]

    @property
    def seed(self) -> int:
        """Of all its random draws."""
        return self.last.seed

    @property
    def trained(self) -> range:
        """Its outer iterations without the base model: 1, 2, ..."""
        return range(1, len(self.rows))

    @property
    def sample(self) -> str:
        """Sample size and seed, e.g. `n = 200 per digit count, seed 0`."""
        return Arm(self.label, (self,)).sample

    @property
    def command(self) -> str:
        """That started it, in backquotes, as far as it is known."""
        if self.facts.command:
            return f"`{self.facts.command}`"
        return f"not recorded; its configuration is `{self.directory / 'config.gin'}`"


@dataclasses.dataclass(frozen=True)
class Arm:
    """Runs that are equal except for their seeds."""

    label: str
    runs: tuple[RunReport, ...]

    @property
    def row(self) -> str:
        """Of the paper, "" for none."""
        return self.runs[0].facts.row

    @property
    def paper_row(self) -> str:
        """The same without the ending of a tiny twin."""
        return self.row.removesuffix(TINY)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of its questions in order."""
        return groups_of(self.runs)

    @property
    def seeds(self) -> str:
        """E.g. `seed 0` or `seeds 0, 1`."""
        return f"seed{'s' * (len(self.runs) > 1)} {', '.join(str(run.seed) for run in self.runs)}"

    @property
    def sample(self) -> str:
        """Sample size and seeds, e.g. `n = 200 per digit count, seed 0`."""
        lasts = [run.last for run in self.runs]
        counts = [n for last in lasts for n in last.n_eval_by_group.values() or [last.n_eval]]
        low, high = min(counts), max(counts)
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        per_group = f" per {group_kind(self.groups)}" if self.groups else ""
        chance = f", chance {100 * lasts[0].chance:.1f} %" if lasts[0].chance else ""
        return f"n = {size}{per_group}, {self.seeds}{chance}"


def groups_of(runs: Iterable[RunReport]) -> tuple[str, ...]:
    """Groups of the questions of all runs in order, () if there are none."""
    return group_names(row for run in runs for row in run.rows)


def runs_of(shown: Iterable[Arm]) -> list[RunReport]:
    """The runs of all arms."""
    return [run for arm in shown for run in arm.runs]


def group_kind(groups: Iterable[str]) -> str:
    """What a group is: a digit count, or just a group."""
    return "digit count" if all(name.isdecimal() for name in groups) else "group"


def arms(runs: Sequence[RunReport]) -> list[Arm]:
    """The runs of one row of the paper together, and those that differ in their seeds alone.

    Runs of equal seed differ in something else (the base, say), and each is an arm of its own.
    In the order of appearance.
    """
    alike: dict[object, list[RunReport]] = {}
    for run in runs:
        key = run.facts.row or _settings(run) or f"/{run.directory}"
        alike.setdefault(key, []).append(run)
    split: list[tuple[RunReport, ...]] = []
    for members in alike.values():
        together = members[0].facts.row or len({run.seed for run in members}) == len(members)
        split += [tuple(members)] if together else [(run,) for run in members]
    several = [_settings(m[0]) for m in split if len(m) > 1 and not m[0].facts.row]
    varying = (bound - frozenset.intersection(*several) for bound in several)
    differing = sorted({name for bindings in varying for name, _ in bindings})
    return [Arm(_label(members, differing), members) for members in split]


def twins(shown: Sequence[Arm]) -> tuple[str, ...]:
    """A line that names the tiny twins among the arms, if there are any."""
    tiny = [arm.label for arm in shown if arm.row.endswith(TINY)]
    return (f"Each is a {TWIN}: {', '.join(tiny)}.",) if tiny else ()


def _settings(run: RunReport) -> frozenset[tuple[str, str]]:
    """The run's bindings without its seed, its directory and the base of its seed."""
    return frozenset((name, value) for name, value in run.bindings.items() if name not in OF_A_SEED)


def _label(members: Sequence[RunReport], differing: Sequence[str]) -> str:
    """Of an arm: its row, or its values of the settings that differ between arms."""
    first = members[0]
    if first.facts.row or len(members) == 1:
        return first.facts.row or first.label
    if not 0 < len(differing) <= MOST_NAMED:
        return f"{first.name} and {len(members) - 1} more"
    return ", ".join(
        f"{name.rpartition('/')[2]} = {first.bindings.get(name, 'unset')}" for name in differing
    )


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
