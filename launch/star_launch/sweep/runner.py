"""The runs of a sweep as processes: so many at once, each with its log, and what became of them.

A run's log is also its lock: the process holds it open and locked, so a run that goes on when the
sweep was killed is seen by the next one, which waits for its end before it starts the run again.

    DIR/NAME/       MODEL_DIR of a run          DIR/NAME.log    what it printed
    DIR/NAME.done   written when it ended well: its digest and its seconds
"""

import contextlib
import dataclasses
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from star_launch.fetch.meter import human_time

POLL_SECONDS = 0.2
GRACE_SECONDS = 20  # for a run to end after Ctrl-C, before it is killed
ERROR = re.compile(r"(?:star_jax|tpu_vm\.py): error: (.*)")
MAX_REASON = 400  # characters
# XLA's, OpenMP's and BLAS's threads; on Linux the cores that a run may use say the same.
THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

FINISHED, FAILED, NOT_RUN = "finished", "failed", "not run"


@dataclasses.dataclass(frozen=True)
class Job:
    """A run as a process."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]  # jobs that must have ended well before
    digest: str  # of all that its result depends on
    is_point: bool = True  # the others prepare, and take another time


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    state: str
    seconds: float = 0.0
    reason: str = ""  # of a failure, in one line


class Interrupted(Exception):
    """Ctrl-C, or the machine wants the sweep to end; its runs have ended."""


@dataclasses.dataclass
class _Attempt:
    """A job that has a slot; without a process it waits for one of an earlier sweep to end."""

    job: Job
    slot: int
    process: subprocess.Popen | None = None
    began: float = 0.0
    log_start: int = 0  # where this attempt's words begin


@dataclasses.dataclass
class Runner:
    """Runs jobs in a directory; `slots` has the cores of each that may run at once, or ()."""

    directory: Path
    slots: Sequence[Sequence[int]]
    environment: Mapping[str, str]
    say: Callable[[str], None]

    def __post_init__(self):
        self._outcomes: dict[str, Outcome] = {}
        self._running: list[_Attempt] = []

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Runs what is not finished yet; a failure stops nothing but what needs it.

        Raises:
          Interrupted: by a signal.
        """
        waiting = []
        for job in jobs:
            seconds = finished_seconds(self.directory, job)
            if seconds is None:
                waiting.append(job)
            else:
                self._outcomes[job.name] = Outcome(FINISHED, seconds)
        if len(waiting) < len(jobs):
            self.say(f"{len(jobs) - len(waiting)} of {len(jobs)} runs are finished already")
        with _signals() as signals:
            while (waiting := self._fill_slots(waiting)) or self._running:
                time.sleep(POLL_SECONDS)
                if signals:
                    self._end_all(signals)
                for attempt in list(self._running):
                    self._look_at(attempt, jobs)
        return self._outcomes

    def _fill_slots(self, waiting: Sequence[Job]) -> list[Job]:
        """Starts what can start; returns the rest."""
        left = []
        for job in waiting:
            needed = [self._outcomes.get(name) for name in job.needs]
            lost = [
                name
                for name, outcome in zip(job.needs, needed, strict=True)
                if outcome is not None and outcome.state != FINISHED
            ]
            if lost:
                self._outcomes[job.name] = Outcome(NOT_RUN, reason=f"{lost[0]} failed")
                self.say(f"{job.name} is not run, since {lost[0]} failed")
            elif None in needed or len(self._running) == len(self.slots):
                left.append(job)
            else:
                taken = {attempt.slot for attempt in self._running}
                slot = next(i for i in range(len(self.slots)) if i not in taken)
                attempt = _Attempt(job, slot)
                self._running.append(attempt)
                if not self._start(attempt):
                    self.say(f"{job.name} goes on from a sweep that was cut off; waiting for it")
        return left

    def _start(self, attempt: _Attempt) -> bool:
        """Starts the process, unless another one has the log."""
        job, cores = attempt.job, self.slots[attempt.slot]
        with open(self.directory / f"{job.name}.log", "ab") as log:
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            attempt.log_start = log.seek(0, os.SEEK_END)
            log.write(f"$ {shlex.join(job.command)}\n".encode())
            log.flush()
            attempt.began = time.monotonic()
            with _on_cores(cores):
                attempt.process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**self.environment, **_threads(cores, self.environment)},
                    start_new_session=True,  # Ctrl-C comes from here alone, to all that it started
                )
        return True

    def _look_at(self, attempt: _Attempt, jobs: Sequence[Job]) -> None:
        """Takes down the end of an attempt, if it has come."""
        job = attempt.job
        if attempt.process is None:
            self._start(attempt)
            return
        code = attempt.process.poll()
        if code is None:
            return
        self._running.remove(attempt)
        seconds = time.monotonic() - attempt.began
        if code == 0:
            marker = {"digest": job.digest, "seconds": round(seconds, 1)}
            write_whole(done_file(self.directory, job), json.dumps(marker) + "\n")
            outcome = Outcome(FINISHED, seconds)
        else:
            log = self.directory / f"{job.name}.log"
            outcome = Outcome(FAILED, seconds, failure_reason(log, attempt.log_start, code))
        self._outcomes[job.name] = outcome
        self.say(self._line(job, jobs))

    def _line(self, job: Job, jobs: Sequence[Job]) -> str:
        """How a job ended, and how long the others will take: "3/8 000_SEED=0 finished ..."."""
        outcome = self._outcomes[job.name]
        words = f"{outcome.state} in {human_time(outcome.seconds)}"
        accuracy = last_accuracy(self.directory / job.name)
        if outcome.state == FAILED:
            words += f": {outcome.reason}"
        elif accuracy is not None:
            words += f", accuracy {100 * accuracy:.1f} %"
        left = self._seconds_left(jobs)
        tail = f"; {human_time(left)} left" if left else ""
        return f"{len(self._outcomes)}/{len(jobs)} {job.name} {words}{tail}"

    def _seconds_left(self, jobs: Sequence[Job]) -> float:
        """From the mean time of what has ended well; 0 if nobody knows, or nothing is left."""
        now, left = time.monotonic(), 0.0
        elapsed = {attempt.job.name: now - attempt.began for attempt in self._running}
        for kind in (True, False):
            alike = [job for job in jobs if job.is_point == kind]
            ended = [self._outcomes[job.name] for job in alike if job.name in self._outcomes]
            times = [outcome.seconds for outcome in ended if outcome.state == FINISHED]
            mean = sum(times) / len(times) if times else 0.0
            left += sum(
                max(0.0, mean - elapsed.get(job.name, 0.0))
                for job in alike
                if job.name not in self._outcomes
            )
        return left / len(self.slots)

    def _end_all(self, signals: Sequence[int]) -> None:
        """Ends what runs as Ctrl-C does, and at once if there is a second one."""
        processes = [a.process for a in self._running if a.process is not None]
        self.say(f"ending {len(processes)} runs; once more Ctrl-C kills them")
        _signal_groups(processes, signal.SIGINT)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(process.poll() is None for process in processes):
            if len(signals) > 1 or time.monotonic() > deadline:
                _signal_groups(processes, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        raise Interrupted


def done_file(directory: Path, job: Job) -> Path:
    """Where it is noted that a job has ended well."""
    return directory / f"{job.name}.done"


def finished_seconds(directory: Path, job: Job) -> float | None:
    """How long a job took that has ended well, None for one that has not, or is another now."""
    try:
        marker = json.loads(done_file(directory, job).read_text())
    except FileNotFoundError:
        return None
    return marker["seconds"] if marker["digest"] == job.digest else None


def failure_reason(log: Path, start: int, code: int) -> str:
    """Why a process ended with `code`, in one line, from its log from byte `start` on."""
    with open(log, "rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    told = [match[1] for line in lines if (match := ERROR.match(line))]
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", most often for want of memory" * (name == "SIGKILL"))
    if told:
        return told[-1][:MAX_REASON]
    last = lines[-1].strip()[:MAX_REASON] if len(lines) > 1 else "it printed nothing"
    return f"exit code {code}: {last}"


def last_accuracy(model_dir: Path) -> float | None:
    """The accuracy of the last line of a metrics.jsonl, None if there is none."""
    try:
        lines = (model_dir / "metrics.jsonl").read_text().splitlines()
        return float(json.loads(lines[-1])["accuracy"])
    except (OSError, IndexError, KeyError, TypeError, ValueError):
        return None


def shares(cores: Sequence[int], parallel: int) -> list[list[int]]:
    """Deals the cores out evenly; () to each when one run alone has them all anyway."""
    if parallel == 1:
        return [[]]
    return [
        list(cores[i * len(cores) // parallel : (i + 1) * len(cores) // parallel])
        for i in range(parallel)
    ]


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def write_whole(file: Path, text: str) -> None:
    """Writes so that a reader sees all of it or none, also after a crash."""
    temporary = file.with_name(f".{file.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)


def _threads(cores: Sequence[int], environment: Mapping[str, str]) -> dict[str, str]:
    if not cores:
        return {}
    return {name: environment.get(name, str(len(cores))) for name in THREADS}


@contextlib.contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Lets what is started inside use these cores alone; a system that cannot goes without.

    Set here and not in the new process: it is inherited from its very first thread on.
    """
    if not cores or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _signal_groups(processes: Sequence[subprocess.Popen], number: int) -> None:
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


@contextlib.contextmanager
def _signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and requests to end, but for those that whoever started us ignores."""
    seen: list[int] = []
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda number, _: seen.append(number))
    try:
        yield seen
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
