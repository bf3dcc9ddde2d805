"""Shows the progress of one file."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

from star_launch.text import human_size, human_time

BAR_SECONDS = 0.1  # between two updates of a bar, at least
LOG_SECONDS = 10  # between two lines of a log, at least;
LOG_SHARE = 0.1  # a line comes after this share of the file,
LOG_SILENCE_SECONDS = 60  # or after this time


class Meter:
    """Shows a bar on a terminal, and a plain line now and then in a log."""

    def __init__(
        self,
        name: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._name, self._clock = name, clock
        self._stream = stream or sys.stderr
        self._is_bar = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        # Time and bytes of the first call, and of the last one shown.
        self._start = self._shown = None

    def show(self, done: int, total: int | None) -> None:
        """Reports that `done` of `total` bytes are complete; None if the total is unknown."""
        now = self._clock()
        if self._start is None:  # bytes of an earlier run do not count for the speed
            self._start = self._shown = (now, done)
            return
        silence, news = now - self._shown[0], done - self._shown[1]
        if self._is_bar:
            due = silence >= BAR_SECONDS
        else:
            due = silence >= LOG_SILENCE_SECONDS or (
                silence >= LOG_SECONDS and total is not None and news >= LOG_SHARE * total
            )
        if due:
            self._shown = (now, done)
            self._write(self._line(done, total, now))

    def close(self) -> None:
        """Removes the bar."""
        if self._is_bar and self._shown != self._start:
            self._stream.write("\r\033[K")
            self._stream.flush()

    def _line(self, done: int, total: int | None, now: float) -> str:
        start, before = self._start
        rate = (done - before) / (now - start) if now > start else 0
        parts = [human_size(done) + (f" of {human_size(total)}" if total else "")]
        if rate:
            parts.append(f"{human_size(round(rate))}/s")
            if total:
                parts.append(f"{human_time((total - done) / rate)} left")
        filled = 20 * done // total if total else 0
        bar = f"[{'#' * filled:20}] " if self._is_bar and total else ""
        return f"{self._name}: {bar}{', '.join(parts)}"

    def _write(self, line: str) -> None:
        if self._is_bar:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\033[K{line[:width]}")
        else:
            self._stream.write(f"{line}\n")
        self._stream.flush()
