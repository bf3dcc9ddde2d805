"""Runs and data in a bucket, against an emulator of Google's service on this machine."""

import functools
import json
import os
import socket
import subprocess
import sys
import time
import types
import urllib.request
import uuid
from pathlib import Path
from unittest import mock

import aiohttp
import gcsfs
import gin
import google.auth.exceptions
import jax
import numpy as np
import pytest
from etils import epath
from orbax.checkpoint._src.path import atomicity

from star_jax.cli.configurables import compilation_cache
from star_jax.errors import UserError
from star_jax.main import main
from star_jax.models import base_weights
from star_jax.models.formats import open_model
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import make_mesh
from star_jax.reporting.runs import load_run
from star_jax.rollout.native import sampler as native
from star_jax.run import checkpoints, paths
from star_jax.tasks import rows, text_task
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.rows import EXAMPLES
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.testing.engine import FakeEngine
from star_jax.tokenizers.loading import load_vocabulary
from tests import fake_runs, tiny

BUCKET = "star-jax"


class Killed(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def free_port():
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def wait_for(url, process):
    deadline = time.monotonic() + 60
    while True:
        try:
            return urllib.request.urlopen(url).read()
        except OSError:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)


def forget():
    """Lets gcsfs be made anew, with the settings of now."""
    paths._prepare_buckets.cache_clear()
    gcsfs.core.GCSFileSystem.clear_instance_cache()
    epath.backend.fsspec_backend._get_filesystem.cache_clear()


@pytest.fixture(scope="module", autouse=True)
def emulator():
    url = f"http://127.0.0.1:{free_port()}"
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("emulator.py")), "start", "--host=127.0.0.1",
         f"--port={url.rpartition(':')[2]}", "--in-memory", f"--default-bucket={BUCKET}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    with mock.patch.dict(os.environ, {paths.EMULATOR: url, "TENSORSTORE_GCS_HTTP_URL": url}):
        try:
            wait_for(url, process)
            forget()
            yield url
        finally:
            process.kill()
            process.wait()
            forget()


@pytest.fixture
def bucket():
    """A folder of its own in the bucket."""
    return paths.path_of(f"gs://{BUCKET}/{uuid.uuid4().hex}")


@pytest.fixture(params=["disk", "bucket"])
def folder(request, tmp_path, bucket):
    return tmp_path if request.param == "disk" else bucket


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


# A whole run.


def bus_line(file, **settings):
    return JsonlTask(str(file), held_out=0.25, rationale_field="rationale", **settings)


def fake_sampler(model, vocabulary, config, mesh, rules):
    """Knows the rides whose number is even, and with a hint all that have a rationale."""
    task = bus_line("bus_line.jsonl")
    questions = {q.id: q for split in (TRAIN, VALIDATION) for q in task.questions(split)}

    def says(prompt):
        right = prompt.hinted or int(prompt.question_id[-1]) % 2 == 0
        return (right and task.gold_completion(questions[prompt.question_id])) or "no idea"

    return FakeEngine(says, vocabulary)


def command(run_mode, *files, **bindings):
    """Runs the worked example for own questions, trained shortly; returns the exit code."""
    one_device = functools.partial(make_mesh, devices=jax.devices()[:1])
    flags = [f"--gin.{name.replace('__', '.')}={value!r}" for name, value in bindings.items()]
    with (
        mock.patch.object(partitioning, "make_mesh", one_device),
        mock.patch.object(native, "Sampler", fake_sampler),
    ):
        return main([f"--run_mode={run_mode}", *(f"--gin_file={f}" for f in files), *flags])


def run(run_mode, folder, questions):
    return command(
        run_mode, "runs/own_questions.gin", QUESTIONS=str(questions), BASE_STEPS=4,
        BASE_DIR=str(folder / "base"), MODEL_DIR=str(folder / "star"), GeometricSteps__first=6,
        TrainerConfig__checkpoint_every=3,
    )  # fmt: skip


def kill_after_first_save():
    """The first state inside a fine-tuning is written, and then the process is gone."""
    save = checkpoints.TrainingCheckpoint.save

    def dying(self, step, state):
        save(self, step, state)
        raise Killed

    return mock.patch.object(checkpoints.TrainingCheckpoint, "save", dying)


def test_a_run_in_a_bucket_is_the_run_on_a_disk(tmp_path, bucket, capsys):
    questions = bucket / "bus_line.jsonl"
    questions.write_bytes((EXAMPLES / "bus_line.jsonl").read_bytes())
    for run_mode in ("pretrain", "star"):
        assert run(run_mode, tmp_path, "bus_line.jsonl") == 0
    assert run("pretrain", bucket, questions) == 0
    with kill_after_first_save(), pytest.raises(Killed):
        run("star", bucket, questions)
    training = bucket / "star/iter_001/training"
    assert [path.name for path in training.iterdir()] == ["step_3"]
    assert not (bucket / "star/iter_001/checkpoint.done").exists()
    assert run("star", bucket, questions) == 0
    assert not training.exists()
    assert_same_run(tmp_path / "star", bucket / "star")
    for folder in (tmp_path, bucket):
        events = sorted(path.name for path in (folder / "star/tensorboard").glob("events.*"))
        assert [name.split(".")[3] for name in events] == [f"{n:010d}" for n in range(3)]
    assert run("star", bucket, EXAMPLES / "bus_line.jsonl") == 2  # another configuration
    assert "belongs to a run with another configuration" in capsys.readouterr().err

    assert command("report", report__model_dirs=[str(bucket / "star"), str(tmp_path / "star")]) == 0
    files = {path.name for path in (bucket / "star/report").iterdir()}
    pictures = {f"{name}.png" for name in ("accuracy_by_group", "training_set", "changes")}
    assert files >= {"report.md", "report.html", "report.json"} | pictures
    assert "star" in (bucket / "star/report/report.md").read_bytes().decode()


def assert_same_run(ours, theirs):
    for n in (0, 1, 2):
        ours_n, theirs_n = ours / f"iter_{n:03d}", theirs / f"iter_{n:03d}"
        names = {path.name for path in ours_n.iterdir()}
        assert names == {path.name for path in theirs_n.iterdir()}
        assert "checkpoint.done" in names or n == 0
        for name in names:
            if name.endswith(".jsonl"):
                assert (ours_n / name).read_bytes() == (theirs_n / name).read_bytes(), name
        if n:  # the loss, which no other weights would have
            notes = [json.loads((d / "checkpoint.done").read_bytes()) for d in (ours_n, theirs_n)]
            assert notes[0]["notes"] == notes[1]["notes"]
    lines = [(d / "metrics.jsonl").read_bytes().splitlines() for d in (ours, theirs)]
    accuracies = [[json.loads(line)["accuracy"] for line in run] for run in lines]
    assert accuracies[0] == accuracies[1]
    assert len(accuracies[0]) == 3


def test_a_run_s_attempts_are_counted_in_a_bucket_as_on_a_disk(tmp_path, bucket):
    ours = fake_runs.write_run(tmp_path / "run", iterations=1, row="figure6", steps=True)
    for file in ours.rglob("*.json*"):
        (bucket / "run" / file.relative_to(ours)).write_bytes(file.read_bytes())
    there, here = load_run(bucket / "run"), load_run(ours)
    assert there.iterations == here.iterations and here.iterations[1].steps
    assert there.facts == here.facts and here.facts.row == "figure6"


def test_evaluation_writes_its_attempts_into_a_bucket(tmp_path, bucket):
    assert run("pretrain", tmp_path, "bus_line.jsonl") == 0
    file = tmp_path / "evaluate.gin"
    file.write_text(
        'include "runs/own_questions.gin"\n'
        "evaluate:\n  checkpoint = %CHECKPOINT\n  model = %MODEL\n  vocabulary = %VOCABULARY\n"
        "  task = %TASK\n  sampler = @SamplerConfig()\n"
    )
    output = bucket / "attempts.jsonl"
    bindings = {"CHECKPOINT": str(tmp_path / "base"), "evaluate__output_file": str(output)}
    assert command("evaluate", file, **bindings) == 0
    attempts = [json.loads(line) for line in output.read_bytes().splitlines()]
    assert len(attempts) == len(bus_line("bus_line.jsonl").questions(VALIDATION))


# Its parts.


def test_a_file_is_replaced_whole_wherever_it_is(folder):
    file = folder / "deeper/file.jsonl"
    for data in (b"first", b"", b"x" * 6_000_000):  # the last is uploaded in parts
        paths.write_atomically(file, data)
        assert file.read_bytes() == data
    assert [path.name for path in file.parent.iterdir()] == ["file.jsonl"]


def test_files_are_written_together_and_checking_leaves_nothing(folder):
    paths.check_writable(folder / "out/report.md")
    paths.write_together(folder / "out", {"a.png": b"1", "report.md": b"2"})
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == {
        "a.png": b"1", "report.md": b"2"
    }  # fmt: skip


def test_a_checkpoint_that_was_cut_off_is_none(bucket, monkeypatch):
    trainer = tiny.trainer()
    first, second = trainer.random_params(1), trainer.random_params(2)
    abstract = trainer.abstract_params()
    training = checkpoints.TrainingCheckpoint(bucket / "training")
    training.save(1, first)
    assert_equal(training.restore(abstract), first)

    async def killed(self):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(atomicity.CommitFileTemporaryPath, "finalize", killed)
        older_counts = []
        for save in (lambda: training.save(2, second), lambda: training.save(1, second)):
            with pytest.raises(Killed):
                save()
            older_counts.append(training.restore(abstract) is not None)
    assert older_counts == [True, False]
    assert (bucket / "training/step_1" / checkpoints.MARKER).exists()  # Orbax's first file
    with pytest.raises(
        UserError, match=r"step_1 has no commit_success\.txt, so writing it was cut off"
    ):
        checkpoints.load(bucket / "training/step_1", abstract)
    training.save(3, second)
    assert [path.name for path in (bucket / "training").iterdir()] == ["step_3"]
    assert_equal(training.restore(abstract), second)


def assert_equal(ours, theirs):
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_data_files_in_a_bucket_read_as_on_a_disk(tmp_path, bucket):
    text = "\ufeffQ: Caf\u00e9?\r\nA: b\r\n\r\nQ: c\r\nA: d\r\n".encode()
    for place in (tmp_path, bucket):
        (place / "examples.txt").write_bytes(text)
        (place / "lines.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\n{"a": 2}')
    read = [text_task.read_examples(place / "examples.txt") for place in (tmp_path, bucket)]
    assert read[0] == read[1] == ["Q: Caf\u00e9?\nA: b", "Q: c\nA: d"]
    lines = list(rows.read_lines(str(bucket / "lines.jsonl")))
    assert [(n, line.strip()) for n, line in lines] == [(1, '{"a": 1}'), (3, '{"a": 2}')]


def test_a_prepared_data_set_in_a_bucket_is_read(tmp_path, bucket):
    import tensorflow_datasets as tfds

    class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

        def _split_generators(self, dl_manager):
            return {"train": ((i, {"text": f"number {i}"}) for i in range(3))}

        def _generate_examples(self):
            raise AssertionError

    tfds.disable_progress_bar()
    Numbers(data_dir=str(tmp_path)).download_and_prepare()
    for file in (tmp_path / "numbers").rglob("*"):
        if file.is_file():
            (bucket / file.relative_to(tmp_path)).write_bytes(file.read_bytes())
    read = rows.read_tfds("numbers", str(bucket), "train", "")
    assert read == [{"text": f"number {i}"} for i in range(3)]
    with pytest.raises(UserError, match=f"no prepared data set 'others' in '{bucket}'; bind"):
        rows.read_tfds("others", str(bucket), "train", "bind others")


def test_a_tokenizer_s_files_in_a_bucket_are_looked_for_there(bucket):
    (bucket / "model/config.json").write_bytes(b"{}")
    with pytest.raises(UserError, match=rf"{bucket}/model holds no tokenizer"):
        load_vocabulary(str(bucket / "model"))


# What goes wrong.


@pytest.mark.parametrize("name", ["model.safetensors", "model.gguf", "pytorch_model.bin"])
def test_weights_of_others_are_to_be_copied_first(bucket, name):
    (bucket / "model" / name).write_bytes(b"weights")
    trainer = tiny.trainer()
    for read in (
        lambda: base_weights.Base(
            bucket / "model", trainer.model, trainer.abstract_params()
        ).load(),
        lambda: open_model(bucket / "model" / name),
    ):
        with pytest.raises(UserError, match=rf"copy it.*gcloud storage cp -r {bucket}/model"):
            read()


def test_a_bucket_that_is_not_there_is_one_line(tmp_path, capsys):
    nowhere = paths.path_of("gs://nobodys-bucket/run")
    assert run("pretrain", nowhere, "bus_line.jsonl") == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "gs://nobodys-bucket/run/base/format.json cannot be read or written" in said[0]
    assert "check the path; `gcloud storage buckets create`" in said[0]
    with pytest.raises(UserError, match=r"gs://nobodys-bucket/run is not a directory; check"):
        load_run(nowhere)
    with pytest.raises(UserError, match=r"checkpoint gs://nobodys-bucket/run is not there"):
        checkpoints.check(nowhere, {})


def test_a_service_that_does_not_answer_is_one_line(monkeypatch, capsys, bucket):
    async def at_once(seconds):
        pass

    monkeypatch.setattr("gcsfs.retry.asyncio", types.SimpleNamespace(sleep=at_once))
    monkeypatch.setenv(paths.EMULATOR, f"http://127.0.0.1:{free_port()}")
    forget()
    try:
        assert run("pretrain", bucket, "bus_line.jsonl") == 2
    finally:
        monkeypatch.undo()
        forget()
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert f"{bucket}/base/config.gin cannot be read or written (ClientConnectorError" in said[0]
    assert "check the network" in said[0]
    assert "STORAGE_EMULATOR_HOST = http://127.0.0.1" in said[0]


@pytest.mark.parametrize(
    ("failure", "way_out"),
    [
        (OSError("Forbidden: https://x\nnobody does not have"), "roles/storage.objectAdmin"),
        (
            google.auth.exceptions.DefaultCredentialsError("Your default credentials ..."),
            "gcloud auth application-default login",
        ),
        (
            gcsfs.retry.HttpError({"code": 401, "message": "Invalid Credentials"}),
            "gcloud auth application-default login",
        ),
        (ValueError("PERMISSION_DENIED: Error reading x"), "roles/storage.objectAdmin"),
        (aiohttp.ClientPayloadError("not complete"), "see what the message says"),
    ],
)
def test_failures_name_the_path_and_the_way_out(failure, way_out):
    with pytest.raises(UserError) as error, paths.bucket_errors("gs://bucket/run"):
        raise failure
    assert error.value.message.startswith("gs://bucket/run cannot be read or written (")
    assert way_out in error.value.message
    assert "\n" not in error.value.message
    with pytest.raises(type(failure)), paths.bucket_errors("runs/here"):
        raise failure


def test_a_bug_of_ours_is_not_told_as_a_failure_of_the_bucket():
    with pytest.raises(KeyError), paths.bucket_errors("gs://bucket/run"):
        raise KeyError


def test_without_gcsfs_one_line_says_how_to_install_it(monkeypatch):
    forget()
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    with pytest.raises(UserError, match=r"gs:// need the package gcsfs.*uv pip install gcsfs"):
        paths.path_of("gs://bucket/run")


@pytest.mark.parametrize("text", ["s3://bucket/run", "gs://", "gs:///run", "gs://My Bucket/run"])
def test_other_addresses_are_refused(text):
    with pytest.raises(UserError, match="gs://BUCKET/NAME"):
        paths.path_of(text)


@pytest.mark.parametrize("text", ["runs/a", "~/a", "/a/b", "", "."])
def test_paths_of_this_machine_stay_what_they_were(text):
    assert type(paths.path_of(text)) is type(Path(text))
    assert paths.path_of(text) == Path(text)
    assert paths.absolute(text) == Path(text).absolute()


def test_a_path_in_a_bucket_is_absolute_and_keeps_its_slashes():
    text = "gs://bucket/run/base"
    assert [str(f(text)) for f in (paths.path_of, paths.absolute)] == [text, text]


def test_the_compilation_cache_may_be_in_a_bucket(monkeypatch, bucket):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    settings = {}
    monkeypatch.setattr(jax.config, "update", settings.__setitem__)
    compilation_cache(str(bucket))
    assert settings["jax_compilation_cache_dir"] == str(bucket)
