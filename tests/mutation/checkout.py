"""A copy of the checkout in which edits are applied, and tests run, one at a time."""

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.mutation.edit import Edit

ROOT = Path(__file__).parents[2]
NOT_COPIED = (".git", ".venv", ".pytest_cache", ".hypothesis", ".ruff_cache", "__pycache__")
FAILURE = re.compile(r"^(?:FAILED|ERROR) (?:tests/)?(\S+)", re.MULTILINE)
PASSED, FAILED, INTERRUPTED = 0, 1, 2  # exit codes of pytest; interrupted: an import failed


class Outcome(NamedTuple):
    """What the tests said."""

    code: int | None  # pytest's exit code; None for a run that exceeded its time
    seconds: float
    by: str  # the test that failed
    output: str

    @property
    def passed(self) -> bool:
        """Whether all tests passed."""
        return self.code == PASSED

    @property
    def failed(self) -> bool:
        """Whether a test failed or could not be imported."""
        return self.code in (FAILED, INTERRUPTED)


class Checkout:
    """A copy of the checkout, and a process that runs its tests."""

    def __init__(self, path: Path, cache: Path, seconds: float):
        """`cache` keeps JAX's compiled programs; `seconds` is the time limit of a run."""
        self._path, self._seconds = path, seconds
        shutil.copytree(ROOT, path, ignore=shutil.ignore_patterns(*NOT_COPIED))
        environment = {
            "JAX_PLATFORMS": "cpu",
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "EPATH_USE_TF": "false",
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
            "PYTHONPATH": str(path),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # finding them takes longer than most tests
        }
        self._server = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("server.py")],
            cwd=path,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def close(self) -> None:
        """Ends the process."""
        self._server.communicate()

    def test(self, selection: Sequence[str], seconds: float | None = None) -> Outcome:
        """Runs tests on the files as they are now, up to the first failure."""
        output = self._path.with_suffix(".log")
        arguments = ["-x", "-q", "--tb=line", "-p", "no:cacheprovider", *selection]
        request = {
            "arguments": arguments, "seconds": seconds or self._seconds, "output": str(output),
        }  # fmt: skip
        assert self._server.stdin and self._server.stdout
        start = time.monotonic()
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        code = json.loads(self._server.stdout.readline())
        said = output.read_text(errors="replace")
        by = FAILURE.search(said)
        return Outcome(code, time.monotonic() - start, by[1] if by else "", said)

    def test_edited(self, edit: Edit) -> Outcome:
        """Applies an edit, runs its tests, and restores the file.

        Raises:
          Stale: the edit does not apply.
        """
        file = edit.path(self._path)
        original, times = file.read_bytes(), file.stat()
        text = edit.applied(self._path)
        try:
            _write(file, text.encode())
            return self.test(edit.selection)
        finally:
            _write(file, original)
            os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))


@contextlib.contextmanager
def checkouts(n: int, cache: Path | None, seconds: float) -> Iterator[list[Checkout]]:
    """`n` copies in a temporary directory, which is removed at the end.

    Args:
      n: number of copies, which can be tested at the same time.
      cache: of compiled programs; None for a new one that they share.
      seconds: time limit of a run.
    """
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder, contextlib.ExitStack() as stack:
        copies = [
            Checkout(Path(folder, f"copy_{i}"), cache or Path(folder, "compiled"), seconds)
            for i in range(n)
        ]
        for copy in copies:
            stack.callback(copy.close)
        yield copies


def _write(file: Path, content: bytes) -> None:
    """Replaces a file, and removes its bytecode, which Python knows by size and second only."""
    file.write_bytes(content)
    Path(importlib.util.cache_from_source(file)).unlink(missing_ok=True)
