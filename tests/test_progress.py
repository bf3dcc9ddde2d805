"""Progress of long stages in a log and on a terminal."""

import io
import time

import pytest
from rich.console import Console

from star_jax.run import progress as progress_lib
from star_jax.run.progress import log, progress


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock() -> Clock:
    return Clock()


def use(console: Console, monkeypatch) -> Console:
    monkeypatch.setattr(progress_lib, "CONSOLE", console)
    return console


@pytest.fixture
def console(monkeypatch, clock) -> Console:
    """A log; narrow, since its lines must not wrap."""
    return use(Console(file=io.StringIO(), width=40, get_time=clock), monkeypatch)


def lines_of(console: Console) -> list[str]:
    return console.file.getvalue().splitlines()


def wait_for(console: Console, text: str) -> None:
    """Returns once the bar, which a thread draws ten times a second, shows `text`."""
    deadline = time.monotonic() + 20
    while text not in console.file.getvalue():
        assert time.monotonic() < deadline, console.file.getvalue()
        time.sleep(0.01)


def test_log_has_a_line_at_start_on_the_way_and_at_the_end(console, clock):
    with progress("generate", 10_000, "questions") as advance:
        clock.now += 20
        advance(2560)
        clock.now += 20
        advance(7440)
    assert lines_of(console) == [
        "generate: 0/10,000 questions",
        "generate: 2,560/10,000 questions, 128/s, 58 s left",
        "generate: 10,000/10,000 questions, 250/s, took 40 s",
    ]


def test_fast_stage_has_only_start_and_end(console, clock):
    with progress("evaluate", 100, "questions") as advance:
        for _ in range(100):
            clock.now += 0.05  # every tenth of the work is done within 10 s
            advance(1)
    assert lines_of(console) == [
        "evaluate: 0/100 questions",
        "evaluate: 100/100 questions, 20/s, took 5 s",
    ]


def test_log_lines_are_far_apart_and_a_slow_stage_shows_life(console, clock):
    with progress("train", 1000, "steps") as advance:
        for _ in range(500):  # 2 s a step: a tenth takes 200 s, silence ends after 60 s
            clock.now += 2
            advance(1)
    lines = lines_of(console)
    assert lines[1] == "train: 30/1,000 steps, 0.5/s, 32 min 20 s left"
    assert lines[2].startswith("train: 60/1,000 steps")
    assert lines[-1] == "train: 500/1,000 steps, 0.5/s, took 16 min 40 s"
    assert len(lines) == 2 + 1000 // 60


def test_each_tenth_has_a_line_when_it_takes_long_enough(console, clock):
    with progress("train", 100, "steps") as advance:
        for _ in range(100):
            clock.now += 2
            advance(1)
    done = [int(line.removeprefix("train: ").split("/")[0]) for line in lines_of(console)]
    assert done == [*range(0, 100, 10), 100]


def test_a_stage_that_fails_says_how_far_it_came(console, clock):
    with (
        pytest.raises(ZeroDivisionError),
        progress("train", 40, "steps") as advance,
    ):
        clock.now += 4
        advance(8)
        raise ZeroDivisionError
    assert lines_of(console)[-1] == "train: 8/40 steps, 2/s, took 4 s"


def test_nothing_to_do_is_no_error(console, clock):
    with progress("rationalize", 0, "questions"):
        pass
    assert lines_of(console)[-1] == "rationalize: 0/0 questions, took 0 s"


def test_terminal_shows_a_bar_with_rate_and_time_left_and_log_lines_above_it(monkeypatch, clock):
    terminal = Console(file=Terminal(), width=120, force_terminal=True, get_time=clock)
    console = use(terminal, monkeypatch)
    with progress("generate [1]", 10_000, "questions") as advance:
        clock.now += 10
        advance(2500)
        wait_for(console, "2,500/10,000 questions, 250/s, 30 s left")
        log("kept [3] of :100:")
        during = console.file.getvalue()
        clock.now += 10
        advance(7500)
    text = console.file.getvalue()
    assert "generate [1]" in text  # no markup
    message = during.rindex("kept [3] of :100:")
    assert "2,500/10,000" in during[message:]  # the bar is drawn again below the message
    assert "10,000/10,000 questions, 500/s, took 20 s" in text
    assert "generate [1]: " not in text  # no lines of a log next to the bar


def test_log_is_verbatim_and_unwrapped(console):
    message = "[bold] /a/path " + "x" * 100 + " :smile: 3.14"
    log(message)
    assert console.file.getvalue() == message + "\n"


def test_default_console_is_stderr(capsys):
    log("hello")
    with progress("stage", 1, "steps") as advance:
        advance(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("hello\nstage: 0/1 steps\nstage: 1/1 steps")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (9, "9 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (3780, "1 h 3 min")],
)
def test_duration(seconds, text):
    assert progress_lib._duration(seconds) == text
