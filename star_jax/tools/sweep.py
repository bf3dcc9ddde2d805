"""A sweep: many runs described by one gin file, expanded and named; launch/sweep.py runs them."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

from star_jax.errors import UserError, check_types

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
        _check_list("Prepare.gin_files", self.gin_files, str, "strings")
        _check_list("Prepare.by", self.by, str, "strings")
        _check_mapping("Prepare.bindings", self.bindings)
        _check_safe("Prepare.name", self.name)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Every combination of the grid's values, for each point of the list if there is one."""

    run_mode: str
    gin_files: Sequence[str]
    bindings: Mapping[str, object] = dataclasses.field(default_factory=dict)  # of all points
    grid: Mapping[str, Sequence[object]] = dataclasses.field(default_factory=dict)
    # Bindings, and maybe a run_mode, gin_files and a name of the point's own.
    points: Sequence[Mapping[str, Any]] = ()
    prepare: Prepare | Sequence[Prepare] = ()
    output_dir: str = ""  # "" for runs/sweeps/<name of the sweep's file>

    def __post_init__(self):
        """Raises UserError for a wrong field."""
        check_types(self)
        _check_list("Sweep.gin_files", self.gin_files, str, "strings")
        _check_mapping("Sweep.bindings", self.bindings)
        _check_mapping("Sweep.grid", self.grid)
        for name, values in self.grid.items():
            if not isinstance(values, list | tuple) or not values:
                raise UserError(
                    f"Sweep.grid: {name} has {values!r}; give a list of one value or more"
                )
        _check_list("Sweep.points", self.points, object, "points")
        for i, point in enumerate(self.points):
            where = f"Sweep.points[{i}]"
            _check_mapping(where, point)
            _check_safe(f"{where}: name", point.get("name", "ok"))
            _check_list(f"{where}: gin_files", point.get("gin_files", ()), str, "strings")
            if not isinstance(point.get("run_mode", ""), str):
                raise UserError(f"{where}: run_mode = {point['run_mode']!r} is not a string")
        if not self.grid and not self.points:
            raise UserError("Sweep has neither a grid nor points; bind Sweep.grid or Sweep.points")
        if not isinstance(self.prepare, Prepare):
            what = "preparations; write @Prepare(), or a list of it"
            _check_list("Sweep.prepare", self.prepare, Prepare, what)

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
    """A point whose directory has no name yet."""

    title: str  # its name in the list of points; "" for none
    run_mode: str
    gin_files: tuple[str, ...]
    listed: Mapping[str, str]  # bindings of the list
    chosen: Mapping[str, str]  # bindings of the grid

    @property
    def values(self) -> dict[str, str]:
        return {**self.listed, **self.chosen}


def expand(sweep: Sweep, root: str) -> list[SweepRun]:
    """All runs of a sweep whose MODEL_DIRs are in `root`: preparations, then the points.

    Raises UserError for equal points, names that are bound twice, are too long or not bound.
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

    Both have each run's "run_mode" and "config", gin's text of its configuration, by its name.
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
        given = dict(point)
        title, run_mode = given.pop("name", ""), given.pop("run_mode", sweep.run_mode)
        gin_files = tuple(given.pop("gin_files", sweep.gin_files))
        listed = _texts(given, f"Sweep.points[{i}]")
        points += [
            _Point(title, run_mode, gin_files, listed, dict(chosen))
            for chosen in itertools.product(*axes)
        ]
    return points


def _names(points: Sequence[_Point]) -> list[str]:
    """A number and what differs: 003_LinearSteps_SEED=1."""
    keys = dict.fromkeys(key for point in points for key in point.values)
    varying = [key for key in keys if len({point.values.get(key) for point in points}) > 1]
    short, width = _short_names(varying), max(3, len(str(len(points) - 1)))
    modes = {point.run_mode for point in points}
    files = {point.gin_files for point in points}
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
    pairs = zip(keys, ends, strict=True)
    return {key: end if ends.count(end) == 1 else _slug(key) for key, end in pairs}


def _slug(text: str) -> str:
    """'@LinearSteps()' -> LinearSteps; (1, 2) -> 1-2."""
    return re.sub(r"[^\w.=+-]+", "-", text, flags=re.ASCII).strip("-") or "none"


def _preparation(prepare: Prepare, values: Mapping[str, str], point: str, root: str) -> SweepRun:
    """The run that prepares `point`, which binds `values`."""
    for name in prepare.by:
        if name not in values:
            raise UserError(f"Prepare.by has {name}, which point {point} does not bind")
    by = {name: values[name] for name in prepare.by}
    own = _texts(prepare.bindings, "Prepare.bindings")
    if twice := by.keys() & own.keys():
        raise UserError(f"{twice.pop()} is both in Prepare.by and in Prepare.bindings")
    short = _short_names(list(by))
    name = "_".join([prepare.name, *(f"{short[key]}={_slug(text)}" for key, text in by.items())])
    bindings = {**own, **by, "MODEL_DIR": repr(f"{root}/{name}")}.items()
    files = tuple(prepare.gin_files)
    return SweepRun(name, prepare.run_mode, files, tuple(bindings), is_point=False)


def gin_text(value: object, where: str) -> str:
    """The text that gin reads as `value`; a string that begins with @ or % is a reference.

    0.5 -> "0.5"; "a" -> "'a'"; ["%SEED", 1] -> "[%SEED, 1]". Raises UserError for other types.
    """
    if isinstance(value, str):
        return value if value[:1] in ("@", "%") else repr(value)
    if value is None or isinstance(value, int) or (isinstance(value, float) and isfinite(value)):
        return repr(value)
    if isinstance(value, list | tuple):
        items = ", ".join(gin_text(item, where) for item in value)
        if isinstance(value, list):
            return f"[{items}]"
        return f"({items},)" if len(value) == 1 else f"({items})"
    if isinstance(value, Mapping):
        pairs = (f"{gin_text(k, where)}: {gin_text(v, where)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    raise UserError(
        f"{where}: {str(value)[:60]!r} cannot be written on a command line; write strings, "
        f"numbers, lists, and references in quotes: '@LinearSteps()', '%SEED'"
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
        content = point.run_mode, point.gin_files, frozenset(point.values.items())
        if (first := seen.setdefault(content, i)) != i:
            words = ", ".join(f"{name} = {text}" for name, text in point.values.items())
            raise UserError(f"points {first} and {i} of the sweep are equal: {words or 'empty'}")


def _check_mapping(where: str, value: object) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where} = {value!r} is not a dict of names and values")


def _check_list(where: str, value: object, kind: type, of: str) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(one, kind) for one in value):
        raise UserError(f"{where} = {value!r} is not a list of {of}")


def _check_safe(where: str, value: object) -> None:
    if not isinstance(value, str) or not SAFE_NAME.fullmatch(value):
        raise UserError(f"{where} = {value!r} is not a letter, then letters, digits and _.=+-")
