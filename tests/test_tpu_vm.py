"""launch/tpu_vm.py against a stand-in for gcloud whose workers really run what they are sent."""

import ast
import contextlib
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import types
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from star_jax.cli import gin_sources
from star_jax.cli.command_line import parse_command_line, quick_answer
from star_jax.errors import UserError
from star_jax.main import main
from star_jax.modes import MODES
from star_jax.parallel.topologies import TOPOLOGIES
from star_jax.records import to_json
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import RunDir
from star_launch import check
from star_launch.fetch.table import TABLE
from star_launch.sweep import configurations
from star_launch.tpu_vm import command as tpu_vm
from star_launch.tpu_vm import create, gcloud, pack, prices, results, run, up
from star_launch.tpu_vm.tpu import Tpu
from star_launch.tpu_vm.worker import environment, self_delete, supervise, tpu_worker
from tests import fake_gcloud
from tests.fake_google import FakeGoogle

ROOT = Path(__file__).parent.parent
LAUNCH = ROOT / "launch"

PACKAGE = LAUNCH / "star_launch"
FILES = [path for path in sorted(LAUNCH.rglob("*.py")) if path.parent.name != "sweep"]
PLACE = ["--zone=us-central1-a", "--project=my-project"]
BUCKET = "--gin.MODEL_DIR='gs://bucket/star'"
ODD = """--gin.TEXT="it's  a $HOME `word`; \\"so\\" * | & é" """.strip()

# Stands for star_jax on a worker; each test adds what it does.
PROGRAM = """\
import json, os, sys, time
from pathlib import Path

fake = Path(os.environ["FAKE_GCLOUD_DIR"])
worker, made = int(os.environ["FAKE_HOSTNAME"][-1]), int(os.environ["FAKE_MADE"])
script, *arguments = sys.argv[1:]
if script == "fetch.py":
    data = Path(arguments[-1])
    data.mkdir(exist_ok=True)
    (data / "fetched").write_text(" ".join(arguments))
    sys.exit()
assert (script, arguments.pop(0)) == ("-m", "star_jax.main")
assert arguments.pop() == "--processes=pod"
run = {"worker": worker, "made": made, "arguments": arguments}
with open(fake / "runs.jsonl", "a") as file:
    file.write(json.dumps(run) + "\\n")
model_dir = tuple(a for a in arguments if a.startswith("--gin.MODEL_DIR="))[-1][17:-1]
bucket = model_dir.startswith("gs://")
folder = fake / "bucket" / model_dir[5:] if bucket else Path(model_dir)


def write(iteration, accuracy=0.5, seconds=10):
    folder.mkdir(parents=True, exist_ok=True)
    row = {"iteration": iteration, "accuracy": accuracy, "seconds": {"generate": seconds}}
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(json.dumps(row) + "\\n")


def report():
    (folder / "report").mkdir(parents=True, exist_ok=True)
    (folder / "report/report.md").write_text("the table")
    (folder / "config.gin").write_text("A = 1")


def ask_for(event):
    (fake / event).touch()
    hang()


def hang():
    for _ in range(600):
        time.sleep(0.05)


print("star_jax runs", flush=True)
"""
UV = """\
#!/bin/sh
echo "uv $*" >>"$HOME/uv.log"
for last; do :; done
case "$1" in
  venv) mkdir -p "$last/bin" && cp "$FAKE_GCLOUD_DIR/worker_bin/venv_python" "$last/bin/python" ;;
  pip) [ ! -e "$FAKE_GCLOUD_DIR/offline-$FAKE_HOSTNAME" ] || { echo "no network" >&2; exit 1; } ;;
esac
"""


class Cloud:
    """A cloud with the stand-in for gcloud, a checkout to send, and a user's machine."""

    def __init__(self, folder, monkeypatch, capfd):
        self.folder, self.capfd = folder / "cloud", capfd
        self.checkout, self.results = folder / "a checkout", folder / "results"
        for name in ("bin", "cloud/worker_bin", "cloud/worker_lib"):
            (folder / name).mkdir(parents=True)
        fake = Path(__file__).with_name("fake_gcloud.py")
        gcloud = f'#!/bin/sh\nexec "{sys.executable}" -I -S "{fake}" "$@"\n'
        self.script(folder / "bin/gcloud", gcloud)
        python = f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
        self.script(self.folder / "worker_bin/python3", python)
        venv = f'#!/bin/sh\nexec "{sys.executable}" "$FAKE_GCLOUD_DIR/program.py" "$@"\n'
        self.script(self.folder / "worker_bin/venv_python", venv)
        self.script(self.folder / "worker_bin/uv", UV)
        self.script(self.folder / "worker_bin/curl", "#!/bin/sh\nexit 1\n")  # never the network
        (self.folder / "worker_lib/sitecustomize.py").write_text(
            "import os, socket\nsocket.gethostname = lambda: os.environ['FAKE_HOSTNAME']\n"
        )
        shutil.copytree(LAUNCH, self.checkout / "launch")
        monkeypatch.setenv("PATH", f"{folder / 'bin'}:/usr/bin:/bin")
        monkeypatch.setenv("FAKE_GCLOUD_DIR", str(self.folder))
        monkeypatch.setattr(run, "ROOT", self.checkout)
        monkeypatch.setattr(run, "RECORDS", folder / "records")
        self.google = FakeGoogle(self.folder)
        self.scenario()
        self.program("write(1)\nreport()\n")

    def script(self, path, text):
        path.write_text(text)
        path.chmod(0o755)

    def scenario(self, workers=1, **events):
        text = json.dumps({"workers": workers, **events})
        (self.folder / "scenario.json").write_text(text)

    def program(self, text):
        (self.folder / "program.py").write_text(PROGRAM + text)

    def run(self, command, *options, arguments=(), poll="0.02"):
        """Runs tpu_vm.py and returns its exit code."""
        checked = ["--checked"] if command in ("up", "run") else []  # no star_jax in the checkout
        tail = [*checked, *(["--", *arguments] if arguments else [])]
        argv = [command, "star", *PLACE, f"--poll_seconds={poll}", *options, *tail]
        code = tpu_vm.main(argv)
        self.out, self.err = self.capfd.readouterr()
        return code

    def does(self, command, *options, **settings):
        """Returns the progress that tpu_vm.py prints, which must succeed."""
        assert self.run(command, *options, **settings) == 0, self.err
        return self.err

    def fails(self, command, *options, **settings):
        """Returns the error of a command that must fail: its last line."""
        assert self.run(command, *options, **settings) == 1, self.err
        line = self.err.splitlines()[-1]
        assert line.startswith("tpu_vm.py: error: ")
        return line.removeprefix("tpu_vm.py: error: ")

    def up(self, *options, arguments=("--run_mode=star", BUCKET), check=True, **settings):
        run = self.does if check else self.fails
        place = ["--accelerator_type=v3-8", f"--to={self.results}"]
        return run("up", *place, *options, arguments=arguments, **settings)

    def make(self, *data, accelerator_type="v3-8"):
        """Leaves a TPU VM that is set up."""
        self.does("create", f"--accelerator_type={accelerator_type}")
        self.does("setup", *(f"--data={what}" for what in data))
        self.verbs()

    def calls(self):
        """Returns the arguments of the calls since the last time."""
        path = self.folder / "calls.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def verbs(self):
        """Returns the calls since the last time in short."""
        return [verb_of(call) for call in self.calls()]

    def runs(self):
        """Returns each start of star_jax: worker, number of the TPU VM, arguments."""
        path = self.folder / "runs.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def home(self, worker=0, made=1):
        return self.folder / "nodes" / str(made) / f"w-{worker}"

    def until(self, condition):
        """Waits for what a run in the background is to do."""
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def until_over(self, worker=0):
        """Waits for the end of a worker's run, and returns what `status` prints then."""
        record = self.home(worker) / "star_jax/run/record.json"
        self.until(lambda: "exit_code" in record.read_text())
        assert self.run("status") == 0, self.err
        return self.out

    def close(self):
        for name in ("star_jax/run/pid", "state/pid"):
            for path in self.folder.glob(f"nodes/*/*/{name}"):
                with contextlib.suppress(OSError):
                    os.killpg(int(path.read_text()), signal.SIGKILL)
        self.google.shutdown()
        self.google.server_close()


def verb_of(call):
    """["compute", "tpus", "tpu-vm", "ssh", "--command=python3 tpu_worker.py stop"] -> "stop"."""
    words = [word for word in call if not word.startswith("--")]
    if words[0] == "storage":
        return " ".join(words[:2])
    if words[3] == "ssh":
        command = next(word for word in call if word.startswith("--command=")).split()
        return command[2] if command[1] == "tpu_worker.py" else command[0].partition("=")[2]
    return words[3] if words[2] == "tpu-vm" else f"{words[2]} {words[3]}"


def commands_of(printed):
    """Returns the arguments of each gcloud command that a dry run printed for a shell."""
    lines = printed.replace("\\\n", " ").splitlines()
    commands = [shlex.split(line, comments=True) for line in lines]
    assert all(words[0] == "gcloud" for words in commands if words)
    return [words[1:] for words in commands if words]


def once_each(verbs):
    """Leaves out a verb, or a pair of them, that only repeats the one before: a poll."""
    kept = []
    for verb in verbs:
        kept.append(verb)
        for size in (1, 2, 3):
            while len(kept) >= 2 * size and kept[-size:] == kept[-2 * size : -size]:
                del kept[-size:]
    return kept


@pytest.fixture
def cloud(tmp_path, monkeypatch, capfd):
    cloud = Cloud(tmp_path, monkeypatch, capfd)
    yield cloud
    cloud.close()


# `up`


def test_up_does_it_all(cloud):
    words = cloud.up("--data=gptj", "--delete_at_end", arguments=(BUCKET, ODD, "--x"))
    assert once_each(cloud.verbs()) == [
        *["describe", "storage cat", "create", "describe", "report", "storage cat"],
        *["scp", "setup", "report", "scp", "start"],
        *["describe", "report", "storage cat"],
        *["describe", "storage cp"],
        *["queued-resources describe", "describe", "delete"],
    ]
    assert cloud.runs() == [{"worker": 0, "made": 1, "arguments": [BUCKET, ODD, "--x"]}]
    fetched = cloud.home() / "star_jax/data/fetched"
    assert fetched.read_text() == f"gptj --dir {cloud.home()}/star_jax/data"
    names = sorted(path.name for path in cloud.results.iterdir())
    assert names == ["config.gin", "metrics.jsonl", "report"]
    assert (cloud.results / "report/report.md").read_text() == "the table"
    for part in ("creating a v3-8", "worker 0 set up", "the run has started", "accuracy 50.0 %"):
        assert part in words


def test_a_dry_run_prints_what_up_really_does(cloud, monkeypatch):
    arguments = ("--run_mode=star", BUCKET, ODD)
    cloud.up("--spot", "--delete_at_end", arguments=arguments)
    real = cloud.calls()
    monkeypatch.setattr(run, "RECORDS", cloud.folder / "other_records")
    cloud.up("--spot", "--delete_at_end", "--dry_run", arguments=arguments)
    printed = commands_of(cloud.out)
    assert cloud.calls() == [] and cloud.err == ""
    assert once_each(map(verb_of, printed)) == once_each(map(verb_of, real))
    for verb in ("create", "setup", "start", "delete"):
        own, others = (
            [call for call in calls if verb_of(call) == verb] for calls in (printed, real)
        )
        assert own == others


def test_a_preempted_spot_tpu_is_replaced_and_the_run_resumes(cloud):
    cloud.program("write(made)\nif made == 1: ask_for('preempt')\nreport()\n")
    words = cloud.up("--spot")
    verbs = once_each(cloud.verbs())
    lost = verbs.index("delete")
    assert verbs[lost - 3 : lost + 8] == [
        *["describe", "queued-resources describe", "describe", "delete"],
        *["describe", "create", "describe", "report", "storage cat", "scp", "setup"],
    ]
    assert "was preempted" in words and "iteration 1 is finished" in words
    first, second = cloud.runs()
    assert (first["made"], second["made"]) == (1, 2)
    assert first["arguments"] == second["arguments"] == ["--run_mode=star", BUCKET]
    assert "iteration 2 is finished" in words and "goodput" in words
    (record,) = (cloud.folder.parent / "records/.records").iterdir()
    began = json.loads((cloud.home() / "star_jax/run/record.json").read_text())["attempts"][0]
    assert json.loads(record.read_text())["first_began"] == began["began"]
    assert "2" in (cloud.results / "metrics.jsonl").read_text()


def test_a_preempted_queued_resource_is_deleted_and_requested_again(cloud):
    cloud.scenario(queue=["WAITING_FOR_RESOURCES", "PROVISIONING"])
    cloud.program("if made == 1: ask_for('preempt')\nwrite(1)\n")
    words = cloud.up("--spot", "--queued")
    verbs = cloud.verbs()
    assert verbs.count("queued-resources create") == 2 and "create" not in verbs
    assert verbs.count("queued-resources delete") == 1 and "delete" not in verbs
    assert re.search(r"the queued resource is WAITING_FOR_RESOURCES; \d s so far", words)
    assert "the queued resource is SUSPENDING" in words
    assert [run["made"] for run in cloud.runs()] == [1, 2]


def test_processes_that_are_gone_are_started_again_on_the_same_tpu(cloud):
    cloud.program("if not folder.exists():\n  write(1)\n  ask_for('reboot')\nwrite(2)\n")
    words = cloud.up()
    assert [run["made"] for run in cloud.runs()] == [1, 1]
    assert "the run was interrupted; iteration 1 is finished" in words
    assert cloud.verbs().count("create") == 1


def test_workers_that_still_run_alone_are_stopped_and_all_start_again(cloud):
    cloud.scenario(workers=2)
    cloud.program(
        "again = fake / 'again'\n"
        "if not again.exists():\n"
        "  if worker == 0: hang()\n"
        "  time.sleep(0.3)\n"
        "  again.touch()\n"
        "  os.killpg(0, 9)\n"
        "write(1)\n"
    )
    words = cloud.up("--accelerator_type=v3-32")
    assert words.index("worker 0 stopped") < words.rindex("the run has started")
    assert sorted(run["worker"] for run in cloud.runs()) == [0, 0, 1, 1]


def test_a_run_that_is_always_interrupted_is_given_up(cloud, monkeypatch):
    monkeypatch.setattr(up, "PATIENCE", 1)
    cloud.program("ask_for('reboot')\n")
    assert "interrupted 1 times without finishing an iteration" in cloud.up(check=False)
    assert len(cloud.runs()) == 2


def test_a_tpu_with_a_silent_worker_is_replaced(cloud):
    cloud.scenario(workers=2)
    silence = "(fake / 'silence-1').write_text('3')"
    cloud.program(f"if made == 1:\n  if worker == 1: {silence}\n  hang()\nwrite(1)\n")
    words = cloud.up("--accelerator_type=v3-32")
    assert "a worker does not answer; replacing the TPU VM" in words
    assert sorted(run["made"] for run in cloud.runs()) == [1, 1, 2, 2]
    assert cloud.verbs().count("create") == 2


def test_a_tpu_that_never_answered_is_not_made_again_and_again(cloud):
    (cloud.folder / "silence-0").write_text("9")
    line = cloud.up(check=False)
    assert "return code [255]" in line and "gcloud compute firewall-rules list" in line
    verbs = cloud.verbs()
    assert verbs.count("create") == 1 and "delete" not in verbs


def test_a_setup_that_fails_is_tried_again_by_up_but_not_for_ever(cloud):
    offline = cloud.folder / "offline-t1v-n-0a1b2c3d-w-0"
    offline.touch()
    line = cloud.up(check=False)
    assert "worker 0: environment: 'uv pip install ...' ended with 1: no network" in line
    assert cloud.verbs().count("setup") == up.PATIENCE
    offline.unlink()
    cloud.up()


def test_without_a_bucket_a_lost_tpu_ends_the_run(cloud):
    cloud.program("ask_for('preempt')\n")
    line = cloud.up(arguments=("--gin.MODEL_DIR='runs/x'",), check=False)
    assert "MODEL_DIR runs/x with its disk; a run can resume if MODEL_DIR is bound to gs://" in line


@pytest.mark.parametrize(
    ("options", "reason"),
    [(["--spot"], "is a spot TPU VM"), (["--accelerator_type=v4-16"], "its own disk")],
)
def test_up_needs_a_bucket_if_a_disk_can_be_lost_or_there_are_several(cloud, options, reason):
    line = cloud.up(*options, arguments=("--gin.MODEL_DIR='runs/x'",), check=False)
    assert reason in line and "bind MODEL_DIR to gs://BUCKET/NAME" in line
    assert cloud.calls() == []


def test_a_worker_that_fails_ends_the_run_of_all(cloud):
    cloud.scenario(workers=2)
    cloud.program("if worker == 1:\n  print('ValueError: broken')\n  sys.exit(1)\nhang()\n")
    line = cloud.up("--accelerator_type=v3-32", check=False)
    assert "worker 1: ended with exit code 1" in line and "ValueError: broken" in line
    assert "logs star --worker=1`" in line
    assert cloud.err.count("checking whether the TPU VM was preempted") == up.PATIENCE - 1
    assert cloud.verbs()[-1] == "stop"
    assert "worker 0: was stopped" in cloud.until_over()


def test_a_users_mistake_ends_the_run_at_once(cloud):
    cloud.program("print('star_jax: error: no such gin file')\nsys.exit(2)\n")
    assert "star_jax: error: no such gin file" in cloud.up(check=False)
    assert "checking whether" not in cloud.err


def test_a_failed_run_is_tried_again_by_the_next_up(cloud):
    cloud.program("sys.exit(2)\n")
    cloud.up(check=False)
    cloud.program("write(3)\n")
    assert "iteration 3" in cloud.up()
    assert len(cloud.runs()) == 2


def test_up_watches_an_active_run_and_fetches_a_finished_one(cloud):
    cloud.program("write(1)\nwhile not (fake / 'go').exists(): time.sleep(0.02)\n")
    cloud.make()
    cloud.does("run", arguments=("--run_mode=star", BUCKET))
    (cloud.folder / "go").touch()
    cloud.up()
    cloud.verbs()
    cloud.up()
    assert len(cloud.runs()) == 1
    assert once_each(cloud.verbs()) == [
        *["describe", "report", "storage cat", "describe", "storage cp"]
    ]


def test_ctrl_c_leaves_the_run_alone_and_says_how_to_continue(cloud, monkeypatch):
    cloud.program("hang()\n")

    def interrupt(_):
        raise KeyboardInterrupt

    clock = types.SimpleNamespace(sleep=interrupt, monotonic=time.monotonic)
    monkeypatch.setattr(up, "time", clock)
    place = ["--accelerator_type=v3-8"]
    assert cloud.run("up", *place, arguments=(BUCKET,)) == 130
    assert "`tpu_vm.py status star`" in cloud.err and "`tpu_vm.py stop star`" in cloud.err
    assert cloud.run("status") == 0 and "worker 0: running" in cloud.out


# `create` and `delete`


def test_create_does_nothing_when_the_tpu_is_there(cloud):
    cloud.does("create", "--accelerator_type=v3-8")
    assert cloud.verbs() == ["describe", "create", "describe"]
    assert "READY, v3-8, 1 worker" in cloud.does("create", "--accelerator_type=v3-8")
    assert cloud.verbs() == ["describe"]
    line = cloud.fails("create", "--accelerator_type=v4-8")
    assert "is a v3-8, not a v4-8; delete it, or choose another name" in line


@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (["--accelerator_type=v2-8"], ["--version=tpu-ubuntu2204-base"]),
        (["--accelerator_type=v4-8", "--spot"], ["--version=tpu-ubuntu2204-base", "--spot"]),
        (["--accelerator_type=v5e-16"], ["--version=v2-alpha-tpuv5-lite"]),
        (["--accelerator_type=v5p-8"], ["--version=v2-alpha-tpuv5"]),
        (["--accelerator_type=v6e-8"], ["--version=v2-alpha-tpuv6e"]),
        (
            ["--accelerator_type=v6e-8", "--queued", "--service_account=me@p.iam"],
            ["--node-id=star", "--runtime-version=v2-alpha-tpuv6e", "--service-account=me@p.iam"],
        ),
    ],
)
def test_each_generation_gets_its_image(cloud, options, flags):
    cloud.does("create", *options)
    (call,) = [call for call in cloud.calls() if verb_of(call).endswith("create")]
    name = options[0].partition("=")[2].replace("v5e", "v5litepod")
    own = {word for word in call if word.startswith("--") and "metadata" not in word}
    assert own - {*PLACE, "--quiet"} == {*flags, f"--accelerator-type={name}"}
    settings = "star-jax-max-hours=24,star-jax-node=projects/my-project/locations/us-central1-a"
    assert f"--metadata={settings}/nodes/star" in call
    assert f"--metadata-from-file=startup-script={self_delete.__file__}" in call


@pytest.mark.parametrize(
    ("event", "reason", "way_out"),
    [
        ("quota", "TPUV3PerProjectPerZoneForTPUAPI", "console.cloud.google.com/iam-admin/quotas"),
        ("disabled", "has not been used", "gcloud services enable tpu.googleapis.com"),
    ],
)
def test_errors_that_waiting_cannot_fix_end_at_once(cloud, event, reason, way_out):
    cloud.scenario(create=[event])
    line = cloud.fails("create", "--accelerator_type=v3-8")
    assert reason in line and way_out in line
    assert cloud.verbs() == ["describe", "create"]


def test_a_queued_resource_that_fails_for_quota_ends_at_once(cloud):
    cloud.scenario(queue=["FAILED"], reason="Quota limit 'X' has been exceeded")
    line = cloud.fails("create", "--accelerator_type=v3-8", "--queued")
    assert "Quota limit 'X'" in line


def test_a_queued_resource_that_fails_otherwise_is_requested_again(cloud):
    cloud.scenario(queue=["FAILED", "ACTIVE"], reason="internal trouble")
    words = cloud.does("create", "--accelerator_type=v3-8", "--queued")
    assert "FAILED (internal trouble), requesting another" in words
    assert cloud.verbs().count("queued-resources create") == 2


def test_a_stock_out_is_tried_again_after_longer_and_longer_waits(cloud, monkeypatch):
    waits = []
    clock = types.SimpleNamespace(sleep=waits.append, monotonic=lambda: sum(waits))
    monkeypatch.setattr(create, "time", clock)
    cloud.scenario(create=["stock_out"] * 7)
    words = cloud.does("create", "--accelerator_type=v3-8", poll="30")
    assert waits == [30, 60, 120, 240, 480, 600, 600]
    assert cloud.verbs().count("create") == 8
    assert 'no more capacity in the zone "us-central1-a"' in words
    assert "30 s so far, next in 1 min 0 s" in words
    assert "15 min 30 s so far, next in 10 min 0 s" in words


def test_a_stock_out_is_given_up_in_the_end(cloud):
    cloud.scenario(create=["stock_out"] * 9)
    line = cloud.fails("create", "--accelerator_type=v3-8", "--give_up_hours=0")
    assert "no more capacity" in line and "try another --zone, --queued" in line
    assert cloud.verbs().count("create") == 1


def test_a_slow_create_is_waited_for_and_not_repeated(cloud):
    cloud.scenario(create=["slow"], creating=["CREATING", "CREATING"])
    words = cloud.does("create", "--accelerator_type=v3-8")
    assert cloud.verbs() == ["describe", "create", *["describe"] * 3]
    assert re.search(r"still being created; \d s so far", words)
    assert re.search(r"star: CREATING; \d s so far", words)


def test_delete_of_nothing_does_nothing(cloud):
    cloud.does("delete")
    assert cloud.verbs() == ["queued-resources describe", "describe"]
    cloud.make()
    cloud.does("delete")
    cloud.does("delete")
    assert cloud.verbs().count("delete") == 1
    assert cloud.run("status") == 0 and "star: there is no TPU VM" in cloud.out


def test_without_gcloud_it_says_where_to_get_it(cloud, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert "https://cloud.google.com/sdk/docs/install" in cloud.fails("status")


# `setup`


def test_setup_makes_each_workers_environment_once(cloud):
    cloud.scenario(workers=2)
    cloud.make("gptj", accelerator_type="v3-32")
    for worker in (0, 1):
        home = cloud.home(worker)
        venv, python, install = (home / "uv.log").read_text().splitlines()[0:3]
        assert venv == f"uv venv --quiet --clear --python 3.12 {home}/star_jax/venv"
        assert python.endswith(f"-r {home}/star_jax/code/launch/requirements-tpu.lock")
        assert install.endswith(f"--editable {home}/star_jax/code")
        packed = (home / "star_jax/code/launch/star_launch/tpu_vm/worker/tpu_worker.py").read_text()
        assert packed == (PACKAGE / "tpu_vm/worker/tpu_worker.py").read_text()
    assert "is set up already" in cloud.does("setup", "--data=gptj")
    assert "is set up already" in cloud.does("setup")
    cloud.does("setup", "--data=gsm8k", "--data=gptj")  # new data are no reason for new packages
    assert len((cloud.home() / "uv.log").read_text().splitlines()) == 3
    assert (cloud.home() / "star_jax/data/fetched").read_text().startswith("gsm8k --dir")


def test_changed_code_is_sent_again_but_not_under_a_run(cloud):
    cloud.make()
    (cloud.checkout / "launch/new.txt").write_text("new")
    assert "worker 0 set up" in cloud.does("setup")
    assert (cloud.home() / "star_jax/code/launch/new.txt").exists()
    venvs = (cloud.home() / "uv.log").read_text().count("uv venv")
    assert venvs == 1
    cloud.program("hang()\n")
    cloud.does("run", arguments=(BUCKET,))
    (cloud.checkout / "launch/new.txt").write_text("newer")
    assert "worker 0: a run is active here; stop it" in cloud.fails("setup")


def test_a_worker_that_cannot_be_set_up_is_named_and_only_it_is_done_again(cloud):
    cloud.scenario(workers=2)
    offline = cloud.folder / "offline-t1v-n-0a1b2c3d-w-1"
    offline.touch()
    cloud.does("create", "--accelerator_type=v3-32")
    line = cloud.fails("setup")
    assert "worker 1: environment: 'uv pip install ...' ended with 1: no network" in line
    assert "worker 0" not in line
    assert "the workers do not have the same code" in cloud.fails("run", arguments=(BUCKET,))
    assert cloud.runs() == []
    offline.unlink()
    cloud.does("stop")
    assert "star: worker 1 set up" in cloud.does("setup")


def test_a_worker_without_uv_gets_it_from_pip(cloud):
    (cloud.folder / "worker_bin/uv").rename(cloud.folder / "uv")
    pip = cloud.folder / "worker_lib/pip/__main__.py"
    pip.parent.mkdir()
    (pip.parent / "__init__.py").touch()
    pip.write_text(
        "import os, pathlib, shutil, sys\n"
        "assert sys.argv[1:] == ['install', '--quiet', '--user', 'uv']\n"
        "target = pathlib.Path.home() / '.local/bin'\n"
        "target.mkdir(parents=True)\n"
        "shutil.copy(os.environ['FAKE_GCLOUD_DIR'] + '/uv', target)\n"
    )
    cloud.make()
    assert "--editable" in (cloud.home() / "uv.log").read_text()


def test_where_pip_may_not_install_uv_its_own_installer_does(cloud):
    (cloud.folder / "worker_bin/uv").rename(cloud.folder / "uv")
    pip = cloud.folder / "worker_lib/pip/__main__.py"
    pip.parent.mkdir()
    (pip.parent / "__init__.py").touch()
    pip.write_text("import sys\nsys.exit('error: externally-managed-environment')\n")
    install = 'mkdir -p "$HOME/.local/bin"; cp "$FAKE_GCLOUD_DIR/uv" "$HOME/.local/bin"'
    cloud.script(
        cloud.folder / "worker_bin/curl",
        f'#!/bin/sh\necho "$*" >"$HOME/curl.log"\necho \'{install}\' >"$6"\n',
    )
    cloud.make()
    assert "--editable" in (cloud.home() / "uv.log").read_text()
    asked = (cloud.home() / "curl.log").read_text().split()
    assert asked[-1] == "https://astral.sh/uv/install.sh"


# `run`, `status`, `logs`, `fetch`, `stop`


def test_a_run_outlives_its_start_and_a_second_start_does_nothing(cloud):
    cloud.program("write(4, 0.688)\nhang()\n")
    cloud.make()
    arguments = (ODD, "--gin.MODEL_DIR='runs/x'")
    cloud.does("run", arguments=arguments)
    cloud.until((cloud.home() / "star_jax/runs/x/metrics.jsonl").exists)
    pid = (cloud.home() / "star_jax/run/pid").read_text()
    assert "the run is active already" in cloud.does("run", arguments=arguments)
    assert "another run is active; stop it first" in cloud.fails("run", arguments=(BUCKET,))
    assert (cloud.home() / "star_jax/run/pid").read_text() == pid and len(cloud.runs()) == 1
    assert cloud.run("status") == 0 and "iteration 4 is finished, accuracy 68.8 %" in cloud.out
    start = r"star: READY, v3-8, 1 worker\nworker 0: running for \d s, attempt 1: star_jax runs\n"
    assert re.match(start, cloud.out)
    assert "stopped" in cloud.does("stop")
    assert cloud.run("status") == 0 and "worker 0: was stopped after" in cloud.out
    assert "no run is active" in cloud.does("stop")
    cloud.does("fetch", f"--to={cloud.results}")
    assert [path.name for path in cloud.results.iterdir()] == ["metrics.jsonl"]


def test_logs_show_the_end_of_a_workers_log(cloud):
    cloud.scenario(workers=2)
    cloud.program("print('line of worker', worker)\n")
    cloud.make(accelerator_type="v3-32")
    cloud.does("run", arguments=(BUCKET,))
    assert "worker 1: ended with exit code 0" in cloud.until_over(worker=1)
    cloud.run("logs", "--worker=1", "--lines=1")
    assert cloud.out == "line of worker 1\n"
    assert "--command=tail -n 1 star_jax/run/log.txt" in cloud.calls()[-1]
    cloud.run("logs", "--follow", "--dry_run")
    assert "--command='tail -n 50 -F star_jax/run/log.txt'" in cloud.out


def test_goodput_is_finished_iterations_over_all_time(cloud):
    cloud.program("write(1, seconds=30)\nwrite(2, seconds=60)\n")
    cloud.make()
    cloud.does("run", arguments=(BUCKET,))
    cloud.until_over()
    record = cloud.home() / "star_jax/run/record.json"
    known = json.loads(record.read_text())
    known["attempts"][-1]["ended"] = known["attempts"][0]["began"] + 120
    record.write_text(json.dumps(known))
    cloud.run("status")
    assert "goodput 75.0 % (1 min 30 s of finished iterations in 2 min 0 s)" in cloud.out


def test_goodput_counts_the_time_before_a_preemption(cloud):
    cloud.program("write(1, seconds=30)\n")
    cloud.make()
    cloud.does("run", arguments=(BUCKET,))
    cloud.until_over()
    tpu = Tpu(gcloud.Gcloud(), "star", "us-central1-a", "my-project")
    began = json.loads(run.record_file(tpu).read_text())["first_began"]
    ended = json.loads((cloud.home() / "star_jax/run/record.json").read_text())["attempts"][0]
    tpu_worker.write_json(
        run.record_file(tpu),
        {"model_dir": "gs://bucket/star", "first_began": ended["ended"] - 300},
    )
    assert began == pytest.approx(ended["began"])
    cloud.run("status")
    assert "goodput 10.0 % (30 s of finished iterations in 5 min 0 s)" in cloud.out


def test_status_and_fetch_know_the_run_when_the_tpu_is_gone(cloud):
    cloud.up("--delete_at_end")
    assert cloud.run("status") == 0
    assert "there is no TPU VM\ngs://bucket/star: iteration 1 is finished" in cloud.out
    shutil.rmtree(cloud.results)
    cloud.does("fetch", f"--to={cloud.results}")
    assert (cloud.results / "report/report.md").exists()
    assert "has none of" in cloud.fails("fetch", "--model_dir=gs://bucket/other")
    assert "was on its disk" in cloud.fails("fetch", "--model_dir=runs/x")


def test_status_of_a_tpu_that_is_not_set_up_says_what_it_knows(cloud):
    cloud.does("create", "--accelerator_type=v3-8", "--spot")
    assert cloud.run("status") == 0
    assert cloud.out == "star: READY, v3-8, spot, 1 worker\n"
    assert "first run launch/tpu_vm.py setup" in cloud.fails("stop")


def test_a_run_that_was_killed_leaves_its_signal_as_exit_code(cloud):
    cloud.program("import signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    cloud.make()
    cloud.does("run", arguments=(BUCKET,))
    assert "ended with exit code 137" in cloud.until_over()


@pytest.mark.parametrize("command", ["setup", "run", "stop"])
def test_commands_for_a_tpu_that_is_not_there_say_so(cloud, command):
    arguments = (BUCKET,) if command == "run" else ()
    assert "there is no such TPU VM; create it first" in cloud.fails(command, arguments=arguments)


# What ends the cost


WATCHER = """\
import sys
from pathlib import Path
from star_launch.tpu_vm import command, run, up
run.ROOT, run.RECORDS, up.GRACE_SECONDS = Path(sys.argv[1]), Path(sys.argv[2]), 0.3
sys.exit(command.main(sys.argv[3:]))
"""
WAITS = "while not (fake / 'go').exists(): time.sleep(0.02)\n"


def until_deleted(cloud):
    cloud.until(lambda: cloud.google.deleted)
    assert set(cloud.google.deleted) == {NODE_PATH}


NODE_PATH = "/tpu/v2/projects/my-project/locations/us-central1-a/nodes/star"


def killed_watcher(cloud, *options):
    """Kills an `up` with its whole group once the run is active, and lets the run go on."""
    folders = [str(cloud.checkout), str(cloud.folder.parent / "records")]
    argv = ["up", "star", *PLACE, "--accelerator_type=v3-8", "--checked", "--poll_seconds=0.02"]
    command = [*argv, f"--to={cloud.results}", *options, "--", "--run_mode=star", BUCKET]
    watcher = subprocess.Popen(
        [sys.executable, "-c", WATCHER, *folders, *command],
        cwd=LAUNCH, stderr=subprocess.PIPE, start_new_session=True, text=True,
    )  # fmt: skip
    cloud.until(cloud.runs)
    os.killpg(watcher.pid, signal.SIGKILL)
    watcher.communicate()
    (cloud.folder / "go").touch()


def test_a_failed_run_is_deleted_although_its_watcher_was_killed(cloud):
    cloud.program(WAITS + "print('ValueError: broken')\nsys.exit(1)\n")
    killed_watcher(cloud, "--delete_at_end")
    until_deleted(cloud)
    saved = cloud.folder / "bucket/bucket/star.tpu_vm"
    assert "ValueError: broken" in (saved / "worker_0.log").read_text()
    assert cloud.run("status") == 0
    assert cloud.out.startswith("star: there is no TPU VM\nworker 0: ended with exit code 1")
    cloud.program("write(7)\n")
    assert "iteration 7" in cloud.up()  # tries again, on another TPU VM
    assert [run["made"] for run in cloud.runs()] == [1, 2]


def test_a_finished_run_is_deleted_and_its_results_are_fetched_later(cloud):
    cloud.program(WAITS + "write(1)\nreport()\n")
    killed_watcher(cloud, "--delete_at_end")
    until_deleted(cloud)
    cloud.calls()
    assert "the run has ended, and the TPU VM deleted itself" in cloud.up()
    assert "create" not in cloud.verbs() and len(cloud.runs()) == 1
    assert (cloud.results / "report/report.md").read_text() == "the table"


def test_without_delete_at_end_a_finished_run_leaves_its_tpu_vm(cloud):
    cloud.program(WAITS + "write(1)\n")
    killed_watcher(cloud)
    cloud.until_over()
    time.sleep(0.6)
    assert cloud.google.deleted == []


def test_a_tpu_vm_deletes_itself_after_its_hours(cloud):
    cloud.does("create", "--accelerator_type=v3-8", "--max_hours=0.0003")
    until_deleted(cloud)
    assert cloud.run("status") == 0 and cloud.out == "star: there is no TPU VM\n"


def test_up_ends_when_the_hours_of_its_tpu_vm_are_over(cloud):
    cloud.program(
        "(Path(os.environ['STAR_JAX_STATE']) / 'ends_at').write_text(str(time.time() + 60))\n"
        "reports = lambda: (fake / 'calls.jsonl').read_text().count('tpu_worker.py report')\n"
        "seen = reports()\n"
        "while reports() < seen + 3: time.sleep(0.05)\n"
        "ask_for('deleted')\n"
    )
    line = cloud.up(check=False)
    assert "the TPU VM deleted itself after 24 h (--max_hours), before the run ended" in line
    assert "the same command resumes" in line and cloud.verbs().count("create") == 1


def test_a_reboot_does_not_begin_the_hours_again(cloud):
    cloud.does("create", "--accelerator_type=v3-8")
    cloud.until((cloud.home() / "state/ends_at").exists)
    ends_at = (cloud.home() / "state/ends_at").read_text()
    assert 23.9 < (float(ends_at) - time.time()) / 3600 <= 24
    (cloud.folder / "reboot").touch()
    cloud.does("setup")
    assert (cloud.home() / "state/ends_at").read_text() == ends_at
    cloud.run("status")
    assert "the TPU VM deletes itself in 23 h 59 min" in cloud.out


def test_a_deletion_that_fails_is_tried_again(cloud, monkeypatch):
    cloud.does("create", "--accelerator_type=v3-8")
    url = (cloud.folder / "apis").read_text()
    monkeypatch.setattr(self_delete, "METADATA", url)
    monkeypatch.setattr(self_delete, "API", url + "/{}")
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            raise KeyboardInterrupt

    clock = types.SimpleNamespace(sleep=sleep, ctime=time.ctime)
    monkeypatch.setattr(self_delete, "time", clock)
    cloud.google.refused = 2
    with pytest.raises(KeyboardInterrupt):
        self_delete.delete_this_vm("why")
    assert cloud.google.deleted == [NODE_PATH] * 3 and waits == [60] * 3
    assert cloud.capfd.readouterr().out.count('"UNAVAILABLE"') == 2


def test_a_failed_run_that_is_watched_is_deleted_and_its_log_kept(cloud):
    cloud.program("print('ValueError: broken')\nsys.exit(2)\n")
    line = cloud.up("--delete_at_end", check=False)
    assert "ended with exit code 2" in line and "the TPU VM is deleted" in line
    assert "ValueError: broken" in (cloud.results / "log.txt").read_text()
    assert cloud.verbs()[-1] == "delete"


@pytest.mark.parametrize(
    ("change", "is_deleted"),
    [
        ({}, True),
        ({"exit_code": 1}, True),
        ({"stopped": True}, False),
        ({"state": tpu_worker.RUNNING}, False),
        ({"began": 2.0}, False),  # another run began and has ended
    ],
)
def test_only_the_end_of_its_own_run_deletes_a_tpu_vm(monkeypatch, change, is_deleted):
    over = {"state": tpu_worker.EXITED, "stopped": False, "began": 1.0, "exit_code": 0}
    deleted = []
    monkeypatch.setattr(supervise, "report", lambda: {**over, "model_dir": "runs/x", **change})
    monkeypatch.setattr(self_delete, "delete_this_vm", deleted.append)
    supervise.delete_if_over(1.0)
    assert bool(deleted) == is_deleted


def test_an_account_that_may_not_delete_is_found_before_the_run(cloud):
    cloud.google.may_delete = False
    line = cloud.up("--delete_at_end", check=False)
    assert "may not delete this TPU VM" in line and "--role=roles/tpu.admin" in line
    assert "the TPU VM is deleted" in line  # by this machine, whose account may
    assert cloud.runs() == [] and cloud.verbs()[-1] == "delete"


def test_results_on_a_disk_that_is_deleted_are_refused(cloud):
    arguments = ("--gin.MODEL_DIR='runs/x'",)
    line = cloud.up("--delete_at_end", arguments=arguments, check=False)
    assert "deletes itself after the run, and its disk" in line and "gs://BUCKET/NAME" in line
    assert cloud.calls() == []


def test_a_smoke_run_says_what_it_costs_first_and_deletes_its_tpu_vm(cloud):
    words = cloud.does("up", "--smoke", f"--to={cloud.results}")
    price = "v5litepod-1: about 1.20 dollars per hour while it exists, 1.20 dollars in 1 h"
    assert words.index(price) < words.index("creating a v5litepod-1")
    assert "the smoke run: about 0.40 dollars for 20 minutes (never measured)" in words
    (call,) = [call for call in cloud.calls() if "create" in call]
    assert "--accelerator-type=v5litepod-1" in call
    assert any("star-jax-max-hours=1," in word for word in call)
    assert words.splitlines()[-1].endswith("the TPU VM is deleted")
    assert [run["arguments"] for run in cloud.runs()] == [list(tpu_vm.SMOKE_ARGUMENTS)]


def test_the_smoke_runs_arguments_are_star_jaxs():
    command, sources = configurations.read_run("", tpu_vm.SMOKE_ARGUMENTS)
    assert command.run_mode == "pretrain" and sources.bindings


def test_both_ends_have_the_same_file_of_the_end():
    assert tpu_worker.ENDS_AT == self_delete.STATE / "ends_at"


# What is checked before anything costs money


OWN_FLAGS = [
    "--dry_run",
    "--max_hours=1",
    "--delete_at_end",
    "--spot",
    "--zone=us-central1-a",
    "-h",
]


@pytest.mark.parametrize("flag", OWN_FLAGS)
def test_a_flag_of_tpu_vm_after_the_dashes_is_refused(cloud, flag):
    with pytest.raises(SystemExit) as ended:
        cloud.up("--delete_at_end", arguments=("--run_mode=star", BUCKET, flag))
    name = flag.partition("=")[0]
    line = f"tpu_vm.py: error: {name} is an option of tpu_vm.py; move it before the lone --"
    assert ended.value.code == 2 and line in cloud.capfd.readouterr().err
    assert cloud.calls() == []


def test_no_flag_of_star_jax_is_one_of_tpu_vm():
    own = {flag for action in tpu_vm.make_parser()._actions for flag in action.option_strings}
    theirs = set(re.findall(r"--[a-z_]+", quick_answer(["--help"])))
    assert {"--run_mode", "--gin_file", "--topology"} <= theirs
    assert theirs & own == {"--help"}


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--run_mode=sart", "--gin_file=runs/own_questions.gin"], "did you mean 'star'"),
        (["--run_mode=star", "--gin_file=paper/nothing.gin"], "paper/nothing.gin"),
        (["--run_mode=star", "--gin_flie=x.gin"], "--gin_flie"),
        (["--run_mode=star"], "nothing refers to a macro 'MODEL_DIR'"),
        (
            ["--run_mode=star", "--gin_file=runs/own_questions.gin", "--gin.StarConfig.sede=1"],
            "did you mean 'seed'",
        ),
    ],
)
def test_a_mistake_in_star_jaxs_arguments_is_found_before_create(cloud, arguments, reason):
    words = ["up", "star", *PLACE, "--accelerator_type=v3-8", "--", *arguments, BUCKET]
    assert tpu_vm.main(words) == 1
    *_, line = cloud.capfd.readouterr().err.splitlines()
    assert line.startswith("tpu_vm.py: error: ") and reason in line
    assert cloud.calls() == []


def test_gin_files_are_looked_for_where_the_worker_has_them(monkeypatch, tmp_path):
    (tmp_path / "mine.gin").write_text("include 'runs/own_questions.gin'\n")
    monkeypatch.chdir(tmp_path)
    commands = {"": ["--run_mode=star", "--gin_file=mine.gin"]}
    with pytest.raises(check.CheckError, match=r"mine\.gin"):
        check.checked_configurations(commands, on_worker=True)
    found = ["--run_mode=pretrain", "--gin_file=code/gin_configs/runs/own_questions.gin"]
    (text,) = check.checked_configurations({"": found}, on_worker=True).values()
    assert "JsonlTask.held_out" in text


def test_without_star_jaxs_packages_the_check_says_how_to_get_them(monkeypatch, tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho \"ModuleNotFoundError: No module named 'gin'\" >&2\nexit 1\n"
    )
    python.chmod(0o755)
    monkeypatch.setattr(check, "_python", lambda: str(python))
    with pytest.raises(check.CheckError) as raised:
        check.checked_configurations({"": []})
    assert "No module named 'gin'" in str(raised.value)
    assert "make .venv with bash -c '. launch/install.sh; ensure_venv" in str(raised.value)


# A dry run that a person can read and paste


def test_a_dry_run_has_a_heading_a_step_with_its_price_and_what_ends_it(cloud):
    cloud.up("--delete_at_end", "--dry_run", "--data=gptj", arguments=("--run_mode=star", BUCKET))
    headings = re.findall(r"^# \d\. (.*)$", cloud.out, re.MULTILINE)
    rate = " (about 8.00 dollars per hour)"
    assert headings == [
        "Create the TPU VM, if there is none",
        f"Send the code and set up every worker{rate}",
        f"Start star_jax on every worker{rate}",
        f"Watch the run to its end{rate}",
        f"Copy the results into {cloud.results}{rate}",
        f"Delete the TPU VM{rate}",
    ]
    prose = re.sub(r"\n#    (?=\S)", " ", cloud.out)
    assert "about 8.00 dollars per hour while it exists, 192.00 dollars in 24 h" in prose
    assert f"{prices.READ}, not verified for your zone and day: {prices.PRICE_LIST}" in prose
    assert "24 h after it started (--max_hours)" in prose and "`stop` does not" in prose
    assert f"\n#        {BUCKET}\n" in cloud.out
    for line in cloud.out.splitlines():
        if len(line) > 100 and not line.startswith("#"):
            assert len(shlex.split(line.removesuffix("\\"))) == 1  # a word that is so long


def test_the_commands_of_a_dry_run_can_be_pasted(cloud):
    cloud.up("--delete_at_end", "--dry_run", arguments=("--run_mode=star", BUCKET, ODD))
    subprocess.run(["bash"], input=cloud.out, text=True, capture_output=True)
    cloud.until(cloud.runs)
    assert cloud.runs() == [{"worker": 0, "made": 1, "arguments": ["--run_mode=star", BUCKET, ODD]}]
    assert cloud.run("status") == 0 and "there is no TPU VM" in cloud.out


def test_prices_are_by_chip():
    cost = {name: prices.per_hour(create.full_type(name)) for name in
            ("v2-8", "v3-8", "v4-8", "v5e-1", "v5e-16", "v5p-8", "v6e-8")}  # fmt: skip
    expected = [4.5, 8.0, 12.88, 1.2, 19.2, 16.8, 21.6]
    assert list(cost.values()) == pytest.approx(expected)
    assert create.RUNTIME_VERSIONS.keys() == prices.PER_CHIP.keys()


# The command line


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (["dance", "star"], "invalid choice: 'dance'"),
        (["status"], "NAME"),
        (["status", "star; rm -rf"], "NAME: 'star; rm -rf' is not"),
        (["status", "star", "--zone=us central"], "--zone: 'us central' is not"),
        (["status", "star", "--project=$(id)"], "--project: '$(id)' is not"),
        (["logs", "star", "--worker=all"], "--worker: 'all' is not"),
        (["setup", "star", "--data=a b"], "--data: invalid choice: 'a b'"),
        (["create", "star"], "--accelerator_type is missing"),
        (["create", "star", "--accelerator_type=v3"], "'v3' is not an accelerator type"),
        (["create", "star", "--accelerator_type=a100-8"], "'a100-8' is not an accelerator type"),
        (["run", "star"], "must bind the run directory"),
        (["run", "star", "--", "--gin.MODEL_DIR=%X"], "must bind the run directory"),
        (["run", "star", "--", "--gin.MODEL_DIR='gs://b/*'"], "characters that are not safe"),
        (["stop", "star", "--", "--x"], "takes no arguments of star_jax"),
        (["status", "star", "--poll_seconds=-1"], "is negative"),
        (["status", "star", "--model_dir=gs://b/$x"], "special characters"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_runs_nothing(cloud, argv, reason):
    with pytest.raises(SystemExit) as ended:
        cut = argv.index("--") if "--" in argv else len(argv)
        tpu_vm.main([*argv[:2], *PLACE, *argv[2:cut], *argv[cut:]])
    (line,) = cloud.capfd.readouterr().err.splitlines()
    assert ended.value.code == 2 and line.startswith("tpu_vm.py: error: ") and reason in line
    assert cloud.calls() == []


def test_gclouds_own_variables_say_where(cloud, monkeypatch):
    argv = ["status", "star", "--dry_run"]
    with pytest.raises(SystemExit):
        tpu_vm.main(argv)
    assert "the environment has no CLOUDSDK_CORE_PROJECT" in cloud.capfd.readouterr().err
    monkeypatch.setenv("CLOUDSDK_CORE_PROJECT", "my-project")
    monkeypatch.setenv("CLOUDSDK_COMPUTE_ZONE", "us-central1-a")
    assert tpu_vm.main(argv) == 0
    assert " ".join(PLACE) in cloud.capfd.readouterr().out


# What is sent


def test_the_same_checkout_makes_the_same_bytes(cloud, monkeypatch):
    before = pack.pack(cloud.checkout)
    monkeypatch.setattr(pack.gzip.time, "time", lambda: 1e9)
    for path in cloud.checkout.rglob("*"):
        os.utime(path, (1, 1))
    assert pack.pack(cloud.checkout) == before
    (cloud.checkout / "launch/new.txt").write_text("new")
    assert pack.digest_of(pack.pack(cloud.checkout)) != pack.digest_of(before)


def test_only_what_git_tracks_is_sent_and_the_rest_is_reported(cloud):
    def git(*words):
        subprocess.run(["git", "-C", str(cloud.checkout), *words], check=True, capture_output=True)

    script = cloud.checkout / "launch/é run.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    git("init")
    (cloud.checkout / ".gitignore").write_text("__pycache__/\nruns/\n")
    git("add", ".")
    (cloud.checkout / "launch/fetch.py").unlink()
    (cloud.checkout / "mine.gin").write_text("A = 1")
    (cloud.checkout / "runs").mkdir()
    (cloud.checkout / "runs/x").write_text("result")
    with tarfile.open(fileobj=io.BytesIO(pack.pack(cloud.checkout))) as packed:
        modes = {entry.name: entry.mode for entry in packed}
    assert (
        modes["launch/star_launch/tpu_vm/worker/tpu_worker.py"] == 0o644
        and modes["launch/é run.sh"] == 0o755
    )
    assert not {"mine.gin", "runs/x", "launch/fetch.py"} & set(modes)
    cloud.does("create", "--accelerator_type=v3-8")
    assert "not sent, because git does not track it: mine.gin\n" in cloud.does("setup")


def test_a_copy_without_git_is_sent_without_what_running_made(tmp_path):
    sent = ["gin_configs/f", "gin_configs/runs/g.gin", "star_jax/a.py"]
    for name in (*sent, ".venv/b", "runs/c", "data/d", "x.egg-info/e", "star_jax/__pycache__/h"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert sorted(pack.walked_files(tmp_path)) == sent


def pins(name):
    lines = (LAUNCH / name).read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {requirement.name: str(requirement.specifier) for requirement in requirements}


def test_the_tpu_lock_is_the_cpu_lock_and_libtpu():
    tpu, cpu = pins("requirements-tpu.lock"), pins("requirements.lock")
    assert all(re.fullmatch(r"==[^,*]+", specifier) for specifier in tpu.values())
    assert {name: cpu[name] for name in tpu.keys() & cpu.keys()} == {
        name: tpu[name] for name in tpu.keys() & cpu.keys()
    }
    assert {"jax", "jaxlib", "libtpu", "seqio", "safetensors", "setuptools"} <= tpu.keys()
    assert tpu.keys() - cpu.keys() == {"libtpu"}


# What it is made of


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_launcher_needs_python_3_9_and_nothing_else(path):
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in [getattr(node, "module", None) or node.names[0].name]
    }
    assert imported - {"star_launch"} <= sys.stdlib_module_names
    if any(isinstance(node, ast.FunctionDef) for node in ast.walk(tree)):  # X | None is 3.10's
        assert "from __future__ import annotations" in path.read_text()


@pytest.mark.parametrize("mode", MODES)
def test_the_workers_of_a_pod_share_a_run_where_the_run_mode_can(mode):
    parsed = parse_command_line([f"--run_mode={mode}", "--gin_file=x.gin", supervise.POD])
    assert parsed.processes == ("auto" if MODES[mode].many_processes else "")


def test_the_worker_script_runs_alone_on_a_bare_python(tmp_path):
    shutil.copy(PACKAGE / "tpu_vm/worker/tpu_worker.py", tmp_path)
    done = subprocess.run(
        [sys.executable, "-I", "-S", "tpu_worker.py", "report"],
        cwd=tmp_path, env={"HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer.pop("worker") and answer == {"state": "none", "digest": "", "ends_at": None}


# What it has in common with star_jax, which it cannot import


@pytest.mark.parametrize(
    "value",
    ["'gs://b/x'", '"a b"', "gs://b/x/", "runs/x", "a=b", "'a'/b", "3", "None", "%X", "[1]"],
)
def test_model_dir_is_read_as_star_jax_reads_it(value):
    try:
        used = ("a.b", "%MODEL_DIR")
        *_, binding = gin_sources.read_sources([], [used, ("MODEL_DIR", value)]).bindings
        expected = binding.value if isinstance(binding.value, str) else ""
    except UserError:
        expected = ""
    found = tpu_worker.model_dir_of(["--x", "--gin.MODEL_DIR='old'", f"--gin.MODEL_DIR={value}"])
    assert found == expected.rstrip("/")


def test_a_summary_is_of_the_metrics_that_star_jax_writes():
    lines = [
        IterationMetrics(n, 0, True, accuracy, {}, 1, {}, 0, 0, seconds=seconds)
        for n, accuracy, seconds in (
            (0, 0.25, {"evaluate": 4.0}),
            (1, 0.5, {"generate": 1.0, "finetune": 2.5}),
        )
    ]
    text = "".join(json.dumps(to_json(line)) + "\n" for line in lines)
    expected = {"iteration": 1, "accuracy": 0.5, "productive_seconds": 7.5}
    assert tpu_worker.summarize(text + '{"iterat') == expected
    assert tpu_worker.summarize("") is None


def test_what_is_fetched_is_what_star_jax_writes(tmp_path):
    directory = RunDir(tmp_path)
    directory.claim("A = 1")
    directory.write_row("")
    directory.write_metrics_lines()
    written = {path.name for path in tmp_path.iterdir()}
    assert written == set(results.RESULTS) - {"report"}


def test_every_tpu_that_star_jax_knows_can_be_created():
    for topology in TOPOLOGIES:
        name = create.full_type(topology.cloud_name)
        assert create.runtime_version_of(name)


def test_the_exit_code_of_a_mistake_is_star_jaxs():
    assert main(["--run_mode=stra"]) == up.USER_MISTAKE


def test_a_packed_copy_leaves_out_what_git_ignores():
    ignored = (ROOT / ".gitignore").read_text().split()
    assert {name.strip("/") for name in ignored} >= pack.SKIPPED_FOLDERS


def test_the_workers_python_can_run_star_jax():
    needed = re.search(r'python_requires="(.*)"', (ROOT / "setup.py").read_text())[1]
    assert environment.PYTHON_VERSION in SpecifierSet(needed)


FAILED_OPERATION = 'ERROR: (gcloud.x.y) {\n "code": 8,\n "message": "a \\"b\\" quota"\n}'
NO_NODE = "WARNING: x\nERROR: (gcloud.x) NOT_FOUND: Resource\nwas not found"
NO_SCRIPT = "python3: can't open file '/home/me/tpu_worker.py': [Errno 2] No such file or directory"


@pytest.mark.parametrize(
    ("words", "kind", "line"),
    [
        (FAILED_OPERATION, "quota", 'a "b" quota'),
        (NO_NODE, "missing", "NOT_FOUND: Resource was not found"),
        (NO_SCRIPT, "not_set_up", None),
        ("ERROR: (gcloud.a) Unable to find the server at tpu.googleapis.com", "offline", None),
        ("ERROR: (gcloud.a) You do not currently have an active account", "sign_in", None),
        ("ERROR: (gcloud.a) SSH Key is not present in the SSH agent.", "ssh_key", None),
        ("ERROR: (gcloud.a) HTTPError 503: UNAVAILABLE", "transient", None),
        ("", "other", "no reason given"),
    ],
)
def test_gclouds_words_are_understood(words, kind, line):
    assert gcloud.kind_of(words).name == kind
    assert line is None or gcloud.error_line(words) == line


# launch/README.md

README = LAUNCH / "README.md"


def readme_commands():
    """Returns the commands of the README's blocks, continued lines joined."""
    blocks = re.findall(r"^```\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL)
    lines = itertools.chain.from_iterable(
        block.replace("\\\n", " ").splitlines() for block in blocks
    )
    return [line for line in lines if line.strip()]


TPU_VM_COMMANDS = [line for line in readme_commands() if "tpu_vm.py" in line]


@pytest.mark.parametrize("line", TPU_VM_COMMANDS)
def test_each_tpu_vm_command_of_the_readme_has_a_dry_run(cloud, monkeypatch, line):
    python, script, *argv = shlex.split(line)
    assert (python, script) == ("python3", "launch/tpu_vm.py")
    monkeypatch.setenv("PATH", "/nowhere")  # a dry run needs no gcloud
    export = next(line for line in readme_commands() if line.startswith("export "))
    for word in export.split()[1:]:
        monkeypatch.setenv(*word.split("="))
    assert tpu_vm.main([argv[0], argv[1], "--dry_run", *argv[2:]]) == 0
    printed = commands_of(cloud.capfd.readouterr().out)
    assert printed
    for words in printed:
        fake_gcloud.parse(words)  # ends the program at a flag gcloud has not


def test_the_readmes_gcloud_commands_are_known_ones():
    known = {
        "auth login": set(),
        "projects create": set(),
        "billing projects link": {"--billing-account"},
        "services enable": set(),
        "billing budgets create": {
            *("--billing-account", "--display-name", "--budget-amount", "--filter-projects"),
            "--threshold-rule",
        },
        "storage buckets create": {
            "--location",
            "--uniform-bucket-level-access",
            "--soft-delete-duration",
        },
        "storage buckets add-iam-policy-binding": {"--member", "--role"},
        "iam service-accounts create": set(),
        "projects add-iam-policy-binding": {"--member", "--role"},
        "compute tpus tpu-vm list": set(),
        "compute tpus queued-resources list": set(),
        "storage rm": {"--recursive"},
        "projects delete": set(),
    }
    commands = [line for line in readme_commands() if line.startswith("gcloud ")]
    assert len(commands) == len(known)
    for command in commands:
        words = shlex.split(command)[1:]
        (name,) = [name for name in known if words[: len(name.split())] == name.split()]
        assert {w.partition("=")[0] for w in words if w.startswith("--")} <= known[name]


@pytest.mark.parametrize("command", [c for c in readme_commands() if "--run_mode" in c])
def test_what_the_readme_gives_star_jax_is_read_and_its_files_are_there(command):
    words = shlex.split(command)
    start = words.index("--") + 1 if "--" in words else words.index("star_jax.main") + 1
    parsed = parse_command_line(words[start:])
    gin_sources.read_sources(parsed.gin_files, parsed.bindings, not_needed=parsed.mode.not_needed)


def test_the_readme_turns_on_what_the_launcher_calls():
    (command,) = [line for line in readme_commands() if line.startswith("gcloud services enable")]
    worker = (PACKAGE / "tpu_vm/worker/self_delete.py").read_text()
    called = set(re.findall(r'call\("[A-Z]+", "(\w+)"', worker))
    assert called == {"cloudresourcemanager", "storage", "tpu"}
    assert {f"{service}.googleapis.com" for service in called | {"iam"}} <= set(command.split())


def test_the_readmes_data_is_what_fetch_py_downloads():
    fetched = {artefact.path for what in TABLE.values() for artefact in what.files}
    folders = {path.rpartition("/")[0] for path in fetched}
    for command in TPU_VM_COMMANDS:
        assert set(re.findall(r"--data=(\w+)", command)) <= TABLE.keys()
        assert set(re.findall(r"'data/([^']*)'", command)) <= fetched | folders


def test_the_readmes_prices_add_up_and_its_files_are_there():
    text = README.read_text()
    rows = re.findall(r"^\| (v\w+-\d+).* \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    for name, chips, price, hour in rows:
        assert int(chips) * float(price) == pytest.approx(float(hour)), name
        full = create.full_type(name)
        assert (prices.chips(full), prices.per_hour(full)) == (int(chips), float(hour))
    assert f"read on {prices.READ}" in text and prices.PRICE_LIST in text
    for file in re.findall(r"`((?:star_jax|launch|gin_configs)/[\w/.]*)`", text):
        assert (ROOT / file).exists(), file
