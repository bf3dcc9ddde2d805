import copy
import dataclasses
import inspect
import json
import re

import gin
import pytest

from star_jax.cli import gin_errors, gin_sources
from star_jax.errors import UserError
from star_jax.loop import star
from star_jax.loop.config import StarConfig
from star_jax.loop.finetune import Phase
from star_jax.main import main
from star_jax.models.config import DecoderConfig
from star_jax.modes import infer
from star_jax.records import Attempt, from_json, to_json
from star_jax.tasks.arithmetic import ArithmeticTask
from tests import tiny


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


# Every run mode, from end to end.


@pytest.fixture(scope="module")
def star_run(tmp_path_factory, tiny_base):
    folder = tmp_path_factory.mktemp("star")
    assert tiny.run(folder, "star", MODEL_DIR=folder / "run", MODEL_CHECKPOINT=tiny_base) == 0
    return folder / "run"


def test_pretrain_leaves_a_base_and_does_nothing_twice(tiny_base):
    assert (tiny_base / "checkpoint").is_dir()
    assert (tiny_base / "phase_1").is_dir()
    assert "ArithmeticCorpus" in (tiny_base / "config.gin").read_text()
    marker = (tiny_base / "checkpoint.done").read_bytes()
    notes = json.loads(marker)["notes"]
    assert notes["steps"] == 450
    assert notes["loss"] < 0.5
    assert tiny.make_base(tiny_base.parent) == tiny_base
    assert (tiny_base / "checkpoint.done").read_bytes() == marker


def test_star_leaves_metrics_a_report_and_a_log(star_run):
    lines = tiny.read_lines(star_run / "metrics.jsonl")
    assert [line["iteration"] for line in lines] == [0, 1, 2]
    assert all(sum(line["kept"].values()) > 0 for line in lines[1:])
    assert (star_run / "report/report.md").is_file()
    config = (star_run / "config.gin").read_text()
    assert "StarConfig.questions_per_iteration = 48" in config


def test_iterations_can_be_raised_on_the_command_line(star_run, tiny_base):
    before = (star_run / "metrics.jsonl").read_bytes()  # the clock's numbers too are noted once
    folder = star_run.parent
    assert tiny.run(folder, "star", MODEL_DIR=star_run, MODEL_CHECKPOINT=tiny_base) == 0
    assert (star_run / "metrics.jsonl").read_bytes() == before
    assert (
        tiny.run(folder, "star", MODEL_DIR=star_run, MODEL_CHECKPOINT=tiny_base, ITERATIONS=3) == 0
    )
    assert len(tiny.read_lines(star_run / "metrics.jsonl")) == 4


def test_finetune_trains_on_gold_and_evaluates(tmp_path, tiny_base):
    run = tmp_path / "run"
    assert tiny.run(tmp_path, "finetune", MODEL_DIR=run, MODEL_CHECKPOINT=tiny_base) == 0
    base, line = tiny.read_lines(run / "metrics.jsonl")
    assert (base["iteration"], base["training"]["steps"]) == (0, 0)
    assert (line["iteration"], line["training"]["steps"], line["n_questions"]) == (1, 20, 50)
    assert line["training"]["loss"] > 0
    assert (run / "report/report.md").is_file()


def test_evaluate_prints_accuracy_with_its_interval(tmp_path, tiny_base, star_run, capsys):
    output = tmp_path / "attempts.jsonl"
    code = tiny.run(
        tmp_path, "evaluate", CHECKPOINT=tiny_base, evaluate__split="train",
        evaluate__output_file=output,
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    found = re.search(r"train all: (\S+) % \(95 %: (\S+) to (\S+), n = 400, seed 0\)", printed)
    accuracy, low, high = map(float, found.groups())
    assert low < accuracy < high
    attempts = tiny.read_lines(output)
    assert len(attempts) == 400
    assert f"{sum(a['reading']['correct'] for a in attempts) / 4:.1f}" == found[1]
    # An iteration of a run is a checkpoint too, and gets the accuracy the run has noted.
    assert tiny.run(tmp_path, "evaluate", CHECKPOINT=star_run / "iter_001") == 0
    noted = tiny.read_lines(star_run / "metrics.jsonl")[1]["accuracy"]
    assert f"validation all: {100 * noted:.1f} %" in capsys.readouterr().out


def test_infer_prints_prompts_and_completions(tmp_path, tiny_base, capsys):
    code = tiny.run(
        tmp_path, "infer", CHECKPOINT=tiny_base, infer__questions=["3 + 4", "5+6"],
        infer__few_shot=True,
    )  # fmt: skip
    assert code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("[1 of 2] prompt\nInput:\n3 + 4\nTarget:\n[1 of 2] completion (")
    second = re.search(
        r"^\[2 of 2\] prompt\nInput:\n5 \+ 6\nTarget:\n\[2 of 2\] completion \((.*)\)\n",
        printed,
        re.MULTILINE,
    )
    assert re.fullmatch(
        r"(answer: .+|no answer can be read), expected: 1 1(, truncated)?", second[1]
    )
    # One text is a list of one; as JSON, each is an attempt as in a run's files.
    bindings = {"infer__questions": "3 + 4", "infer__json": True}
    assert tiny.run(tmp_path, "infer", CHECKPOINT=tiny_base, **bindings) == 0
    (line,) = capsys.readouterr().out.splitlines()
    attempt = from_json(Attempt, json.loads(line))
    assert (attempt.prompt, attempt.expected) == ("Input:\n3 + 4\nTarget:\n", "7")
    assert attempt.reading.correct == (attempt.reading.answer == "7")


def test_infer_says_where_there_is_no_answer_or_no_completion():
    task = ArithmeticTask()
    question = task.make_question("sum", "29 + 57")
    cases = {
        "said": "no answer can be read, expected: 8 6",
        None: "none, the question exceeds the context length, expected: 8 6",
        "8 5": "answer: 8 5, expected: 8 6",
    }
    for text, said in cases.items():
        attempt = tiny.attempt_of(dataclasses.replace(task, direct=True), question, text)
        heading = infer._as_text("1 of 1", attempt).splitlines()[4]
        assert heading == f"[1 of 1] completion ({said})"
    unknown = dataclasses.replace(attempt, expected="", ended=False)
    assert "(answer: 8 5, truncated)" in infer._as_text("1 of 1", unknown)


def test_an_attempt_has_the_expected_answer_and_is_read_without_it():
    """Runs of this format before it was recorded lack the field, and are still resumed."""
    task = ArithmeticTask()
    attempt = tiny.attempt_of(task, task.make_question("sum", "29 + 57"), "said")
    row = json.loads(json.dumps(to_json(attempt)))
    assert row["expected"] == "8 6" and from_json(Attempt, row) == attempt
    assert row.pop("expected")
    assert from_json(Attempt, row) == dataclasses.replace(attempt, expected="")


@pytest.mark.parametrize("questions", [[], 7, [7]])
def test_infer_needs_texts(tmp_path, tiny_base, capsys, questions):
    bindings = {"CHECKPOINT": tiny_base, "infer__questions": questions}
    assert tiny.run(tmp_path, "infer", **bindings) == 2
    assert f"infer.questions = {questions!r}: give at least one text" in capsys.readouterr().err


def test_report_sets_runs_side_by_side(tmp_path, star_run, capsys):
    argv = [f"--gin.report.model_dirs=['{star_run}']", f"--gin.report.output_dir='{tmp_path}'"]
    assert main(["--run_mode=report", *argv]) == 0
    assert (tmp_path / "report.md").is_file()


def test_at_most_four_frames_from_main_to_run_star(tmp_path, monkeypatch):
    frames = []

    def run_star(*args):
        frame = inspect.currentframe()
        while frame:
            if frame.f_globals["__name__"].split(".")[0] == "star_jax":
                frames.append(frame.f_code.co_qualname)
            frame = frame.f_back
        raise UserError("far enough")

    monkeypatch.setattr(star, "run_star", run_star)
    bindings = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": tmp_path}
    assert tiny.run(tmp_path, "star", **bindings) == 2
    assert frames == ["StarMode.__call__", "run_mode_from", "main"]


# The shipped gin files.


def arguments_of(entry, names):
    """What gin would give the entry point: every configurable behind it is made."""
    return {name: copy.deepcopy(gin.query_parameter(f"{entry}.{name}")) for name in names}


def test_quickstart_makes_all_that_star_needs():
    flags = [("MODEL_DIR", "'/nowhere'"), ("MODEL_CHECKPOINT", "'/nowhere/base'")]
    gin_errors.load(gin_sources.read_sources(["runs/quickstart.gin"], flags))
    made = arguments_of("star", ("model", "loop", "task", "sampler", "trainer", "vocabulary"))
    assert isinstance(made["model"], DecoderConfig)
    assert isinstance(made["loop"], StarConfig)
    assert made["vocabulary"].vocab_size <= made["model"].vocab_size
    assert made["trainer"].row_length <= made["model"].context_length
    # Room for the longest question of the task and its scratchpad.
    longest = made["task"].make_question("", "99999+99999")
    gold = made["vocabulary"].encode(made["task"].gold_completion(longest))
    prompt = made["vocabulary"].encode(made["task"].question_text(longest, hinted=True))
    assert len(gold) + 1 <= made["sampler"].max_new_tokens
    assert len(prompt) + made["sampler"].max_new_tokens <= made["model"].context_length
    assert len(prompt) + len(gold) + 1 <= made["trainer"].row_length


def test_pretrain_tiny_makes_all_that_pretrain_needs():
    gin_errors.load(
        gin_sources.read_sources(["runs/pretrain_tiny.gin"], [("MODEL_DIR", "'/nowhere'")])
    )
    made = arguments_of("pretrain", ("model", "phases", "trainer", "vocabulary"))
    assert all(isinstance(phase, Phase) for phase in made["phases"])
    for phase in made["phases"]:
        longest = max(len(doc.tokens) for doc in phase.corpus.documents(made["vocabulary"]))
        assert longest <= made["trainer"].row_length <= made["model"].context_length


# An engine of the user's.

MY_ENGINE = """
import gin

from star_jax.testing.engine import FakeEngine
from tests.tiny import gold

@gin.configurable
def my_engine(model, vocabulary, sampler, mesh, rules):
    assert sampler.max_new_tokens > 0 and mesh.size == 1
    return FakeEngine(gold, vocabulary)
"""


def test_an_engine_is_bound_from_a_file_of_the_users(tmp_path, tiny_base, monkeypatch):
    (tmp_path / "engine_of_mine.py").write_text(MY_ENGINE)
    (tmp_path / "mine.gin").write_text("import engine_of_mine\nstar.engine = @my_engine\n")
    monkeypatch.syspath_prepend(tmp_path)
    run = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": tiny_base, "ITERATIONS": 1}
    assert tiny.run(tmp_path, "star", files=[tmp_path / "mine.gin"], **run) == 0
    base, first = tiny.read_lines(tmp_path / "run/metrics.jsonl")
    assert base["accuracy"] == first["accuracy"] == 1.0
