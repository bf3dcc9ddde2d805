"""What launch/sweep.py reads and keeps: the sweep's file, each run's configuration, sweep.json."""

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import gin

from star_jax.cli import gin_errors, gin_sources
from star_jax.errors import UserError, did_you_mean
from star_jax.main import RUN_MODES, chatter_left_out, quiet_libraries
from star_jax.tools.sweep import Prepare, Run, Sweep, differences
from star_launch.sweep.runner import write_whole

# Not in star_jax.cli.configurables: a run has no sweep to bind, and a sweep need not import JAX.
for _record in (Sweep, Prepare):
    gin.external_configurable(_record, module="star_jax")


def read_sweep(file: str, bindings: Sequence[tuple[str, str]]) -> Sweep:
    """Reads a sweep's gin file.

    Raises:
      UserError: it cannot be read, or is no sweep.
    """
    # What a run must set is no sweep's fault: a run's file is told below that it is no sweep.
    not_needed = MODES["precompile"].not_needed
    sources = gin_sources.read_sources([file], bindings, not_needed=not_needed)
    if not any(b.selector.rpartition(".")[2] == "Sweep" for b in sources.bindings):
        raise UserError(
            f"{file} is no sweep: it binds no parameter of Sweep. gin_configs/sweeps/ has some; a "
            f"single run is `python -m star_jax.main --gin_file={file}`"
        )
    for binding in sources.bindings:
        for reference in binding.references():
            if not reference.is_macro and reference.name.rpartition(".")[2] != "Prepare":
                raise UserError(
                    f"{binding.where}: @{reference.name} is for the runs and means nothing here; "
                    f"write it in quotes: '@{reference.name}()'"
                )
    gin_errors.load(sources)
    try:
        with gin_errors.missing_bindings_reported():
            return gin.get_configurable("star_jax.Sweep")()
    finally:
        gin.clear_config()  # the runs have their own


def check_run_modes(runs: Sequence[SweepRun]) -> None:
    """Raises UserError for a run mode that there is not."""
    for run in runs:
        with _told_of(run):
            find_mode(run.run_mode)


def read_sources(run: SweepRun) -> gin_sources.Sources:
    """Reads a run's files and bindings.

    Raises:
      UserError: it names the run.
    """
    with _told_of(run):
        return gin_sources.read_sources(run.gin_files, run.bindings)


def load_configurations(runs: Sequence[SweepRun]) -> dict[str, str]:
    """Gives each run's configuration to gin; returns what gin makes of it, by the run's name.

    Raises:
      UserError: a binding that nothing takes.
    """
    with quiet_imports():
        from star_jax.cli import configurables
    configurations = {}
    for run in runs:
        sources = read_sources(run)
        with _told_of(run):
            configurables.register_mode(run.run_mode, find_mode(run.run_mode))
            gin_errors.load(sources)
        configurations[run.name] = gin.config_str()
    return configurations


def checked_configurations(runs: Sequence[SweepRun]) -> dict[str, str]:
    """`load_configurations` in a process of its own: what it imports takes near a gigabyte.

    Raises:
      UserError: a binding that nothing takes.
    """
    for run in runs:
        read_sources(run)  # most mistakes need none of the imports
    asked = json.dumps([dataclasses.asdict(run) for run in runs])
    same_code = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, __file__],
        input=asked,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **same_code},
    )
    told = json.loads(done.stdout)
    if "error" in told:
        raise UserError(told["error"])
    return told["configurations"]


def _answer() -> None:
    """The other end of `checked_configurations`: runs come in, configurations go out."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends it without a word
    runs = [SweepRun(**run) for run in json.load(sys.stdin)]
    try:
        told = {"configurations": load_configurations(runs)}
    except UserError as error:
        told = {"error": error.message}
    json.dump(told, sys.stdout)


@contextlib.contextmanager
def _told_of(run: SweepRun) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{run.name}: {error.message}") from error


@contextlib.contextmanager
def claimed(
    directory: Path, file: str, runs: Sequence[SweepRun], configs: Mapping
) -> Iterator[None]:
    """Makes the directory this sweep's, and this process the only sweep in it.

    Raises:
      UserError: it is another sweep's, somebody is at work in it, or it cannot be written to.
    """
    state = {
        run.name: {
            "run_mode": run.run_mode,
            "gin_files": run.gin_files,
            "bindings": dict(run.bindings),
            "needs": run.needs,
            "config": configs[run.name],
        }
        for run in runs
    }
    try:
        directory.mkdir(parents=True, exist_ok=True)
        handle = os.open(directory, os.O_RDONLY)
    except OSError as error:
        raise UserError(f"cannot make {directory}: {error.strerror}; give --output_dir") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        check_same(directory, state)
        text = json.dumps({"sweep": file, "runs": state}, indent=1)
        write_whole(directory / "sweep.json", text + "\n")
        yield
    except BlockingIOError as error:
        raise UserError(f"another launch/sweep.py is at work in {directory}") from error
    finally:
        os.close(handle)


def check_same(directory: Path, state: Mapping[str, Mapping]) -> None:
    """Raises UserError if the directory is not this sweep's."""
    file = directory / "sweep.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        if others := sorted(path.name for path in directory.iterdir() if path.name[0] != "."):
            raise UserError(
                f"{directory} has {others[0]} and no sweep.json, so it is no sweep's; give another "
                "--output_dir"
            ) from None
        return
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is not what a sweep wrote; give another --output_dir") from error
    if found := differences(known, state):
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        raise UserError(
            f"{directory} belongs to another sweep: {'; '.join(found[:4])}{more}; give another "
            "--output_dir"
        )


if __name__ == "__main__":
    _answer()
