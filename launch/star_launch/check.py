"""Checks star_jax's arguments before they cost time or money: run mode, gin files and bindings.

The check itself is `star_launch.sweep.configurations` in another process, since it needs star_jax's
packages and its imports take almost a gigabyte.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from star_launch import ROOT
from star_launch.tpu_vm import pack

MAKE_VENV = "bash -c '. launch/install.sh; ensure_venv requirements'"


class CheckError(Exception):
    """A mistake in the arguments, or a missing package, in one line."""


def checked_configurations(
    commands: Mapping[str, Sequence[str]], on_worker: bool = False
) -> dict[str, str]:
    """Returns gin's text of each command line's configuration.

    Args:
      commands: arguments of star_jax by the name of their run; "" for a run without a name.
      on_worker: whether the run will be on a TPU VM: with the files that are sent there, in code/.

    Raises:
      CheckError: the first mistake, or star_jax's packages are not installed.
    """
    with _folder(on_worker) as (folder, code):
        # As in the runs, the current folder comes first: it may have modules that gin files import.
        paths = [str(code), str(code / "launch"), os.environ.get("PYTHONPATH", "")]
        done = subprocess.run(
            [_python(), "-m", "star_launch.sweep.configurations"],
            input=json.dumps({name: list(command) for name, command in commands.items()}),
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise CheckError(
            f"star_jax's arguments cannot be checked with {_python()}: {reason}; make .venv with "
            f"{MAKE_VENV} in {ROOT}"
        )
    answer = json.loads(done.stdout)
    if "error" in answer:
        raise CheckError(answer["error"])
    return answer["configurations"]


def _python() -> str:
    """Returns a Python with star_jax's packages: this one, or that of .venv."""
    venv = ROOT / ".venv/bin/python"
    has_packages = importlib.util.find_spec("gin") is not None
    return sys.executable if has_packages or not venv.exists() else str(venv)


@contextlib.contextmanager
def _folder(on_worker: bool) -> Iterator[tuple[Path, Path]]:
    """Yields the current folder of the runs, and the folder of their code."""
    if not on_worker:
        yield Path.cwd(), ROOT
        return
    with tempfile.TemporaryDirectory() as folder:
        code = Path(folder, "code")
        with tarfile.open(fileobj=io.BytesIO(pack.pack(ROOT))) as archive:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)
            archive.extractall(code)
        yield Path(folder), code
