"""Installs a package that carries data, beside the environment of the tests and not into it."""

import shutil
import subprocess
import sys


def install_beside(folder, package):
    """Unpacks `package` into `folder`, with uv where it is (its environments have no pip)."""
    uv = shutil.which("uv")
    install = [uv, "pip", "install", "--python", sys.executable] if uv else [
        sys.executable, "-m", "pip", "install",
    ]  # fmt: skip
    flags = ["--quiet", "--no-deps", "--target", str(folder)]
    subprocess.run([*install, *flags, package], check=True)
