"""What the log and the results of a run say about it."""

import re
import signal
from pathlib import Path

from star_launch.tpu_vm import PROG as TPU_VM
from star_launch.tpu_vm.worker.tpu_worker import METRICS, summarize

ERROR = re.compile(rf"(?:star_jax|{re.escape(TPU_VM)}): error: (.*)")
MAX_REASON = 400  # characters


def failure_reason(log: Path, start: int, code: int) -> str:
    """Why a process failed, in one line.

    Args:
      log: what it printed.
      start: byte of the log where this attempt begins.
      code: its exit code, negative for a signal.
    """
    with open(log, "rb") as file:
        file.seek(start)
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [match[1] for line in lines if (match := ERROR.match(line))]
    if code < 0:
        name = signal.Signals(-code).name
        return f"ended by {name}" + (", usually because memory ran out" * (name == "SIGKILL"))
    if errors:
        return errors[-1][:MAX_REASON]
    last = lines[-1].strip()[:MAX_REASON] if len(lines) > 1 else "it printed nothing"
    return f"exit code {code}: {last}"


def last_accuracy(model_dir: Path) -> float | None:
    """The accuracy of the last outer iteration, 0 to 1; None if there is none."""
    try:
        summary = summarize((model_dir / METRICS).read_text())
    except (OSError, KeyError):
        return None
    return None if summary is None else summary["accuracy"]
