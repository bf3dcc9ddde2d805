"""The code of CONTRIBUTING.md runs, its map is that of the rooms, and its files are there."""

import copy
import importlib
import re
from pathlib import Path

import gin
import numpy as np
import pytest

from star_jax.cli import configurables, gin_errors, gin_sources  # noqa: F401  names for gin
from star_jax.loop.config import StarConfig
from star_jax.loop.filters import keep, names_of
from star_jax.main import main
from star_jax.records import Prompt
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.testing.engine import FakeEngine
from star_jax.training.schedules import GeometricSteps
from tests import tiny
from tests.test_architecture import FLOORS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
README = (ROOT / "README.md").read_text()
BLOCKS = {
    name: body
    for text in (TEXT, README)
    for name, body in re.findall(
        r"^```(?:python|gin)\n# (\w+\.\w+)\n(.*?)^```", text, re.MULTILINE | re.DOTALL
    )
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The code blocks as files of a user's, importable."""
    folder = tmp_path_factory.mktemp("user")
    for name, body in BLOCKS.items():
        (folder / name).write_text(body)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield folder
    gin.clear_config()


def load(folder, *files, **bindings):
    flags = [(name, repr(value)) for name, value in bindings.items()]
    gin_errors.load(gin_sources.read_sources(files, flags, (str(folder),), ()))


def star(tmp_path, config, engine):
    """STaR on the parity task of CONTRIBUTING with a one-layer model; its metrics."""
    task = importlib.import_module("my_task").ParityTask(n=20)
    return tiny.run_star(
        tmp_path, "run", config, task, engine, tiny.trainer(), GeometricSteps(first=2)
    )


def test_the_map_is_that_of_the_rooms():
    (table,) = re.findall(r"^\| room \|.*\n\| --- .*\n((?:\| `.*\n)+)", TEXT, re.M)
    rooms = [tuple(re.findall(r"`(\w+)`", line.split("|")[1])) for line in table.splitlines()]
    floors = [tuple(filter(None, floor)) for floor in FLOORS]
    assert [set(line) for line in reversed(rooms)] == [set(floor) for floor in floors]


def test_every_file_that_it_names_is_there():
    names = r"`((?:star_jax|launch|gin_configs|tests|docs)/[\w/.]*|loop/\w+\.py|\.ci/run)`"
    for file in re.findall(names, TEXT):
        assert (ROOT / file).exists() or (ROOT / "star_jax" / file).exists(), file


def test_the_readmes_filter_is_bound_by_name_and_counts_what_it_drops(folder):
    load(folder, "my_filters.gin")
    filters = gin.get_configurable("star_jax.StarConfig")().filters
    assert names_of(filters) == ["right_answer", "no_hint_leak", "short"]
    task = tiny.ArithmeticTask()
    question = tiny.question(1, 2)
    solution = task.gold_completion(question)
    attempts = [
        tiny.attempt_of(task, question, text)
        for text in (solution, solution.replace("\n", "\n" + " " * 200, 1), "no answer")
    ]
    kept, dropped = keep(attempts, filters)
    assert kept == attempts[:1]
    assert dropped["right_answer"] == {"generate": 1}
    assert dropped["short"] == {"generate": 1}
    assert len(BLOCKS["my_filters.py"].splitlines()) == 6


def test_the_task_is_bound_in_gin_and_goes_round_the_loop(folder, tmp_path, capsys):
    paths = {"MODEL_DIR": "run", "MODEL_CHECKPOINT": "base"}
    load(folder, "models/tiny.gin", "my_task.gin", "runs/star.gin", **paths)
    task = copy.deepcopy(gin.query_parameter("star.task"))
    vocabulary = copy.deepcopy(gin.query_parameter("star.vocabulary"))
    for split in (TRAIN, VALIDATION):
        for question in task.questions(split):
            solution = task.gold_completion(question)
            assert vocabulary.decode(vocabulary.encode(solution)) == solution
            reading = task.read(question, solution)
            assert (reading.correct, reading.steps_right, reading.hint_leaked) == (
                True,
                True,
                False,
            )

    def says(prompt):
        digit = prompt.text.split()[1]
        parity = ("even", "odd")[int(digit) % 2]
        return f"ends in {digit} so {parity if prompt.hinted else 'odd'}"

    _, line = star(tmp_path, StarConfig(1, few_shot="never"), FakeEngine(says, vocabulary))
    assert line.kept == {"generate": 10, "rationalize": 10}
    assert line.accuracy_by_group == {"2": 0.5}

    importlib.import_module("try_my_task")
    assert capsys.readouterr().out.splitlines()[-1] == "20 of 40"


def test_the_filter_and_the_reward_are_bound_in_gin_and_decide_what_is_kept(folder, tmp_path):
    load(folder, "my_rules.gin")
    bound = gin.get_configurable("star_jax.StarConfig")()
    assert names_of(bound.filters) == ["right_answer", "no_hint_leak", "rewarded"]

    def says(prompt):  # 16 or 17 characters, or 6
        digit = int(prompt.text.split()[1])
        return f"ends in {digit} so {('even', 'odd')[digit % 2]}" if digit < 5 else "so odd"

    engine = FakeEngine(says, importlib.import_module("my_task").parity_vocabulary())
    rules = {"filters": bound.filters, "reward": bound.reward}
    config = StarConfig(1, few_shot="never", rationalize=False, **rules)
    _, line = star(tmp_path, config, engine)
    assert line.filtered["right_answer"] == {"generate": 4}  # 6 and 8 are even
    assert line.filtered["rewarded"] == {"generate": 10}  # 1 / 17 and 1 / 18 are below 0.1
    assert line.kept == {"generate": 6}
    attempts = tiny.read_lines(tmp_path / "run/iter_001/generations.jsonl")
    assert {attempt["reward"] for attempt in attempts} == {0.0, 1 / 7, 1 / 17, 1 / 18}


def test_the_engine_runs_the_loop_and_scores_what_it_writes(folder, tmp_path):
    small, vocabulary = tiny.trainer(), importlib.import_module("my_task").parity_vocabulary()
    engine = importlib.import_module("my_engine").PlainEngine(small.model, vocabulary, 4)
    config = StarConfig(1, few_shot="never", rationalize=False, filters=[])
    base, line = star(tmp_path, config, engine)
    assert line.kept == {"generate": 20}
    assert base.n_eval == line.n_eval == 20

    model = engine.load(small.random_params(0))
    prompts = [Prompt("a", "4 7\n"), Prompt("b", "4 8\n", ("1 1\nso odd\n\n",))]
    prompts.append(Prompt("c", "4 " * 300))
    written = dict(engine.generate(model, prompts, [None] * 3))
    scores = engine.score(model, prompts, [[written[i].text if i < 2 else "so"] for i in range(3)])
    assert written[2] is None and scores[2] is None
    for i in range(2):
        assert not written[i].ended
        np.testing.assert_allclose(scores[i][0], written[i].log_probability, rtol=1e-5)


def test_the_family_is_registered_read_and_written(folder, monkeypatch):
    families = importlib.import_module("star_jax.models.families")
    monkeypatch.setattr(families, "FAMILIES", dict(families.FAMILIES))
    importlib.import_module("my_family")
    config = {
        "model_type": "mine", "vocab_size": 20, "num_hidden_layers": 1, "hidden_size": 8,
        "num_attention_heads": 2, "intermediate_size": 16, "max_position_embeddings": 64,
    }  # fmt: skip
    model = families.decoder_config(config, "config.json")
    assert model.qk_norm and (model.d_model, model.head_dim) == (8, 4)
    assert families.decoder_config(families.hf_config(model), "again") == model
    assert families.family_of(model, config).model_type == "mine"


def test_the_run_mode_runs_with_its_flag(folder, capsys):
    argv = ["--run_mode=my_mode.Count", f"--gin_file={folder / 'count.gin'}"]
    assert main([*argv, "--gin.ParityTask.n=7"]) == 0
    assert main([*argv, "--split=validation"]) == 0
    assert capsys.readouterr().out == "7 questions\n40 questions\n"
    assert main([*argv, "--split=test"]) == 2
