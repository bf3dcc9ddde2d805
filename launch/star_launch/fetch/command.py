"""Downloads the data sets, the paper's prompts and GPT-J: see `python launch/fetch.py --help`.

It needs Python and nothing else, so it runs before anything is installed. What there is to fetch
stands in fetch_table.py.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import re
import shutil
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from star_launch.fetch.meter import Meter, human_size
from star_launch.fetch.table import EPILOG, TABLE, Artefact, stated_size

CHUNK = 1 << 20  # bytes read at most at once
TIMEOUT_SECONDS = 60  # of silence, then the connection counts as broken
CHECKSUMS = "checksums.json"  # in a file's folder: the sha256 of files that have no published one


class FetchError(Exception):
    """What ends the program, told in one line that names the way out."""


class BrokenTransfer(Exception):
    """What went wrong between here and the server, in a few words."""


@contextlib.contextmanager
def network() -> Iterator[None]:
    """Turns every error of the network into BrokenTransfer, so that the disk's stay apart."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:
        raise BrokenTransfer(explain(error)) from error


def explain(error: Exception) -> str:
    """Says what a network error means."""
    reason = getattr(error, "reason", error)
    if isinstance(error, urllib.error.HTTPError):
        return f"the server answers {error.code} {reason}"
    if isinstance(reason, socket.gaierror):
        return "the server's name cannot be looked up (is this machine offline?)"
    if isinstance(reason, TimeoutError):
        return f"the server is silent for {TIMEOUT_SECONDS} s"
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(text.split())


def open_url(url: str, offset: int) -> http.client.HTTPResponse:
    """Asks for `url` from byte `offset` on; the server may answer from an earlier byte."""
    # Some servers turn urllib's own name away.
    headers = {"User-Agent": "star_jax-fetch"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    request = urllib.request.Request(url, headers=headers)
    response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    if response.headers.get_content_type() == "text/html":
        response.close()  # the sign-in page of a hotel or a company, most often
        raise BrokenTransfer("a web page came instead of the file")
    return response


def resume_url(url: str, part: Path) -> http.client.HTTPResponse | None:
    """Asks for what `part` lacks; returns None if that is nothing."""
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


def transfer(url: str, part: Path, meter: Meter) -> int | None:
    """Writes what `part` lacks behind it; returns the size of the whole file if stated.

    Raises:
      BrokenTransfer: the network's fault; what came before stays in `part`.
      FetchError: the disk has too little room.
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
        check_room(part, (total or start) - start)
        with open(part, "ab") as file:
            if start < have:
                file.truncate(start)
            while chunk := read_chunk(response):
                file.write(chunk)
                meter.show(file.tell(), total)
    return total


def read_chunk(response: http.client.HTTPResponse) -> bytes:
    """Returns the next bytes of the answer, none at its end."""
    with network():
        return response.read1(CHUNK)


def check_room(part: Path, needed: int) -> None:
    """Raises FetchError if the disk of `part` has fewer than `needed` bytes left."""
    free = shutil.disk_usage(part.parent).free
    if free < needed:
        raise FetchError(
            f"{part.parent}: {human_size(needed)} are still to come and the disk has "
            f"{human_size(free)} left; free some room, or choose another disk with --dir"
        )


def download(url: str, part: Path, meter: Meter) -> None:
    """Fills `part`; a connection that breaks is taken up again for as long as bytes come.

    Raises:
      BrokenTransfer: a try that brought nothing.
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


def size_of(path: Path) -> int:
    """Returns the size of a file, 0 if there is none."""
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
    """Returns {file name: sha256} of what earlier runs brought into `folder`.

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
    fresh = target.parent / f"{CHECKSUMS}.part"
    fresh.write_text(json.dumps(recorded, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    fresh.replace(target.parent / CHECKSUMS)


def fetch(artefact: Artefact, directory: Path) -> str:
    """Leaves one file below `directory`, checked, and returns a line about it.

    Raises:
      FetchError: it cannot be had, or is not what it should be.
    """
    target = directory / artefact.path
    recorded = recorded_checksums(target.parent).get(target.name)
    expected = artefact.sha256 or recorded
    origin = "published" if artefact.sha256 else f"in {target.parent / CHECKSUMS}"
    is_there = target.exists()
    file = target if is_there else downloaded_part(artefact.url, target)
    found = sha256_of(file)
    if expected not in (None, found):
        mismatch = f"sha256 {found}, not the one {origin}, {expected}"
        if is_there:
            raise FetchError(f"{target} has {mismatch}; move it away and run this again")
        file.unlink()
        raise FetchError(f"{artefact.url}: what came has {mismatch}, and was removed")
    if not is_there:
        file.replace(target)
    if expected is None:
        record_checksum(target, found)
    what = "is there" if is_there else "downloaded"
    return f"{target}: {what}, {size_of(target):,} bytes, {verdict(artefact, recorded, found)}"


def verdict(artefact: Artefact, recorded: str | None, found: str) -> str:
    """Says what a file's checksum was compared with."""
    if artefact.sha256:
        return "sha256 as published"
    if recorded:
        return f"sha256 as in {CHECKSUMS} (no checksum published)"
    return f"no checksum published; sha256 of what came: {found}, now in {CHECKSUMS}"


def downloaded_part(url: str, target: Path) -> Path:
    """Downloads to a file beside `target`, and returns that.

    Raises:
      FetchError: the network's fault; what came stays for the next run.
    """
    part = target.parent / f"{target.name}.part"
    part.parent.mkdir(parents=True, exist_ok=True)
    try:
        with contextlib.closing(Meter(target.name)) as meter:
            download(url, part, meter)
    except BrokenTransfer as error:
        raise FetchError(
            f"{url}: {error}; run this again to go on, or download it elsewhere and put it at "
            f"{target}"
        ) from error
    return part


def plan(artefacts: Sequence[Artefact], directory: Path) -> str:
    """Returns what `--dry_run` prints: size, target and address of each file."""
    lines = []
    for artefact in artefacts:
        target = directory / artefact.path
        if target.exists():
            state = " (is there)"
        else:
            state = "" if artefact.sha256 else " (no checksum published)"
        lines.append(f"{stated_size(artefact):>18}  {target}  from {artefact.url}{state}")
    return "\n".join(["would fetch:", *lines, "nothing was downloaded"])


class Parser(argparse.ArgumentParser):
    """Tells of a wrong command line in one line."""

    def error(self, message: str) -> None:
        """Ends the program with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def parse(argv: Sequence[str], table: Mapping[str, tuple[Artefact, ...]]) -> argparse.Namespace:
    """Reads the command line; ends the program if it is wrong."""
    parser = Parser(
        prog="fetch.py",
        usage="python launch/fetch.py WHAT [WHAT ...] [--dir DIR] [--dry_run]",
        description="Downloads data sets, prompts and weights, with checksums.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("what", metavar="WHAT", nargs="+", choices=list(table), help="see below")
    parser.add_argument("--dir", default="data", help="where the files go (default: data)")
    parser.add_argument("--dry_run", action="store_true", help="show what it would fetch")
    return parser.parse_args(argv)


def main(argv: Sequence[str], table: Mapping[str, tuple[Artefact, ...]] = TABLE) -> int:
    """Runs one command line; returns 0, 1 if a file cannot be had, 130 for Ctrl-C."""
    options = parse(argv, table)
    directory = Path(options.dir).expanduser()
    artefacts = tuple(dict.fromkeys(artefact for what in options.what for artefact in table[what]))
    try:
        if options.dry_run:
            print(plan(artefacts, directory))
            return 0
        for artefact in artefacts:
            print(fetch(artefact, directory), flush=True)
            if artefact.hint:
                path = directory / artefact.path
                print(artefact.hint.format(path=path, folder=path.parent), flush=True)
    except FetchError as error:
        return fail(str(error), 1)
    except OSError as error:
        where = error.filename or directory
        way_out = "free some room, or choose another folder with --dir"
        return fail(f"{where}: {error.strerror or error}; {way_out}", 1)
    except KeyboardInterrupt:
        return fail("stopped; the same command goes on from here", 130)
    return 0


def fail(message: str, exit_code: int) -> int:
    """Prints an error and returns the exit code."""
    print(f"fetch.py: error: {message}", file=sys.stderr)
    return exit_code
