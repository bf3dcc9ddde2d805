"""Files that are written whole or not at all, and their hashes."""

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from star_jax.errors import UserError
from star_jax.parallel import processes
from star_jax.run.paths import bucket_errors, is_remote, read_if_there


def check_writable(file: Path) -> None:
    """Raises UserError unless `file` can be written, before the work that is to go into it."""
    probe = file.with_name(f".{file.name}.probe")
    try:
        if not is_remote(file):
            if file.is_dir():
                raise UserError(f"{file} is a directory; name a file to write")
            file.parent.mkdir(parents=True, exist_ok=True)
        with bucket_errors(file):
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {str(file)[:200]!r}: {error}") from error


def write_atomically(file: Path, data: bytes) -> None:
    """Writes a temporary file, syncs, and renames it: a reader sees all of it or none.

    An object in a bucket is written whole anyway. Of several processes only the lead writes.
    """
    if not processes.is_lead():
        return
    if is_remote(file):
        with bucket_errors(file):
            file.write_bytes(data)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    with open(temporary, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)


def write_together(
    directory: Path, contents: Mapping[str, bytes], way_out: str = "give another directory"
) -> None:
    """Puts each file in place whole, in this order; on a disk none before all are written.

    Raises:
      UserError: the directory cannot be written to; the message ends with `way_out`.
    """
    if is_remote(directory):
        for name, content in contents.items():
            write_atomically(directory / name, content)
        return
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=directory, prefix=".unfinished-") as tmp:
            for name, content in contents.items():
                Path(tmp, name).write_bytes(content)
            for name in contents:
                os.replace(Path(tmp, name), directory / name)
    except OSError as error:
        raise UserError(f"cannot write to {directory} ({error.strerror}); {way_out}") from error


def sha256_of(file: Path) -> str:
    """The hash of what is in the file, "" if it is not there."""
    data = read_if_there(file)
    return "" if data is None else sha256(data)


def sha256(data: bytes) -> str:
    """The SHA-256 of bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()
