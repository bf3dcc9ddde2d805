"""Downloads one file: resumed where it stopped, and verified before it gets its name."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import re
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from star_launch.fetch.meter import Meter
from star_launch.fetch.table import Artefact
from star_launch.files import write_whole
from star_launch.text import human_size

CHUNK = 1 << 20  # bytes per read, at most
TIMEOUT_SECONDS = 60  # without data, then the connection counts as broken
CHECKSUMS = "checksums.json"  # in a file's folder: sha256 of files without a published one


class FetchError(Exception):
    """Ends the program; the message is one line and says what to do."""


class BrokenTransfer(Exception):
    """A fault of the network or the server, in a few words."""


def fetch(artefact: Artefact, folder: Path) -> str:
    """Downloads one file unless it exists, verifies it, and returns a line about it.

    Raises:
      FetchError: the download failed, or the checksum is wrong.
    """
    target = folder / artefact.path
    recorded = recorded_checksums(target.parent).get(target.name)
    expected = artefact.sha256 or recorded
    origin = "published" if artefact.sha256 else f"in {target.parent / CHECKSUMS}"
    exists = target.exists()
    file = target if exists else downloaded_part(artefact.url, target)
    found = sha256_of(file)
    if expected not in (None, found):
        mismatch = f"sha256 {found}, not the one {origin}, {expected}"
        if exists:
            raise FetchError(f"{target} has {mismatch}; move it away and run this again")
        file.unlink()
        raise FetchError(f"{artefact.url}: the downloaded file has {mismatch}, and was deleted")
    if not exists:
        file.replace(target)
    if expected is None:
        record_checksum(target, found)
    what = "exists" if exists else "downloaded"
    return f"{target}: {what}, {size_of(target):,} bytes, {verdict(artefact, recorded, found)}"


def verdict(artefact: Artefact, recorded: str | None, found: str) -> str:
    """Says what a file's checksum was compared with."""
    if artefact.sha256:
        return "sha256 matches the published one"
    if recorded:
        return f"sha256 matches {CHECKSUMS} (no published checksum)"
    return f"no published checksum; sha256 {found} saved in {CHECKSUMS}"


def downloaded_part(url: str, target: Path) -> Path:
    """Downloads to a .part file next to `target`, and returns its path.

    Raises:
      FetchError: a fault of the network; the next run resumes from the .part file.
    """
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(Meter(target.name)) as meter:
            download(url, part, meter)
    except BrokenTransfer as error:
        raise FetchError(
            f"{url}: {error}; run this again to resume, or download it elsewhere and put it at "
            f"{target}"
        ) from error
    return part


def download(url: str, part: Path, meter: Meter) -> None:
    """Fills `part`; reconnects after a broken connection as long as each try brings data.

    Raises:
      BrokenTransfer: a try brought no data.
    """
    while True:
        before = size_of(part)
        try:
            total = transfer(url, part, meter)
            if total in (None, size_of(part)):
                return
            raise BrokenTransfer(f"the connection ended after {size_of(part):,} of {total:,} bytes")
        except BrokenTransfer:
            if size_of(part) <= before:
                raise


def transfer(url: str, part: Path, meter: Meter) -> int | None:
    """Appends to `part` what is missing; returns the size of the whole file if it is stated.

    Raises:
      BrokenTransfer: a fault of the network; what was received stays in `part`.
      FetchError: too little disk space.
      OSError: any other fault of the disk.
    """
    response = resume_url(url, part)
    if response is None:
        return size_of(part)
    with response:
        start, total = extent(response)
        have = size_of(part)
        if start > have:
            raise BrokenTransfer(f"the server sends from byte {start}, not {have}")
        check_disk_space(part, (total or start) - start)
        with open(part, "ab") as file:
            if start < have:
                file.truncate(start)
            while chunk := read_chunk(response):
                file.write(chunk)
                meter.show(file.tell(), total)
    return total


def resume_url(url: str, part: Path) -> http.client.HTTPResponse | None:
    """Requests what `part` is missing; returns None if nothing is."""
    have = size_of(part)
    with network():
        try:
            return open_url(url, have)
        except urllib.error.HTTPError as error:
            if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            if error.headers.get("Content-Range") == f"bytes */{have}":
                return None
        return open_url(url, 0)  # `part` is longer than the file: it belongs to another one


def open_url(url: str, offset: int) -> http.client.HTTPResponse:
    """Requests `url` from byte `offset`; the server may answer from an earlier byte."""
    headers = {"User-Agent": "star_jax-fetch"}  # some servers refuse urllib's own name
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    if response.headers.get_content_type() == "text/html":
        response.close()  # usually the sign-in page of a hotel or a company
        raise BrokenTransfer("the server sent a web page instead of the file")
    return response


def extent(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Returns the first byte that the server sends, and the size of the whole file if stated."""
    start = 0
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
        if not match:
            raise BrokenTransfer("the server does not say which part of the file it sends")
        start = int(match[1])
    length = response.headers.get("Content-Length", "")
    return start, start + int(length) if length.isdecimal() else None


def read_chunk(response: http.client.HTTPResponse) -> bytes:
    """Returns the next bytes of the response, none at its end."""
    with network():
        return response.read1(CHUNK)


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Turns every network error into BrokenTransfer, to keep it apart from errors of the disk."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise BrokenTransfer(explain(error)) from error


def explain(error: Exception) -> str:
    """Says what a network error means."""
    reason = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answered {error.code} {reason}"
    if isinstance(reason, socket.gaierror):
        return "the server's name cannot be resolved (is this machine offline?)"
    if isinstance(reason, TimeoutError):
        return f"the server sent nothing for {TIMEOUT_SECONDS} s"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())


def check_disk_space(part: Path, needed: int) -> None:
    """Raises FetchError if the disk of `part` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise FetchError(
            f"{part.parent}: {human_size(needed)} are missing and the disk has "
            f"{human_size(free)} left; free disk space, or choose another disk with --dir"
        )


def size_of(path: Path) -> int:
    """Returns the size of a file in bytes, 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


def sha256_of(path: Path) -> str:
    """Returns the sha256 of a file in hexadecimal."""
    digest, done, total = hashlib.sha256(), 0, size_of(path)
    with contextlib.closing(Meter(f"checking {path.name}")) as meter, open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            meter.show(done, total)
    return digest.hexdigest()


def recorded_checksums(folder: Path) -> dict[str, str]:
    """Returns {file name: sha256} of what earlier runs downloaded into `folder`.

    Raises:
      FetchError: the record cannot be read.
    """
    path = folder / CHECKSUMS
    if not path.exists():
        return {}
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        recorded = None
    if not isinstance(recorded, dict):
        raise FetchError(f"{path} is not a JSON object of checksums; move it away")
    return recorded


def record_checksum(target: Path, sha256: str) -> None:
    """Adds a file's checksum to the record of its folder."""
    recorded = {**recorded_checksums(target.parent), target.name: sha256}
    text = json.dumps(recorded, indent=2, sort_keys=True) + "\n"
    write_whole(target.parent / CHECKSUMS, text.encode())
