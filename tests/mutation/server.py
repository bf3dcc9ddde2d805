"""Runs pytest again and again in forks of a process that has imported the large libraries.

Importing JAX and TensorFlow takes longer than most tests. The package and the tests are imported
in the fork, so each run sees the files as they are then. A run is a line of JSON on stdin:
{"arguments": [...], "seconds": 120, "output": "file"}; the answer is a line with pytest's exit
code, or null if the run exceeded its time.
"""

import gc
import importlib
import json
import os
import signal
import sys
import time

LIBRARIES = (
    "jax", "jax.numpy", "optax", "flax.linen", "orbax.checkpoint", "seqio", "gin",
    "tensorflow_datasets", "matplotlib.figure", "hypothesis", "pytest",
)  # fmt: skip


def run(arguments: list[str], seconds: float, output: str) -> int | None:
    """Pytest's exit code in a fork; None if it was killed: after `seconds`, or without a parent.

    Args:
      arguments: of pytest.
      seconds: time limit.
      output: file that gets stdout and stderr.
    """
    parent, child = os.getppid(), os.fork()
    if child == 0:
        _test(arguments, output)
    end = time.monotonic() + seconds
    while time.monotonic() < end and os.getppid() == parent:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.1)
    os.killpg(child, signal.SIGKILL)  # and what the tests have started
    os.waitpid(child, 0)
    return None


def _test(arguments: list[str], output: str) -> None:
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    code = 3  # pytest's own for an internal error
    try:
        code = int(importlib.import_module("pytest").main(arguments))
    finally:
        sys.stdout.flush()
        os._exit(code)


def main() -> None:
    """Answers requests until stdin ends."""
    sys.path.insert(0, os.getcwd())
    for name in LIBRARIES:
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # so that collecting garbage in a fork does not copy all of this memory
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
