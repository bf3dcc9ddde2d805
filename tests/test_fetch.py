import errno
import hashlib
import http.client
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from star_launch.fetch import command, download
from star_launch.fetch.meter import Meter
from star_launch.fetch.table import TABLE, Artefact, Bundle
from star_launch.text import first_few, human_size, human_time

ROOT = Path(__file__).parent.parent

DATA = os.environ.get("STAR_JAX_DATA")
CONTENT = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path, and misbehaves on request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.status = CONTENT, True, None
        self.content_type, self.states_length = "application/octet-stream", True
        self.cut_after = []  # for each of the next requests: after so many bytes it breaks
        self.stall_after = None
        self.asked = []  # the Range header of each request
        self.url = f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append(asked)
        if server.status:
            return self.send_error(server.status)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        body, size = server.content[start:], len(server.content)
        if not server.ranges:
            start, body = 0, server.content
        if start >= size:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if asked and server.ranges else 200)
        if asked and server.ranges:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Type", server.content_type)
        if server.states_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.stall_after is not None:
            self.wfile.write(body[: server.stall_after])
            time.sleep(30)
        self.wfile.write(body[: server.cut_after.pop(0)] if server.cut_after else body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()


class Machine:
    """Runs fetch.py on a table of one file, in the test's own folder."""

    def __init__(self, folder, server, capsys):
        self.folder, self.server, self.capsys = folder / "out", server, capsys
        self.target = self.folder / "sub/file.bin"
        self.part = self.folder / "sub/file.bin.part"
        self.record = self.folder / "sub/checksums.json"

    def have(self, path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def run(self, *options, url=None, sha256=SHA256, **artefact):
        file = Artefact("sub/file.bin", url or self.server.url + "/f", sha256, **artefact)
        code = command.main(
            ["it", "--dir", str(self.folder), *options], {"it": Bundle("", (file,))}
        )
        self.out, self.err = self.capsys.readouterr()
        return code

    def fetches(self, **artefact):
        """Returns the Range headers of a run that must leave CONTENT behind, and no part."""
        before = len(self.server.asked)
        assert self.run(**artefact) == 0, self.err
        assert self.target.read_bytes() == self.server.content
        assert not self.part.exists()
        return self.server.asked[before:]

    def fails(self, *options, code=1, **artefact):
        """Returns the one line of a run that must fail."""
        assert self.run(*options, **artefact) == code
        (line,) = self.err.splitlines()
        assert line.startswith("fetch.py: error: ")
        return line


@pytest.fixture
def machine(tmp_path, server, capsys):
    return Machine(tmp_path, server, capsys)


def test_the_second_run_checks_and_downloads_nothing(machine):
    assert machine.fetches() == [None]
    assert (
        f"{machine.target}: downloaded, 300,000 bytes, sha256 matches the published one"
        in machine.out
    )
    assert machine.fetches() == []
    assert "exists" in machine.out
    assert sorted(p.name for p in machine.target.parent.iterdir()) == ["file.bin"]


def test_an_interrupted_download_resumes(machine):
    machine.have(machine.part, CONTENT[:100_000])
    assert machine.fetches() == ["bytes=100000-"]


def test_a_server_without_ranges_starts_again(machine):
    machine.server.ranges = False
    machine.have(machine.part, CONTENT[:100_000])
    assert machine.fetches() == ["bytes=100000-"]


def test_after_a_broken_connection_the_same_run_resumes(machine):
    machine.server.cut_after = [1_000, 5_000]
    assert machine.fetches() == [None, "bytes=1000-", "bytes=6000-"]


def test_a_file_without_stated_length_is_complete_when_it_ends(machine):
    machine.server.states_length = False
    assert machine.fetches() == [None]


def test_what_came_is_kept_for_the_next_run_when_nothing_more_comes(machine):
    machine.server.cut_after = [1_000, 0]
    line = machine.fails()
    assert "the connection ended after 1,000 of 300,000 bytes" in line
    assert machine.server.url in line and f"put it at {machine.target}" in line
    assert machine.part.read_bytes() == CONTENT[:1_000] and not machine.target.exists()
    assert machine.fetches() == ["bytes=1000-"]


def test_a_server_without_ranges_that_always_breaks_is_given_up(machine):
    machine.server.ranges, machine.server.cut_after = False, [1_000] * 9
    machine.fails()
    assert len(machine.server.asked) == 2


def test_a_complete_part_is_not_downloaded_again(machine):
    machine.have(machine.part, CONTENT)
    machine.fetches()
    assert machine.server.asked == ["bytes=300000-"]


def test_a_part_longer_than_the_file_is_thrown_away(machine):
    machine.have(machine.part, CONTENT + b"more")
    assert machine.fetches() == ["bytes=300004-", None]


@pytest.mark.parametrize("known", [True, False])
def test_a_wrong_checksum_leaves_nothing_behind(machine, known):
    machine.server.content = b"something else"
    if not known:  # then the record of an earlier run counts as much as a published one
        machine.have(machine.record, json.dumps({"file.bin": SHA256}).encode())
    line = machine.fails(sha256=SHA256 if known else None)
    assert SHA256 in line and hashlib.sha256(b"something else").hexdigest() in line
    assert ("published" if known else str(machine.record)) in line
    assert not machine.target.exists() and not machine.part.exists()


def test_a_file_of_the_user_is_verified_and_never_changed(machine):
    machine.have(machine.target, CONTENT)
    assert machine.fetches() == []
    machine.have(machine.target, b"my own")
    line = machine.fails()
    assert SHA256 in line and "move it away" in line
    assert machine.target.read_bytes() == b"my own" and machine.server.asked == []


def test_without_a_published_checksum_the_first_one_seen_is_kept(machine):
    machine.have(machine.record, b'{"other": "0"}')
    machine.fetches(sha256=None)
    assert f"no published checksum; sha256 {SHA256} saved" in machine.out
    assert json.loads(machine.record.read_text()) == {"other": "0", "file.bin": SHA256}
    stamp = machine.record.stat().st_mtime_ns
    assert machine.fetches(sha256=None) == []
    assert "sha256 matches checksums.json" in machine.out
    assert machine.record.stat().st_mtime_ns == stamp
    machine.have(machine.target, b"altered")
    assert SHA256 in machine.fails(sha256=None)


@pytest.mark.parametrize("text", ["[1]", "{", "\xff"])
def test_an_unreadable_record_is_one_line(machine, text):
    machine.have(machine.record, text.encode("latin-1"))
    assert str(machine.record) in machine.fails(sha256=None)
    assert machine.server.asked == []


@pytest.mark.parametrize("status", [403, 404, 500])
def test_an_http_error_names_the_address_and_the_way_out(machine, status):
    machine.server.status = status
    line = machine.fails()
    assert f"{machine.server.url}/f: the server answered {status} " in line
    assert f"download it elsewhere and put it at {machine.target}" in line
    assert len(machine.server.asked) == 1


def test_a_web_page_is_not_taken_for_a_file(machine):
    machine.server.content_type = "text/html; charset=utf-8"
    assert "the server sent a web page instead of the file" in machine.fails(sha256=None)
    assert not machine.record.exists()


def test_a_refused_connection_is_one_line(machine):
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    assert "Connection refused" in machine.fails(url=f"http://127.0.0.1:{port}/f")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (urllib.error.URLError(socket.gaierror(-2, "unknown")), "is this machine offline?"),
        (urllib.error.URLError(TimeoutError("timed out")), "sent nothing for 60 s"),
        (TimeoutError("timed out"), "sent nothing for 60 s"),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), "Connection reset"),
        (urllib.error.URLError("unknown\nurl type: x"), "unknown url type: x"),
        (http.client.RemoteDisconnected("gone"), "gone"),
        (http.client.IncompleteRead(b""), "IncompleteRead"),
    ],
)
def test_network_errors_are_explained_in_a_few_words(error, words):
    text = download.explain(error)
    assert words in text and "\n" not in text


def test_too_little_room_is_seen_before_anything_is_written(machine, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(299_999))
    line = machine.fails()
    assert "300.0 kB are missing" in line and "--dir" in line
    machine.have(machine.part, CONTENT[:1])
    machine.fetches()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
def test_a_full_disk_is_one_line(machine):
    machine.part.parent.mkdir(parents=True)
    machine.part.symlink_to("/dev/full")
    line = machine.fails()
    assert "No space left on device" in line and "--dir" in line


def test_a_file_in_the_place_of_the_folder_is_one_line(machine):
    machine.have(machine.folder, b"")
    assert str(machine.folder) in machine.fails()


def test_ctrl_c_leaves_what_has_come_for_the_next_run(machine):
    machine.server.stall_after = 200_000
    script = (
        "import signal, sys; from star_launch.fetch import command\n"
        "from star_launch.fetch.table import Artefact, Bundle\n"
        # These tests may be a shell's background job, whose children ignore Ctrl-C.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"file = Artefact('sub/file.bin', '{machine.server.url}/f', '{SHA256}')\n"
        "sys.exit(command.main(sys.argv[1:], {'it': Bundle('', (file,))}))"
    )
    running = subprocess.Popen(
        [sys.executable, "-S", "-c", script, "it", "--dir", str(machine.folder)],
        cwd=ROOT / "launch",
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while download.size_of(machine.part) < 200_000 and time.monotonic() < deadline:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=10)[1] == (
        "fetch.py: error: interrupted; the same command resumes\n"
    )
    assert running.returncode == 130
    machine.server.stall_after = None
    assert machine.fetches() == ["bytes=200000-"]


@pytest.mark.parametrize(
    ("artefact", "words"),
    [
        ({"size": 300_000}, "300,000 bytes"),
        ({"rounded_size": "24.2 GB"}, "about 24.2 GB"),
        ({}, "size unknown"),
    ],
)
def test_a_dry_run_shows_size_target_and_address_and_touches_nothing(machine, artefact, words):
    assert machine.run("--dry_run", **artefact) == 0
    assert f"{words}  {machine.target}  from {machine.server.url}/f\n" in machine.out
    assert machine.err == "" and machine.server.asked == [] and not machine.folder.exists()
    machine.run("--dry_run", sha256=None, **artefact)
    assert "/f (no published checksum)\n" in machine.out
    machine.have(machine.target, CONTENT)
    machine.run("--dry_run", **artefact)
    assert "/f (exists)\n" in machine.out


def test_the_script_needs_no_packages_and_dry_runs_the_real_table(tmp_path):
    command = [sys.executable, "-S", "-E", str(ROOT / "launch/fetch.py"), "--dry_run"]
    done = subprocess.run([*command, *TABLE], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    files = {artefact for bundle in TABLE.values() for artefact in bundle.files}
    lines = done.stdout.splitlines()[1:-1]
    assert len(lines) == len(files)
    for file in files:
        assert sum(f"data/{file.path}  from {file.url}" in line for line in lines) == 1
    assert not any("size unknown" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_sound():
    files = {artefact for bundle in TABLE.values() for artefact in bundle.files}
    assert len({file.path for file in files}) == len({file.url for file in files}) == len(files)
    for file in files:
        assert file.url.startswith("https://")
        assert not Path(file.path).is_absolute() and ".." not in Path(file.path).parts
        assert file.url.endswith("/" + Path(file.path).name)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    data = sum((TABLE[what].files for what in ("commonsense_qa", "gsm8k", "paper_prompts")), ())
    assert TABLE["all_data"].files == data
    assert all(file.sha256 and file.size for file in data)


@pytest.mark.skipif(not DATA, reason="STAR_JAX_DATA names no folder with the data")
def test_the_table_describes_the_published_data():
    there = [file for file in TABLE["all_data"].files if (Path(DATA) / file.path).exists()]
    assert len(there) >= 10
    for file in there:
        content = (Path(DATA) / file.path).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (file.size, file.sha256)


def test_a_file_named_twice_is_fetched_once_and_its_hint_is_shown(tmp_path, server, capsys):
    file = Artefact("a/b", server.url + "/b", SHA256, hint="tar -xf {path} -C {folder}")
    table = {"one": Bundle("", (file,)), "two": Bundle("", (file,))}
    assert command.main(["one", "two", "--dir", str(tmp_path)], table) == 0
    assert server.asked == [None]
    assert capsys.readouterr().out.splitlines()[1:] == [f"tar -xf {tmp_path}/a/b -C {tmp_path}/a"]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], "WHAT"),
        (["gsm9k"], "gsm9k"),
        (["gsm8k", "--dry"], "--dry"),
        (["gsm8k", "--dir"], "--dir"),
    ],
)
def test_a_wrong_command_line_is_one_line(argv, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        command.main(argv)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fetch.py: error: ") and words in line and "--help" in line


class Screen(io.StringIO):
    def isatty(self):
        return True


def shown(stream, steps, total):
    """Returns what a meter shows of (time, bytes done) steps."""
    times = iter([now for now, _ in steps])
    meter = Meter("file", stream, lambda: next(times))
    for _, done in steps:
        meter.show(done, total)
    meter.close()
    return stream.getvalue()


def test_a_log_gets_plain_lines_now_and_then():
    # 40 MB came in an earlier run; then 2 MB a second, asked a hundred times a second.
    steps = [(n / 100, 40_000_000 + 20_000 * n) for n in range(3001)]
    assert shown(io.StringIO(), steps, 100_000_000).splitlines() == [
        "file: 60.0 MB of 100.0 MB, 2.0 MB/s, 20 s left",
        "file: 80.0 MB of 100.0 MB, 2.0 MB/s, 10 s left",
        "file: 100.0 MB of 100.0 MB, 2.0 MB/s, 0 s left",
    ]


def test_a_log_shows_life_in_a_slow_download_and_nothing_of_a_short_one():
    assert (
        shown(io.StringIO(), [(0, 0), (59, 1), (60, 1_200)], None) == "file: 1.2 kB, 20 bytes/s\n"
    )
    assert shown(io.StringIO(), [(0, 0), (1, 500), (2, 1_000)], 1_000) == ""


def test_a_terminal_gets_one_line_that_is_updated_and_removed(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    text = shown(Screen(), [(0, 0), (0.05, 10), (1, 500), (1.05, 600), (2, 1_000)], 1_000)
    half = f"file: [{'#' * 10}{' ' * 10}] 500 bytes of 1.0 kB, 500 bytes/s, 1 s left"
    assert text.split("\r\033[K")[1] == half[:79]
    assert text.count("\r\033[K") == 3 and text.endswith("\r\033[K") and "\n" not in text


def test_help_lists_what_can_be_downloaded(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"  {what} " in text and bundle.about in text for what, bundle in TABLE.items())


def test_sizes_times_and_lists_for_people():
    assert first_few(["a", "b"], 2) == "a, b" and first_few(["a", "b", "c"], 1) == "a and 2 more"
    assert [human_size(n) for n in (999, 1_000, 3_785_890, 24_203_531_136)] == [
        "999 bytes",
        "1.0 kB",
        "3.8 MB",
        "24.2 GB",
    ]
    assert [human_time(s) for s in (9.4, 125, 3_780)] == ["9 s", "2 min 5 s", "1 h 3 min"]
