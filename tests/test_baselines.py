"""What STaR is compared with: few-shot prompts, and fine-tuning on gold completions."""

import dataclasses
import json
import re

import gin
import pytest

from star_jax.errors import UserError
from star_jax.loop.baselines import (
    Direct,
    TrainingLength,
    check_examples,
    evaluate_few_shot,
    finetune_on_gold,
    gold_pairs,
)
from star_jax.loop.evaluate import measured
from star_jax.loop.stages import Rollout, Stages
from star_jax.models.base_weights import Base
from star_jax.rollout.engine import prompt_key
from star_jax.run import checkpoints
from star_jax.run.run_dir import Recorder
from star_jax.run.stage_dir import StageDir
from star_jax.tasks.arithmetic import ArithmeticTask
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.task import VALIDATION
from star_jax.testing.engine import digest
from star_jax.tokenizers.vocabularies import encode_example
from star_jax.training.schedules import EpochSteps
from star_jax.training.trainer import TrainerConfig
from tests import tiny

ADDITIONS = ArithmeticTask(digits=(1, 2), n_train=40, n_validation=6, n_few_shot=2)


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def random_base(tmp_path_factory):
    return tiny.make_base(tmp_path_factory.mktemp("random"), steps=1)


def sampled(folder, task, few_shot=True, says=lambda prompt: ""):
    """The metrics of the stage `eval` of a fake engine, and the prompts it was shown."""
    engine = tiny.fake_engine(says)
    stages = Stages(StageDir(folder / "iter_000"), Rollout(engine, task, seed=0, iteration=0))
    metrics = measured(stages, lambda: "M", task.questions(VALIDATION), few_shot)
    return metrics, tiny.prompts_of(engine)


# Few-shot prompts.


def test_each_question_stands_behind_examples_with_rationales(tmp_path):
    metrics, prompts = sampled(tmp_path, ADDITIONS, says=tiny.gold)
    assert metrics.accuracy == 1.0 and metrics.n_eval == len(prompts) == 12
    assert [len(prompt.examples) for prompt in prompts] == [2] * 12
    assert all("</scratch>" in example for prompt in prompts for example in prompt.examples)
    assert not any(prompt.hinted for prompt in prompts)


def test_direct_examples_are_questions_with_bare_answers(tmp_path):
    direct = dataclasses.replace(ADDITIONS, direct=True)
    metrics, prompts = sampled(tmp_path, direct, says=lambda prompt: "1 1\nInput:\n1 + 1")
    right = [q.answer == "1 1" for q in direct.questions(VALIDATION)]
    assert metrics.accuracy == pytest.approx(sum(right) / 12)
    for example in prompts[0].examples:
        *question, answer, end, _ = example.split("\n")
        assert question[0] == "Input:" and question[2:] == ["Target:"] and not end
        assert answer == direct.make_question("", question[1]).answer


@pytest.mark.parametrize(
    ("task", "ends"),
    [
        (CommonsenseQATask(direct=True), r"A: \([a-e]\)\.\n\n"),
        (GSM8KTask(direct=True), r"A: \d+\n\n"),
    ],
)
def test_the_papers_tasks_have_direct_examples_too(task, ends):
    examples = task.few_shot_examples("", hinted=False)
    assert examples and all(re.search(f"\n{ends}$", example) for example in examples)
    assert all(example.count("\nA:") == 1 for example in examples)


def test_what_is_sampled_costs_what_is_noted_and_is_sampled_once(tmp_path):
    first, _ = sampled(tmp_path, ADDITIONS, says=tiny.gold)
    assert "evaluate" in json.loads((tmp_path / "iter_000/sampling.json").read_text())
    again, prompts = sampled(tmp_path, ADDITIONS, says=tiny.wrong)
    assert again == first and not prompts


def test_a_task_without_examples_is_refused(tmp_path, capsys, random_base):
    bindings = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": random_base}
    assert tiny.run(tmp_path, "few_shot", **bindings, ArithmeticTask__n_few_shot=0) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "few-shot examples" in error and "ArithmeticTask.n_few_shot" in error
    assert not (tmp_path / "run").exists()
    check_examples(ADDITIONS, ADDITIONS.questions(VALIDATION), "few_shot")


def test_the_run_mode_leaves_what_stars_first_evaluation_leaves(tmp_path, random_base):
    few_shot, star = tmp_path / "few_shot", tmp_path / "star"
    base = {"MODEL_CHECKPOINT": random_base, "SEED": 3}
    one_row = {**base, "MODEL_DIR": few_shot, "ROW": "table1/few_shot_cot"}
    assert tiny.run(tmp_path, "few_shot", **one_row) == 0
    # A random base solves nothing, so STaR stops after what is looked at here.
    loop = {"StarConfig__few_shot": "always", "StarConfig__rationalize": False}
    assert tiny.run(tmp_path, "star", **base, **loop, MODEL_DIR=star, ROW="figure4/x") == 2
    ours, theirs = (tiny.read_lines(run / "iter_000/eval.jsonl") for run in (few_shot, star))
    assert len(ours) == 20
    for a, b in zip(ours, theirs, strict=True):
        assert a.pop("log_probability") == pytest.approx(b.pop("log_probability"), rel=1e-4)
        assert a == b
    (line,) = tiny.read_lines(few_shot / "metrics.jsonl")
    assert (line["iteration"], line["seed"], line["kept"]) == (0, 3, {})
    assert not (few_shot / "iter_001").exists()
    assert (few_shot / "report/report.md").is_file()
    assert json.loads((few_shot / "row.json").read_text())["row"] == "table1/few_shot_cot"
    assert json.loads((star / "row.json").read_text())["row"] == "figure4/x"


def test_the_base_answers_behind_the_examples_by_the_draws_of_the_seed(tmp_path):
    small, engine = tiny.trainer(), tiny.fake_engine(tiny.gold)
    checkpoints.save(tmp_path / "base", small.random_params(0))
    base = Base(str(tmp_path / "base"), small.model, small.abstract_params())
    evaluate_few_shot(base, ADDITIONS, engine, Recorder(str(tmp_path / "run")), seed=5)
    assert [(c.prompt.examples, c.key) for c in engine.calls] == [
        (ADDITIONS.few_shot_examples(q.group, hinted=False), prompt_key(5, 0, q.id).tobytes())
        for q in ADDITIONS.questions(VALIDATION)
    ]


def test_a_run_goes_on_under_another_row_but_not_with_other_questions(
    tmp_path, random_base, capsys
):
    run = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": random_base}
    assert tiny.run(tmp_path, "few_shot", **run) == 0
    before = (tmp_path / "run/iter_000/eval.jsonl").read_bytes()
    assert tiny.run(tmp_path, "few_shot", **run, ROW="table2/few_shot_cot") == 0
    assert json.loads((tmp_path / "run/row.json").read_text())["row"] == "table2/few_shot_cot"
    assert (tmp_path / "run/iter_000/eval.jsonl").read_bytes() == before
    assert tiny.run(tmp_path, "few_shot", **run, ArithmeticTask__direct=True) == 2
    assert "another configuration" in capsys.readouterr().err
    assert tiny.run(tmp_path, "few_shot", **run, ROW=7) == 2
    assert "ROW = 7" in capsys.readouterr().err


def test_a_negative_seed_is_refused(tmp_path, random_base, capsys):
    run = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": random_base}
    assert tiny.run(tmp_path, "few_shot", **run, SEED=-1) == 2
    assert "few_shot.seed = -1" in capsys.readouterr().err


# Gold completions.


def test_finetuning_evaluates_before_and_after_as_star_does(tmp_path, random_base):
    run = tmp_path / "run"
    bindings = {"MODEL_CHECKPOINT": random_base, "finetune__row": "table1/direct_finetuned"}
    assert tiny.run(tmp_path, "finetune", MODEL_DIR=run, **bindings) == 0
    for iteration in ("iter_000", "iter_001"):
        kept = {path.name for path in (run / iteration).iterdir()}
        assert {"eval.jsonl", "eval.done", "metrics.json", "sampling.json"} <= kept
    assert json.loads((run / "row.json").read_text())["row"] == "table1/direct_finetuned"


def test_direct_fine_tuning_by_hand(tmp_path):
    small, engine = tiny.trainer(), tiny.fake_engine(tiny.gold)
    base = small.random_params(0)
    checkpoints.save(tmp_path / "base", base)
    model = Base(str(tmp_path / "base"), small.model, small.abstract_params())
    direct = Direct(TrainingLength(steps=3, seed=4), ADDITIONS, engine, small, model, n_examples=9)
    finetune_on_gold(direct, Recorder(str(tmp_path / "run")))
    pairs = gold_pairs(ADDITIONS, 9, seed=4)
    examples = [encode_example(engine.vocabulary, *pair) for pair in pairs]
    trained = small.train(small.init_state(base), examples, 3, seed=4).state.params
    expected = [
        (digest(weights), (), prompt_key(4, n, question.id).tobytes())
        for n, weights in enumerate((base, trained))
        for question in ADDITIONS.questions(VALIDATION)
    ]
    assert [(c.model, c.prompt.examples, c.key) for c in engine.calls] == expected


@pytest.mark.parametrize(
    ("length", "steps"),
    [
        (TrainingLength(steps=5000), 5000),
        (TrainingLength(epochs=1.0), 13),
        (TrainingLength(epochs=2.5), 32),
    ],
)
def test_training_goes_by_steps_or_by_epochs(length, steps):
    assert length(1, 100, 8.0) == steps
    if length.epochs:
        assert steps == EpochSteps(length.epochs)(1, 100, 8.0)


@pytest.mark.parametrize("wrong", [{}, {"steps": 3, "epochs": 1.0}, {"epochs": -1.0}])
def test_a_length_is_one_of_both(wrong):
    with pytest.raises(UserError, match=r"TrainingLength: steps = \d and epochs = .*give one"):
        TrainingLength(**wrong)


def test_so_many_examples_fill_a_step():
    config = TrainerConfig(batch_size=4, row_length=60)
    examples = [dataclasses.make_dataclass("Doc", ["tokens"])(range(n)) for n in (10, 20, 30)]
    assert config.examples_per_step(examples) == 4 * 3.0
    assert TrainerConfig(batch_size=4, row_length=10).examples_per_step(examples) == 4


def test_gold_pairs_are_the_whole_data_or_drawn_from_it_by_the_seed():
    everything = gold_pairs(ADDITIONS, 0, seed=1)
    assert len(everything) == 40 and len(gold_pairs(ADDITIONS, 7, seed=1)) == 7
    assert set(gold_pairs(ADDITIONS, 7, seed=1)) <= set(everything)
    assert gold_pairs(ADDITIONS, 7, seed=1) == gold_pairs(ADDITIONS, 7, seed=1)
    assert gold_pairs(ADDITIONS, 7, seed=1) != gold_pairs(ADDITIONS, 7, seed=2)
    assert all("<scratch>" in gold for _, gold in everything)
    direct = gold_pairs(dataclasses.replace(ADDITIONS, direct=True), 0, seed=1)
    assert [prompt for prompt, _ in direct] == [prompt for prompt, _ in everything]
    assert not any("<scratch>" in gold for _, gold in direct)


def test_without_gold_rationales_the_way_out_is_named(tmp_path):
    file = tmp_path / "own.jsonl"
    lines = [json.dumps({"question": f"{i}?", "answer": "rain"}) for i in range(8)]
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"bind JsonlTask\.direct = True"):
        gold_pairs(JsonlTask(str(file), held_out=2), 0, seed=0)
    assert (
        gold_pairs(JsonlTask(str(file), held_out=2, direct=True), 0, seed=0)[0][1].strip() == "rain"
    )
