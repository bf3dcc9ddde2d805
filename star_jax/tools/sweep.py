"""A sweep: many runs described by one gin file, expanded and named; launch/sweep.py runs them.

Nothing here reads a disk or calls gin.
"""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from star_jax.errors import UserError, check_types
from star_jax.tools.gin_text import gin_text

OF_A_POINT = ("name", "run_mode", "gin_files")  # keys of a point that are not bindings
MAX_NAME = 200  # bytes; file systems allow 255, and logs and markers add a suffix
SAFE_NAME = re.compile(r"[A-Za-z][\w.=+-]*", re.ASCII)  # needs no quotes, also in a bucket
TAKEN = ("report",)  # a sweep's other directories; those of points begin with a number


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Runs before the points: one for each combination of the values of the names in `by`."""

    run_mode: str
    gin_files: Sequence[str]
    bound_to: str  # the name that a point binds to the run's MODEL_DIR, such as MODEL_CHECKPOINT
    by: Sequence[str] = ()  # bound in these runs as in the points; () for one run
    bindings: Mapping[str, object] = dataclasses.field(default_factory=dict)
    name: str = "base"  # of the runs' directories

    def __post_init__(self):
        """Raises UserError for a wrong field."""
        check_types(self)
        _check_names("Prepare.gin_files", self.gin_files)
        _check_names("Prepare.by", self.by)
        _check_mapping("Prepare.bindings", self.bindings)
        _check_safe("Prepare.name", self.name)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Every combination of the grid's values, for each point of the list if there is one."""

    run_mode: str
    gin_files: Sequence[str]
    bindings: Mapping[str, object] = dataclasses.field(default_factory=dict)  # of all points
    grid: Mapping[str, Sequence[object]] = dataclasses.field(default_factory=dict)
    # Each has bindings, and may have a run_mode, gin_files and a name of its own.
    points: Sequence[Mapping[str, Any]] = ()
    prepare: Prepare | Sequence[Prepare] = ()
    output_dir: str = ""  # "" for runs/sweeps/<name of the sweep's file>

    def __post_init__(self):
        """Raises UserError for a wrong field."""
        check_types(self)
        _check_names("Sweep.gin_files", self.gin_files)
        _check_mapping("Sweep.bindings", self.bindings)
        _check_mapping("Sweep.grid", self.grid)
        for name, values in self.grid.items():
            if not isinstance(values, list | tuple) or not values:
                raise UserError(
                    f"Sweep.grid: {name} has {values!r}; give a list of one value or more"
                )
        if not isinstance(self.points, list | tuple):
            raise UserError(f"Sweep.points = {self.points!r} is not a list of points")
        for i, point in enumerate(self.points):
            where = f"Sweep.points[{i}]"
            _check_mapping(where, point)
            _check_safe(f"{where}: name", point.get("name", "ok"))
            _check_names(f"{where}: gin_files", point.get("gin_files", ()))
            if not isinstance(point.get("run_mode", ""), str):
                raise UserError(f"{where}: run_mode = {point['run_mode']!r} is not a string")
        if not self.grid and not self.points:
            raise UserError("Sweep has neither a grid nor points; bind Sweep.grid or Sweep.points")
        listed = self.prepare
        if not isinstance(listed, Prepare | list | tuple) or not all(
            isinstance(one, Prepare) for one in self.preparations
        ):
            raise UserError(f"Sweep.prepare = {listed!r}: write @Prepare(), or a list of it")

    @property
    def preparations(self) -> tuple[Prepare, ...]:
        """The preparations; () for none."""
        return (self.prepare,) if isinstance(self.prepare, Prepare) else tuple(self.prepare)


@dataclasses.dataclass(frozen=True)
class SweepRun:
    """One run of a sweep, ready for the command line."""

    name: str  # of its directory
    run_mode: str
    gin_files: tuple[str, ...]
    bindings: tuple[tuple[str, str], ...]  # (NAME, VALUE) of each --gin.NAME=VALUE
    needs: tuple[str, ...] = ()  # names of runs that must finish before it
    is_point: bool = True  # False: it prepares points

    def arguments(self) -> list[str]:
        """The arguments of star_jax.main."""
        files = [f"--gin_file={file}" for file in self.gin_files]
        flags = [f"--gin.{name}={value}" for name, value in self.bindings]
        return [f"--run_mode={self.run_mode}", *files, *flags]


@dataclasses.dataclass(frozen=True)
class _Point:
    """A point without its name: what the list of points binds, and what the grid binds."""

    title: str  # its name in the list; "" for none
    run_mode: str
    gin_files: tuple[str, ...]
    listed: Mapping[str, str]
    chosen: Mapping[str, str]

    @property
    def values(self) -> dict[str, str]:
        return {**self.listed, **self.chosen}


def expand(sweep: Sweep, root: str) -> list[SweepRun]:
    """All runs of a sweep whose MODEL_DIRs are in `root`: preparations, then the points.

    Raises:
      UserError: two points are equal, a name is bound twice or too long, or a preparation is `by` a
        name that a point does not bind.
    """
    points = _points(sweep)
    common = _texts(sweep.bindings, "Sweep.bindings")
    _check_bound_once(sweep, points)
    _check_distinct(points)
    before: dict[str, SweepRun] = {}
    runs = []
    for name, point in zip(_names(points), points, strict=True):
        values, prepared = {**common, **point.values}, {}
        for prepare in sweep.preparations:
            run = _preparation(prepare, values, name, root)
            if before.setdefault(run.name, run) != run or run.name in TAKEN:
                raise UserError(f"the name {run.name} is taken; bind another Prepare.name")
            prepared[prepare.bound_to] = run.name
        bound = {bound_to: repr(f"{root}/{run}") for bound_to, run in prepared.items()}
        bindings = {**common, **bound, **point.values, "MODEL_DIR": repr(f"{root}/{name}")}
        ready = tuple(bindings.items()), tuple(prepared.values())
        runs.append(SweepRun(name, point.run_mode, point.gin_files, *ready))
    for run in (*before.values(), *runs):
        if len(run.name) > MAX_NAME:
            raise UserError(
                f"the name {run.name[:60]}... is too long for a directory: {len(run.name)} "
                f"characters, at most {MAX_NAME}; give the point a 'name'"
            )
    return [*before.values(), *runs]


def differences(known: Mapping[str, Mapping], wanted: Mapping[str, Mapping]) -> list[str]:
    """What differs between two sweeps, as sentences; bindings that a resumed run may change do not.

    Args:
      known: of each run by name its "run_mode" and "config", gin's text of its configuration.
      wanted: the same of the other sweep.
    """
    from star_jax.run.run_dir import differing_bindings  # imports JAX; few sweeps are resumed

    found = [f"{name} is there and not here" for name in known if name not in wanted]
    found += [f"{name} is here and not there" for name in wanted if name not in known]
    for name in (name for name in wanted if name in known):
        there, here = (sweep[name]["run_mode"] for sweep in (known, wanted))
        if there != here:
            found.append(f"{name}: run_mode is {there} there and {here} here")
        differing = differing_bindings(known[name]["config"], wanted[name]["config"])
        found += [f"{name}: {sentence}" for sentence in differing[:2]]
    return found


def _points(sweep: Sweep) -> list[_Point]:
    axes = [
        [(name, gin_text(value, f"Sweep.grid: {name}")) for value in values]
        for name, values in sweep.grid.items()
    ]
    points = []
    for i, point in enumerate(sweep.points or [{}]):
        given: dict[str, Any] = {
            "name": "",
            "run_mode": sweep.run_mode,
            "gin_files": sweep.gin_files,
            **point,
        }
        title, run_mode, gin_files = (given.pop(key) for key in OF_A_POINT)
        listed = _texts(given, f"Sweep.points[{i}]")
        points += [
            _Point(title, run_mode, tuple(gin_files), listed, dict(chosen))
            for chosen in itertools.product(*axes)
        ]
    return points


def _names(points: Sequence[_Point]) -> list[str]:
    """A number and what differs: 003_LinearSteps_SEED=1."""
    keys = dict.fromkeys(key for point in points for key in point.values)
    varying = [key for key in keys if len({point.values.get(key) for point in points}) > 1]
    short = _short_names(varying)
    modes = {point.run_mode for point in points}
    files = {point.gin_files for point in points}
    width = max(3, len(str(len(points) - 1)))
    names = []
    for i, point in enumerate(points):
        own = [point.title]
        if not point.title:
            own = [point.run_mode] if len(modes) > 1 else []
            own += [PurePosixPath(f).stem for f in point.gin_files[-1:]] if len(files) > 1 else []
        shown = point.chosen if point.title else point.values
        parts = [f"{short[key]}={_slug(text)}" for key, text in shown.items() if key in short]
        names.append("_".join([f"{i:0{width}}", *own, *parts]))
    return names


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """StarConfig.few_shot -> few_shot, unless another key ends in the same word."""
    ends = [re.split(r"[./]", key)[-1] for key in keys]
    return {
        key: end if ends.count(end) == 1 else _slug(key)
        for key, end in zip(keys, ends, strict=True)
    }


def _slug(text: str) -> str:
    """'@LinearSteps()' -> LinearSteps; (1, 2) -> 1-2."""
    return re.sub(r"[^\w.=+-]+", "-", text, flags=re.ASCII).strip("-") or "none"


def _preparation(prepare: Prepare, values: Mapping[str, str], point: str, root: str) -> SweepRun:
    """The run that prepares `point`, which binds `values`."""
    missing = [name for name in prepare.by if name not in values]
    if missing:
        raise UserError(f"Prepare.by has {missing[0]}, which point {point} does not bind")
    by = {name: values[name] for name in prepare.by}
    own = _texts(prepare.bindings, "Prepare.bindings")
    if twice := by.keys() & own.keys():
        raise UserError(f"{twice.pop()} is both in Prepare.by and in Prepare.bindings")
    short = _short_names(list(by))
    name = "_".join([prepare.name, *(f"{short[key]}={_slug(text)}" for key, text in by.items())])
    bindings = {**own, **by, "MODEL_DIR": repr(f"{root}/{name}")}
    return SweepRun(
        name, prepare.run_mode, tuple(prepare.gin_files), tuple(bindings.items()), is_point=False
    )


def _texts(bindings: Mapping[str, object], where: str) -> dict[str, str]:
    return {name: gin_text(value, f"{where}: {name}") for name, value in bindings.items()}


def _check_bound_once(sweep: Sweep, points: Sequence[_Point]) -> None:
    places: list[tuple[str, Iterable[str]]] = [
        ("launch/sweep.py itself", ["MODEL_DIR"]),
        *(("Prepare.bound_to", [prepare.bound_to]) for prepare in sweep.preparations),
        ("Sweep.bindings", sweep.bindings),
        ("Sweep.grid", sweep.grid),
        ("Sweep.points", dict.fromkeys(key for point in points for key in point.listed)),
    ]
    seen: dict[str, str] = {}
    for place, names in places:
        for name in names:
            if name in seen:
                raise UserError(f"{name} is bound by {seen[name]} and by {place}; remove one")
            seen[name] = place
    if any("MODEL_DIR" in prepare.bindings for prepare in sweep.preparations):
        raise UserError("MODEL_DIR is bound by launch/sweep.py itself and by Prepare.bindings")


def _check_distinct(points: Sequence[_Point]) -> None:
    seen: dict[object, int] = {}
    for i, point in enumerate(points):
        first = seen.setdefault(
            (point.run_mode, point.gin_files, frozenset(point.values.items())), i
        )
        if first != i:
            words = ", ".join(f"{name} = {text}" for name, text in point.values.items())
            raise UserError(f"points {first} and {i} of the sweep are equal: {words or 'empty'}")


def _check_mapping(where: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where} = {value!r} is not a dict of names and values")


def _check_names(where: str, value: object) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where} = {value!r} is not a list of strings")


def _check_safe(where: str, value: object) -> None:
    if not isinstance(value, str) or not SAFE_NAME.fullmatch(value):
        raise UserError(
            f"{where} = {value!r} is not a letter followed by letters, digits and _.=+-"
        )
