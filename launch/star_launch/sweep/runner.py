"""Runs the processes of a sweep, several at the same time, each with its log.

A log is also a lock: the process of a run keeps it open and locked. So if a sweep was killed and
one of its runs is still active, the next sweep sees that, waits for its end, and only then starts
the run again.

    DIR/NAME/       MODEL_DIR of a run          DIR/NAME.log    what it printed
    DIR/NAME.done   written after success: its digest and its seconds
"""

import dataclasses
import fcntl
import json
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from star_launch.files import write_whole
from star_launch.sweep.logs import failure_reason, last_accuracy
from star_launch.sweep.machine import collected_signals, on_cores, signal_groups, threads
from star_launch.text import human_time

POLL_SECONDS = 0.2
GRACE_SECONDS = 20  # between Ctrl-C and the end of a run, before it is killed

FINISHED, FAILED, NOT_RUN = "finished", "failed", "not run"


@dataclasses.dataclass(frozen=True)
class Job:
    """A run as a process."""

    name: str
    command: tuple[str, ...]
    needs: tuple[str, ...]  # jobs that must succeed first
    digest: str  # of everything that its result depends on
    is_point: bool = True  # False: a preparation, which takes another time than the points


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The end of a job."""

    state: str
    seconds: float = 0.0
    reason: str = ""  # of a failure, in one line


class Interrupted(Exception):
    """A signal ended the sweep; all its runs have ended."""


@dataclasses.dataclass
class _Attempt:
    """A job in a slot; without a process, it waits for that of an earlier sweep to end."""

    job: Job
    slot: int
    process: subprocess.Popen | None = None
    began: float = 0.0
    log_start: int = 0  # byte of the log where this attempt begins


@dataclasses.dataclass
class Runner:
    """Runs jobs in a directory."""

    directory: Path
    slots: Sequence[Sequence[int]]  # the cores of each job at the same time; [] for no limit
    environment: Mapping[str, str]
    say: Callable[[str], None]

    def __post_init__(self):
        self._outcomes: dict[str, Outcome] = {}
        self._running: list[_Attempt] = []

    def run(self, jobs: Sequence[Job]) -> dict[str, Outcome]:
        """Runs what is not finished yet; a failure stops only the jobs that need the failed one.

        Returns:
          the outcome of each job, by its name.

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
        with collected_signals() as signals:
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
                self.say(f"{job.name} does not run, because {lost[0]} failed")
            elif None in needed or len(self._running) == len(self.slots):
                left.append(job)
            else:
                taken = {attempt.slot for attempt in self._running}
                slot = next(i for i in range(len(self.slots)) if i not in taken)
                attempt = _Attempt(job, slot)
                self._running.append(attempt)
                if not self._start(attempt):
                    self.say(
                        f"{job.name} is still running from an interrupted sweep; waiting for it"
                    )
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
            with on_cores(cores):
                attempt.process = subprocess.Popen(
                    job.command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env={**self.environment, **threads(cores, self.environment)},
                    start_new_session=True,  # only this process sends it Ctrl-C
                )
        return True

    def _look_at(self, attempt: _Attempt, jobs: Sequence[Job]) -> None:
        """Records the end of an attempt, if it has ended."""
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
            write_whole(done_file(self.directory, job), f"{json.dumps(marker)}\n".encode())
            outcome = Outcome(FINISHED, seconds)
        else:
            log = self.directory / f"{job.name}.log"
            outcome = Outcome(FAILED, seconds, failure_reason(log, attempt.log_start, code))
        self._outcomes[job.name] = outcome
        self.say(self._line(job, jobs))

    def _line(self, job: Job, jobs: Sequence[Job]) -> str:
        """The end of a job, and the time left: "3/8 000_SEED=0 finished in 9 s; 5 s left"."""
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
        """From the mean time of finished jobs; 0 if none is finished, or nothing is left."""
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
        """Sends Ctrl-C to all running jobs, and kills them after a second signal or some time."""
        processes = [a.process for a in self._running if a.process is not None]
        self.say(f"stopping {len(processes)} runs; a second Ctrl-C kills them")
        signal_groups(processes, signal.SIGINT)
        deadline = time.monotonic() + GRACE_SECONDS
        while any(process.poll() is None for process in processes):
            if len(signals) > 1 or time.monotonic() > deadline:
                signal_groups(processes, signal.SIGKILL)
            time.sleep(POLL_SECONDS)
        raise Interrupted


def done_file(directory: Path, job: Job) -> Path:
    """The file that says that a job has succeeded."""
    return directory / f"{job.name}.done"


def finished_seconds(directory: Path, job: Job) -> float | None:
    """The seconds that a finished job took, None for one that is not finished or has changed."""
    try:
        marker = json.loads(done_file(directory, job).read_text())
    except FileNotFoundError:
        return None
    return marker["seconds"] if marker["digest"] == job.digest else None
