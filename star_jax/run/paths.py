"""Paths on this machine and in Google Cloud Storage (gs://), and what goes wrong with the latter.

A path in a bucket is an `epath.Path`, which has the methods of `pathlib.Path`. An object there
appears whole when it has been written, and replaces the one before; nothing can be renamed.
"""

import contextlib
import functools
import io
import logging
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from etils import epath

from star_jax.errors import UserError

SCHEME = "gs://"
IN_A_BUCKET = re.compile(r"gs://[a-z0-9][a-z0-9._-]*(/.*)?", re.ASCII)
EMULATOR = "STORAGE_EMULATOR_HOST"

# What a failure's text tells of its cause, and the way out; the first that fits counts.
WAYS_OUT = (
    (
        r"credentials|\b401\b|Unauthenticated",
        "log in with `gcloud auth application-default login`, or give the TPU VM a service account",
    ),
    (
        r"Forbidden|\b403\b|PERMISSION_DENIED|does not have",
        "give the account that runs this roles/storage.objectAdmin on the bucket",
    ),
    (
        r"FileNotFound|\b404\b|NOT_FOUND",
        "check the path; `gcloud storage buckets create` makes a bucket",
    ),
    (r"connect|timed? ?out|resolve|UNAVAILABLE", "check the network, and start the command again"),
)


def is_remote(path: str | os.PathLike) -> bool:
    """Whether `path` is in a bucket."""
    return str(path).startswith(SCHEME)


def path_of(text: str | os.PathLike) -> Path:
    """The path that a user wrote: in a bucket if it begins with gs://, else on this machine.

    Raises:
      UserError: another kind of address, no bucket in it, or the package for buckets is missing.
    """
    if not is_remote(text):
        if "://" in str(text):
            raise UserError(
                f"{str(text)[:200]!r} is no path: give one of this machine, or gs://BUCKET/NAME"
            )
        return Path(text)
    if not IN_A_BUCKET.fullmatch(str(text)):
        raise UserError(f"{str(text)[:200]!r} names no bucket; write gs://BUCKET/NAME")
    _settle()
    return epath.Path(text)


def absolute(path: str | os.PathLike) -> Path:
    """The path from its root on; as it is if it is in a bucket."""
    return path_of(path) if is_remote(path) else Path(path).absolute()


def check_local(path: Path, what: str) -> None:
    """Raises UserError for a path in a bucket, to `what` that is read from a disk alone."""
    if is_remote(path):
        raise UserError(
            f"{what} at {path} cannot be read from a bucket; copy it to this machine first: "
            f"gcloud storage cp -r {path} FOLDER"
        )


def is_dir(path: Path) -> bool:
    """Whether it is a directory; UserError, and not no, if its bucket cannot be asked."""
    with told(path):
        return path.is_dir() if not is_remote(path) else path.exists() and path.is_dir()


def read_if_there(path: Path) -> bytes | None:
    """The file's content, None if there is none; UserError if its bucket cannot be read."""
    with told(path):
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None


def open_text(file: str | os.PathLike) -> TextIO:
    """Opens UTF-8 text, with or without a byte order mark; from a bucket it is read at once.

    Raises:
      OSError: as `open`.
      UserError: it is in a bucket that cannot be read.
    """
    if not is_remote(file):
        return open(file, encoding="utf-8-sig")
    with told(file):
        data = path_of(file).read_bytes()
    return io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig")


def remove_tree(directory: Path) -> None:
    """Removes a directory if it is there."""
    if is_remote(directory):
        with told(directory):
            directory.rmtree(missing_ok=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)


def copy_tree(source: Path, target: Path) -> None:
    """Copies a directory of small files, if it is there, from a bucket to this machine."""
    with told(source):
        for child in source.iterdir() if source.exists() else ():
            if child.is_dir():
                copy_tree(child, target / child.name)
            else:
                target.mkdir(parents=True, exist_ok=True)
                (target / child.name).write_bytes(child.read_bytes())


@contextlib.contextmanager
def told(path: str | os.PathLike) -> Iterator[None]:
    """Turns what goes wrong with a path in a bucket inside into a UserError; others pass."""
    if not is_remote(path):
        yield
        return
    _settle()
    try:
        yield
    except _failures() as error:
        raise UserError(_line(path, error)) from error


def _line(path: str | os.PathLike, error: Exception) -> str:
    text = " ".join(f"{type(error).__name__}: {error}".split())
    found = (way for pattern, way in WAYS_OUT if re.search(pattern, text, re.IGNORECASE))
    way_out = next(found, "see what the message says, and start the command again")
    if emulator := os.environ.get(EMULATOR):
        way_out += f" ({EMULATOR} = {emulator} is asked in place of Google)"
    return f"{path} cannot be read or written ({text[:300]}); {way_out}"


@functools.cache
def _failures() -> tuple[type[Exception], ...]:
    """What gcsfs, and TensorStore (ValueError) below Orbax, raise when a bucket says no."""
    import aiohttp
    from gcsfs.retry import HttpError, NonRetryableError
    from google.auth.exceptions import GoogleAuthError

    library = (HttpError, NonRetryableError, GoogleAuthError, aiohttp.ClientError)
    return (OSError, ValueError, *library)


@functools.cache
def _settle() -> None:
    """Prepares the way to buckets; raises UserError if its package is missing."""
    # Its other class asks another service, with other permissions, what kind of bucket it is.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    try:
        import fsspec
        from gcsfs.core import GCSFileSystem
    except ModuleNotFoundError as error:
        raise UserError(
            f"paths at gs:// need the package gcsfs, and {error.name} is not installed; run "
            f"`uv pip install gcsfs`, or give paths of this machine"
        ) from error
    # It shows its failures with their tracebacks, which `told` tells in one line.
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL + 1)
    # Listings change behind its back: TensorStore, and other processes, write there too.
    # Nobody is asked in place of the account that TensorStore takes as well.
    token = "anon" if os.environ.get(EMULATOR) else "google_default"
    settings = {"use_listings_cache": False, "token": token}
    fsspec.register_implementation("gcs", GCSFileSystem, clobber=True)
    fsspec.config.conf["gcs"] = {**settings, **fsspec.config.conf.get("gcs", {})}
