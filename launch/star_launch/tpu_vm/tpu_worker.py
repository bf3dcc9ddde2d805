"""What tpu_vm.py asks of a TPU's workers; each worker runs `python3 tpu_worker.py VERB ...`.

It needs the Python of the TPU VM's image and nothing else. Each call prints one line of JSON that
starts with {"worker": and is short enough to reach a pipe in one piece, since all workers of a pod
print into the same one.

    ~/star_jax/
      code/, venv/, setup.json, setup.log, setup.lock
      data/                   what launch/fetch.py brought
      run/                    record.json, log.txt, pid, lock
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

ROOT = Path.home() / "star_jax"
CODE, VENV, RUN = ROOT / "code", ROOT / "venv", ROOT / "run"
SETUP, RECORD, LOG, LOCK = (
    ROOT / "setup.json",
    RUN / "record.json",
    RUN / "log.txt",
    RUN / "lock",
)
PYTHON_VERSION = "3.12"  # the image's is 3.10, JAX needs 3.11
UV_INSTALLER = "https://astral.sh/uv/install.sh"
STOP_SECONDS = 30  # between asking a run to end and ending it
POD = "--processes=pod"  # the workers run one run together, if its run mode allows that
MAX_TEXT = 400  # characters of a line of the log that a report quotes


class WorkerError(Exception):
    """What a worker could not do, in one line."""


# What both ends know of a run


def run_id(arguments: Sequence[str]) -> str:
    """Returns a short name for a command line, to tell whether two runs are the same."""
    return hashlib.sha256(json.dumps(list(arguments)).encode()).hexdigest()[:12]


def model_dir_of(arguments: Sequence[str]) -> str:
    """Returns the MODEL_DIR that the arguments bind, "" if they do not or it is no text."""
    for argument in reversed(arguments):
        name, equals, value = argument.partition("=")
        if name == "--gin.MODEL_DIR" and equals:
            with contextlib.suppress(ValueError, SyntaxError):
                found = ast.literal_eval(value)
                return found.rstrip("/") if isinstance(found, str) else ""
    return ""


def summarize(metrics: str) -> dict[str, float] | None:
    """Returns iteration, accuracy and productive seconds of a metrics.jsonl, None of none.

    A last line that is not whole yet is left out.
    """
    rows = []
    for line in metrics.splitlines():
        with contextlib.suppress(ValueError):
            rows.append(json.loads(line))
    if not rows:
        return None
    seconds = sum(
        value for row in rows for key, value in row.items() if key.startswith("seconds_") and value
    )
    return {
        "iteration": rows[-1]["iteration"],
        "accuracy": rows[-1]["accuracy"],
        "productive_seconds": round(seconds, 1),
    }


# Files


def read_json(path: Path, otherwise: dict) -> dict:
    """Returns the object in a file, or `otherwise` if there is no such file."""
    return json.loads(path.read_text()) if path.exists() else otherwise


def write_json(path: Path, value: dict) -> None:
    """Writes an object so that a reader sees all of it or none."""
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


# Setting up


def setup(digest: str, *data: str) -> dict:
    """Unpacks ~/star_jax.tar.gz, makes the environment and fetches `data`: what is not done yet."""
    with setup_lock():
        known = read_json(SETUP, {"digest": "", "data": []})
        wanted = {"digest": digest, "data": sorted({*known["data"], *data})}
        if known == wanted:
            return {"setup": "as it was"}
        if is_alive():
            raise WorkerError("a run is going on here; stop it before setting up something else")
        if known["digest"] != digest:
            write_json(SETUP, {**known, "digest": ""})
            unpack(Path.home() / "star_jax.tar.gz", digest)
            make_environment()
            write_json(SETUP, {**known, "digest": digest})
        missing = sorted({*data} - {*known["data"]})
        if missing:
            logged([venv_python(), CODE / "launch/fetch.py", *missing, "--dir", ROOT / "data"])
        write_json(SETUP, wanted)
    return {"setup": "done"}


@contextlib.contextmanager
def setup_lock() -> Iterator[None]:
    """Waits for a setup that still goes on though its connection broke."""
    ROOT.mkdir(exist_ok=True)
    with open(ROOT / "setup.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def unpack(archive: Path, digest: str) -> None:
    """Puts the archive's files into code/, in place of what was there."""
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != digest:
        raise WorkerError(f"{archive} came as {found[:12]}, not {digest[:12]}; set up again")
    fresh = ROOT / "code.part"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    logged(["tar", "-xzf", archive, "-C", fresh])
    shutil.rmtree(CODE, ignore_errors=True)
    fresh.rename(CODE)


def make_environment() -> None:
    """Makes venv/ with the packages of the TPU's lock file and star_jax itself."""
    uv = find_uv()
    if not venv_python().exists():
        logged([uv, "venv", "--quiet", "--clear", "--python", PYTHON_VERSION, VENV])
    install = [uv, "pip", "install", "--quiet", "--python", venv_python()]
    logged([*install, "-r", CODE / "launch/requirements-tpu.lock"])
    # The lock file brings setuptools: no build environment, so nothing more to download.
    logged([*install, "--no-deps", "--no-build-isolation", "--editable", CODE])


def find_uv() -> str:
    """Returns uv, which is installed from PyPI or, where pip may not, by its own installer."""
    home = Path.home() / ".local/bin/uv"
    for install in (None, install_uv_by_pip, install_uv_by_its_installer):
        if install is not None:
            with contextlib.suppress(WorkerError, OSError):
                install()
        found = shutil.which("uv") or (str(home) if home.exists() else None)
        if found:
            return found
    raise WorkerError(f"uv cannot be installed: {last_line(ROOT / 'setup.log')}")


def install_uv_by_pip() -> None:
    """Installs uv for this user."""
    logged([sys.executable, "-m", "pip", "install", "--quiet", "--user", "uv"])


def install_uv_by_its_installer() -> None:
    """Downloads uv's installer and runs it."""
    script = ROOT / "uv_install.sh"
    logged(["curl", "--fail", "--silent", "--show-error", "--location", "-o", script, UV_INSTALLER])
    logged(["sh", script])


def venv_python() -> Path:
    """Returns the Python that star_jax runs on."""
    return VENV / "bin/python"


def logged(command: Sequence[str | Path]) -> None:
    """Runs a command in ~/star_jax; its words go to setup.log, the last of them into the error."""
    log = ROOT / "setup.log"
    with open(log, "ab") as out:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
        )
    if done.returncode:
        name = " ".join(Path(part).name for part in command[:3])
        raise WorkerError(f"'{name} ...' ended with {done.returncode}: {last_line(log)}")


# Running. The lock is held by the run's processes and by nobody else, so it tells whether the run
# is alive: a process id alone may be another's after a reboot.


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
        os.close(lock)  # a child that has inherited it goes on holding it


def is_alive() -> bool:
    """Whether a run is going on here."""
    with locked() as lock:
        return lock is None


def start(*arguments: str) -> dict:
    """Starts star_jax in a session of its own, unless a run is going on."""
    if not read_json(SETUP, {}).get("digest"):
        raise WorkerError("nothing is set up here; run `setup` first")
    with locked() as lock:
        if lock is None:
            return report()  # somebody else was quicker
        (RUN / "stopped").unlink(missing_ok=True)
        record = read_json(RECORD, {"attempts": []})
        if record.get("arguments") != list(arguments):
            record = {"arguments": list(arguments), "attempts": []}
        record["attempts"].append({"began": time.time()})
        write_json(RECORD, record)
        with open(LOG, "a") as log:
            attempt = len(record["attempts"])
            print(f"--- attempt {attempt}, {time.ctime()} ---", file=log, flush=True)
            supervisor = subprocess.Popen(
                [sys.executable, os.path.abspath(__file__), "supervise", str(lock)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # outlives the connection, and can be signalled as a whole
                pass_fds=(lock,),
            )
        (RUN / "pid").write_text(str(supervisor.pid))
    return report()


def supervise(lock: str) -> None:
    """Runs star_jax and notes its exit code; the whole session holds the lock."""
    for wake in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(wake, lambda *_: None)  # the child has its own: it ends, this one notes it
    record = read_json(RECORD, {})
    try:
        child = subprocess.Popen(
            [str(venv_python()), "-m", "star_jax.main", *record["arguments"], POD],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            pass_fds=(int(lock),),
        )
        code = child.wait()
    except OSError as error:  # the environment is gone
        print(error, flush=True)
        code = 127
    record["attempts"][-1].update(ended=time.time(), exit_code=code if code >= 0 else 128 - code)
    write_json(RECORD, record)


def report() -> dict:
    """Says how the last run stands: none, running, exited, or vanished (no exit code was left)."""
    alive = is_alive()
    record = read_json(RECORD, {})
    digest = read_json(SETUP, {}).get("digest", "")
    if not record:
        return {"state": "none", "digest": digest}
    last, stopped = record["attempts"][-1], (RUN / "stopped").exists()
    ended = last.get("ended", time.time() if alive else LOG.stat().st_mtime)
    state = "running" if alive else "exited" if "exit_code" in last or stopped else "vanished"
    model_dir = model_dir_of(record["arguments"])
    metrics = ROOT / model_dir / "metrics.jsonl"
    return {
        "state": state,
        "digest": digest,
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
    """Asks the run to end, and ends it if it has not after STOP_SECONDS."""
    if not is_alive():
        return {"was_running": False, **report()}
    (RUN / "stopped").touch()
    group = int((RUN / "pid").read_text())
    for wake, seconds in ((signal.SIGTERM, STOP_SECONDS), (signal.SIGKILL, STOP_SECONDS)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, wake)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not is_alive():
                return {"was_running": True, **report()}
            time.sleep(0.05)
    raise WorkerError(f"the run (process group {group}) does not end")


VERBS = {"setup": setup, "start": start, "report": report, "stop": stop}


def main(argv: Sequence[str]) -> int:
    """Runs one verb and prints what came of it."""
    verb, *arguments = argv
    if verb == "supervise":
        supervise(*arguments)
        return 0
    try:
        answer = VERBS[verb](*arguments)
    except (WorkerError, OSError) as error:
        answer = {"error": " ".join(str(error).split())}
    print(json.dumps({"worker": socket.gethostname(), **answer}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
