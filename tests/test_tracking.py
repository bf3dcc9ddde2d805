"""TensorBoard and Weights & Biases get what metrics.jsonl has, once."""

import dataclasses
import json
import sys
import types

import gin
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.backend.event_processing.event_multiplexer import EventMultiplexer
from tensorboard.util import tensor_util

from star_jax.errors import UserError
from star_jax.loop.evaluate import evaluation_metrics
from star_jax.main import main
from star_jax.parallel import processes
from star_jax.records import Attempt, Reading
from star_jax.run import tracking
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import RunDir
from tests import tiny


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def metrics(n, n_right=1, **fields):
    attempts = [
        Attempt(str(i), 0, 0, "1", "evaluated", False, "", "", (3,), True, -1.0,
                Reading(None, 0, correct=i < n_right))
        for i in range(4)
    ]  # fmt: skip
    line = IterationMetrics(
        n, 0, True, **evaluation_metrics(attempts), seconds={"evaluate": 2.5},
        training={"steps": 0, "loss": None},
    )  # fmt: skip
    return dataclasses.replace(line, **fields)


def finish(run, line, losses=(), first_step=1, sampling=None):
    """An iteration on disk, as the loop leaves it."""
    stage = run.iteration(line.iteration)
    stage.write_losses(first_step, losses)
    for name, summary in (sampling or {}).items():
        stage.write_stats(name, summary)
    stage.write_metrics(line)
    run.write_metrics_lines()
    return line


def events(folder):
    """(step, name, number) of every event in a folder's files, in the files' order."""
    found = []
    for file in sorted(folder.glob("events.out.tfevents.*")):
        for event in EventFileLoader(str(file)).Load():
            for value in event.summary.value:
                number = float(tensor_util.make_ndarray(value.tensor))
                found.append((event.step, value.tag, number))
    return found


def expected(run):
    """What must stand in the event files, read off the run's own JSON."""
    found = []
    for line in tiny.read_lines(run / "metrics.jsonl"):
        n = line["iteration"]
        file = run / f"iter_{n:03d}/sampling.json"
        line["sampling"] = json.loads(file.read_text()) if file.is_file() else {}
        for name in ("iteration", "seed", "rationalize"):
            del line[name]
        found += [(n, name, x) for name, x in leaves(line) if x is not None]
    return found


def leaves(tree, prefix=""):
    for name, x in tree.items():
        yield from leaves(x, f"{prefix}{name}/") if isinstance(x, dict) else [(prefix + name, x)]


def assert_equal_events(found, wanted):
    assert [(step, name) for step, name, _ in found] == [(step, name) for step, name, _ in wanted]
    assert [x for *_, x in found] == pytest.approx([x for *_, x in wanted], rel=1e-6)


def test_a_run_leaves_event_files_that_say_what_its_metrics_say(tmp_path, tiny_base):
    run, folder = tmp_path / "run", tmp_path / "run/tensorboard"
    argv = {"MODEL_DIR": run, "MODEL_CHECKPOINT": tiny_base}
    assert tiny.run(tmp_path, "star", **argv, ITERATIONS=1) == 0
    first = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    gin.clear_config()
    assert tiny.run(tmp_path, "star", **argv, ITERATIONS=2) == 0
    found = events(folder)
    assert_equal_events(found, expected(run))
    names = {name for _, name, _ in found}
    assert {"accuracy", "accuracy_by_group/1", "kept/generate", "kept/rationalize"} <= names
    assert {
        "training/loss",
        "seconds/generate",
        "seconds/finetune",
        "counts/generate/right",
    } <= names
    assert "sampling/generate/decode_tokens_per_second" in names
    assert {path: path.read_bytes() for path in first} == first  # resumed: left as they were
    for n in (1, 2):
        losses = events(folder / f"iter_{n:03d}")
        assert [(step, name) for step, name, _ in losses] == [
            (step, "train_loss") for step in range(1, 31)
        ]
        line = tiny.read_lines(run / "metrics.jsonl")[n]
        assert sum(x for *_, x in losses[-3:]) / 3 == pytest.approx(
            line["training"]["loss"], rel=1e-5
        )
    board = EventMultiplexer().AddRunsFromDirectory(str(folder)).Reload()
    assert set(board.Runs()) == {".", "iter_001", "iter_002"}


def test_finetuning_is_tracked_too(tmp_path, tiny_base):
    run = tmp_path / "run"
    assert tiny.run(tmp_path, "finetune", MODEL_DIR=run, MODEL_CHECKPOINT=tiny_base) == 0
    assert_equal_events(events(run / "tensorboard"), expected(run))
    assert len(events(run / "tensorboard/iter_001")) == 20


def test_a_line_that_was_measured_anew_replaces_its_events_and_no_others(tmp_path):
    run = RunDir(tmp_path)
    lines = [finish(run, metrics(n), losses=[2.0, 1.0]) for n in range(3)]
    for line in lines:
        tracking.write_events(run, line)
    before = {path.name for path in (tmp_path / "tensorboard").glob("events*")}
    changed = finish(run, metrics(1, n_right=3), losses=[1.5], first_step=2)
    for line in (lines[0], changed, lines[2], changed):  # a resumed run sends all again
        tracking.write_events(run, line)
    assert_equal_events(events(tmp_path / "tensorboard"), expected(tmp_path))
    after = {path.name for path in (tmp_path / "tensorboard").glob("events*")}
    assert len(before & after) == 2
    assert events(tmp_path / "tensorboard/iter_001") == [(2, "train_loss", 1.5)]


def test_nulls_and_what_is_no_measurement_are_omitted(tmp_path):
    run = RunDir(tmp_path)
    line = finish(run, metrics(3, chance=None), sampling={"evaluate": {"slot_occupancy": 0.5}})
    found = tracking.scalars(run, line)
    assert found["accuracy"] == found["accuracy_by_group/1"] == 0.25
    assert found["sampling/evaluate/slot_occupancy"] == 0.5
    assert not {"chance", "training/loss", "iteration", "seed", "rationalize"} & found.keys()


def test_only_the_lead_tracks(tmp_path, monkeypatch):
    run = RunDir(tmp_path)
    line = finish(run, metrics(0))
    monkeypatch.setattr(processes, "from_lead", lambda make: None)  # as in any other process
    tracking.tracker(str(tmp_path), wandb_project="no_such")(line)
    assert not (tmp_path / "tensorboard").exists()


def test_event_files_can_be_left_away(tmp_path):
    line = finish(RunDir(tmp_path), metrics(0))
    tracking.tracker(str(tmp_path), tensorboard=False)(line)
    assert not (tmp_path / "tensorboard").exists()


# Weights & Biases, with a stand-in of its name.


class FakeWandb(types.ModuleType):
    """Remembers what it was sent, and refuses a step it has, as the service does."""

    class Error(Exception):
        """As wandb.Error."""

    def __init__(self):
        super().__init__("wandb")
        self.runs, self.refuses = {}, False

    def init(self, *, project, name, id, resume, settings):
        if self.refuses:
            raise self.Error("api_key not configured\n(no-tty)")
        assert resume == "allow"
        run = self.runs.setdefault(id or f"id{len(self.runs)}", FakeRun(project, name))
        run.id = id or f"id{len(self.runs) - 1}"
        return run


class FakeRun:
    def __init__(self, project, name):
        self.project, self.name, self.step, self.logged = project, name, 0, []

    def log(self, values, step):
        assert step >= self.step
        self.logged.append((step, values))
        self.step = step + 1


@pytest.fixture
def fake_wandb(monkeypatch):
    fake = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_gets_each_iteration_once_though_the_run_was_resumed(tmp_path, fake_wandb):
    run = RunDir(tmp_path / "mine")
    for last in (1, 3):  # a process each
        on_metrics = tracking.tracker(str(run.path), wandb_project="star")
        for n in range(last + 1):
            on_metrics(finish(run, metrics(n, n_right=n)))
    [logged] = fake_wandb.runs.values()
    assert (logged.project, logged.name) == ("star", "mine")
    assert [(step, values["accuracy"]) for step, values in logged.logged] == [
        (0, 0.0), (1, 0.25), (2, 0.5), (3, 0.75)
    ]  # fmt: skip


def test_another_directory_is_another_run_of_wandb(tmp_path, fake_wandb):
    for name in ("a", "b"):
        run = RunDir(tmp_path / name)
        tracking.tracker(str(run.path), wandb_project="star")(finish(run, metrics(0)))
    assert [run.name for run in fake_wandb.runs.values()] == ["a", "b"]


@pytest.mark.parametrize("mode", ["star", "finetune"])
def test_wandb_that_is_not_installed_is_told_before_any_work(
    tmp_path, tiny_base, capsys, monkeypatch, mode
):
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not there
    run = tmp_path / "run"
    argv = {"MODEL_DIR": run, "MODEL_CHECKPOINT": tiny_base, "track__wandb_project": "star"}
    assert main(tiny.command_line(tmp_path, mode, **argv)) == 2
    [line] = [x for x in capsys.readouterr().err.splitlines() if x.startswith("star_jax: error")]
    assert "track.wandb_project = 'star'" in line and "uv pip install wandb" in line
    assert not run.exists()


def test_wandb_that_does_not_let_us_in_is_one_line(tmp_path, fake_wandb):
    fake_wandb.refuses = True
    with pytest.raises(UserError, match=r"api_key not configured \(no-tty\); log in") as caught:
        tracking.tracker(str(tmp_path), wandb_project="star")
    assert "\n" not in caught.value.message
