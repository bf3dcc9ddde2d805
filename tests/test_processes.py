"""Several processes in one run: the same results, one writer, and no wait for a dead process."""

import functools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from unittest import mock

import jax
import pytest

from star_jax.cli.command_line import parse_command_line
from star_jax.errors import UserError
from star_jax.main import main
from star_jax.parallel import partitioning, processes
from star_jax.parallel.partitioning import make_mesh
from tests import tiny

SLOW_START = 300  # seconds that a process may take to import, to join and to sample
MINUTE = 60
STOP = {"SamplerConfig__stop": ["C: 1"]}  # sums without a carry never have it


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny.make_base(tmp_path_factory.mktemp("base"), steps=450)


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def run_here(folder, base, n_devices, **bindings):
    """A two-iteration run in this process, on so many devices."""
    these = functools.partial(make_mesh, devices=jax.devices()[:n_devices])
    arguments = tiny.command_line(
        folder, "star", MODEL_DIR=folder / "run", MODEL_CHECKPOINT=base, **bindings
    )
    with mock.patch.object(partitioning, "make_mesh", these):
        assert main(arguments) == 0


def start(folder, base, n_processes, n_devices, **bindings):
    """Starts a two-iteration run on so many processes of so many devices each."""
    folder.mkdir(exist_ok=True)
    arguments = tiny.command_line(
        folder, "star", MODEL_DIR=folder / "run", MODEL_CHECKPOINT=base, **bindings
    )
    address = f"127.0.0.1:{free_port()}"
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={n_devices}",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    running = []
    for i in range(n_processes):
        joining = [f"--processes={i}/{n_processes}@{address}"]
        log = open(folder / f"{i}.log", "a")  # noqa: SIM115  the process writes it
        command = [sys.executable, "-m", "star_jax.main", *arguments, *joining]
        running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
    return running


def finish(running, folder):
    """Waits for all; their exit codes, with what they said where one is not 0."""
    codes = [process.wait(timeout=10 * MINUTE) for process in running]
    assert codes == [0] * len(codes), "\n".join(f.read_text() for f in folder.glob("*.log"))


def results(folder):
    """What two runs of the same configuration have to have in common."""
    trained = [(folder / f"run/iter_00{n}/train.jsonl").read_bytes() for n in (1, 2)]
    evaluated = [
        [{**line, "log_probability": 0.0} for line in tiny.read_lines(file)]
        for file in sorted((folder / "run").glob("iter_*/eval.jsonl"))
    ]
    assert len(evaluated) == 3 and all(evaluated) and all(trained)
    said = [line["completion"] for lines in evaluated for line in lines if line["ended"]]
    assert any("</scratch>" not in text for text in said)
    assert not any("C: 1" in text for text in said)
    return trained, evaluated


@pytest.fixture(scope="module")
def alone(base, tmp_path_factory):
    """One process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    run_here(folder, base, 1, **STOP)
    return results(folder)


SPLIT = {"MeshConfig__data": 2, "MeshConfig__fsdp": 2, **STOP}


@pytest.fixture(scope="module")
def of_two(base, tmp_path_factory):
    """Two processes with two devices each."""
    folder = tmp_path_factory.mktemp("of_two")
    finish(start(folder, base, 2, 2, **SPLIT), folder)
    return folder


def test_one_process_with_four_devices_gives_what_one_device_gives(base, alone, tmp_path):
    run_here(tmp_path, base, 4, **SPLIT)
    assert results(tmp_path) == alone


def test_two_processes_with_two_devices_each_give_what_one_device_gives(alone, of_two):
    assert results(of_two) == alone


def test_one_process_goes_on_with_what_two_have_begun(base, of_two, alone, tmp_path):
    """Their checkpoint, onto another mesh and another number of processes."""
    shutil.copytree(of_two / "run", tmp_path / "run")
    for left in ("eval.done", "eval.jsonl", "metrics.json"):
        (tmp_path / "run/iter_002" / left).unlink()
    run_here(tmp_path, base, 1, **STOP)
    assert results(tmp_path) == alone


def test_only_the_lead_talks(of_two):
    assert "iter   acc %" in (of_two / "0.log").read_text()
    assert "report.md" in (of_two / "0.log").read_text()
    # XLA's Gloo talks in every process, from several threads into one another's lines.
    ours = "iter|acc|generate|rationalize|finetune|evaluate|questions|steps|report|star_jax"
    assert re.search(ours, (of_two / "0.log").read_text())
    assert not re.search(ours, (of_two / "1.log").read_text())


def wait_for(happened, running, seconds):
    until = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < until, f"nothing happened within {seconds} s"
        assert all(process.poll() is None for process in running), "a process ended too early"
        time.sleep(0.05)


def kill(killed, folder, base):
    """Kills one of two processes in the middle of a run; the other has to end within a minute."""
    running = start(folder, base, 2, 2, **SPLIT)
    wait_for((folder / "run/iter_001/generations.done").exists, running, SLOW_START)
    os.kill(running[killed].pid, signal.SIGKILL)
    running[killed].wait()
    assert running[1 - killed].wait(timeout=MINUTE) != 0
    message = rf"star_jax: error: .*process {killed} of 2 .*start the same command on all of them"
    until = time.monotonic() + MINUTE
    while not re.search(message, log := (folder / f"{1 - killed}.log").read_text()):
        assert time.monotonic() < until, log
        time.sleep(0.1)


def test_killing_the_lead_ends_the_other(base, tmp_path):
    kill(0, tmp_path, base)


def test_killing_one_ends_the_lead_and_the_restart_finishes(base, of_two, tmp_path):
    kill(1, tmp_path, base)
    finish(start(tmp_path, base, 2, 2, **SPLIT), tmp_path)
    assert results(tmp_path) == results(of_two)


def test_a_mistake_ends_all_with_the_same_line(base, tmp_path):
    running = start(tmp_path, base, 2, 2, **SPLIT, StarConfig__questions_per_iteration=10**6)
    assert {process.wait(timeout=SLOW_START) for process in running} <= {2, processes.LOST}
    for i in range(2):
        assert "questions_per_iteration = 1000000" in (tmp_path / f"{i}.log").read_text()


# Alone.


def test_alone_everything_is_done_here():
    assert (processes.count(), processes.index(), processes.is_lead()) == (1, 0, True)
    assert processes.from_lead(lambda: {"a": [1]}) == {"a": [1]}
    processes.meet("nowhere")
    with processes.joined(""):
        pass


@pytest.mark.parametrize("spec", ["2/2@localhost:1", "0/2", "0@localhost:1", "0/2@localhost", "x"])
def test_processes_that_cannot_be_are_refused(spec, capsys):
    with pytest.raises(UserError, match=rf"--processes={spec} is neither auto nor INDEX/COUNT@"):
        processes.join(spec)


def test_what_runs_in_one_process_refuses_several():
    with pytest.raises(UserError, match="--run_mode=convert runs in one process; remove"):
        parse_command_line(["--run_mode=convert", "--processes=auto"])
    assert main(["--run_mode=report", "--processes=auto"]) == 2


class Service:
    """JAX's coordination service as process 1 of 4 sees it: 0 and 1 are there, the others not."""

    def __init__(self):
        self.keys = {}

    def key_value_set(self, key, value):
        self.keys[key] = value

    def wait_at_barrier(self, name, timeout_in_ms):
        self.keys[f"{name}0"] = ""
        raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {name} after {timeout_in_ms} ms")

    def blocking_key_value_get(self, key, timeout_in_ms):
        raise jax.errors.JaxRuntimeError(f"DEADLINE_EXCEEDED: {key} after {timeout_in_ms} ms")

    def key_value_dir_get(self, start):
        return [(key, value) for key, value in self.keys.items() if key.startswith(start)]


@pytest.fixture
def one_of_four(monkeypatch):
    state = mock.Mock(client=Service(), num_processes=4, process_id=1)
    monkeypatch.setattr(processes.distributed, "global_state", state)


def test_a_barrier_names_who_did_not_come(one_of_four):
    line = "process 2, 3 of 4 did not come to the checkpoint within 600 s; see its output"
    with pytest.raises(UserError, match=line):
        processes.meet("the checkpoint")


def test_a_silent_lead_is_reported(one_of_four):
    with pytest.raises(UserError, match="process 0 of 4 sent nothing within 600 s"):
        processes.from_lead(lambda: 1)


def test_who_is_missing():
    heard = {
        0: ("4 here", 100.0),  # this process, which was busy
        1: ("9 there", 129.0),
        2: ("8 beyond", 105.0),
        3: (processes.DONE, 50.0),
        4: (f"{processes.FAILED}no space left", 129.0),
        5: ("", 100.0),  # never came
    }
    missing = processes.missing_among(heard, now=130.0, me=0)
    assert missing == {
        2: "on beyond sent no heartbeat for 25 s",
        4: "ended with an error (no space left)",
        5: "sent no heartbeat for 30 s",
    }
    line = processes.gone_message(missing, 6)
    assert line.startswith("process 2 of 6 on beyond sent no heartbeat")
    assert line.endswith("start the same command on all of them again to resume")
