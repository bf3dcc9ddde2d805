"""sweep.json: which sweep a directory belongs to."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from star_jax.errors import UserError
from star_jax.tools.sweep import SweepRun, differences
from star_launch.files import write_whole
from star_launch.text import first_few


@contextlib.contextmanager
def claimed(
    directory: Path, file: str, runs: Sequence[SweepRun], configs: Mapping[str, str]
) -> Iterator[None]:
    """Reserves the directory for this sweep, and for this process while it runs.

    Args:
      directory: of the sweep.
      file: the sweep's gin file.
      runs: of the sweep.
      configs: gin's text of each run's configuration, by the run's name.

    Raises:
      UserError: it belongs to another sweep, another process uses it, or it cannot be written to.
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
        text = json.dumps({"sweep": file, "runs": state}, indent=1) + "\n"
        write_whole(directory / "sweep.json", text.encode())
        yield
    except BlockingIOError as error:
        raise UserError(f"another launch/sweep.py is running in {directory}") from error
    finally:
        os.close(handle)


def check_same(directory: Path, state: Mapping[str, Mapping]) -> None:
    """Raises UserError if the directory belongs to something else than this sweep.

    Args:
      directory: of the sweep.
      state: what sweep.json has of each run, by the run's name.
    """
    file = directory / "sweep.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))["runs"]
    except FileNotFoundError:
        if others := sorted(path.name for path in directory.iterdir() if path.name[0] != "."):
            raise UserError(
                f"{directory} has {others[0]} and no sweep.json, so it is not a sweep's directory; "
                "give another --output_dir"
            ) from None
        return
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} was not written by a sweep; give another --output_dir") from error
    if found := differences(known, state):
        raise UserError(
            f"{directory} belongs to another sweep: {first_few(found, 4, '; ')}; give another "
            "--output_dir"
        )
