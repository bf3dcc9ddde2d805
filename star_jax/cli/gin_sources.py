"""Reads gin files and flags as statements with their places, before anything is registered.

Gin itself stops at the first mistake with a traceback, and accepts a mistyped macro. Here its
parser only splits the text; `gin_errors.load` then checks the names and loads the text into gin.
"""

import dataclasses
import io
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from gin import config_parser

from star_jax.errors import UserError, did_you_mean, one_line

PACKAGE = Path(__file__).parent.parent
_REQUIRED = ("gin.REQUIRED", "REQUIRED")  # both are valid in gin


@dataclasses.dataclass(frozen=True)
class Reference:
    """`%name` (a macro or a constant) or `@name` (a configurable) inside a value."""

    name: str
    is_macro: bool


@dataclasses.dataclass(frozen=True)
class Binding:
    """One `name = value` of a file or a flag; without `arg_name` it sets the macro `selector`."""

    where: str  # "runs/star.gin:12" or "--gin.MODEL_DIR"
    by_user: bool  # in a flag or a --gin_file, but not in an included file or gin_configs/
    scope: str
    selector: str
    arg_name: str
    value: object

    @property
    def macro(self) -> str | None:
        """The macro this sets, or None if it sets a parameter."""
        if self.selector in ("macro", "gin.macro") and self.arg_name == "value":
            return self.scope
        if self.arg_name:
            return None
        return f"{self.scope}/{self.selector}" if self.scope else self.selector

    @property
    def is_required(self) -> bool:
        """Whether the value is `%gin.REQUIRED`, which a later binding must replace."""
        return isinstance(self.value, Reference) and self.value.name in _REQUIRED

    def references(self) -> Iterator[Reference]:
        """Yields every reference in the value, at any depth of lists and dicts."""
        waiting = [self.value]
        while waiting:
            value = waiting.pop()
            if isinstance(value, Reference):
                yield value
            elif isinstance(value, Mapping):
                waiting.extend(value.values())
            elif isinstance(value, list | tuple):
                waiting.extend(value)


class _Delegate(config_parser.ParserDelegate):
    """Keeps references as names, since nothing is registered yet."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name.rpartition("/")[2], is_macro=False)

    def macro(self, macro_name: str) -> Reference:
        return Reference(macro_name, is_macro=True)


@dataclasses.dataclass
class Sources:
    """The whole configuration as read: what gin will load, and each binding with its place."""

    search_paths: tuple[Path, ...]
    files: list[Path] = dataclasses.field(default_factory=list)
    flags: list[str] = dataclasses.field(default_factory=list)  # "NAME = VALUE", ready for gin
    bindings: list[Binding] = dataclasses.field(default_factory=list)  # in the order of effect
    imports: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # (module, place)

    def find(self, name: str, where: str) -> Path:
        """Returns the first file called `name` in the search paths."""
        for root in self.search_paths:
            if (root / name).is_file():
                return root / name
        hint = did_you_mean(name, self._files_near(name))
        places = ", ".join(str(root) for root in self.search_paths)
        raise UserError(f"{where}: no gin file '{name}' in {places}{hint}")

    def _files_near(self, name: str) -> set[str]:
        # Not rglob: the current folder may be a home directory with very many files.
        patterns = ("*.gin", "*/*.gin", f"{Path(name).parent}/*.gin")
        if Path(name).is_absolute():
            return {str(path) for path in Path(name).parent.glob("*.gin")}
        return {
            path.relative_to(root).as_posix()
            for root in self.search_paths
            for pattern in patterns
            if ".." not in pattern
            for path in root.glob(pattern)
        }

    def read_file(self, path: Path, including: tuple[Path, ...] = ()) -> None:
        """Adds the bindings of `path` and its includes; `including` is the chain of includes."""
        if path in including:
            raise UserError(f"{including[-1]}: the include of '{path}' includes itself")
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"cannot read the gin file {path}: {error}") from error
        by_user = not including and self.search_paths[-1] not in path.parents
        for statement in _parse(text, str(path)):
            where = f"{path}:{statement.location.line_num}"
            if isinstance(statement, config_parser.IncludeStatement):
                self.read_file(self.find(statement.filename, where), (*including, path))
            elif isinstance(statement, config_parser.ImportStatement):
                self.imports.append((statement.module, where))
            elif isinstance(statement, config_parser.BindingStatement):
                self._add(statement, where, by_user)

    def read_flag(self, name: str, value: str) -> None:
        """Adds `--gin.name=value`."""
        flag = f"--gin.{name}"
        # `--gin.MODEL_DIR=runs/mine` has no quotes, or the shell removed them. The value is then
        # read as a text, if it does not begin like a gin value.
        try:
            statements = _parse(f"{name} = {value}", flag)
        except UserError:
            if value.strip()[0] in "'\"[({@%":
                raise
            value = repr(value)
            statements = _parse(f"{name} = {value}", flag)
        if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
            raise UserError(f"{flag}={value!r} is not one binding; give each its own --gin.NAME")
        self._add(statements[0], flag, by_user=True)
        self.flags.append(f"{name} = {value}")

    def _add(self, statement: config_parser.BindingStatement, where: str, by_user: bool) -> None:
        scope, selector, arg_name, value, _ = statement
        self.bindings.append(Binding(where, by_user, scope, selector, arg_name, value))


def search_paths(extra: Sequence[str] = ()) -> tuple[Path, ...]:
    """The folders with gin files: the current one, `extra`, star_jax's own gin_configs/."""
    installed, checkout = PACKAGE / "gin_configs", PACKAGE.parent / "gin_configs"
    return (Path(), *map(Path, extra), installed if installed.is_dir() else checkout)


def read_sources(
    gin_files: Sequence[str],
    flags: Sequence[tuple[str, str]],
    extra_paths: Sequence[str] = (),
    not_needed: Sequence[str] = (),
) -> Sources:
    """Reads files, the files they include, and flags, without the registry of configurables.

    Args:
      gin_files: later ones win.
      flags: (NAME, VALUE) of each --gin.NAME=VALUE; they win over the files.
      extra_paths: more folders with gin files.
      not_needed: macros that need no value; if they are still required, it is their own name.

    Raises:
      UserError: a missing file, a value that gin cannot read, a macro that must be set and is not,
        or a macro that is set and never used.
    """
    sources = Sources(search_paths(extra_paths))
    for path in [sources.find(name, "--gin_file") for name in gin_files]:
        sources.read_file(path)
        sources.files.append(path)
    for name, value in flags:
        sources.read_flag(name, value)
    last = {binding.macro: binding for binding in sources.bindings}
    for name in not_needed:
        if name in last and last[name].is_required:
            sources.read_flag(name, repr(name))
    _check_macros(sources.bindings)
    return sources


def _parse(text: str, source: str) -> list[config_parser.BindingStatement]:
    """Gin's statements in the text of a file or a flag."""
    try:
        return list(config_parser.ConfigParser(io.StringIO(text), _Delegate()))
    except (SyntaxError, tokenize.TokenError) as error:
        if isinstance(error, SyntaxError):
            message, line = error.msg, error.lineno
        else:
            message, (line, _) = error.args
        is_flag = source.startswith("--")
        place = f"{source}={text.partition(' = ')[2]}" if is_flag else f"{source}:{line}"
        raise UserError(f"{place}: gin cannot read this: {one_line(message)}") from error


def _check_macros(bindings: Sequence[Binding]) -> None:
    used = {ref.name for binding in bindings for ref in binding.references() if ref.is_macro}
    last = {name: binding for binding in bindings if (name := binding.macro)}
    for name, binding in last.items():
        if binding.by_user and name not in used:
            hint = did_you_mean(name, used - set(_REQUIRED))
            raise UserError(f"{binding.where}: nothing refers to a macro '{name}'{hint}")
    for name, binding in last.items():
        if binding.is_required:
            raise UserError(must_be_set(name, binding.where))


def must_be_set(name: str, where: str) -> str:
    """The message for a macro or parameter that `where` requires from the user."""
    return f"{name} must be set ({where} requires it): add --gin.{name}=VALUE"
