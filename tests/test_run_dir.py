import json

import pytest

from star_jax.errors import UserError
from star_jax.loop.config import StarConfig
from star_jax.loop.star import Star, run_star
from star_jax.models.base_weights import Base
from star_jax.records import GENERATED, KeptExample
from star_jax.run import checkpoints, metrics
from star_jax.run.paths import check_writable, write_atomically
from star_jax.run.run_dir import Recorder, RunDir, differing_bindings
from star_jax.run.stage_dir import StageDir
from star_jax.tasks.arithmetic import ArithmeticTask
from star_jax.training.schedules import GeometricSteps
from tests.tiny import fake_engine, gold, read_lines, trainer, wrong

KEPT = [
    KeptExample("a", 0, 0, GENERATED, "1 + 1", "2"),
    KeptExample("b", 1, 2, GENERATED, "2 + 2", "4", token_ids=(7,)),
]
PROMISED = {
    "iteration", "seed", "rationalize", "accuracy", "accuracy_by_group", "n_eval",
    "n_eval_by_group", "unparsable", "dropped", "chance", "n_questions", "kept", "seconds",
    "counts", "filtered", "training",
}  # fmt: skip


@pytest.mark.parametrize("name", [".", "file/below", "x" * 300])
def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path, name):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match=r"is a directory|cannot write"):
        check_writable(tmp_path / name)
    check_writable(tmp_path / "new/out.jsonl")
    assert (tmp_path / "file").read_text() == "mine" and not list((tmp_path / "new").iterdir())


def never():
    raise AssertionError("the stage is finished and must not be done again")


def some_wrong(prompt):
    """Right on odd first digits, and with a hint."""
    odd = int(prompt.text.splitlines()[1][0]) % 2
    return gold(prompt) if odd or prompt.hinted else wrong(prompt)


def run(folder, iterations=2, text=str, says=some_wrong, **config):
    """A run with a fake engine and a real, very small trainer."""
    small = trainer()
    if not (folder / "base").exists():
        checkpoints.save(folder / "base", small.random_params(0))
    loop = Star(
        StarConfig(iterations, 10, few_shot="never", **config),
        ArithmeticTask(digits=(1, 2), n_train=40, n_validation=5),
        fake_engine(says),
        small,
        GeometricSteps(2),
        Base(str(folder / "base"), small.model, small.abstract_params()),
    )
    return run_star(loop, Recorder(str(folder / "run"), text))


# Stages.


def test_a_finished_stage_is_read_and_an_unfinished_one_done_again(tmp_path):
    stage = StageDir(tmp_path / "iter_001")
    first = stage.records("train", KeptExample, lambda: KEPT)
    assert stage.records("train", KeptExample, never).value == first.value == KEPT
    (tmp_path / "iter_001/train.done").unlink()
    assert stage.records("train", KeptExample, lambda: KEPT[:1]).value == KEPT[:1]
    assert len(read_lines(tmp_path / "iter_001/train.jsonl")) == 1  # overwritten, not appended to


def test_a_stage_without_records_is_finished_too(tmp_path):
    stage = StageDir(tmp_path)
    assert stage.records("train", KeptExample, list).value == []
    assert stage.records("train", KeptExample, never).value == []


def test_a_stage_that_fails_leaves_no_marker(tmp_path):
    stage = StageDir(tmp_path)
    with pytest.raises(AssertionError):
        stage.records("train", KeptExample, never)
    assert not list(tmp_path.glob("*.done"))
    assert stage.records("train", KeptExample, lambda: KEPT).value == KEPT


def test_the_marker_has_count_and_hash(tmp_path):
    StageDir(tmp_path).records("train", KeptExample, lambda: KEPT)
    marker = json.loads((tmp_path / "train.done").read_text())
    assert marker["count"] == 2
    assert len(marker["sha256"]) == 64
    assert marker["seconds"] >= 0


@pytest.mark.parametrize("tamper", ["change", "cut", "remove"])
def test_a_tampered_file_is_told(tmp_path, tamper):
    stage, file = StageDir(tmp_path), tmp_path / "train.jsonl"
    stage.records("train", KeptExample, lambda: KEPT)
    if tamper == "remove":
        file.unlink()
    else:
        text = file.read_text()
        file.write_text(text.replace("4", "5") if tamper == "change" else text[: len(text) // 2])
    with pytest.raises(UserError) as error:
        stage.records("train", KeptExample, never)
    for words in (str(file), "2 records", "train.done"):
        assert words in error.value.message


def test_unicode_and_line_separators_survive(tmp_path):
    odd = [KeptExample("a", 0, 0, GENERATED, "x\u2028y\x85z\n", "naïve \U0001f600\r\n")]
    stage = StageDir(tmp_path)
    stage.records("train", KeptExample, lambda: odd)
    assert stage.records("train", KeptExample, never).value == odd


def test_weights_are_read_lazily_and_once(tmp_path, monkeypatch):
    loaded = []

    def load(path, abstract):
        assert abstract == "shapes"
        loaded.append(path)
        return "weights"

    def save(path, tree):
        path.mkdir()

    monkeypatch.setattr(checkpoints, "load", load)
    monkeypatch.setattr(checkpoints, "save", save)
    stage = StageDir(tmp_path / "iter_001")
    notes = {"steps": 3, "loss": 0.5}
    result, params = stage.weights("checkpoint", lambda inside: ("fresh", notes), lambda: "shapes")
    assert (result.value, params(), loaded) == (notes, "fresh", [])
    params.drop()  # what was just made can be read again
    assert (params(), loaded) == ("weights", [tmp_path / "iter_001/checkpoint"])
    loaded.clear()
    result, params = stage.weights("checkpoint", never, lambda: "shapes")
    assert (result.value, loaded) == (notes, [])
    assert (params(), params()) == ("weights", "weights")
    assert loaded == [tmp_path / "iter_001/checkpoint"]


def test_writing_is_all_or_nothing(tmp_path, monkeypatch):
    file = tmp_path / "deep/file"
    write_atomically(file, b"old")

    def fail(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="full"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"


# Whose directory it is.


def test_another_configuration_is_refused_with_what_differs(tmp_path):
    run = RunDir(tmp_path / "run")
    run.claim("StarConfig.seed = 0\nStarConfig.few_shot = 'never'\n")
    (tmp_path / "run/iter_000").mkdir()
    write_atomically(tmp_path / "run/iter_000/eval.done", b"{}")
    run.claim("# a comment\nStarConfig.few_shot = 'never'\nStarConfig.seed = 0\n")
    with pytest.raises(UserError) as error:
        run.claim("StarConfig.seed = 1\nStarConfig.few_shot = 'never'\nA.b = 2\n")
    message = error.value.message
    assert "StarConfig.seed is 0 there and 1 here" in message
    assert "A.b is not bound there and 2 here" in message
    assert "few_shot" not in message
    assert "config.gin" in message
    assert "seed = 0" in (tmp_path / "run/config.gin").read_text()


@pytest.mark.parametrize(
    "binding",
    ["MODEL_DIR", "ITERATIONS", "StarConfig.iterations", "star.model_dir", "MeshConfig.data",
     "TrainerConfig.checkpoint_every", "compilation_cache.directory"],
)  # fmt: skip
def test_what_finished_stages_do_not_depend_on_may_change(binding):
    assert differing_bindings(f"{binding} = 1\n", f"{binding} = 2\n") == []
    assert differing_bindings("", f"{binding} = 2\n") == []


@pytest.mark.parametrize(
    "binding",
    ["SEED", "StarConfig.seed", "star.base_checkpoint", "SamplerConfig.temperature",
     "LinearSteps.increment", "xMODEL_DIR", "MODEL_DIR_2"],
)  # fmt: skip
def test_all_else_may_not_change(binding):
    assert len(differing_bindings(f"{binding} = 1\n", f"{binding} = 2\n")) == 1


def test_gins_wrapped_lines_are_read_whole():
    one = "A.b = \\\n    (1,\n     2)\nC.d = {'x': 1,\n       'y': 2}\n"
    assert differing_bindings(one, "A.b = (1, 2)\nC.d = {'x': 1, 'y': 2}\n") == []
    (difference,) = differing_bindings(one, one.replace("2)", "3)"))
    assert difference == "A.b is (1, 2) there and (1, 3) here"


def test_iterations_of_nobody_are_refused(tmp_path):
    (tmp_path / "iter_001").mkdir()
    with pytest.raises(UserError, match=r"no config\.gin"):
        RunDir(tmp_path).claim("")


def test_a_directory_of_the_former_format_is_refused_in_one_line(tmp_path):
    run(tmp_path, 1)
    folder = tmp_path / "run"
    (folder / "format.json").unlink()
    before = sorted(folder.rglob("*"))
    (folder / "config.gin").write_text("StarConfig.only_right_steps = False\n")  # of that version
    with pytest.raises(UserError) as error:
        run(tmp_path, 1)
    assert "has format 1" in error.value.message and "--run_mode=report" in error.value.message
    assert "\n" not in error.value.message and sorted(folder.rglob("*")) == before
    (folder / "format.json").write_text('{"format": 3}')
    with pytest.raises(UserError, match=r"has format 3 .* give another MODEL_DIR$"):
        run(tmp_path, 1)
    (folder / "format.json").write_text("{")
    with pytest.raises(UserError, match=r"format\.json is damaged"):
        run(tmp_path, 1)


# A whole run.


def test_metrics_have_the_promised_keys_and_a_line_an_iteration(tmp_path):
    lines = run(tmp_path)
    written = read_lines(tmp_path / "run/metrics.jsonl")
    assert [line["iteration"] for line in written] == [0, 1, 2]
    for line, returned in zip(written, lines, strict=True):
        assert set(line) == PROMISED
        assert line == metrics.dataclasses.asdict(returned)
        assert line["seed"] == 0
        assert 0 <= line["accuracy"] <= 1
        assert line["n_eval"] == sum(line["n_eval_by_group"].values()) == 10
        alone = tmp_path / f"run/iter_{line['iteration']:03d}/metrics.json"
        assert json.loads(alone.read_text()) == line
    base = written[0]
    assert (base["training"]["steps"], base["training"]["loss"], base["kept"]) == (0, None, {})
    assert written[1]["training"]["loss"] > 0
    assert set(written[1]["kept"]) == {"generate", "rationalize"}


def test_the_directory_is_as_promised(tmp_path):
    run(tmp_path)
    folder = tmp_path / "run"
    stages = {"generations", "rationalizations", "train", "eval"}
    for n in (1, 2):
        names = {path.name for path in (folder / f"iter_00{n}").iterdir()}
        assert names == {
            "checkpoint", "checkpoint.done", "metrics.json", "sampling.json", "training_loss.json",
            *(f"{stage}.jsonl" for stage in stages), *(f"{stage}.done" for stage in stages),
        }  # fmt: skip
        for stage in stages:
            marker = json.loads((folder / f"iter_00{n}/{stage}.done").read_text())
            assert marker["count"] == len(read_lines(folder / f"iter_00{n}/{stage}.jsonl"))
    assert {path.name for path in (folder / "iter_000").iterdir()} == {
        "eval.jsonl", "eval.done", "metrics.json", "sampling.json",
    }  # fmt: skip
    kept = read_lines(folder / "iter_001/train.jsonl")
    assert list(kept[0]) == [
        "question_id", "sample", "turn", "source", "prompt", "completion", "examples", "token_ids",
        "weight", "hint_kept", "steps_right",
    ]  # fmt: skip
    assert json.loads((folder / "format.json").read_text()) == {"format": 2}


def test_iterations_may_be_raised_later_and_the_run_goes_on(tmp_path):
    text = "StarConfig.iterations = {}\nStarConfig.seed = 0\n"
    run(tmp_path, 1, lambda: text.format(1))
    before = (tmp_path / "run/iter_001/checkpoint.done").stat().st_mtime_ns
    lines = run(tmp_path, 2, lambda: text.format(2))
    assert [line.iteration for line in lines] == [0, 1, 2]
    assert (tmp_path / "run/iter_001/checkpoint.done").stat().st_mtime_ns == before
    (tmp_path / "other").mkdir()
    at_once = run(tmp_path / "other", 2)
    assert [comparable(line) for line in lines] == [comparable(line) for line in at_once]


def test_a_finished_run_does_nothing_more(tmp_path):
    first = run(tmp_path)
    again = run(tmp_path, says=lambda prompt: never())
    assert [comparable(line) for line in again] == [comparable(line) for line in first]


def test_a_tampered_stage_stops_the_run_and_loses_no_metrics(tmp_path):
    run(tmp_path)
    file = tmp_path / "run/iter_002/generations.jsonl"
    file.write_text(file.read_text() + "\n")
    with pytest.raises(UserError, match=r"iter_002/generations\.jsonl is not what was written"):
        run(tmp_path)
    assert (tmp_path / "run/iter_002/metrics.json").exists()


def comparable(line):
    """A metrics line without what the clock says."""
    return {k: v for k, v in vars(line).items() if k != "seconds"}


def test_what_sampling_cost_is_noted_by_stage(tmp_path):
    stage = StageDir(tmp_path / "iter_001")
    stage.write_stats("generate", {"seconds": 1.0})
    stage.write_stats("evaluate", {"seconds": 2.0})
    stage.write_stats("generate", {"seconds": 3.0})  # done again after an interruption
    written = json.loads((tmp_path / "iter_001/sampling.json").read_text())
    assert written == {"generate": {"seconds": 3.0}, "evaluate": {"seconds": 2.0}}
