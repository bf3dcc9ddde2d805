import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from star_jax.loop.config import StarConfig
from star_jax.loop.finetune import Phase, train_base
from star_jax.loop.star import Star, run_star
from star_jax.models.base_weights import Base
from star_jax.records import GENERATED, RATIONALIZED
from star_jax.run import checkpoints, paths, run_dir, stage_dir
from star_jax.run.run_dir import Recorder
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.corpus import ArithmeticCorpus
from star_jax.testing.engine import digest
from star_jax.training.schedules import GeometricSteps
from star_jax.training.train_step import OptimizerConfig
from tests import tiny

ROOT = Path(__file__).parent.parent


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


# In this process: dying just before each single write.


def die_before_write(monkeypatch, n):
    """Makes the n-th write of a run (a file, or a checkpoint) the end of it; counts writes."""
    writes = []

    def counted(function):
        @functools.wraps(function)
        def write(*args, **kwargs):
            writes.append(str(args[0]))
            if len(writes) == n:
                raise Killed
            return function(*args, **kwargs)

        return write

    write = counted(paths.write_atomically)
    for module in (run_dir, stage_dir):
        monkeypatch.setattr(module, "write_atomically", write)
    monkeypatch.setattr(checkpoints, "save", counted(checkpoints.save))
    return writes


@pytest.fixture(scope="module")
def small():
    return tiny.trainer(checkpoint_every=2)


def star_run(folder, base, small):
    def says(prompt):
        a = int(prompt.text.splitlines()[1][0])
        return tiny.gold(prompt) if a % 2 or prompt.hinted else tiny.wrong(prompt)

    loop = Star(
        StarConfig(1, 10, few_shot="never", hinted_share=0.5),
        ArithmeticTask(digits=(1, 2), n_train=40, n_validation=5),
        tiny.fake_engine(says),
        small,
        GeometricSteps(4),
        Base(str(base), small.model, small.abstract_params()),
    )
    return run_star(loop, Recorder(str(folder)))


def test_dying_before_any_write_changes_nothing(tmp_path, monkeypatch, small):
    checkpoints.save(tmp_path / "base", small.random_params(0))
    with monkeypatch.context() as patch:
        writes = die_before_write(patch, None)
        star_run(tmp_path / "whole", tmp_path / "base", small)
    names = [Path(name).name for name in writes]
    assert {"step_2", "checkpoint", "checkpoint.done", "metrics.jsonl"} <= set(names)
    for n in range(1, len(writes) + 1):
        folder = tmp_path / f"killed_{n}"
        with monkeypatch.context() as patch:
            die_before_write(patch, n)
            with pytest.raises(Killed):
                star_run(folder, tmp_path / "base", small)
        star_run(folder, tmp_path / "base", small)
        assert_same_run(folder, tmp_path / "whole")


def test_pretraining_that_dies_goes_on_to_the_same_base(tmp_path, monkeypatch, small):
    corpus = ArithmeticCorpus(60, facts=0.0, layout=0.0, plain_digits=(1.0,), hinted_digits=(1.0,))
    phases = [Phase(corpus, 4, OptimizerConfig(1e-2, 2)) for _ in range(2)]

    def pretrain(folder):
        train_base(str(folder), phases, arithmetic_vocabulary(), small, 0)

    with monkeypatch.context() as patch:
        writes = die_before_write(patch, None)
        pretrain(tmp_path / "whole")
    names = [Path(name).name for name in writes]
    assert names == [
        "format.json", "config.gin", "step_2", "phase_1", "phase_1.done", "step_2", "checkpoint",
        "checkpoint.done",
    ]  # fmt: skip
    for n in (4, 6, 7):
        with monkeypatch.context() as patch:
            die_before_write(patch, n)
            with pytest.raises(Killed):
                pretrain(tmp_path / f"killed_{n}")
        pretrain(tmp_path / f"killed_{n}")
        assert_same_weights(tmp_path / f"killed_{n}", tmp_path / "whole")


def test_each_phase_of_pretraining_starts_from_the_one_before_with_its_own_optimizer(
    tmp_path, small
):
    corpus = ArithmeticCorpus(60, facts=0.0, layout=0.0, plain_digits=(1.0,), hinted_digits=(1.0,))
    settings = [(3, OptimizerConfig(1e-2, 2)), (5, OptimizerConfig(3e-3, 1))]
    phases = [Phase(corpus, *setting) for setting in settings]
    train_base(str(tmp_path), phases, arithmetic_vocabulary(), small, seed=2)
    params = small.random_params(2)
    for i, (steps, optimizer) in enumerate(settings, start=1):
        ours = dataclasses.replace(small, optimizer=optimizer)
        documents = corpus.documents(arithmetic_vocabulary())
        params = ours.train(ours.init_state(params), documents, steps, 200 + i).state.params
    saved = checkpoints.load(tmp_path / "checkpoint", small.abstract_params())
    assert digest(saved) == digest(params)


# The real command line, killed with SIGKILL.


def start(argv):
    """The command line as a process of its own, with one CPU device."""
    env = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, "-m", "star_jax.main", *argv],
        cwd=ROOT,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(argv):
    process = start(argv)
    error = process.communicate(timeout=600)[1]
    assert process.returncode == 0, error


def kill_when(argv, appears, missing):
    """Starts the run, kills it when `appears()`, and makes sure `missing` was not there yet."""
    process = start(argv)
    deadline = time.monotonic() + 600
    try:
        while not appears():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not missing.exists(), f"the kill came after {missing}"


def test_resume_after_kill_gives_identical_files(tmp_path, tiny_base):
    def argv(name):
        return tiny.command_line(
            tmp_path, "star", MODEL_DIR=tmp_path / name, MODEL_CHECKPOINT=tiny_base,
            TrainerConfig__checkpoint_every=5,
        )  # fmt: skip

    finish(argv("whole"))
    killed = tmp_path / "killed"
    one, two = killed / "iter_001", killed / "iter_002"
    kill_when(  # during sampling
        argv("killed"), (killed / "iter_000/metrics.json").exists, one / "generations.done"
    )
    kill_when(  # in the middle of fine-tuning
        argv("killed"), lambda: _steps_saved(one / "training"), one / "checkpoint.done"
    )
    assert _steps_saved(one / "training")
    kill_when(  # during evaluation
        argv("killed"), (two / "checkpoint.done").exists, two / "eval.done"
    )
    finish(argv("killed"))
    assert_same_run(killed, tmp_path / "whole", iterations=2)
    kept = tiny.read_lines(one / "train.jsonl")
    assert {example["source"] for example in kept} == {GENERATED, RATIONALIZED}


def _steps_saved(training):
    return any(path.name.removeprefix("step_").isdigit() for path in training.glob("step_*"))


def assert_same_run(ours, theirs, iterations=1):
    """Files byte-identical, weights bit-identical, metrics equal but for the clock's."""
    for n in range(iterations + 1):
        ours_n, theirs_n = (folder / f"iter_{n:03d}" for folder in (ours, theirs))
        assert {p.name for p in ours_n.iterdir()} == {p.name for p in theirs_n.iterdir()}
        for file in theirs_n.glob("*.jsonl"):
            assert (ours_n / file.name).read_bytes() == file.read_bytes(), file.name
        if n:
            assert_same_weights(ours_n, theirs_n)
    lines = [
        [
            {k: v for k, v in line.items() if k != "seconds"}
            for line in tiny.read_lines(folder / "metrics.jsonl")
        ]
        for folder in (ours, theirs)
    ]
    assert lines[0] == lines[1]
    assert len(lines[0]) == iterations + 1


def assert_same_weights(ours, theirs):
    with ocp.StandardCheckpointer() as checkpointer:
        trees = [
            checkpointer.restore((folder / "checkpoint").absolute()) for folder in (ours, theirs)
        ]
    leaves = [_leaves(tree) for tree in trees]
    assert leaves[0].keys() == leaves[1].keys()
    for name, leaf in leaves[0].items():
        assert leaf.tobytes() == leaves[1][name].tobytes(), name
    markers = [json.loads((folder / "checkpoint.done").read_text()) for folder in (ours, theirs)]
    assert markers[0]["notes"] == markers[1]["notes"]


def _leaves(tree, path=""):
    if isinstance(tree, dict):
        return {k: v for name in tree for k, v in _leaves(tree[name], f"{path}/{name}").items()}
    return {path: np.asarray(tree)}
