"""Several processes in one run, one per host of a TPU pod: who leads, and who is missing.

All run the same code on the same questions; arrays are split over the devices of all. Process 0,
the lead, alone writes the run directory. It sends what it reads there to the others through JAX's
coordination service, so that all take the same decisions.

A collective waits forever for a process that is gone. So each process sends heartbeats, and ends
when another's stop, or when another ended with an error. Without the lead there is no service, and
JAX aborts the others at once: a witness, a small process next to each of them, then prints why.
"""

import contextlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, TypeVar

import jax
from jax._src import distributed  # the service has no public name; Orbax uses this one too

from star_jax.errors import UserError

HEARTBEAT_SECONDS = 2.0  # between heartbeats
SILENCE_SECONDS = 20.0  # without a heartbeat, after which a process counts as gone
FAREWELL_SECONDS = 10.0  # that a failing lead waits for the others to end
BARRIER_SECONDS = 600  # that processes wait for each other
START_SECONDS = 300  # for all of them to join
PART = 1 << 20  # characters in one message; the service takes 4 MiB at most
LOST = 1  # exit code when another process is gone: start all of them again
SPEC = re.compile(r"(?P<index>\d+)/(?P<count>\d+)@(?P<address>[\w.\-\[\]:]+:\d+)")
HEARTBEATS, SENT, ARRIVED = "star_jax/heartbeats/", "star_jax/sent/", "star_jax/arrived/"
DONE, FAILED = "done", "failed: "

T = TypeVar("T")

_turns = itertools.count()  # the same in every process, since all run the same code
_ended = threading.Event()
_witness: list[subprocess.Popen] = []  # one at most


def join(spec: str) -> None:
    """Joins the other processes, before anything uses devices; raises UserError if they are absent.

    `spec` is "auto", where JAX finds them by itself (TPU pods, Slurm and others), or
    "INDEX/COUNT@HOST:PORT" with the address of process 0.
    """
    found = SPEC.fullmatch(spec)
    place = (int(found["index"]), int(found["count"])) if found else None
    if spec != "auto" and not (place and place[0] < place[1]):
        raise UserError(
            f"--processes={spec} is neither auto nor INDEX/COUNT@HOST:PORT, such as "
            f"0/2@10.0.0.5:1234 with INDEX below COUNT and the address of process 0"
        )
    # JAX itself would abort the process when another one dies, without saying which.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            coordinator_address=found and found["address"],
            num_processes=place and place[1],
            process_id=place and place[0],
            initialization_timeout=START_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--processes={spec}: the processes did not find each other within {START_SECONDS} s "
            f"({str(error).splitlines()[0][:200]}); start the same command on all of them, and "
            f"check the address and that its port is open"
        ) from error
    if count() > 1:
        _start_witness()
        threading.Thread(target=_watch, name="star_jax heartbeats", daemon=True).start()


def count() -> int:
    """Number of processes in this run."""
    return distributed.global_state.num_processes if _client() else 1


def index() -> int:
    """Which of them this one is."""
    return distributed.global_state.process_id if _client() else 0


def is_lead() -> bool:
    """Whether this process writes the run directory and prints messages."""
    return index() == 0


def from_lead(make: Callable[[], T]) -> T:
    """The JSON-ready value that `make` returns in the lead, in every process.

    A UserError that `make` raises in the lead is raised in every process, too.
    """
    if count() == 1:
        return make()
    name = f"{SENT}{next(_turns)}/"
    if is_lead():
        try:
            sent: dict[str, object] = {"value": make()}
        except UserError as error:
            sent = {"error": error.message}
        text = json.dumps(sent)
        parts = [text[i : i + PART] for i in range(0, len(text), PART)]
        for i, part in enumerate([str(len(parts)), *parts]):
            _client().key_value_set(f"{name}{i}", part)

    def receive(i: int) -> str:
        return _client().blocking_key_value_get(f"{name}{i}", BARRIER_SECONDS * 1000)

    with _waiting("", "sent nothing"):
        n_parts = int(receive(0))
        answer = json.loads("".join(receive(i) for i in range(1, n_parts + 1)))
    meet("what process 0 sends")  # so that all have read it
    if is_lead():
        _client().key_value_delete(name)
    if "error" in answer:
        raise UserError(answer["error"])
    return answer["value"]


def meet(name: str) -> None:
    """Waits until every process is here; raises UserError that names those who did not come."""
    if count() == 1:
        return
    here = f"{ARRIVED}{name}{next(_turns)}/"
    _client().key_value_set(f"{here}{index()}", "")
    with _waiting(here, f"did not come to {name}"):
        _client().wait_at_barrier(here, timeout_in_ms=BARRIER_SECONDS * 1000)
    if is_lead():
        _client().key_value_delete(here)


@contextlib.contextmanager
def _waiting(where: str, what: str) -> Iterator[None]:
    """Turns JAX's time-out into a line that names those who did not arrive, or the lead."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        arrived = _client().key_value_dir_get(where) if where else []
        there = {int(key.rpartition("/")[2]) for key, _ in arrived}
        missing = sorted(set(range(count())) - there) if where else [0]
        raise UserError(
            f"process {', '.join(map(str, missing))} of {count()} {what} within {BARRIER_SECONDS} "
            f"s; see its output, and start the same command on all processes again"
        ) from error


@contextlib.contextmanager
def joined(spec: str) -> Iterator[None]:
    """Runs its body as one of several processes, named as in `join`; "" for one alone."""
    # A process that fails exits at once: JAX would wait for the others, and they for this one.
    if not spec:
        yield
        return
    join(spec)
    try:
        yield
    except UserError as error:
        _fail(error.message, 2)
    except KeyboardInterrupt:
        _fail("interrupted; the same command resumes from the last finished stage", 130)
    except Exception as error:
        # If another process' end caused it, the watch names that one meanwhile.
        time.sleep(SILENCE_SECONDS + 3 * HEARTBEAT_SECONDS if count() > 1 else 0)
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", LOST)
    _stop_watching(DONE)
    _dismiss_witness()


def _fail(message: str, exit_code: int) -> NoReturn:
    print(f"star_jax: error: {message}", file=sys.stderr)
    _stop_watching(FAILED + message)
    if is_lead():
        # The others end first: the service is in the lead, and JAX aborts who loses it.
        until = time.monotonic() + FAREWELL_SECONDS
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            while time.monotonic() < until:
                last = [sign for _, sign in _client().key_value_dir_get(HEARTBEATS)]
                if sum(sign == DONE or sign.startswith(FAILED) for sign in last) == count():
                    break
                time.sleep(HEARTBEAT_SECONDS / 10)
        time.sleep(HEARTBEAT_SECONDS / 2)  # from their last heartbeat to their end
    _end(exit_code)


def _end(exit_code: int) -> NoReturn:
    _dismiss_witness()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def gone_message(missing: dict[int, str], n: int) -> str:
    """The line that a process ends with; `missing` has what happened to which of `n` processes."""
    who = "; ".join(f"process {i} of {n} {how}" for i, how in sorted(missing.items()))
    return (
        f"{who}. This process ends too. Finished stages are kept: start the same command on all "
        f"of them again to resume"
    )


def _start_witness() -> None:
    """Starts a small process that reports this one's end, unless it was dismissed before."""
    or_lead = "" if is_lead() else f" or because process 0 of {count()} is gone"
    message = gone_message({index(): f"was ended from outside{or_lead}"}, count())
    code = "import sys; sys.stdin.buffer.read() or sys.exit(sys.argv[1])"
    _witness.append(
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, f"star_jax: error: {message}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # not ended by the Ctrl-C that ends this one
        )
    )


def _dismiss_witness() -> None:
    if _witness:
        with contextlib.suppress(OSError):
            _witness.pop().communicate(b"dismissed")


def _watch() -> None:
    """Sends this process's heartbeats, and ends it when those of another stop."""
    heard = {i: ("", time.monotonic()) for i in range(count())}
    for turn in itertools.count():
        signs = []
        _send_heartbeat(f"{turn} {socket.gethostname()}")
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            signs = _client().key_value_dir_get(HEARTBEATS)
        now = time.monotonic()
        for key, sign in signs:
            i = int(key.rpartition("/")[2])
            heard[i] = heard[i] if heard[i][0] == sign else (sign, now)
        if not _ended.is_set() and (missing := missing_among(heard, now, index())):
            message = gone_message(missing, len(heard))
            print(f"star_jax: error: {message}", file=sys.stderr)
            _send_heartbeat(FAILED + message)
            _end(LOST)
        if _ended.wait(HEARTBEAT_SECONDS):
            return


def _stop_watching(last: str) -> None:
    _ended.set()
    if count() > 1:
        _send_heartbeat(last)


def _send_heartbeat(sign: str) -> None:
    with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service in process 0 may be gone
        _client().key_value_set(f"{HEARTBEATS}{index()}", sign, allow_overwrite=True)


def missing_among(heard: dict[int, tuple[str, float]], now: float, me: int) -> dict[int, str]:
    """Index -> what happened, for the processes that failed, or are silent and not `me`.

    `heard` has the last heartbeat of each and when it came, in seconds as `now`.
    """
    missing = {}
    for i, (sign, when) in heard.items():
        if sign.startswith(FAILED):
            missing[i] = f"ended with an error ({sign.removeprefix(FAILED)})"
        elif i != me and sign != DONE and now - when > SILENCE_SECONDS:
            host = sign.partition(" ")[2]
            missing[i] = f"{f'on {host} ' if host else ''}sent no heartbeat for {now - when:.0f} s"
    return missing


def _client() -> Any:
    """JAX's client of the coordination service; None in a process that joined no others."""
    return distributed.global_state.client
