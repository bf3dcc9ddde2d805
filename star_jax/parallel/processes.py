"""Several processes at one run, one on each host of a TPU pod: who leads, and who is missing.

All run the same code on the same questions, and arrays are split over the devices of all. Process
0, the lead, alone writes the run directory; what it reads there it tells the others, so that all
take the same decisions. They talk through JAX's coordination service, not through the devices.

A collective waits for ever for a process that is gone. So each process gives a sign of life every
other second, and a thread ends the process when another one's stop, or when it ended with an error.
When the lead is gone, the service is too, and JAX aborts the others on the spot: a witness, a
process beside each of them, then says why.
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
from typing import Any

import jax
from jax._src import distributed  # the service has no public name; Orbax takes this one too

from star_jax.errors import UserError

SIGN_SECONDS = 2.0  # between signs of life
SILENCE_SECONDS = 20.0  # after which a process counts as gone
FAREWELL_SECONDS = 10.0  # that a failing lead waits for the others to end
BARRIER_SECONDS = 600.0  # that processes wait for each other
START_SECONDS = 300  # for all of them to come
PART = 1 << 20  # characters told in one message; the service takes 4 MiB at most
LOST = 1  # exit code when another process is gone: start all of them again
SPEC = re.compile(r"(?P<index>\d+)/(?P<count>\d+)@(?P<address>[\w.\-\[\]:]+:\d+)")
SIGNS, TOLD, ARRIVED = "star_jax/signs/", "star_jax/told/", "star_jax/arrived/"
DONE, FAILED = "done", "failed: "

_turns = itertools.count()  # the same in every process, since all run the same code


def join(spec: str) -> None:
    """Joins the other processes; call before anything asks for devices.

    Args:
      spec: "auto", where JAX finds them by itself (TPU pods, Slurm and others), or
        "INDEX/COUNT@HOST:PORT" with the address of process 0.

    Raises:
      UserError: `spec` is neither, or the others do not come.
    """
    found = SPEC.fullmatch(spec)
    if spec != "auto" and not (found and int(found["index"]) < int(found["count"])):
        raise UserError(
            f"--processes={spec} is neither auto nor INDEX/COUNT@HOST:PORT, such as "
            f"0/2@10.0.0.5:1234 with INDEX below COUNT and the address of process 0"
        )
    named = {} if found is None else dict(
        coordinator_address=found["address"],
        num_processes=int(found["count"]),
        process_id=int(found["index"]),
    )  # fmt: skip
    # JAX itself would abort the process when another one dies, without saying which.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(**named, initialization_timeout=START_SECONDS)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"--processes={spec}: the processes did not find each other within {START_SECONDS} s "
            f"({str(error).splitlines()[0][:200]}); start the same command on all of them, and "
            f"check the address and that its port is open"
        ) from error
    if count() > 1:
        _Witness.start()
        _Watch.start()


def count() -> int:
    """Processes at this run."""
    return distributed.global_state.num_processes if _client() else 1


def index() -> int:
    """Which of them this one is."""
    return distributed.global_state.process_id if _client() else 0


def is_lead() -> bool:
    """Whether this process writes the run directory and talks to the user."""
    return index() == 0


def from_lead(make: Callable[[], Any]) -> Any:
    """What `make` gives in the lead (JSON-ready), in every process; alone, it is just called.

    Raises:
      UserError: that `make` raised in the lead, in every process; or one did not come.
    """
    if count() == 1:
        return make()
    name = f"{TOLD}{next(_turns)}/"
    if is_lead():
        text = json.dumps(_answer(make))
        parts = [text[i : i + PART] for i in range(0, len(text), PART)]
        for i, part in enumerate(parts):
            _client().key_value_set(f"{name}{i}", part)
        _client().key_value_set(f"{name}count", str(len(parts)))
    with _waiting("", "has told nothing"):
        n_parts = int(_client().blocking_key_value_get(f"{name}count", _milliseconds()))
        parts = [
            _client().blocking_key_value_get(f"{name}{i}", _milliseconds()) for i in range(n_parts)
        ]
    meet("what process 0 tells")  # so that all have read it
    if is_lead():
        _client().key_value_delete(name)
    answer = json.loads("".join(parts))
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
        _client().wait_at_barrier(here, timeout_in_ms=_milliseconds())
    if is_lead():
        _client().key_value_delete(here)


@contextlib.contextmanager
def joined(spec: str) -> Iterator[None]:
    """What runs inside is one of several processes; "" for one alone, else as `join`.

    One that fails says why, tells the others and ends at once: JAX would wait for them at the end,
    while they wait for this one.
    """
    if not spec:
        yield
        return
    join(spec)
    try:
        yield
    except UserError as error:
        _fail(error.message, 2)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from the last finished stage", 130)
    except Exception as error:
        # If it comes of another process' end, that one will be named meanwhile.
        time.sleep(SILENCE_SECONDS + 3 * SIGN_SECONDS if count() > 1 else 0)
        traceback.print_exc()
        _fail(f"{type(error).__name__}: {str(error).partition(chr(10))[0]}", LOST)
    _Watch.stop(DONE)
    _Witness.dismiss()


def _fail(message: str, exit_code: int) -> None:
    print(f"star_jax: error: {message}", file=sys.stderr)
    _Watch.stop(FAILED + message)
    if is_lead():
        _see_off()
    _end(exit_code)


def _see_off() -> None:
    """Lets the others end first: the service is in the lead, and JAX aborts whom it leaves."""
    until = time.monotonic() + FAREWELL_SECONDS
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        while time.monotonic() < until:
            last = [sign for _, sign in _client().key_value_dir_get(SIGNS)]
            if sum(sign == DONE or sign.startswith(FAILED) for sign in last) == count():
                break
            time.sleep(SIGN_SECONDS / 10)
    time.sleep(SIGN_SECONDS / 2)  # from their last sign to their end


def _end(exit_code: int) -> None:
    _Witness.dismiss()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def gone_message(missing: dict[int, str], n: int) -> str:
    """The line that a process ends with; `missing` says what is known of each."""
    who = "; ".join(f"process {i} of {n} {how}" for i, how in sorted(missing.items()))
    return (
        f"{who}. This process ends too. What is finished is kept: start the same command on all "
        f"of them again, and it goes on"
    )


class _Witness:
    """A small process that tells of this one's end if it is not told of it first."""

    CODE = "import sys; sys.stdin.buffer.read() or sys.exit(sys.argv[1])"
    _process: subprocess.Popen | None = None

    @classmethod
    def start(cls) -> None:
        or_lead = "" if is_lead() else f" or because process 0 of {count()} is gone"
        message = gone_message({index(): f"was ended from outside{or_lead}"}, count())
        cls._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", cls.CODE, f"star_jax: error: {message}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            start_new_session=True,  # not ended by the Ctrl-C that ends this one
        )

    @classmethod
    def dismiss(cls) -> None:
        if cls._process is not None:
            with contextlib.suppress(OSError):
                cls._process.communicate(b"told")
            cls._process = None


class _Watch:
    """Gives this process's signs of life and looks for those of the others."""

    _ended = threading.Event()

    @classmethod
    def start(cls) -> None:
        threading.Thread(target=cls._run, name="star_jax signs of life", daemon=True).start()

    @classmethod
    def stop(cls, last: str) -> None:
        cls._ended.set()
        if count() == 1:
            return
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # the service may be gone
            _give_sign(last)

    @classmethod
    def _run(cls) -> None:
        heard = {i: ("", time.monotonic()) for i in range(count())}
        for turn in itertools.count():
            try:
                _give_sign(f"{turn} {socket.gethostname()}")
                signs = _client().key_value_dir_get(SIGNS)
            except jax.errors.JaxRuntimeError:
                signs = []  # the service is in process 0
            now = time.monotonic()
            for key, sign in signs:
                i = int(key.rpartition("/")[2])
                heard[i] = heard[i] if heard[i][0] == sign else (sign, now)
            missing = {} if cls._ended.is_set() else missing_among(heard, now, index())
            if missing:
                message = gone_message(missing, len(heard))
                print(f"star_jax: error: {message}", file=sys.stderr)
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    _give_sign(FAILED + message)
                _end(LOST)
            if cls._ended.wait(SIGN_SECONDS):
                return


def missing_among(heard: dict[int, tuple[str, float]], now: float, me: int) -> dict[int, str]:
    """Of the processes, those that failed or fell silent, and how.

    Args:
      heard: of each process its last sign and when it came (seconds).
      now: the time.
      me: the process that asks, which does not suspect itself.
    """
    missing = {}
    for i, (sign, when) in heard.items():
        if sign.startswith(FAILED):
            missing[i] = f"ended with an error ({sign.removeprefix(FAILED)})"
        elif i != me and sign != DONE and now - when > SILENCE_SECONDS:
            host = sign.partition(" ")[2]
            missing[i] = (
                f"{f'on {host} ' if host else ''}has given no sign of life for {now - when:.0f} s"
            )
    return missing


def _give_sign(sign: str) -> None:
    _client().key_value_set(f"{SIGNS}{index()}", sign, allow_overwrite=True)


def _answer(make: Callable[[], Any]) -> dict[str, Any]:
    try:
        return {"value": make()}
    except UserError as error:
        return {"error": error.message}


@contextlib.contextmanager
def _waiting(where: str, what: str) -> Iterator[None]:
    """Turns JAX's time-out into a line that names those who did not arrive, or else the lead."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "DEADLINE_EXCEEDED" not in str(error):
            raise
        arrived = _client().key_value_dir_get(where) if where else []
        there = {int(key.rpartition("/")[2]) for key, _ in arrived}
        missing = sorted(set(range(count())) - there) if where else [0]
        raise UserError(
            f"process {', '.join(map(str, missing))} of {count()} {what} within "
            f"{BARRIER_SECONDS:.0f} s; see what it says, and start the same command on all "
            f"processes again"
        ) from error


def _milliseconds() -> int:
    return int(BARRIER_SECONDS * 1000)


def _client() -> Any:
    return distributed.global_state.client
