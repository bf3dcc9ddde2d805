"""Reads the sweep's gin file, and checks the configuration of each of its runs."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence

import gin

from star_jax.cli import gin_errors, gin_sources
from star_jax.cli.command_line import CommandLine, parse_command_line
from star_jax.cli.quiet import quiet_imports
from star_jax.errors import UserError
from star_jax.modes import MODES
from star_jax.tools.sweep import Prepare, Sweep, SweepRun
from star_launch import ROOT

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


def read_run(run: SweepRun) -> tuple[CommandLine, gin_sources.Sources]:
    """Returns a run's command line and its files, read as the run itself will read them.

    Raises:
      UserError: with the run's name.
    """
    with _named(run):
        command = parse_command_line(run.arguments())
        return command, gin_sources.read_sources(
            command.gin_files, command.bindings, command.search_paths, command.mode.not_needed
        )


def load_configurations(runs: Sequence[SweepRun]) -> dict[str, str]:
    """Gives each run's configuration to gin; returns gin's text of it, by the run's name.

    Raises:
      UserError: with the run's name.
    """
    read = [read_run(run) for run in runs]  # finds most mistakes, and is fast
    with quiet_imports():
        from star_jax.cli import configurables
    configurations = {}
    for run, (command, sources) in zip(runs, read, strict=True):
        with _named(run):
            configurables.register_mode(command.run_mode, command.mode)
            gin_errors.load(sources)
        configurations[run.name] = gin.config_str()
    return configurations


def checked_configurations(runs: Sequence[SweepRun]) -> dict[str, str]:
    """`load_configurations` in another process, since its imports take almost a gigabyte.

    Raises:
      UserError: with the run's name.
    """
    # As in the runs, the current folder comes first: it may have modules that gin files import.
    paths = [str(ROOT / "launch"), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps([dataclasses.asdict(run) for run in runs]),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
    )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["configurations"]


@contextlib.contextmanager
def _named(run: SweepRun) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{run.name}: {error.message}") from error


def _answer() -> None:
    """The other end of `checked_configurations`: JSON of runs in, JSON of configurations out."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it silently
    runs = [SweepRun(**run) for run in json.load(sys.stdin)]
    try:
        answer = {"configurations": load_configurations(runs)}
    except UserError as error:
        answer = {"error": error.message}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _answer()
