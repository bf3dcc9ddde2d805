"""What a run prints: a bar for each long stage, or lines in a log, and aligned tables."""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

LOG_SECONDS = 10  # lines of one stage in a log are at least this far apart,
LOG_SHARE = 0.1  # and follow each such share of the work,
LOG_SILENCE_SECONDS = 60  # or this much time, so that a slow stage still shows progress

CONSOLE = Console(stderr=True)  # shared by bars and `log`, so that lines do not overwrite bars


def log(message: str) -> None:
    """Prints `message` as it is, above a live bar if there is one."""
    CONSOLE.print(message, markup=False, highlight=False, emoji=False, soft_wrap=True)


def aligned(
    cells: Sequence[Sequence[str]], *, left: Sequence[int] = (), widths: Sequence[int] = ()
) -> list[str]:
    """One line of text for each row of cells.

    Columns align right, those in `left` (from the end if negative) left. `widths` are the least.
    """
    least = widths or [0] * len(cells[0])
    columns = []
    for i, (column, width) in enumerate(zip(zip(*cells, strict=True), least, strict=True)):
        width = max(width, *map(len, column))
        is_left = i in left or i - len(least) in left
        columns.append([f"{cell:{'<' if is_left else '>'}{width}}" for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


@contextlib.contextmanager
def progress(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Yields `advance(n)`, which reports `n` more of `total` units as done.

    On a terminal this is a bar; in a log it is a plain line now and then, such as
    `generate: 2,560/10,000 questions, 812/s, 9 s left`.
    """
    on_terminal = CONSOLE.file.isatty() and not CONSOLE.is_dumb_terminal
    with (_bar if on_terminal else _lines)(description, total, unit) as advance:
        yield advance


@contextlib.contextmanager
def _bar(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    columns = TextColumn("{task.description}", markup=False), BarColumn(), _StatusColumn(unit)
    with Progress(*columns, console=CONSOLE) as bar:
        task = bar.add_task(description, total=total)
        yield lambda n: bar.advance(task, n)


@contextlib.contextmanager
def _lines(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    clock = CONSOLE.get_time
    start = logged_at = clock()
    done = logged_done = 0

    def advance(n: int) -> None:
        nonlocal done, logged_done, logged_at
        done += n
        now = clock()
        silence = now - logged_at
        due = done - logged_done >= LOG_SHARE * total or silence >= LOG_SILENCE_SECONDS
        if due and silence >= LOG_SECONDS and done < total:
            log(f"{description}: {_status(done, total, unit, now - start)}")
            logged_done, logged_at = done, now

    log(f"{description}: {_status(0, total, unit, 0)}")
    try:
        yield advance
    finally:  # also when the stage fails: the log then says how far it got
        log(f"{description}: {_status(done, total, unit, clock() - start, ended=True)}")


class _StatusColumn(ProgressColumn):
    """Shows on the bar what the log shows in a line."""

    def __init__(self, unit: str):
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        elapsed = (task.finished_time if task.finished else task.elapsed) or 0
        counts = int(task.completed), int(task.total or 0)
        return Text(_status(*counts, self._unit, elapsed, ended=task.finished))


def _status(done: int, total: int, unit: str, seconds: float, ended: bool = False) -> str:
    """Count, rate and time, e.g. `2,560/10,000 questions, 812/s, 9 s left`."""
    parts = [f"{done:,}/{total:,} {unit}"]
    rate = done / seconds if seconds > 0 else 0
    if rate > 0:
        parts.append(f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s")
    if ended:
        parts.append(f"took {_duration(seconds)}")
    elif rate > 0:
        parts.append(f"{_duration(max(total - done, 0) / rate)} left")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    """Two units at most: 9 -> "9 s", 125 -> "2 min 5 s", 3780 -> "1 h 3 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
