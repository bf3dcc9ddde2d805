"""A sweep: many runs told by one gin file, expanded and named; launch/sweep.py runs them.

Nothing here touches a disk or gin. The values of a sweep are gin values, and what a run gets is
their text, as --gin.NAME=VALUE has it.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from star_jax.errors import UserError, check_types

OF_A_POINT = ("name", "run_mode", "gin_files")  # keys of a point that are no bindings
MAX_NAME = 200  # bytes; file systems take 255, and a log's or a marker's ending comes behind
SAFE_NAME = re.compile(r"[A-Za-z][\w.=+-]*", re.ASCII)  # needs no quotes, also in a bucket
TAKEN = ("report",)  # a sweep's other directories; those of points begin with a number


@dataclasses.dataclass(frozen=True)
class Prepare:
    """Runs that come first: one for each combination of the values that points have `by` names."""

    run_mode: str
    gin_files: Sequence[str]
    bound_to: str  # the name by which a point gets its MODEL_DIR, such as MODEL_CHECKPOINT
    by: Sequence[str] = ()  # bound in these runs as in the points; () for one run
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    name: str = "base"  # of the runs' directories

    def __post_init__(self):
        """Raises UserError for what is no preparation."""
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
    bindings: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of all points
    grid: Mapping[str, Sequence[Any]] = dataclasses.field(default_factory=dict)
    # Each has bindings, and may have a run_mode and gin_files of its own, and a name.
    points: Sequence[Mapping[str, Any]] = ()
    prepare: Prepare | Sequence[Prepare] = ()
    output_dir: str = ""  # "" for runs/sweeps/<name of the sweep's file>

    def __post_init__(self):
        """Raises UserError for what is no sweep."""
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
            _check_point(f"Sweep.points[{i}]", point)
        if not self.grid and not self.points:
            raise UserError("Sweep has neither a grid nor points; bind Sweep.grid or Sweep.points")
        listed = [self.prepare] if isinstance(self.prepare, Prepare) else self.prepare
        if not isinstance(listed, list | tuple) or not all(isinstance(p, Prepare) for p in listed):
            raise UserError(f"Sweep.prepare = {self.prepare!r}: write @Prepare(), or a list of it")

    @property
    def preparations(self) -> tuple[Prepare, ...]:
        """What comes first, () for nothing."""
        return (self.prepare,) if isinstance(self.prepare, Prepare) else tuple(self.prepare)


@dataclasses.dataclass(frozen=True)
class Run:
    """One run of a sweep, ready for the command line."""

    name: str  # of its directory
    run_mode: str
    gin_files: tuple[str, ...]
    bindings: tuple[tuple[str, str], ...]  # (NAME, VALUE) of each --gin.NAME=VALUE
    needs: tuple[str, ...] = ()  # runs that come before it, by name
    is_point: bool = True  # or it prepares points

    def arguments(self) -> list[str]:
        """What star_jax.main is given."""
        files = [f"--gin_file={file}" for file in self.gin_files]
        flags = [f"--gin.{name}={value}" for name, value in self.bindings]
        return [f"--run_mode={self.run_mode}", *files, *flags]


@dataclasses.dataclass(frozen=True)
class _Point:
    """A point before it has its name: what it was given in the list, and what by the grid."""

    title: str  # of the list; "" for none
    run_mode: str
    gin_files: tuple[str, ...]
    listed: Mapping[str, str]
    chosen: Mapping[str, str]

    @property
    def values(self) -> dict[str, str]:
        return {**self.listed, **self.chosen}


def gin_text(value: Any, where: str) -> str:
    """The text that gin reads as `value`; a string that begins with @ or % is a reference.

    0.5 -> "0.5"; "a" -> "'a'"; ["%SEED", 1] -> "[%SEED, 1]".

    Raises:
      UserError: gin has no text for it.
    """
    if isinstance(value, str):
        return value if value[:1] in ("@", "%") else repr(value)
    if value is None or isinstance(value, bool | int):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(gin_text(item, where) for item in value)}]"
    if isinstance(value, tuple):
        items = "".join(f"{gin_text(item, where)}, " for item in value)
        return f"({items.strip() if len(value) == 1 else items.removesuffix(', ')})"
    if isinstance(value, Mapping):
        pairs = (f"{gin_text(k, where)}: {gin_text(v, where)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    raise UserError(
        f"{where}: {str(value)[:60]!r} cannot be told on a command line; write texts, numbers, "
        f"lists, and references in quotes: '@LinearSteps()', '%SEED'"
    )


def expand(sweep: Sweep, root: str) -> list[Run]:
    """All runs of a sweep whose MODEL_DIRs are in `root`: what prepares, then the points.

    Raises:
      UserError: two points are alike, a name is bound twice or too long, or a preparation goes by
        a name that a point does not bind.
    """
    points = _points(sweep)
    common = _texts(sweep.bindings, "Sweep.bindings")
    _check_bound_once(sweep, points)
    _check_alike(points)
    before: dict[str, Run] = {}
    runs = []
    for name, point in zip(_names(points), points, strict=True):
        prepared = {}
        for prepare in sweep.preparations:
            run = _preparation(prepare, {**common, **point.values}, name, root)
            if before.setdefault(run.name, run) != run or run.name in TAKEN:
                raise UserError(f"the name {run.name} is taken; bind another Prepare.name")
            prepared[prepare.bound_to] = run.name
        bound = {bound_to: repr(f"{root}/{run}") for bound_to, run in prepared.items()}
        bindings = {**common, **bound, **point.values}
        runs.append(
            _run(name, point.run_mode, point.gin_files, bindings, root, tuple(prepared.values()))
        )
    for run in (*before.values(), *runs):
        if len(run.name) > MAX_NAME:
            raise UserError(
                f"the name {run.name[:60]}... has {len(run.name)} characters and would be a "
                f"directory's, with {MAX_NAME} at most; give the point a 'name'"
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
        own = {name: value for name, value in point.items() if name not in OF_A_POINT}
        points += [
            _Point(
                point.get("name", ""),
                point.get("run_mode", sweep.run_mode),
                tuple(point.get("gin_files", sweep.gin_files)),
                _texts(own, f"Sweep.points[{i}]"),
                dict(chosen),
            )
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
        said = point.chosen if point.title else point.values
        parts = [f"{short[key]}={_slug(text)}" for key, text in said.items() if key in short]
        names.append("_".join([f"{i:0{width}}", *own, *parts]))
    return names


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """StarConfig.few_shot -> few_shot, where no other key has the same end."""
    ends = [re.split(r"[./]", key)[-1] for key in keys]
    return {
        key: end if ends.count(end) == 1 else _slug(key)
        for key, end in zip(keys, ends, strict=True)
    }


def _slug(text: str) -> str:
    """'@LinearSteps()' -> LinearSteps; (1, 2) -> 1-2."""
    return re.sub(r"[^\w.=+-]+", "-", text, flags=re.ASCII).strip("-") or "none"


def _preparation(prepare: Prepare, values: Mapping[str, str], point: str, root: str) -> Run:
    missing = [name for name in prepare.by if name not in values]
    if missing:
        raise UserError(f"Prepare.by has {missing[0]}, which point {point} does not bind")
    by = {name: values[name] for name in prepare.by}
    own = _texts(prepare.bindings, "Prepare.bindings")
    if twice := by.keys() & own.keys():
        raise UserError(f"{twice.pop()} is both in Prepare.by and in Prepare.bindings")
    short = _short_names(list(by))
    name = "_".join([prepare.name, *(f"{short[key]}={_slug(text)}" for key, text in by.items())])
    return _run(name, prepare.run_mode, prepare.gin_files, {**own, **by}, root, is_point=False)


def _run(
    name: str,
    run_mode: str,
    gin_files: Sequence[str],
    bindings: Mapping[str, str],
    root: str,
    needs: tuple[str, ...] = (),
    is_point: bool = True,
) -> Run:
    bound = {**bindings, "MODEL_DIR": repr(f"{root}/{name}")}
    return Run(name, run_mode, tuple(gin_files), tuple(bound.items()), needs, is_point)


def _texts(bindings: Mapping[str, Any], where: str) -> dict[str, str]:
    return {name: gin_text(value, f"{where}: {name}") for name, value in bindings.items()}


def _check_bound_once(sweep: Sweep, points: Sequence[_Point]) -> None:
    listed = dict.fromkeys(key for point in points for key in point.listed)
    places = [
        ("what launch/sweep.py binds", ["MODEL_DIR"]),
        *(("Prepare.bound_to", [prepare.bound_to]) for prepare in sweep.preparations),
        ("Sweep.bindings", sweep.bindings),
        ("Sweep.grid", sweep.grid),
        ("Sweep.points", listed),
    ]
    seen: dict[str, str] = {}
    for place, names in places:
        for name in names:
            if name in seen:
                raise UserError(f"{name} is bound by {seen[name]} and by {place}; leave one away")
            seen[name] = place
    if any("MODEL_DIR" in prepare.bindings for prepare in sweep.preparations):
        raise UserError("MODEL_DIR is bound by launch/sweep.py and by Prepare.bindings")


def _check_alike(points: Sequence[_Point]) -> None:
    seen: dict[Any, int] = {}
    for i, point in enumerate(points):
        key = (point.run_mode, point.gin_files, frozenset(point.values.items()))
        if key in seen:
            said = ", ".join(f"{name} = {text}" for name, text in point.values.items())
            raise UserError(f"points {seen[key]} and {i} of the sweep are alike: {said or 'empty'}")
        seen[key] = i


def _check_point(where: str, point: Any) -> None:
    _check_mapping(where, point)
    if "name" in point:
        _check_safe(f"{where}: name", point["name"])
    if "gin_files" in point:
        _check_names(f"{where}: gin_files", point["gin_files"])
    if not isinstance(point.get("run_mode", ""), str):
        raise UserError(f"{where}: run_mode = {point['run_mode']!r} is not a text")


def _check_mapping(where: str, value: Any) -> None:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where} = {value!r} is not a dict of names and values")


def _check_names(where: str, value: Any) -> None:
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise UserError(f"{where} = {value!r} is not a list of texts")


def _check_safe(where: str, value: Any) -> None:
    if not isinstance(value, str) or not SAFE_NAME.fullmatch(value):
        raise UserError(f"{where} = {value!r} is no letter with letters, digits and _.=+- behind")
