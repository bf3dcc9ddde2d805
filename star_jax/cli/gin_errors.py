"""Gives the configuration to gin, with every mistake told in one line that names its place."""

import contextlib
import importlib
import inspect
import os
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import gin

from star_jax.cli.gin_sources import Binding, Reference, Sources, must_be_set, one_line
from star_jax.errors import UserError, did_you_mean


def load(sources: Sources) -> None:
    """Gives the configuration to gin and locks it; star_jax's configurables are registered by now.

    Raises:
      UserError: a binding to an unknown configurable or parameter, a reference to one, or a
        parameter that must be set and is not.
    """
    gin.clear_config()
    for path in sources.search_paths:
        gin.add_config_file_search_path(str(path))
    _import_modules(sources.imports)
    if not any(module.startswith("__gin__.") for module, _ in sources.imports):
        # With gin's dynamic registration names mean what each file imports: left to gin itself.
        _check_names(sources.bindings)
    try:
        with _files_only():
            for path in sources.files:
                gin.parse_config_file(str(path))
            gin.parse_config(list(sources.flags))
            gin.finalize()
    except (ValueError, KeyError, NameError, AttributeError, SyntaxError, OSError) as error:
        # What is left to gin: ambiguous names, dynamic registration, scoped macros.
        raise UserError(f"gin: {one_line(str(error))}") from error


@contextlib.contextmanager
def _files_only() -> Iterator[None]:
    """Lets gin look for included files in folders alone, as `gin_sources` does.

    Gin also takes `runs/star.gin` for a file of a Python package `runs`. A folder of that name
    where the user stands, such as the one the quickstart writes to, is a package to Python, and
    gin fails on it. It has no public way to leave a reader out.
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
            # `from package import name` is told as package.name, and name need not be a module.
            parent, _, name = module.rpartition(".")
            if not hasattr(sys.modules.get(parent), name):
                raise UserError(f"{where}: cannot import '{module}': {error}") from error


def _check_names(bindings: Sequence[Binding]) -> None:
    macros = {binding.macro for binding in bindings if binding.macro}
    effective: dict[Any, Binding] = {}
    for binding in bindings:
        if binding.macro:
            effective[binding.macro] = binding
        else:
            effective[_parameter_key(binding)] = binding
    for key, binding in effective.items():
        if not binding.macro and binding.is_required:
            raise UserError(must_be_set(f"{binding.selector}.{key[-1]}", binding.where))
        for reference in binding.references():
            _check_reference(reference, binding.where, macros)


def _parameter_key(binding: Binding) -> tuple[str, str, str]:
    """Returns gin's full name of the parameter: two spellings of one parameter are one key."""
    key = (binding.scope, binding.selector, binding.arg_name)
    try:
        return gin.config.ParsedBindingKey.parse(key).scope_selector_arg
    except (ValueError, KeyError) as error:
        hint = ""
        if configurable := _configurables().get(binding.selector.rpartition(".")[2]):
            parameters = inspect.signature(configurable).parameters
            hint = did_you_mean(binding.arg_name, parameters, f"; it has {', '.join(parameters)}")
        else:
            hint = did_you_mean(binding.selector, _configurables())
        raise UserError(f"{binding.where}: {one_line(str(error)).rstrip('.')}{hint}") from error


def _check_reference(reference: Reference, where: str, macros: set[str | None]) -> None:
    if reference.is_macro:
        # A scoped macro may be set in an outer scope: left to gin.
        known = "/" in reference.name or reference.name in macros
        if not known and not gin.config._CONSTANTS.matching_selectors(reference.name):
            hint = did_you_mean(reference.name, filter(None, macros))
            raise UserError(f"{where}: the macro '%{reference.name}' is not set anywhere{hint}")
    elif not gin.config._REGISTRY.matching_selectors(reference.name):
        hint = did_you_mean(reference.name, _configurables())
        raise UserError(f"{where}: no configurable matching '@{reference.name}'{hint}")


def _configurables() -> dict[str, Any]:
    """Returns the registered classes and functions by their short name, gin's own left out.

    Gin has no public way to list them.
    """
    return {
        selector.rpartition(".")[2]: configurable.wrapped
        for selector, configurable in gin.config._REGISTRY.items()
        if not selector.startswith("gin.")
    }


@contextlib.contextmanager
def missing_bindings_told() -> Iterator[None]:
    """Turns gin's complaint about a parameter with neither value nor default into a UserError."""
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
            f"{name} must be set: add --gin.{name}=VALUE (a text as \"'...'\") or bind it in a file"
        ) from error
