"""A user's mistakes: one line that says what is wrong, exit code 2, and nothing lost."""

import shutil

import gin
import pytest

from star_jax import main
from star_jax.errors import UserError
from star_jax.loop.config import StarConfig
from star_jax.loop.stages import GENERATE, Rollout, draw_attempts
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tokenizers.vocabularies import WordVocabulary
from star_jax.training.schedules import GeometricSteps
from tests import tiny


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


@pytest.fixture(scope="module")
def random_base(tmp_path_factory):
    """A base that was trained for a step and solves nothing."""
    return tiny.make_base(tmp_path_factory.mktemp("random"), steps=1)


def error_of(capsys, run):
    """The message of the one error line; fails unless the exit code is 2."""
    capsys.readouterr()
    assert run() == 2
    lines = capsys.readouterr().err.splitlines()
    assert "Traceback" not in "".join(lines)
    assert lines[-1].startswith("star_jax: error: ")
    assert sum(line.startswith("star_jax: error: ") for line in lines) == 1
    return lines[-1].removeprefix("star_jax: error: ")


def assert_told(message, words):
    for word in words:
        assert word in message, message
    assert len(message) < 600


STAR_MISTAKES = [
    ({"SamplerConfig__batch_size": 0}, ["SamplerConfig.batch_size", "0"]),
    ({"TrainerConfig__batch_size": 0}, ["TrainerConfig.batch_size", "0"]),
    ({"TrainerConfig__accumulation_steps": 0}, ["TrainerConfig.batch_size 8", "0 parts"]),
    ({"TrainerConfig__row_length": 257}, ["row_length 257", "256", "context_length"]),
    # A hinted question of 10 tokens, 32 new ones and EOS.
    ({"TrainerConfig__row_length": 42}, ["TrainerConfig.row_length = 42", "set it to 43 or more"]),
    ({"SamplerConfig__max_new_tokens": 250}, ["context_length = 256", "set it to 260 or more"]),
    ({"SamplerConfig__max_new_tokens": 0}, ["SamplerConfig.max_new_tokens", "0"]),
    ({"SamplerConfig__temperature": -1.0}, ["SamplerConfig.temperature = -1.0"]),
    ({"SamplerConfig__top_p": 0.0}, ["SamplerConfig.top_p = 0.0"]),
    ({"DecoderConfig__vocab_size": 19}, ["vocabulary has 20 ids", "vocab_size to 20 or more"]),
    ({"DecoderConfig__n_layers": 3}, ["holds another model", "DecoderConfig"]),
    ({"MeshConfig__data": 3}, ["data=3", "devices"]),
    (
        {"StarConfig__few_shot": "always", "ArithmeticTask__n_few_shot": 0},
        [
            "StarConfig.few_shot = 'always' (not 'never')",
            "needs few-shot",
            "JsonlTask.exemplar_file",
        ],
    ),
    ({"StarConfig__few_shot": "often"}, ["few_shot = 'often'", "always", "first", "never"]),
    ({"StarConfig__questions_per_iteration": 401}, ["questions_per_iteration = 401", "400"]),
    ({"StarConfig__hinted_share": 2.0}, ["hinted_share = 2.0"]),
    ({"ITERATIONS": 0}, ["iterations = 0"]),
    ({"SEED": -1}, ["seed", "-1"]),
    ({"ArithmeticTask__n_train": 0}, ["n_train = 0"]),
    ({"ArithmeticTask__digits": (1, 19)}, ["digits = (1, 19)", "1..18"]),
    ({"ArithmeticTask__seed": -1}, ["seed", "-1"]),
    ({"MODEL_CHECKPOINT": "/nowhere/base"}, ["/nowhere/base", "not there"]),
]


@pytest.mark.parametrize(
    ("bindings", "words"), STAR_MISTAKES, ids=[next(iter(b)) for b, _ in STAR_MISTAKES]
)
def test_a_mistake_in_a_star_run_is_one_line(tmp_path, capsys, tiny_base, bindings, words):
    bindings = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": tiny_base, **bindings}
    assert_told(error_of(capsys, lambda: tiny.run(tmp_path, "star", **bindings)), words)


def test_a_mistake_that_is_mended_does_not_block_the_directory(tmp_path, capsys, random_base):
    # Nothing was computed when the mistake was found, so the directory is free still.
    def run(**bindings):
        return tiny.run(
            tmp_path, "star", MODEL_DIR=tmp_path / "run", MODEL_CHECKPOINT=random_base, **bindings
        )

    error_of(capsys, lambda: run(SamplerConfig__max_new_tokens=250))
    assert not list((tmp_path / "run").rglob("*.done"))
    message = error_of(capsys, lambda: run())
    assert "another configuration" not in message
    assert "nothing to train on" in message


@pytest.mark.parametrize("name", ["SamplerConfig", "TrainerConfig"])
def test_a_batch_that_the_mesh_cannot_split(tmp_path, capsys, tiny_base, name):
    bindings = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": tiny_base}
    argv = tiny.command_line(tmp_path, "star", **bindings, **{f"{name}__batch_size": 12})
    message = error_of(capsys, lambda: main.main(argv))  # on all eight devices
    assert_told(message, [f"{name}.batch_size 12", "(8)", "multiple of 8"])
    assert not (tmp_path / "run").exists()


def test_the_base_is_no_checkpoint(tmp_path, capsys, tiny_base):
    def message(base):
        return error_of(
            capsys,
            lambda: tiny.run(tmp_path, "star", MODEL_DIR=tmp_path / "run", MODEL_CHECKPOINT=base),
        )

    empty = tmp_path / "empty"
    empty.mkdir()
    assert_told(message(empty), [str(empty), "is not a checkpoint"])
    file = tmp_path / "file"
    file.write_text("")
    assert_told(message(file), [str(file), "not there"])
    # A copy that stopped half-way.
    for lost in ("_METADATA", "manifest.ocdbt", "d"):
        broken = tmp_path / f"without_{lost}"
        shutil.copytree(tiny_base, broken)
        path = broken / "checkpoint" / lost
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert_told(message(broken), [str(broken)])


def test_zero_kept_says_what_to_try_and_loses_nothing(tmp_path, capsys, random_base):
    run = tmp_path / "run"

    def star(**bindings):
        return tiny.run(tmp_path, "star", MODEL_DIR=run, MODEL_CHECKPOINT=random_base, **bindings)

    message = error_of(capsys, star)
    assert_told(
        message,
        [
            "of 48 questions no attempt",
            "nothing to train on",
            "try",
            "stronger base",
            "generations.jsonl",
        ],
    )
    written = {path: path.read_bytes() for path in run.rglob("*.jsonl")}
    assert len(tiny.read_lines(run / "iter_001/generations.jsonl")) == 48
    assert error_of(capsys, star) == message
    message = error_of(capsys, lambda: star(SEED=5))
    assert_told(message, ["another configuration", "SEED is 0 there and 5 here"])
    assert {path: path.read_bytes() for path in run.rglob("*.jsonl")} == written


def test_model_dir_is_of_another_run_mode_or_a_file(tmp_path, capsys, random_base):
    def star(model_dir):
        return lambda: tiny.run(tmp_path, "star", MODEL_DIR=model_dir, MODEL_CHECKPOINT=random_base)

    before = sorted(random_base.rglob("*"))
    assert_told(error_of(capsys, star(random_base)), ["another configuration", str(random_base)])
    assert sorted(random_base.rglob("*")) == before
    file = tmp_path / "file"
    file.write_text("precious")
    assert_told(error_of(capsys, star(file)), ["MODEL_DIR", str(file)])
    assert file.read_text() == "precious"


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"finetune__n_examples": 401}, ["n_examples = 401", "400"]),
        ({"finetune__n_examples": -1}, ["n_examples = -1"]),
        ({"TrainingLength__steps": 0}, ["steps = 0"]),
    ],
)
def test_a_mistake_in_direct_finetuning(tmp_path, capsys, random_base, bindings, words):
    bindings = {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": random_base, **bindings}
    assert_told(error_of(capsys, lambda: tiny.run(tmp_path, "finetune", **bindings)), words)


@pytest.mark.parametrize(
    ("bindings", "words"),
    [
        ({"STEPS": 0}, ["steps = 0"]),
        ({"pretrain__phases": []}, ["pretrain.phases"]),
        ({"ArithmeticCorpus__n_documents": 0}, ["nothing to train on"]),
        ({"ArithmeticCorpus__plain": -1.0}, ["shares"]),
        ({"OptimizerConfig__learning_rate": 1e38}, ["the loss is", "learning_rate"]),
    ],
)
def test_a_mistake_in_pretraining(tmp_path, capsys, bindings, words):
    bindings = {"MODEL_DIR": tmp_path / "base", "STEPS": 20, **bindings}
    assert_told(error_of(capsys, lambda: tiny.run(tmp_path, "pretrain", **bindings)), words)


@pytest.mark.parametrize(
    ("run_mode", "bindings", "words"),
    [
        ("evaluate", {"evaluate__split": "test"}, ["no split 'test'", "validation"]),
        ("infer", {"infer__questions": []}, ["infer.questions"]),
        (
            "infer",
            {"infer__questions": "1+1", "infer__few_shot": True, "ArithmeticTask__n_few_shot": 0},
            ["infer.few_shot = True needs few-shot examples", "ArithmeticTask.n_few_shot"],
        ),
        (
            "evaluate",
            {"evaluate__few_shot": True, "ArithmeticTask__n_few_shot": 0},
            ["evaluate.few_shot = True needs few-shot examples", "ArithmeticTask.n_few_shot"],
        ),
        ("infer", {"infer__questions": ["1 - 1"]}, ["'1 - 1' is not an addition"]),
        ("infer", {}, ["infer.questions must be set"]),
        ("infer", {"infer__questions": ["1" * 120 + "+" + "1" * 120]}, ["context length of 256"]),
    ],
)  # fmt: skip
def test_a_mistake_in_asking(tmp_path, capsys, random_base, run_mode, bindings, words):
    run = {"CHECKPOINT": random_base, **bindings}
    assert_told(error_of(capsys, lambda: tiny.run(tmp_path, run_mode, **run)), words)


# What gin files cannot say today, a program can.


def test_a_vocabulary_that_lacks_a_word(tmp_path):
    small = tiny.trainer()
    words = [w for w in arithmetic_vocabulary().words[3:] if w != "Target:"]
    sampler = Sampler(small.model, WordVocabulary(words), SamplerConfig(4, 8), small.mesh)
    with pytest.raises(UserError, match="lacks the word 'Target:'"):
        tiny.run_star(
            tmp_path, "run", StarConfig(1, 10, few_shot="never"),
            ArithmeticTask(digits=(1,), n_train=20), sampler, small, GeometricSteps(2),
        )  # fmt: skip


def test_a_model_with_more_ids_than_the_vocabulary_has_words():
    # GPT-J has 50400 rows for 50257 tokens; what a fresh model writes must be readable still.
    small = tiny.trainer()
    vocabulary = WordVocabulary([w for w in arithmetic_vocabulary().words[3:] if w != "9"])
    sampler = Sampler(small.model, vocabulary, SamplerConfig(4, 40, temperature=5.0), small.mesh)
    rollout = Rollout(sampler, ArithmeticTask(digits=(1,)), seed=0, iteration=0)
    questions = [tiny.question(1, a) for a in range(8)]
    model = sampler.load(small.random_params(0))
    attempts = draw_attempts(model, questions, rollout, GENERATE)
    assert len(attempts) == 8
    for attempt in attempts:
        vocabulary.encode(attempt.completion)
