"""Loads the configuration into gin; reports every mistake in one line that names its place."""

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

import gin

from star_jax.cli.gin_sources import Binding, Reference, Sources, must_be_set
from star_jax.errors import KINDS, UserError, did_you_mean, one_line


def load(sources: Sources) -> None:
    """Loads the configuration into gin and locks it. Call `configurables` first.

    Raises:
      UserError: a binding to an unknown configurable or parameter, a reference to one, or a
        parameter that must be set and is not.
    """
    gin.clear_config()
    for path in sources.search_paths:
        gin.add_config_file_search_path(str(path))
    _import_modules(sources.imports)
    if not any(module.startswith("__gin__.") for module, _ in sources.imports):
        # With gin's dynamic registration the names depend on each file's imports: gin checks them.
        _check_names(sources.bindings)
    try:
        with _files_only():
            gin.parse_config_files_and_bindings(list(map(str, sources.files)), sources.flags)
    except (ValueError, KeyError, NameError, AttributeError, SyntaxError, OSError) as error:
        # Only gin finds mistakes with ambiguous names, dynamic registration and scoped macros.
        raise UserError(f"gin: {one_line(error)}") from error


@contextlib.contextmanager
def _files_only() -> Iterator[None]:
    """Lets gin look for included files in folders only, as `gin_sources` does.

    Gin also looks for `runs/star.gin` in a Python package `runs`, and fails if the current folder
    has a folder `runs`, such as the quickstart's: Python takes it for a package. Gin has no public
    way to remove a reader.
    """
    readers = list(gin.config._FILE_READERS)
    gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
    try:
        yield
    finally:
        gin.config._FILE_READERS[:] = readers


def _import_modules(imports: Sequence[tuple[str, str]]) -> None:
    for module, where in imports:
        if module.startswith("__gin__."):
            continue
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            # `from package import name` is recorded as package.name; name may be no module.
            parent, _, name = module.rpartition(".")
            if not hasattr(sys.modules.get(parent), name):
                raise UserError(f"{where}: cannot import '{module}': {error}") from error


def _check_names(bindings: Sequence[Binding]) -> None:
    macros = {name: binding for binding in bindings if (name := binding.macro)}
    effective = {binding.macro or _parameter_key(binding): binding for binding in bindings}
    for binding in effective.values():
        if not binding.macro and binding.is_required:
            raise UserError(must_be_set(f"{binding.selector}.{binding.arg_name}", binding.where))
        if not binding.macro:
            _check_kind(binding, macros)
        for reference in binding.references():
            _check_reference(reference, binding.where, macros)


def _parameter_key(binding: Binding) -> tuple[str, str, str]:
    """Gin's full name of the parameter, so that two spellings of it are one key."""
    key = (binding.scope, binding.selector, binding.arg_name)
    try:
        return gin.config.ParsedBindingKey.parse(key).scope_selector_arg
    except (ValueError, KeyError) as error:
        known = _configurables()
        if configurable := known.get(binding.selector.rpartition(".")[2]):
            parameters = inspect.signature(configurable).parameters
            hint = did_you_mean(binding.arg_name, parameters, f"; it has {', '.join(parameters)}")
        else:
            hint = did_you_mean(binding.selector, known)
        raise UserError(f"{binding.where}: {one_line(error).rstrip('.')}{hint}") from error


def _check_kind(binding: Binding, macros: Mapping[str, Binding]) -> None:
    """Raises UserError for a text, also a macro's, where the parameter is a number or a switch."""
    value, where = binding.value, binding.where
    for _ in macros:  # a chain of macros is no longer
        if isinstance(value, Reference) and (source := macros.get(value.name)):
            value, where = source.value, source.where
    bound = inspect.signature(gin.config._REGISTRY.get_match(binding.selector).wrapped)
    parameter = bound.parameters.get(binding.arg_name)
    for kind, words in KINDS.items():
        wanted = parameter and kind is not str and parameter.annotation in (kind, kind.__name__)
        if wanted and isinstance(value, str):
            name = f"{binding.selector}.{binding.arg_name}"
            raise UserError(f"{where}: {name} = {value!r} is not {words}")


def _check_reference(reference: Reference, where: str, macros: Collection[str]) -> None:
    if reference.is_macro:
        # A scoped macro may be set in an outer scope: gin checks it.
        known = "/" in reference.name or reference.name in macros
        if not known and not gin.config._CONSTANTS.matching_selectors(reference.name):
            hint = did_you_mean(reference.name, macros)
            raise UserError(f"{where}: the macro '%{reference.name}' is not set anywhere{hint}")
    elif not gin.config._REGISTRY.matching_selectors(reference.name):
        hint = did_you_mean(reference.name, _configurables())
        raise UserError(f"{where}: no configurable matching '@{reference.name}'{hint}")


def _configurables() -> dict[str, Callable[..., object]]:
    """The registered classes and functions by their short names, without gin's own.

    Gin has no public way to list them.
    """
    return {
        selector.rpartition(".")[2]: configurable.wrapped
        for selector, configurable in gin.config._REGISTRY.items()
        if not selector.startswith("gin.")
    }


@contextlib.contextmanager
def missing_bindings_reported() -> Iterator[None]:
    """Turns gin's error about a parameter with neither value nor default into a UserError."""
    try:
        yield
    except (RuntimeError, TypeError) as error:
        names = re.search(
            r"Required bindings for `(?P<owner>[\w.]+)` not provided in config: \['(?P<name>\w+)'"
            r"|No values supplied by Gin or caller for arguments: \['(?P<missing>\w+)'"
            r"[^\0]*?In call to configurable '(?P<of>[\w.]+)'",
            str(error),
        )
        if not names:
            raise
        name = f"{names['owner'] or names['of']}.{names['name'] or names['missing']}"
        raise UserError(
            f"{name} must be set: add --gin.{name}=VALUE or bind it in a file"
        ) from error
