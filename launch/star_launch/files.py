"""Writing a file so that a crash leaves the old content or the new one, never a part."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, data: bytes) -> None:
    """Writes a file next to `file`, syncs it and renames it; the folder must exist."""
    # The process id: several launchers may write the same file at once.
    temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    temporary.replace(file)
