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

from star_launch.tpu_vm.worker.tpu_worker import PYTHON, RECORD, ROOT, read_json, write_json

POD = "--processes=pod"  # the workers share one run, if its run mode allows that


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
    """Runs star_jax and returns the exit code."""
    child = subprocess.Popen(
        [str(PYTHON), "-m", "star_jax.main", *arguments, POD],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        pass_fds=(lock,),
    )
    return child.wait()


if __name__ == "__main__":
    supervise(int(sys.argv[1]))
