"""Makes the environment of a worker: `python3 -m ... CODE VENV`.

It brings uv, the Python and the packages that star_jax runs on, and star_jax itself. It needs the
Python of the TPU VM's image and nothing else. The last line that it prints says what failed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

PYTHON_VERSION = "3.12"  # the image has 3.10, JAX needs 3.11
UV_INSTALLER = "https://astral.sh/uv/install.sh"


class CommandFailed(Exception):
    """A command that failed, with its last words, in one line."""


def make_environment(code: Path, venv: Path) -> None:
    """Makes `venv` with the packages of the TPU's lock file and star_jax itself."""
    uv, python = find_uv(), venv / "bin/python"
    if not python.exists():
        run([uv, "venv", "--quiet", "--clear", "--python", PYTHON_VERSION, venv])
    install = [uv, "pip", "install", "--quiet", "--python", python]
    run([*install, "-r", code / "launch/requirements-tpu.lock"])
    # The lock file contains setuptools: no build environment, so nothing else is downloaded.
    run([*install, "--no-deps", "--no-build-isolation", "--editable", code])


def find_uv() -> str:
    """Returns uv, installing it with pip or, where pip may not install, with uv's own installer."""
    home = Path.home() / ".local/bin/uv"
    reason = ""
    for install in (None, install_uv_with_pip, install_uv_with_its_installer):
        try:
            if install is not None:
                install()
        except (CommandFailed, OSError) as error:
            reason = str(error)
        found = shutil.which("uv") or (str(home) if home.exists() else None)
        if found:
            return found
    raise CommandFailed(f"uv cannot be installed: {reason}")


def install_uv_with_pip() -> None:
    """Installs uv for this user."""
    run([sys.executable, "-m", "pip", "install", "--quiet", "--user", "uv"])


def install_uv_with_its_installer() -> None:
    """Downloads uv's installer and runs it."""
    script = Path.home() / "uv_install.sh"
    run(["curl", "--fail", "--silent", "--show-error", "--location", "-o", script, UV_INSTALLER])
    run(["sh", script])


def run(command: Sequence[str | Path]) -> None:
    """Runs a command and prints its output.

    Raises:
      CommandFailed: it failed.
    """
    words = [str(word) for word in command]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output = done.stdout.decode(errors="replace").strip()
    print(output, flush=True)
    if done.returncode:
        name = " ".join(Path(word).name for word in words[:3])
        last = output.splitlines()[-1:] or ["no output"]
        raise CommandFailed(f"'{name} ...' ended with {done.returncode}: {last[0]}")


if __name__ == "__main__":
    try:
        make_environment(*map(Path, sys.argv[1:]))
    except (CommandFailed, OSError) as error:
        sys.exit(str(error))
