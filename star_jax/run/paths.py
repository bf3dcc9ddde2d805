"""Paths on disk and in Google Cloud Storage (gs://), with errors that name the way out.

Files are written whole or not at all. A path in a bucket is an `epath.Path`, which has the methods
of `pathlib.Path`. An object there replaces the previous one once it is written; there is no rename.
"""

import contextlib
import functools
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from etils import epath

from star_jax.errors import UserError
from star_jax.parallel import processes

IN_A_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]*(/.*)?", re.ASCII)
EMULATOR = "STORAGE_EMULATOR_HOST"

# Patterns in the text of a failure, and the way out; the first match counts.
WAYS_OUT = {
    r"credentials|\b401\b|Unauthenticated": (
        "log in with `gcloud auth application-default login`, or give the TPU VM a service account"
    ),
    r"Forbidden|\b403\b|PERMISSION_DENIED|does not have": (
        "grant roles/storage.objectAdmin on the bucket to the account that runs this"
    ),
    r"FileNotFound|\b404\b|NOT_FOUND": (
        "check the path; `gcloud storage buckets create` makes a bucket"
    ),
    r"connect|timed? ?out|resolve|UNAVAILABLE": "check the network and run the command again",
    "": "see what the message says and run the command again",
}


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is in a bucket."""
    return str(path).startswith("gs://")


def path_of(text: str | os.PathLike) -> Path:
    """A path in a bucket if it begins with gs://, else on this machine; UserError if malformed."""
    if is_remote(text):
        if not IN_A_BUCKET.fullmatch(str(text)):
            raise UserError(f"{str(text)[:200]!r} names no bucket; write gs://BUCKET/NAME")
        _prepare_buckets()
        return epath.Path(text)
    if "://" in str(text):
        raise UserError(f"{str(text)[:200]!r} is not a path; give a local path or gs://BUCKET/NAME")
    return Path(text)


def absolute(path: str | os.PathLike) -> Path:
    """The absolute path; a path in a bucket always is."""
    return path_of(path) if is_remote(path) else Path(path).absolute()


def check_local(path: Path, what: str) -> None:
    """Raises UserError for a path in a bucket; `what` names the file in the message."""
    if is_remote(path):
        raise UserError(
            f"{what} at {path} cannot be read from a bucket; copy it to this machine first: "
            f"gcloud storage cp -r {path} FOLDER"
        )


def is_dir(path: Path) -> bool:
    """Whether `path` is a directory; raises UserError if its bucket does not answer."""
    with bucket_errors(path):
        return path.exists() and path.is_dir()  # `exists` reports failures, `is_dir` hides them


def read_if_there(path: Path) -> bytes | None:
    """The file's content, or None if there is no file; raises UserError as `bucket_errors`."""
    with bucket_errors(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


def read_bytes(file: str | os.PathLike) -> bytes:
    """The file's content; raises OSError, or UserError as `bucket_errors`."""
    with bucket_errors(file):
        return path_of(file).read_bytes()


def copy_tree(source: Path, target: Path) -> None:
    """Copies a directory of small files, if it exists, to this machine."""
    with bucket_errors(source):
        for child in source.iterdir() if source.exists() else ():  # epath has no rglob in buckets
            if child.is_dir():
                copy_tree(child, target / child.name)
            else:
                target.mkdir(parents=True, exist_ok=True)
                (target / child.name).write_bytes(child.read_bytes())


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

    Raises UserError, whose message ends with `way_out`, if the directory cannot be written to.
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


@contextlib.contextmanager
def bucket_errors(path: str | os.PathLike) -> Iterator[None]:
    """Turns failures of the bucket that `path` is in into UserError; does nothing on a disk."""
    if not is_remote(path):
        yield
        return
    _prepare_buckets()
    try:
        yield
    except _failures() as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        matching = (way for cause, way in WAYS_OUT.items() if re.search(cause, text, re.IGNORECASE))
        way_out = next(matching)
        if emulator := os.environ.get(EMULATOR):
            way_out += f" ({EMULATOR} = {emulator} stands in for Google)"
        raise UserError(f"{path} cannot be read or written ({text[:300]}); {way_out}") from error


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    """What gcsfs raises, and TensorStore (ValueError) under Orbax."""
    import aiohttp
    from gcsfs.retry import HttpError, NonRetryableError
    from google.auth.exceptions import GoogleAuthError

    google = HttpError, NonRetryableError, GoogleAuthError
    return OSError, ValueError, aiohttp.ClientError, *google


@functools.cache
def _prepare_buckets() -> None:
    """Sets up gcsfs; raises UserError if it is not installed."""
    # Its extended class queries the bucket's kind from another service with other permissions.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec
        from gcsfs.core import GCSFileSystem
    except ModuleNotFoundError as error:
        raise UserError(
            f"paths at gs:// need the package gcsfs, and {error.name} is not installed; run "
            f"`uv pip install gcsfs`, or give local paths"
        ) from error
    # It logs failures with their tracebacks; `bucket_errors` reports them in one line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    # No cached listings: TensorStore and other processes write there too. The default login is
    # the account that TensorStore uses as well.
    token = "anon" if os.environ.get(EMULATOR) else "google_default"
    settings = {"use_listings_cache": False, "token": token, **fsspec.config.conf.get("gcs", {})}
    fsspec.register_implementation("gcs", GCSFileSystem, clobber=True)
    fsspec.config.conf["gcs"] = settings
