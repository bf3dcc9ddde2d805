"""What tpu_vm.py has a TPU's workers do; each worker runs `python3 tpu_worker.py VERB ...`.

It needs the Python of the TPU VM's image and nothing else. Each call prints one line of JSON,
{"worker": ...}, short enough for one write to the pipe that all workers of a pod share.

    ~/star_jax/code/, venv/, setup.json, setup.log, setup.lock
    ~/star_jax/data/    what launch/fetch.py downloaded
    ~/star_jax/run/     record.json, log.txt, pid, lock
    /var/lib/star_jax/  of self_delete.py
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

# Below the home folder. Both ends use these names; star_jax writes METRICS below MODEL_DIR.
FOLDER, ARCHIVE, LOG_FILE = "star_jax", "star_jax.tar.gz", "star_jax/run/log.txt"
METRICS = "metrics.jsonl"

ROOT = Path.home() / FOLDER
CODE, VENV, RUN = ROOT / "code", ROOT / "venv", ROOT / "run"
PYTHON = VENV / "bin/python"  # that star_jax runs on
SETUP, RECORD, LOCK = ROOT / "setup.json", RUN / "record.json", RUN / "lock"
LOG, SETUP_LOG = Path.home() / LOG_FILE, ROOT / "setup.log"
SCRIPTS = "star_launch.tpu_vm.worker"  # below code/launch
ENDS_AT = Path(os.environ.get("STAR_JAX_STATE", "/var/lib/star_jax"), "ends_at")
STOP_SECONDS = 30  # between SIGTERM and SIGKILL
MAX_TEXT = 400  # characters that a report quotes of a line of the log

# States of a run. VANISHED: it ended without leaving an exit code.
NONE, RUNNING, EXITED, VANISHED = "none", "running", "exited", "vanished"


class WorkerError(Exception):
    """A failure, in one line."""


# Used at both ends


def run_id(arguments: Sequence[str]) -> str:
    """Returns a short name of a command line; runs with the same name are the same run."""
    return hashlib.sha256(json.dumps(list(arguments)).encode()).hexdigest()[:12]


def model_dir_of(arguments: Sequence[str]) -> str:
    """Returns the MODEL_DIR that star_jax's arguments bind, "" if they bind none or not a string.

    As in star_jax, a value that is no Python literal is a string whose quotes are missing.
    """
    for argument in reversed(arguments):
        name, _, value = argument.partition("=")
        if name == "--gin.MODEL_DIR" and value.strip():
            try:
                found = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                found = "" if value.strip()[0] in "'\"[({@%" else value
            return found.rstrip("/") if isinstance(found, str) else ""
    return ""


def summarize(metrics: str) -> dict[str, float] | None:
    """Returns iteration, accuracy and productive seconds of a metrics.jsonl, None if it is empty.

    An incomplete last line is left out.
    """
    rows = []
    for line in metrics.splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    if not rows:
        return None
    seconds = sum(sum(row.get("seconds", {}).values()) for row in rows)  # by stage
    return {
        "iteration": rows[-1]["iteration"],
        "accuracy": rows[-1]["accuracy"],
        "productive_seconds": round(seconds, 1),
    }


def read_json(path: Path, otherwise: dict) -> dict:
    """Returns the object in a file, or `otherwise` if the file does not exist."""
    return json.loads(path.read_text()) if path.exists() else otherwise


# Setup


def setup(digest: str, *data: str) -> dict:
    """Unpacks the archive, makes the environment and downloads `data`: whatever is not done yet."""
    with setup_lock():
        known = read_json(SETUP, {"digest": "", "data": []})
        wanted = {"digest": digest, "data": sorted({*known["data"], *data})}
        if known == wanted:
            return {"changed": False}
        if is_alive():
            raise WorkerError("a run is active here; stop it before you set up something else")
        if known["digest"] != digest:
            write_json(SETUP, {**known, "digest": ""})
            unpack(Path.home() / ARCHIVE, digest)
            logged("deletion", [sys.executable, "-m", f"{SCRIPTS}.self_delete", "check"])
            logged("environment", [sys.executable, "-m", f"{SCRIPTS}.environment", CODE, VENV])
            write_json(SETUP, {**known, "digest": digest})
        missing = sorted({*data} - {*known["data"]})
        if missing:
            logged("data", [PYTHON, "fetch.py", *missing, "--dir", ROOT / "data"])
        write_json(SETUP, wanted)
    return {"changed": True}


@contextlib.contextmanager
def setup_lock() -> Iterator[None]:
    """Waits for a setup that is still running because its connection broke."""
    ROOT.mkdir(exist_ok=True)
    with open(ROOT / "setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpack(archive: Path, digest: str) -> None:
    """Replaces code/ by the archive's files."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        raise WorkerError(f"{archive} has sha256 {found[:12]}, not {digest[:12]}; set up again")
    fresh = ROOT / "code.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    logged("code", ["tar", "-xzf", archive], folder=fresh.name)
    shutil.rmtree(CODE, ignore_errors=True)
    fresh.rename(CODE)


def logged(what: str, command: Sequence[str | Path], folder: str = "code/launch") -> None:
    """Runs a command in a folder of ROOT with its output in setup.log.

    Raises:
      WorkerError: it failed; `what`, and the last line of its output.
    """
    words = [str(word) for word in command]
    with open(SETUP_LOG, "ab") as out:
        done = subprocess.run(
            words, cwd=ROOT / folder, stdin=subprocess.DEVNULL, stdout=out, stderr=out
        )
    if done.returncode:
        raise WorkerError(f"{what}: {last_line(SETUP_LOG)}")


def write_json(path: Path, value: dict) -> None:
    """Writes an object so that a reader sees the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.part")
    fresh.write_text(json.dumps(value) + "\n")
    fresh.replace(path)


def last_line(path: Path) -> str:
    """Returns the last line of a file that is not empty, its end if it is long."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - 8192))
        text = file.read().decode(errors="replace").replace("\r", "\n")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][-MAX_TEXT:] if lines else ""


# Running. Only the run's processes hold the lock: it shows whether the run is alive, and a process
# id does not, since after a reboot it may be another's.


@contextlib.contextmanager
def locked() -> Iterator[int | None]:
    """Yields the descriptor of the run's lock while it is held, None if a run holds it."""
    RUN.mkdir(parents=True, exist_ok=True)
    lock = os.open(LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        yield None
        return
    try:
        yield lock
    finally:
        os.close(lock)  # a child that inherited it still holds it


def is_alive() -> bool:
    """Whether a run is active here."""
    with locked() as lock:
        return lock is None


def start(file: str, delete_after: str) -> dict:
    """Starts star_jax in a session of its own, unless a run is active.

    `file` has an argument per line; `delete_after` is "never", or seconds after the run's end.
    """
    if not read_json(SETUP, {}).get("digest"):
        raise WorkerError("nothing is set up here; run `setup` first")
    arguments = (Path.home() / file).read_bytes().decode().split("\n")[:-1]
    with locked() as lock:
        if lock is None:
            return report()  # another call was faster
        (RUN / "stopped").unlink(missing_ok=True)
        record = read_json(RECORD, {"attempts": []})
        if record.get("arguments") != arguments:
            record = {"arguments": arguments, "attempts": []}
        record["delete_after"] = None if delete_after == "never" else float(delete_after)
        record["attempts"].append({"began": time.time()})
        write_json(RECORD, record)
        with open(LOG, "a") as log:
            print("--- attempt", len(record["attempts"]), time.ctime(), file=log, flush=True)
            supervisor = subprocess.Popen(
                [sys.executable, "-m", f"{SCRIPTS}.supervise", str(lock)],
                cwd=CODE / "launch",
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # outlives the connection; one signal reaches all of it
                pass_fds=(lock,),
            )
        (RUN / "pid").write_text(str(supervisor.pid))
    return report()


def report() -> dict:
    """Returns the state of the last run, and what `status` and `up` need to know of it."""
    alive = is_alive()
    record = read_json(RECORD, {})
    ends_at = float(ENDS_AT.read_text()) if ENDS_AT.exists() else None
    always = {"digest": read_json(SETUP, {}).get("digest", ""), "ends_at": ends_at}
    if not record:
        return {"state": NONE, **always}
    last, stopped = record["attempts"][-1], (RUN / "stopped").exists()
    ended = last.get("ended", time.time() if alive else LOG.stat().st_mtime)
    model_dir = model_dir_of(record["arguments"])
    metrics = ROOT / model_dir / METRICS
    return {
        "state": RUNNING if alive else EXITED if "exit_code" in last or stopped else VANISHED,
        **always,
        "run_id": run_id(record["arguments"]),
        "model_dir": model_dir,
        "attempts": len(record["attempts"]),
        "first_began": record["attempts"][0]["began"],
        "began": last["began"],
        "ended": ended,
        "exit_code": None if alive else last.get("exit_code", 137 if stopped else None),
        "stopped": stopped,
        "last_line": last_line(LOG),
        "summary": summarize(metrics.read_text()) if metrics.is_file() else None,
    }


def stop() -> dict:
    """Asks the run to end, and kills it after STOP_SECONDS."""
    if not is_alive():
        return {"was_running": False, **report()}
    (RUN / "stopped").touch()
    group = int((RUN / "pid").read_text())
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)
        deadline = time.monotonic() + STOP_SECONDS
        while time.monotonic() < deadline:
            if not is_alive():
                return {"was_running": True, **report()}
            time.sleep(0.05)
    raise WorkerError(f"the run (process group {group}) does not end")


VERBS = {"setup": setup, "start": start, "report": report, "stop": stop}


def main(argv: Sequence[str]) -> int:
    """Runs one verb and prints its answer."""
    verb, *arguments = argv
    try:
        answer = VERBS[verb](*arguments)
    except (WorkerError, OSError) as error:
        answer = {"error": " ".join(str(error).split())}
    print(json.dumps({"worker": socket.gethostname(), **answer}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
