"""The cores of this machine, and signals to and from the processes that share them."""

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence

# Threads of XLA, OpenMP and BLAS. Linux also limits the cores of a process.
THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def usable_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def slots(parallel: int) -> list[list[int]]:
    """The cores of each of `parallel` runs at the same time, at most one run per core."""
    cores = usable_cores()
    return shares(cores, min(parallel, len(cores)))


def shares(cores: Sequence[int], parallel: int) -> list[list[int]]:
    """Divides the cores evenly; one run alone gets [], which is no limit."""
    if parallel == 1:
        return [[]]
    return [
        list(cores[i * len(cores) // parallel : (i + 1) * len(cores) // parallel])
        for i in range(parallel)
    ]


def threads(cores: Sequence[int], environment: Mapping[str, str]) -> dict[str, str]:
    """The variables that limit the threads to the cores; those of the environment win."""
    return {name: environment.get(name, str(len(cores))) for name in THREADS} if cores else {}


@contextlib.contextmanager
def on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Limits processes that are started inside to these cores, where the system can.

    Set in this process: the new one inherits it from its first thread on.
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


def signal_groups(processes: Sequence[subprocess.Popen], number: int) -> None:
    """Sends a signal to each process that is running, and to all that it started."""
    for process in processes:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)


@contextlib.contextmanager
def collected_signals() -> Iterator[list[int]]:
    """Collects Ctrl-C and requests to end, except signals that are ignored."""
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
