"""Sweeps: their expansion, and launch/sweep.py with stand-ins for star_jax and gcloud."""

import concurrent.futures
import contextlib
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import gin
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_jax.cli import gin_sources
from star_jax.cli.command_line import parse_command_line
from star_jax.errors import UserError
from star_jax.main import main
from star_jax.run.run_dir import differing_bindings
from star_jax.tools.sweep import Prepare, Sweep, differences, expand, gin_text
from star_launch import check
from star_launch.sweep import command, configurations, jobs, logs, machine, runner, sweep
from tests.test_tpu_vm import LAUNCH, PLACE, ROOT, cloud  # noqa: F401  cloud is a fixture

SHIPPED = sorted(path.name for path in (ROOT / "gin_configs/sweeps").glob("*.gin"))


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


# Expansion


def small(**settings):
    return Sweep("star", ["x.gin"], **settings)


def names(sweep):
    return [run.name for run in expand(sweep, "out")]


LITERALS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text().filter(lambda text: text[:1] not in ("@", "%")),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.tuples(inner, inner)
        | st.dictionaries(
            st.text(st.characters(codec="ascii", categories=["L"])), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(LITERALS)
def test_gin_reads_a_value_as_it_was_in_the_sweep(value):
    flag = ("a.b", gin_text(value, ""))
    (binding,) = gin_sources.read_sources([], [flag]).bindings
    assert repr(binding.value) == repr(value)  # 1 is not True, nor 1.0


def test_a_string_that_begins_with_a_sign_is_a_reference_however_deep():
    text = gin_text({"a": ["@LinearSteps()", ("%SEED",)], "b": "50 %"}, "")
    assert text == "{'a': [@LinearSteps(), (%SEED,)], 'b': '50 %'}"


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"grid": {"SEED": [0, 1], "StarConfig.rationalize": [True, False], "STEPS": [5]}},
            [
                "000_SEED=0_rationalize=True",
                "001_SEED=0_rationalize=False",
                "002_SEED=1_rationalize=True",
                "003_SEED=1_rationalize=False",
            ],
        ),
        (
            {
                "points": [{"name": "paper", "A": 1}, {"A": 2, "B.c": "a/b c"}],
                "grid": {"SEED": [0, 1]},
            },
            [
                "000_paper_SEED=0",
                "001_paper_SEED=1",
                "002_A=2_c=a-b-c_SEED=0",
                "003_A=2_c=a-b-c_SEED=1",
            ],
        ),
        (
            {"grid": {"a/Phase.steps": [1, 2], "b/Phase.steps": [(3, 4), "@X()"]}},
            [
                "000_a-Phase.steps=1_b-Phase.steps=3-4",
                "001_a-Phase.steps=1_b-Phase.steps=X",
                "002_a-Phase.steps=2_b-Phase.steps=3-4",
                "003_a-Phase.steps=2_b-Phase.steps=X",
            ],
        ),
        (
            {"points": [{}, {"run_mode": "finetune", "gin_files": ["y/direct.gin"]}]},
            ["000_star_x", "001_finetune_direct"],
        ),
        ({"grid": {"SEED": [7]}}, ["000"]),
    ],
)
def test_points_are_numbered_and_named_by_what_differs(settings, expected):
    assert names(small(**settings)) == expected


def test_a_run_gets_its_bindings_as_the_command_line_takes_them():
    sweep = small(
        bindings={"A": "it's", "star.schedule": "@LinearSteps()"},
        grid={"SEED": [3]},
        points=[{"gin_files": ["a.gin", "b.gin"], "X.y": [1.5, None]}],
    )
    (run,) = expand(sweep, "gs://bucket/out")
    parsed = parse_command_line(run.arguments())
    assert (parsed.run_mode, parsed.gin_files) == ("star", ("a.gin", "b.gin"))
    assert dict(parsed.bindings) == {
        "A": '"it\'s"',
        "star.schedule": "@LinearSteps()",
        "X.y": "[1.5, None]",
        "SEED": "3",
        "MODEL_DIR": "'gs://bucket/out/000'",
    }


def test_what_points_share_is_prepared_once():
    prepare = Prepare("pretrain", ["p.gin"], "MODEL_CHECKPOINT", ["SEED"], {"STEPS": 9})
    sweep = small(grid={"SEED": [0, 1], "RATIONALIZE": [True, False]}, prepare=prepare)
    *before, first, _, _, last = expand(sweep, "out")
    assert [run.name for run in before] == ["base_SEED=0", "base_SEED=1"]
    assert before[1].run_mode == "pretrain" and not before[1].is_point
    expected = {"STEPS": "9", "SEED": "1", "MODEL_DIR": "'out/base_SEED=1'"}
    assert dict(before[1].bindings) == expected
    assert (first.needs, last.needs) == (("base_SEED=0",), ("base_SEED=1",))
    assert dict(last.bindings)["MODEL_CHECKPOINT"] == "'out/base_SEED=1'"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "neither a grid nor points"),
        ({"grid": {"SEED": []}}, "SEED has []"),
        ({"grid": {"SEED": "01"}}, "SEED has '01'"),
        ({"grid": {"SEED": [0, 1, 0]}}, "points 0 and 2 of the sweep are equal: SEED = 0"),
        ({"points": [{}, {}]}, "points 0 and 1 of the sweep are equal: empty"),
        ({"points": [["SEED", 0]]}, "Sweep.points[0] = ['SEED', 0] is not a dict"),
        ({"points": {"SEED": 0}}, "is not a list of points"),
        ({"points": [{"name": "../x"}]}, "Sweep.points[0]: name = '../x'"),
        ({"grid": {"SEED": [len]}}, "Sweep.grid: SEED: '<built-in function len>'"),
        ({"grid": {"A.b": [float("nan")]}}, "A.b: 'nan'"),
        ({"grid": {"TEXT": ["x" * 300, "y"]}}, "give the point a 'name'"),
        ({"grid": {"A": [1]}, "bindings": {"A": 2}}, "A is bound by Sweep.bindings and by Sweep.g"),
        ({"grid": {"A": [1]}, "points": [{"A": 2}]}, "A is bound by Sweep.grid and by Sweep.poin"),
        ({"grid": {"MODEL_DIR": ["x"]}}, "MODEL_DIR is bound by launch/sweep.py itself"),
        ({"grid": {"A": [1]}, "prepare": "base"}, "write @Prepare()"),
        (
            {"grid": {"A": [1]}, "prepare": Prepare("pretrain", [], "C", ["SEED"])},
            "Prepare.by has SEED, which point 000 does not bind",
        ),
        (
            {"grid": {"A": [1]}, "prepare": [Prepare("pretrain", [], c) for c in "CD"]},
            None,  # both make the same run, which is then made once
        ),
        (
            {
                "grid": {"A": [1]},
                "prepare": [Prepare("pretrain", [], c, bindings={"S": c}) for c in "CD"],
            },
            "the name base is taken",
        ),
        (
            {"grid": {"A": [1]}, "prepare": Prepare("pretrain", [], "C", name="report")},
            "the name report is taken",
        ),
    ],
)
def test_a_wrong_sweep_is_one_line(settings, words):
    with contextlib.nullcontext() if words is None else pytest.raises(UserError) as caught:
        expand(small(**settings), "out")
    if words is not None:
        assert words in caught.value.message and "\n" not in caught.value.message


def test_what_differs_between_two_sweeps_is_reported():
    known = {"000": {"run_mode": "star", "config": "# x\nSEED = 0\nITERATIONS = 2\n"}}
    other = {"000": {"run_mode": "evaluate", "config": "SEED = 1"}, "001": known["000"]}
    assert differences(known, other) == [
        "001 is here and not there",
        "000: run_mode is star there and evaluate here",
        "000: SEED is 0 there and 1 here",
    ]


@pytest.mark.parametrize(
    ("name", "is_free"),
    [
        ("MODEL_DIR", True),
        ("ITERATIONS", True),
        ("TrainerConfig.checkpoint_every", True),
        ("MeshConfig.data", True),
        ("track.tensorboard", True),
        ("track.wandb_project", True),
        ("compilation_cache.directory", True),
        ("SEED", False),
        ("StarConfig.few_shot", False),
        ("my_track.tensorboard", False),
    ],
)
def test_a_sweep_is_resumed_with_what_its_runs_are_resumed_with(name, is_free):
    old, new = f"{name} = 1\n", f"{name} = \\\n    2\n"
    known, wanted = ({"000": {"run_mode": "star", "config": text}} for text in (old, new))
    assert (differences(known, wanted) == []) == is_free
    assert (differing_bindings(old, new) == []) == is_free  # what a run itself accepts


# The launcher, with a stand-in for star_jax

PROGRAM = """\
import ast, json, os, sys, time
from pathlib import Path

words = [word.removeprefix("--").partition("=") for word in sys.argv[1:]]
given = {name.removeprefix("gin."): value for name, _, value in words}
here = Path(__file__).parent
if given["run_mode"] == "report":
    output = Path(ast.literal_eval(given["report.output_dir"]))
    output.mkdir(exist_ok=True)
    dirs = [Path(path).name for path in ast.literal_eval(given["report.model_dirs"])]
    (output / "report.json").write_text(json.dumps(dirs))
    sys.exit()
folder = Path(ast.literal_eval(given["MODEL_DIR"]))
folder.mkdir(exist_ok=True)
cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
with open(here / "runs.jsonl", "a") as file:
    record = {"name": folder.name, "cores": cores, "threads": os.environ.get("NPROC")}
    file.write(json.dumps(record) + "\\n")
os.close(os.open(folder / "busy", os.O_CREAT | os.O_EXCL))  # two in one MODEL_DIR fail
try:
    print("begins", flush=True)
    for _ in range(3000):
        if not (here / f"hold_{folder.name}").exists():
            break
        time.sleep(0.02)
    if (here / f"fail_{folder.name}").exists():
        print("star_jax: error: it is Monday; wait a day")
        sys.exit(2)
    if (here / f"crash_{folder.name}").exists():
        raise ValueError("a bug")
    if given["run_mode"] != "pretrain":
        (folder / "metrics.jsonl").write_text('{"iteration": 1, "accuracy": 0.25}\\n')
except KeyboardInterrupt:
    print("interrupted")
    sys.exit(130)
finally:
    (folder / "busy").unlink()
"""
RUN_GIN = """\
MODEL_DIR = %gin.REQUIRED
MODEL_CHECKPOINT = ""
ITERATIONS = 1
SEED = 0
LEVEL = 0
star.all = [%MODEL_DIR, %MODEL_CHECKPOINT, %ITERATIONS, %SEED, %LEVEL]
"""
SWEEP_GIN = """\
Sweep:
  run_mode = "star"
  gin_files = ["run.gin"]
  grid = {"SEED": [0, 1], "LEVEL": [0, 1]}
  output_dir = "out"
"""
PREPARE_GIN = """\
Sweep.prepare = @Prepare()
Prepare:
  run_mode = "pretrain"
  gin_files = ["run.gin"]
  by = ["SEED"]
  bound_to = "MODEL_CHECKPOINT"
"""
POINTS = ["000_SEED=0_LEVEL=0", "001_SEED=0_LEVEL=1", "002_SEED=1_LEVEL=0", "003_SEED=1_LEVEL=1"]
# The sweep runs a stand-in for star_jax, and checks the points without importing JAX.
RIGGED = """\
import signal, sys
from star_jax.errors import UserError
from star_launch import check
from star_launch.sweep import command, configurations, jobs, runner

def bound(commands, on_worker):
    try:
        read = {{name: configurations.read_run(name, words) for name, words in commands.items()}}
    except UserError as error:
        raise check.CheckError(error.message) from error
    return {{name: chr(10).join(sources.flags) for name, (_, sources) in read.items()}}

def rig(set_attribute):
    set_attribute(jobs, "STAR_JAX", (sys.executable, "-I", "-S", {program!r}))
    set_attribute(check, "checked_configurations", bound)
    set_attribute(runner, "POLL_SECONDS", 0.02)

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
    rig(setattr)
    sys.exit(command.main(sys.argv[1:]))
"""


class Bench:
    """A folder with a sweep, and launch/sweep.py with a stand-in for star_jax."""

    def __init__(self, folder, monkeypatch, capfd):
        self.folder, self.out, self.capfd = folder, folder / "out", capfd
        monkeypatch.chdir(folder)
        (folder / "run.gin").write_text(RUN_GIN)
        (folder / "program.py").write_text(PROGRAM)
        self.sweep_is(SWEEP_GIN)
        (folder / "rigged.py").write_text(RIGGED.format(program=str(folder / "program.py")))
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.delitem(sys.modules, "rigged", raising=False)
        importlib.import_module("rigged").rig(monkeypatch.setattr)

    def sweep_is(self, text):
        (self.folder / "s.gin").write_text(text)

    def run(self, *options):
        """Returns the exit code; what was said is in `words`."""
        code = command.main(["s.gin", *options])
        self.printed, self.words = self.capfd.readouterr()
        return code

    def start(self, *options):
        """The same as a process of its own."""
        command = [sys.executable, "rigged.py", "s.gin", *options]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(LAUNCH)])}
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)

    def touch(self, *names):
        for name in names:
            (self.folder / name).touch()

    def ran(self):
        """The runs that were started, in order."""
        return [record["name"] for record in self.records()]

    def records(self):
        file = self.folder / "runs.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def until(self, condition):
        deadline = time.monotonic() + 60
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.02)

    def reported(self):
        return json.loads((self.out / "report/report.json").read_text())


@pytest.fixture
def bench(tmp_path, monkeypatch, capfd):
    return Bench(tmp_path, monkeypatch, capfd)


def test_every_point_is_run_once_and_reported_on(bench):
    assert bench.run() == 0, bench.words
    assert bench.ran() == bench.reported() == POINTS
    line = r"sweep.py: 2/4 001_SEED=0_LEVEL=1 finished in \d+ s, accuracy 25.0 %; \d+ s left\n"
    assert re.search(line, bench.words)
    assert "4 of 4 runs finished" in bench.words
    state = json.loads((bench.out / "sweep.json").read_text())["runs"]
    assert list(state) == POINTS and state[POINTS[1]]["bindings"]["LEVEL"] == "1"
    log = (bench.out / f"{POINTS[0]}.log").read_text()
    assert log.startswith("$ ") and log.endswith("begins\n")
    assert bench.run() == 0
    assert bench.ran() == POINTS  # nothing is run twice
    assert "4 of 4 runs are finished already" in bench.words


def test_a_failure_is_explained_and_keeps_nothing_else_from_running(bench):
    bench.touch(f"fail_{POINTS[1]}")
    assert bench.run() == 1
    assert bench.ran() == POINTS
    assert bench.reported() == [POINTS[0], *POINTS[2:]]
    reason = f"failed: {POINTS[1]}: it is Monday; wait a day (see out/{POINTS[1]}.log)"
    assert reason in bench.words and "3 of 4 runs finished, 1 did not" in bench.words
    (bench.folder / f"fail_{POINTS[1]}").rename(bench.folder / f"crash_{POINTS[1]}")
    assert bench.run() == 1
    assert f"failed: {POINTS[1]}: exit code 1: ValueError: a bug (see" in bench.words
    (bench.folder / f"crash_{POINTS[1]}").unlink()
    assert bench.run() == 0
    assert bench.ran() == [*POINTS, POINTS[1], POINTS[1]]
    assert bench.reported() == POINTS


@pytest.mark.parametrize("file", ["runs/quickstart.gin", "tasks/gsm8k.gin"])
def test_a_runs_file_given_as_a_sweep_is_explained(file, tmp_path, capfd):
    out = tmp_path / "out"
    assert command.main([file, f"--output_dir={out}"]) == 2
    words = capfd.readouterr().err
    assert f"{file} is not a sweep" in words and f"star_jax.main --gin_file={file}" in words
    assert not out.exists()


def test_points_wait_for_what_prepares_them_and_go_without_it_if_it_fails(bench):
    bench.sweep_is(SWEEP_GIN + PREPARE_GIN)
    bench.touch("fail_base_SEED=0")
    assert bench.run() == 1
    assert bench.ran() == ["base_SEED=0", "base_SEED=1", *POINTS[2:]]
    assert f"not run: {POINTS[0]}: base_SEED=0 failed" in bench.words
    (bench.folder / "fail_base_SEED=0").unlink()
    assert bench.run() == 0
    assert bench.ran()[4:] == ["base_SEED=0", *POINTS[:2]]
    assert bench.reported() == POINTS


def test_as_many_runs_at_the_same_time_as_requested_and_as_there_are_cores(bench, monkeypatch):
    for cores, at_once in (([0, 1, 2], 3), ([0], 1)):
        monkeypatch.setattr(machine, "usable_cores", lambda cores=cores: cores)
        assert len(machine.slots(3)) == at_once
    bench.out.mkdir()
    wanted = [
        runner.Job(name, (*jobs.STAR_JAX, "--run_mode=star", f"--gin.MODEL_DIR='{name}'"), (), "")
        for name in POINTS
    ]
    bench.touch(*(f"hold_{name}" for name in POINTS))
    three = runner.Runner(bench.out, [[], [], []], {}, lambda words: None)
    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        watched = executor.submit(at_its_most, bench, POINTS)
        three.run(wanted)
        assert watched.result() == 3


def at_its_most(bench, names):
    """Lets the runs end after some have run for a while; returns how many ran."""
    bench.until(lambda: len(bench.ran()) >= 3)
    time.sleep(0.3)
    count = len(bench.ran())
    for name in names:
        (bench.folder / f"hold_{name}").unlink()
    return count


@pytest.mark.parametrize(
    ("cores", "parallel", "dealt"),
    [
        ([0, 1, 2, 3], 2, [[0, 1], [2, 3]]),
        ([0, 2, 5], 2, [[0], [2, 5]]),
        ([0, 1], 2, [[0], [1]]),
        ([0, 1], 1, [[]]),
    ],
)
def test_cores_are_dealt_out(cores, parallel, dealt):
    assert machine.shares(cores, parallel) == dealt


def test_a_run_keeps_to_its_cores(bench):
    core = machine.usable_cores()[-1]
    bench.out.mkdir()
    arguments = (sys.executable, "program.py", "--run_mode=star", "--gin.MODEL_DIR='out/a'")
    job = runner.Job("a", arguments, (), "digest")
    before = machine.usable_cores()
    assert runner.Runner(bench.out, [[core]], {}, print).run([job])["a"].state == runner.FINISHED
    (record,) = bench.records()
    assert record["threads"] == "1"
    assert record["cores"] in ([core], [])  # [] where a system cannot
    assert machine.usable_cores() == before


def test_a_killed_sweep_resumes_and_never_runs_a_point_twice_at_the_same_time(bench):
    bench.touch(f"hold_{POINTS[1]}")
    process = bench.start()
    bench.until(lambda: len(bench.ran()) == 2)
    process.kill()
    process.wait()
    again = bench.start()  # the run of the killed sweep is still active: it waits
    line = iter(again.stderr.readline, "")
    words = next(words for words in line if "interrupted sweep" in words)
    assert f"{POINTS[1]} is still running from an interrupted sweep" in words
    assert bench.ran() == POINTS[:2]
    (bench.folder / f"hold_{POINTS[1]}").unlink()
    assert again.wait(60) == 0, again.stderr.read()
    assert bench.ran() == [*POINTS[:2], *POINTS[1:]]  # once more, to resume in its MODEL_DIR
    assert bench.reported() == POINTS


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_its_runs_and_can_be_resumed(bench, number):
    bench.touch(f"hold_{POINTS[1]}")
    process = bench.start()
    bench.until(lambda: "begins" in _text(bench.out / f"{POINTS[1]}.log"))
    process.send_signal(number)
    words = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert words.endswith("sweep.py: interrupted; the same command resumes\n")
    assert _text(bench.out / f"{POINTS[1]}.log").endswith("interrupted\n")
    (bench.folder / f"hold_{POINTS[1]}").unlink()
    assert bench.run() == 0
    assert bench.ran() == [*POINTS[:2], *POINTS[1:]]


def _text(file):
    return file.read_text() if file.exists() else ""


def test_a_directory_takes_one_sweep_and_one_command_at_a_time(bench):
    bench.touch(f"hold_{POINTS[0]}")
    process = bench.start()
    bench.until(lambda: bench.ran() == POINTS[:1])
    assert bench.run() == 2
    assert bench.words == "sweep.py: error: another launch/sweep.py is running in out\n"
    (bench.folder / f"hold_{POINTS[0]}").unlink()
    assert process.wait(60) == 0
    bench.sweep_is(SWEEP_GIN.replace('"LEVEL": [0, 1]', '"LEVEL": [0, 2]'))
    before = (bench.out / "sweep.json").read_bytes()
    assert bench.run() == 2
    assert "out belongs to another sweep: 001_SEED=0_LEVEL=1 is there and not here" in bench.words
    assert (bench.out / "sweep.json").read_bytes() == before
    bench.sweep_is(SWEEP_GIN + "Sweep.bindings = {'ITERATIONS': 2}")  # a run may be continued
    assert bench.run() == 0
    assert bench.ran() == POINTS * 2
    assert bench.run("--output_dir=.") == 2
    assert "no sweep.json, so it is not a sweep's directory" in bench.words


def printed_commands(text):
    """The words of each command of a dry run, as a shell reads them."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_a_dry_run_prints_each_command_and_touches_nothing(bench):
    assert bench.run("--dry_run") == 0
    assert not bench.out.exists()
    *runs, report = printed_commands(bench.printed)
    assert runs[1][-5:] == [
        *["--run_mode=star", "--gin_file=run.gin", "--gin.SEED=0", "--gin.LEVEL=1"],
        f"--gin.MODEL_DIR='out/{POINTS[1]}'",
    ]
    assert report[-1] == "--gin.report.output_dir='out/report'"
    for line in (*runs, report):
        parse_command_line(line[len(jobs.STAR_JAX) :])


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (SWEEP_GIN, ["--parallel=0"], "--parallel 0 is not positive"),
        (SWEEP_GIN, ["--paralel=2"], "unrecognized arguments: --paralel=2"),
        (SWEEP_GIN, ["--", "--spot"], "give --tpu gs://BUCKET/FOLDER"),
        (SWEEP_GIN, ["--tpu=gs://b/f", "--", "--dry_run"], "--dry_run is an option of"),
        (SWEEP_GIN, ["--tpu=gs://bucket"], "--tpu 'gs://bucket' is not gs://BUCKET/FOLDER"),
        (SWEEP_GIN, ["--gin.Sweep.grid"], "--gin.Sweep.grid is not --gin.NAME=VALUE"),
        (SWEEP_GIN.replace("grid", "gird"), [], "did you mean 'grid'?"),
        (SWEEP_GIN.replace('  run_mode = "star"\n', ""), [], "Sweep.run_mode must be set"),
        (
            SWEEP_GIN.replace('"star"', '"stra"'),
            [],
            "LEVEL=0: unknown run mode 'stra'; ",
        ),
        (SWEEP_GIN.replace("[0, 1]", "[]"), [], "Sweep.grid: SEED has []"),
        (SWEEP_GIN.replace('"run.gin"', '"rum.gin"'), [], "did you mean 'run.gin'?"),
        (SWEEP_GIN.replace("LEVEL", "LEVLE"), [], "'LEVLE'; did you mean 'LEVEL'?"),
        (SWEEP_GIN + "Sweep.bindings = {'x': @len}", [], "s.gin:6: @len is for the runs"),
        (SWEEP_GIN + "SEDE = 1", [], "nothing refers to a macro 'SEDE'"),
    ],
)
def test_a_wrong_command_or_sweep_ends_before_anything_runs(bench, text, options, words):
    bench.sweep_is(text)
    try:
        code = bench.run(*options)
    except SystemExit as end:  # argparse's
        code, bench.words = end.code, bench.capfd.readouterr().err
    assert code == 2
    assert words in bench.words and re.fullmatch(r"sweep.py: error: .*\n", bench.words)
    assert not bench.out.exists() and bench.ran() == []


@pytest.mark.parametrize(
    ("log", "code", "reason"),
    [
        ("$ x\nstar_jax: error: a\nmore\nstar_jax: error: b; c\n", 2, "b; c"),
        ("$ x\ntpu_vm.py: error: no room\n", 1, "no room"),
        ("$ x\nTraceback\n  line\nValueError: 3\n\n", 1, "exit code 1: ValueError: 3"),
        ("$ x\nstar_jax: error: old\n", -9, "ended by SIGKILL, usually because memory ran out"),
        ("$ x\n", 3, "exit code 3: it printed nothing"),
    ],
)
def test_a_failure_has_a_reason_in_one_line(tmp_path, log, code, reason):
    (tmp_path / "log").write_text("star_jax: error: of an earlier attempt\n" + log)
    start = len("star_jax: error: of an earlier attempt\n")
    assert logs.failure_reason(tmp_path / "log", start, code) == reason


def test_the_error_of_star_jax_itself_is_a_reason(tmp_path, capsys):
    assert main(["--run_mode=stra"]) == 2
    (tmp_path / "log").write_text("$ x\n" + capsys.readouterr().err)
    assert "stra" in logs.failure_reason(tmp_path / "log", 0, 2)
    assert "exit code" not in logs.failure_reason(tmp_path / "log", 0, 2)


def test_the_star_jax_of_another_checkout_is_refused(bench, monkeypatch):
    monkeypatch.setattr(sweep, "ROOT", bench.folder)
    assert bench.run() == 2
    assert f"imports star_jax from {ROOT}, not from this checkout" in bench.words


def test_a_sweep_accepts_what_its_runs_accept(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # as for a run, modules of the current folder can be imported
    (tmp_path / "mine.py").write_text("import gin\n\n\n@gin.configurable\ndef my_own(x=0): ...\n")
    (tmp_path / "mine.gin").write_text("import mine\nmy_own.x = 1\n")
    files = ["paper/table1_star_with_rationalization.gin", "mine.gin"]
    runs = expand(Sweep("precompile", files, points=[{}]), "out")
    (config,) = check.checked_configurations({run.name: run.arguments() for run in runs}).values()
    assert "my_own.x = 1" in config  # and nothing asks for MODEL_CHECKPOINT


def test_help_needs_no_packages(tmp_path):
    script = [sys.executable, "-S", "-E", str(LAUNCH / "sweep.py")]
    done = subprocess.run([*script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "--parallel" in done.stdout, done.stderr
    done = subprocess.run([*script, "x.gin"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    words = r"sweep\.py: error: the package '\w+' is not installed for .*quickstart.sh makes\n"
    assert re.fullmatch(words, done.stderr)


# TPU VMs


def test_each_point_gets_a_tpu_vm_of_its_own(bench, cloud, monkeypatch):  # noqa: F811
    cloud.program("write(1, 0.5)\nif 'LEVEL=1' in model_dir: sys.exit(2)\nreport()\n")
    script = str(cloud.checkout / "launch/tpu_vm.py")
    monkeypatch.setattr(jobs, "TPU_VM", (sys.executable, script))
    bench.sweep_is(SWEEP_GIN.replace('"SEED": [0, 1], ', "").replace('"out"', '"out/2 x_Y"'))
    options = ["--accelerator_type=v3-8", "--spot", "--poll_seconds=0.02", *PLACE]
    tpu = ["--tpu=gs://bucket/sweeps/", "--parallel=1", "--", *options]
    assert bench.run(*tpu) == 1, bench.words
    points = ["000_LEVEL=0", "001_LEVEL=1"]
    assert [run["arguments"][-1] for run in cloud.runs()] == [
        f"--gin.MODEL_DIR='gs://bucket/sweeps/{name}'" for name in points
    ]
    made = [call for call in cloud.calls() if "create" in call]
    assert [call[4] for call in made] == ["s-2-x-y-000", "s-2-x-y-001"]
    assert all("--spot" in call for call in made)
    assert json.loads((bench.out / "2 x_Y/report/report.json").read_text()) == points[:1]
    assert "000_LEVEL=0 finished in" in bench.words and "accuracy 50.0 %" in bench.words
    assert "failed: 001_LEVEL=1: s-2-x-y-001: worker 0: ended with exit code 2" in bench.words


def test_wrong_options_for_tpu_vms_end_before_anything_runs(bench):
    with pytest.raises(SystemExit) as end:
        bench.run("--tpu=gs://bucket/x", "--", *PLACE)
    assert end.value.code == 2
    assert "--accelerator_type is missing" in bench.capfd.readouterr().err
    assert not bench.out.exists()


# The shipped sweeps


@pytest.mark.parametrize("name", SHIPPED)
def test_every_point_of_a_shipped_sweep_is_read_and_bound(name):
    runs = expand(configurations.read_sweep(f"sweeps/{name}", []), "out")
    configs = configurations.load_configurations({run.name: run.arguments() for run in runs})
    assert len(set(configs.values())) == len(runs)
    for run in runs:
        macros = [f"{key} = {value}" for key, value in run.bindings if "." not in key]
        assert all(line in configs[run.name] for line in macros)


def test_an_unknown_binding_is_reported_with_its_point():
    bindings = {"MODEL_CHECKPOINT": "base", "StarConfig.sede": 0}
    runs = expand(Sweep("star", ["paper/figure4_tiny.gin"], bindings, points=[{}]), "out")
    with pytest.raises(UserError, match=r"^000: --gin.StarConfig.sede: .* did you mean 'seed'\?$"):
        configurations.load_configurations({run.name: run.arguments() for run in runs})


def test_the_command_itself_dry_runs_the_papers_search_for_a_learning_rate(tmp_path):
    done = subprocess.run(
        [sys.executable, LAUNCH / "sweep.py", "sweeps/learning_rate.gin", "--dry_run"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    *runs, _ = map(shlex.join, printed_commands(done.stdout))
    rates = [float(re.search(r"learning_rate=(\S+)", line)[1]) for line in runs]
    assert rates == [1e-7, 1e-6, 1e-5, 1e-4]
    assert not any(tmp_path.iterdir())


SWEEP = ".venv/bin/python launch/sweep.py "


def documented():
    """The sweep commands of the READMEs."""
    texts = [(folder / "README.md").read_text().replace("\\\n", " ") for folder in (ROOT, LAUNCH)]
    return [line for text in texts for line in text.splitlines() if line.startswith(SWEEP)]


@pytest.mark.parametrize("line", documented())
def test_a_documented_sweep_can_be_run(line, monkeypatch):
    monkeypatch.setenv("CLOUDSDK_CORE_PROJECT", "my-project")
    monkeypatch.setenv("CLOUDSDK_COMPUTE_ZONE", "us-central1-a")
    options, _, tpu_options = command.parse(shlex.split(line)[2:])
    runs = expand(configurations.read_sweep(options.file, []), options.tpu or "out")
    configs = {run.name: "" for run in runs}
    if options.tpu:
        wanted = jobs.tpu_jobs(runs, configs, Path("out"), tpu_options)
    else:
        wanted = jobs.local_jobs(runs, configs)
    assert len(wanted) >= 4


# The bar: eight points of the tiny setting, one made to fail, killed in between


EIGHT_GIN = """\
Sweep:
  run_mode = "star"
  gin_files = ["star.gin"]
  bindings = {"ITERATIONS": 1, "TrainerConfig.checkpoint_every": 5}
  points = [
      {"SEED": 0},
      {"name": "too_many", "StarConfig.questions_per_iteration": 500},
      {"SEED": 1}, {"SEED": 2}, {"SEED": 3, "RATIONALIZE": False},
      {"SEED": 0, "star.schedule": "@LinearSteps()"}, {"SEED": 5}, {"SEED": 6},
  ]
  prepare = @Prepare()
  output_dir = "out"
Prepare:
  run_mode = "pretrain"
  gin_files = ["base.gin"]
  bound_to = "MODEL_CHECKPOINT"
"""
EIGHT = [
    *["000_SEED=0", "001_too_many", "002_SEED=1", "003_SEED=2", "004_SEED=3_RATIONALIZE=False"],
    *["005_SEED=0_schedule=LinearSteps", "006_SEED=5", "007_SEED=6"],
]


@pytest.mark.slow
def test_eight_real_points_one_of_them_failing_killed_in_between(tmp_path):
    from tests import tiny  # imports JAX, which no other test here needs

    (tmp_path / "star.gin").write_text(tiny.STAR_GIN)
    (tmp_path / "base.gin").write_text(tiny.PRETRAIN_GIN)
    (tmp_path / "eight.gin").write_text(EIGHT_GIN)
    out = tmp_path / "out"
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    arguments = [sys.executable, str(LAUNCH / "sweep.py"), "eight.gin", "--parallel=2"]
    settings = {"cwd": tmp_path, "env": environment, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen(arguments, stderr=subprocess.DEVNULL, **settings)
    killed = out / EIGHT[3]
    deadline = time.monotonic() + 3600
    while not any((killed / "iter_001/training").glob("step_*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    left = psutil.Process(process.pid).children(recursive=True)
    for each in (process, *left):  # the whole machine, as it were
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    process.communicate()
    assert not (out / f"{killed.name}.done").exists()
    before = {path.name for path in out.glob("*.done")}
    assert {"base.done", f"{EIGHT[0]}.done"} <= before
    again = subprocess.run(arguments, stderr=subprocess.PIPE, check=False, **settings)
    assert again.returncode == 1, again.stderr
    assert "8 of 9 runs finished, 1 did not" in again.stderr  # the base is the ninth
    failure = re.search(r"failed: 001_too_many: (.*)", again.stderr)[1]
    assert re.match(r"StarConfig.questions_per_iteration = 500, .* only 400 ", failure)
    assert failure.endswith("(see out/001_too_many.log)")
    reported = json.loads((out / "report/report.json").read_text())["runs"]
    assert [run["name"] for run in reported] == [EIGHT[0], *EIGHT[2:]]
    assert all(len(run["rows"]) == 2 for run in reported)
    attempts = {log.stem: log.read_text().count("$ ") for log in out.glob("*.log")}
    assert all(attempts[name.removesuffix(".done")] == 1 for name in before)
    assert attempts[killed.name] == 2
    assert "resuming where the run stopped" in (out / f"{killed.name}.log").read_text()
