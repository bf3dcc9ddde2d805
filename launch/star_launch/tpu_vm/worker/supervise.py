"""Runs star_jax on a worker and records its exit code: `python3 -m ... LOCK`.

It needs the Python of the TPU VM's image; star_jax has its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

from star_launch.tpu_vm.worker.tpu_worker import (
    PYTHON,
    RECORD,
    ROOT,
    SCRIPTS,
    read_json,
    write_json,
)


def supervise(lock: int) -> None:
    """Runs what the record says; all processes of this session hold the lock."""
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # the child ends; this process records that
    record = read_json(RECORD, {})
    try:
        code = run_star_jax(record["arguments"], lock)
    except OSError as error:  # there is no environment
        print(error, flush=True)
        code = 127
    record["attempts"][-1].update(ended=time.time(), exit_code=code if code >= 0 else 128 - code)
    write_json(RECORD, record)


def run_star_jax(arguments: Sequence[str], lock: int) -> int:
    """Runs star_jax, on all workers together if the run mode can; returns the exit code."""
    flag = subprocess.run(  # the workers must not start alone because the question failed
        [str(PYTHON), "-m", f"{SCRIPTS}.process_flag", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    if flag.returncode:
        return flag.returncode
    child = subprocess.Popen(
        [str(PYTHON), "-m", "star_jax.main", *arguments, *flag.stdout.decode().split()],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        pass_fds=(lock,),
    )
    return child.wait()


if __name__ == "__main__":
    supervise(int(sys.argv[1]))
