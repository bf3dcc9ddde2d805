"""Reads the sweep's gin file, and the configurations of runs as the runs themselves will."""

import contextlib
import json
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence

import gin

from star_jax.cli import gin_errors, gin_sources
from star_jax.cli.command_line import CommandLine, parse_command_line
from star_jax.cli.quiet import quiet_imports
from star_jax.errors import UserError
from star_jax.modes import MODES
from star_jax.tools.sweep import Prepare, Sweep

# Not in star_jax.cli.configurables: a run has no sweep to bind, and a sweep need not import JAX.
for _record in (Sweep, Prepare):
    gin.external_configurable(_record, module="star_jax")


def read_sweep(file: str, bindings: Sequence[tuple[str, str]]) -> Sweep:
    """Reads a sweep's gin file.

    Raises:
      UserError: it cannot be read, or is not a sweep.
    """
    # A run's file may come without these; the error is that it is not a sweep.
    not_needed = MODES["precompile"].not_needed
    sources = gin_sources.read_sources([file], bindings, not_needed=not_needed)
    if not any(b.selector.rpartition(".")[2] == "Sweep" for b in sources.bindings):
        raise UserError(
            f"{file} is not a sweep: it binds no parameter of Sweep. See gin_configs/sweeps/; a "
            f"single run is `python -m star_jax.main --gin_file={file}`"
        )
    for binding in sources.bindings:
        for reference in binding.references():
            if not reference.is_macro and reference.name.rpartition(".")[2] != "Prepare":
                raise UserError(
                    f"{binding.where}: @{reference.name} is for the runs and has no meaning here; "
                    f"put it in quotes: '@{reference.name}()'"
                )
    gin_errors.load(sources)
    try:
        with gin_errors.missing_bindings_reported():
            return gin.get_configurable("star_jax.Sweep")()
    finally:
        gin.clear_config()  # the runs have their own


def read_run(name: str, arguments: Sequence[str]) -> tuple[CommandLine, gin_sources.Sources]:
    """Returns a run's command line and its files, read as the run itself will read them.

    Raises:
      UserError: with the run's name.
    """
    with _named(name):
        command = parse_command_line(arguments)
        return command, gin_sources.read_sources(
            command.gin_files, command.bindings, command.search_paths, command.mode.not_needed
        )


def load_configurations(commands: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Gives each run's configuration to gin; returns gin's text of it, by the run's name.

    Args:
      commands: arguments of star_jax by the run's name, which is "" for a run of no sweep.

    Raises:
      UserError: with the run's name.
    """
    # Finds most mistakes, and is fast.
    read = {name: read_run(name, arguments) for name, arguments in commands.items()}
    with quiet_imports():
        from star_jax.cli import configurables
    configurations = {}
    for name, (command, sources) in read.items():
        with _named(name):
            configurables.register_mode(command.run_mode, command.mode)
            gin_errors.load(sources)
        configurations[name] = gin.config_str()
    return configurations


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error.message}" if name else error.message) from error


def _answer() -> None:
    """What star_launch/check.py runs: JSON of command lines in, JSON of configurations out."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently
    try:
        answer = {"configurations": load_configurations(json.load(sys.stdin))}
    except UserError as error:
        answer = {"error": error.message}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _answer()
