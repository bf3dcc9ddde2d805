"""Packs the checkout for a TPU VM; the same files give the same bytes."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import subprocess
import tarfile
from pathlib import Path

SKIPPED_FOLDERS = {"build", "data", "dist", "runs"}  # at the top, as in .gitignore


def tracked_files(root: Path) -> list[str] | None:
    """Returns the paths that git tracks below `root`, None if `root` is not a checkout."""
    if not (root / ".git").exists():
        return None
    return _git(root, "ls-files")


def untracked_files(root: Path) -> list[str]:
    """Returns the paths that git neither tracks nor ignores; they are not sent."""
    return _git(root, "ls-files", "--others", "--exclude-standard") or []


def _git(root: Path, *arguments: str) -> list[str] | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments, "-z"], capture_output=True, encoding="utf-8"
        )
    except FileNotFoundError:
        return None
    return [name for name in done.stdout.split("\0") if name] if done.returncode == 0 else None


def walked_files(root: Path) -> list[str]:
    """Returns the paths of a copy without git, without hidden folders and what runs produced."""
    found = []
    for folder, subfolders, names in os.walk(root):
        skipped = {"__pycache__", *(SKIPPED_FOLDERS if Path(folder) == root else ())}
        subfolders[:] = [
            name
            for name in subfolders
            if name not in skipped and not name.startswith(".") and not name.endswith(".egg-info")
        ]
        found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return [name for name in found if not name.endswith((".pyc", ".pyo"))]


def pack(root: Path) -> bytes:
    """Returns the checkout as a tar.gz, without times and owners."""
    names = tracked_files(root)
    if names is None:
        names = walked_files(root)
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name in sorted(names):
            path = root / name
            if path.is_file():  # git also lists files that were deleted and not committed
                archive.addfile(_entry(name, path), io.BytesIO(path.read_bytes()))
    packed = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=packed, mode="wb", mtime=0) as file:
        file.write(plain.getvalue())
    return packed.getvalue()


def _entry(name: str, path: Path) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = path.stat().st_size
    entry.mode = 0o755 if os.access(path, os.X_OK) else 0o644
    return entry


def digest_of(packed: bytes) -> str:
    """Returns the sha256 of a packed checkout."""
    return hashlib.sha256(packed).hexdigest()
