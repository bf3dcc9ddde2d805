"""Runs star_jax on a worker and records its exit code: `python3 -m ... LOCK`.

With --delete_at_end it then deletes the TPU VM, also when nothing watches the run. It needs the
Python of the TPU VM's image; star_jax has its own.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from star_launch.tpu_vm.worker import self_delete
from star_launch.tpu_vm.worker.tpu_worker import (
    EXITED,
    LOG,
    PYTHON,
    RECORD,
    ROOT,
    read_json,
    report,
    write_json,
)

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
    os.close(lock)  # from now on another run may start
    if record["delete_after"] is not None:
        time.sleep(record["delete_after"])
        delete_if_over(record["attempts"][-1]["began"])


def delete_if_over(began: float) -> None:
    """Saves report and log and deletes the TPU VM, unless it was stopped or another run began."""
    over = report()
    if over["state"] != EXITED or over["stopped"] or over["began"] != began:
        return
    host = socket.gethostname()
    if over["model_dir"].startswith("gs://"):
        base = outcome(over["model_dir"], host.rpartition("-w-")[2])
        answer = json.dumps({"worker": host, **over}) + "\n"
        try:
            self_delete.upload(f"{base}.log", LOG.read_bytes())
            self_delete.upload(f"{base}.json", answer.encode())
        except self_delete.Failed as error:
            print(error, flush=True)
    self_delete.delete_this_vm("the run has ended (--delete_at_end)")


def outcome(model_dir: str, worker: str) -> str:
    """Returns where a worker saves its report (.json) and log (.log) before it is deleted.

    That is next to MODEL_DIR, since a new run does not accept a folder with other files.
    """
    return f"{model_dir}.tpu_vm/worker_{worker}"


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
