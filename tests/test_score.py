"""The likelihood of given texts, and choosing by it in run mode evaluate."""

import dataclasses
import json
import math
import re

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.loop.evaluate import chance, evaluate_by_likelihood, length
from star_jax.loop.stages import Rollout
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import abstract_params
from star_jax.records import Prompt
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.rollout.native.score import score_continuations
from star_jax.run import checkpoints
from star_jax.tasks.arithmetic import ArithmeticTask
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tokenizers.vocabularies import WordVocabulary
from tests import tiny
from tests.compilations import n_compiled
from tests.test_sampling import (
    EXAMPLES,
    PREFIX,
    PROMPTS,
    WORDS,
    log_probability,
    one_device,
    params,
    sampler,
)

# Texts of 1 to 18 words (more than one bucket), and not the same number for every prompt.
CONTINUATIONS = [
    [" ".join("abcdefghijklm"[(i + j * k) % 13] for k in range(1 + 17 * (j == 2) + i % 3))
     for j in range(1 + i % 4)]
    for i in range(len(PROMPTS))
]  # fmt: skip
SHORT = [texts[:1] for texts in CONTINUATIONS]


def flat(scores):
    return [x for row in scores for x in row]


def scored(prompts=PROMPTS, continuations=CONTINUATIONS, batch_size=4):
    mine = sampler(batch_size)
    return score_continuations(mine, mine.load(params()), prompts, continuations)


# Against the uncached model.


def test_scores_are_those_of_the_full_forward_pass():
    assert {len(texts) for texts in CONTINUATIONS} == {1, 2, 3, 4}
    got = scored()
    for prompt, texts, scores in zip(PROMPTS, CONTINUATIONS, got, strict=True):
        ids = WORDS.encode(prompt.text)
        expected = [log_probability(ids, WORDS.encode(text)) for text in texts]
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)
    assert np.std(flat(got)) > 1


def test_scoring_a_second_time_compiles_nothing():
    scored()
    before = n_compiled()
    scored()
    assert n_compiled() == before


def test_a_prompt_of_one_token_is_scored():
    ((score,),) = scored([Prompt("q", "c")], [["d e"]])
    assert score == pytest.approx(log_probability(WORDS.encode("c"), WORDS.encode("d e")), abs=1e-4)


def test_probabilities_of_all_known_words_sum_to_one():
    """The model has rows for ids that this vocabulary does not know; they have no share."""
    small = WordVocabulary(list("abc"))  # `<pad>`, `</s>` and the line break are words too
    few = sampler(vocabulary=small)
    (scores,) = score_continuations(few, few.load(params()), [Prompt("q", "a b")], [small.words])
    assert sum(map(math.exp, scores)) == pytest.approx(1, abs=1e-5)


# What must not change the scores.


def test_batch_size_and_order_do_not_change_scores():
    expected = flat(scored(PROMPTS, SHORT))
    np.testing.assert_allclose(flat(scored(PROMPTS, SHORT, batch_size=8)), expected, atol=1e-4)
    np.testing.assert_allclose(flat(scored(PROMPTS[::-1], SHORT[::-1]))[::-1], expected, atol=1e-4)


def test_a_shared_prefix_equals_a_repeated_one():
    shared = scored([dataclasses.replace(prompt, examples=EXAMPLES) for prompt in PROMPTS], SHORT)
    whole = scored([dataclasses.replace(p, text=PREFIX + p.text) for p in PROMPTS], SHORT)
    np.testing.assert_allclose(flat(shared), flat(whole), atol=1e-4)
    assert np.abs(np.subtract(flat(shared), flat(scored(PROMPTS, SHORT)))).max() > 0.1


def test_the_last_partial_batch_is_scored():
    assert len(PROMPTS) % 4
    done = []
    model = sampler(4).load(params())
    got = score_continuations(sampler(4), model, PROMPTS, CONTINUATIONS, done.append)
    assert done == [4, 3]
    assert [len(row) for row in got] == [len(texts) for texts in CONTINUATIONS]


def test_a_prompt_that_does_not_fit_gets_none(capsys):
    long = Prompt("q_long", " ".join("a" * 120))
    first, second = scored([PROMPTS[0], long], [["a"], [" ".join("b" * 9)]])
    assert second is None
    assert first == pytest.approx(flat(scored(PROMPTS[:1], [["a"]])), abs=1e-4)
    assert "1 of 2 questions exceed the context length" in capsys.readouterr().err
    ((fits,),) = scored([long], [[" ".join("b" * 8)]])
    assert fits < 0


def test_a_text_without_tokens_is_refused():
    with pytest.raises(UserError, match="question q1 has a choice without text"):
        scored(PROMPTS[:2], [["a"], ["b", ""]])


@pytest.mark.parametrize(("normalize", "mean"), [("none", -6.0), ("tokens", -3.0), ("bytes", -1.0)])
def test_normalization(normalize, mean):
    vocabulary = WordVocabulary(["é", "ab"])
    assert -6.0 / length(" é ab", vocabulary, normalize) == mean  # 2 words, 6 bytes


# Choosing.

QUESTIONS = (  # stem, choices, answer
    ("Which ?", ["rare", "good"], "B"),
    ("What ?", ["good good", "dull"], "B"),
    ("Who ?", ["good", "rare", "dull", "rare dull"], "A"),
)
VOCABULARY = WordVocabulary(
    ["Q:", "A:", "Answer", "Choices:", "Which", "What", "Who", "?", "(a)", "(b)", "(c)", "(d)",
     "good", "dull", "rare"]
)  # fmt: skip
MODEL = DecoderConfig(
    vocab_size=32, n_layers=1, d_model=8, n_heads=1, head_dim=8, d_ff=16, rotary_dim=8,
    context_length=64,
)  # fmt: skip
SHARES = {"good": 0.4, "dull": 0.2, "rare": 0.01}


@gin.configurable(module="tests")
def choosing_vocabulary():
    return VOCABULARY


def rigged():
    """A model that finds each word as likely as SHARES says, whatever came before it."""
    tree = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract_params(MODEL))
    rest = (1 - sum(SHARES.values())) / (VOCABULARY.vocab_size - len(SHARES))
    logits = [math.log(SHARES.get(word, rest)) for word in VOCABULARY.words]
    tree["head"]["bias"] = tree["head"]["bias"].at[: len(logits)].set(jnp.array(logits))
    return tree


@pytest.fixture
def file(tmp_path):
    rows = [
        {"id": f"id_{i}", "answerKey": answer, "question": {"stem": stem, "choices": [
            {"label": "ABCD"[j], "text": text} for j, text in enumerate(texts)]}}
        for i, (stem, texts, answer) in enumerate(QUESTIONS)
    ]  # fmt: skip
    (tmp_path / "dev.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "dev.jsonl"


def rollout(task):
    engine = Sampler(MODEL, VOCABULARY, SamplerConfig(2, 4), one_device())
    return Rollout(engine, task, seed=0, iteration=0)


def ready(task):
    return rollout(task).engine.load(rigged())


def test_choices_go_on_where_the_prompt_ends(file):
    task = CommonsenseQATask(validation_file=str(file))
    question = task.questions("validation")[1]
    assert task.choices(question) == {"a": " good good", "b": " dull"}
    assert task.open_text(question) + task.choices(question)["b"] == "Q: What ?\nA: dull"
    bare = ArithmeticTask(digits=(1,))
    assert bare.open_text(tiny.question(1, 2)) == bare.question_text(tiny.question(1, 2), False)


@pytest.mark.parametrize(
    ("normalize", "answers"),
    [("tokens", ["b", "a", "a"]), ("bytes", ["b", "a", "a"]), ("none", ["b", "b", "a"])],
)
def test_the_likeliest_choice_is_the_answer(file, normalize, answers):
    task = CommonsenseQATask(validation_file=str(file))
    questions = task.questions("validation")
    attempts = evaluate_by_likelihood(ready(task), questions, rollout(task), normalize)
    assert [attempt.reading.answer for attempt in attempts] == answers
    right = [answer == q.answer for answer, q in zip(answers, questions, strict=True)]
    assert [attempt.correct for attempt in attempts] == right
    assert (attempts[0].prompt, attempts[0].completion) == ("Q: Which ?\nA:", " good")
    assert (len(attempts[0].token_ids), attempts[0].ended, attempts[0].dropped) == (1, False, False)
    assert attempts[0].log_probability == pytest.approx(math.log(0.4), abs=1e-5)


def test_what_does_not_fit_is_left_out_and_wrong(file, capsys):
    task = CommonsenseQATask(validation_file=str(file))
    first, *_ = questions = task.questions("validation")
    long = dataclasses.replace(first, id="id_long", text="Which " * 70 + first.text)
    attempts = evaluate_by_likelihood(ready(task), [long, *questions], rollout(task))
    assert [attempt.dropped for attempt in attempts] == [True, False, False, False]
    assert (attempts[0].reading.answer, attempts[0].correct) == (None, False)
    assert "id_long" in capsys.readouterr().err


def test_chance_is_that_of_guessing_among_the_choices(file):
    task = CommonsenseQATask(validation_file=str(file))
    assert chance(task, task.questions("validation")) == pytest.approx((1 / 2 + 1 / 2 + 1 / 4) / 3)
    assert chance(ArithmeticTask(digits=(1,)), [tiny.question(1, 2)]) is None


# The command line.

GIN = """
include "runs/evaluate.gin"
MODEL = @DecoderConfig()
VOCABULARY = @choosing_vocabulary()
TASK = @CommonsenseQATask()
DecoderConfig:
  vocab_size = 32
  n_layers = 1
  d_model = 8
  n_heads = 1
  head_dim = 8
  d_ff = 16
  rotary_dim = 8
  context_length = 64
SamplerConfig:
  batch_size = 2
  max_new_tokens = 4
"""


@pytest.fixture
def run(tmp_path, file, monkeypatch):
    """Evaluates the rigged model on QUESTIONS; returns the exit code and the output's lines."""
    monkeypatch.setitem(tiny.GIN, "evaluate", GIN)
    checkpoints.save(tmp_path / "base", rigged())

    def evaluate(**bindings):
        output = tmp_path / "attempts.jsonl"
        places = {"CHECKPOINT": tmp_path / "base", "OUTPUT_FILE": output,
                  "CommonsenseQATask__validation_file": file}  # fmt: skip
        code = tiny.run(tmp_path, "evaluate", **places, **bindings)
        return code, tiny.read_lines(output) if output.exists() else []

    yield evaluate
    gin.clear_config()


def test_evaluate_by_likelihood_says_so_everywhere(run, capsys):
    code, lines = run(GRADING="likelihood")
    assert code == 0
    assert [(line["grading"], line["reading"]["answer"]) for line in lines] == [
        ("likelihood", "b"), ("likelihood", "a"), ("likelihood", "a"),
    ]  # fmt: skip
    printed = capsys.readouterr().out
    assert printed.startswith("grading: likelihood of the choices' text (not comparable with the")
    assert re.search(r"all: 66\.7 % \(95 %: .*, n = 3, likelihood per choice, by bytes\)", printed)
    assert "chance: 41.7 %" in printed
    assert run(GRADING="likelihood", evaluate__normalize="none")[1][1]["reading"]["answer"] == "b"


def test_evaluate_generates_unless_told_otherwise(run, capsys):
    code, lines = run()
    assert code == 0
    assert {line["grading"] for line in lines} == {"generated"}
    assert {line["completion"] for line in lines} == {"good good good good"}
    printed = capsys.readouterr().out
    assert "likelihood" not in printed and "comparable" not in printed
    assert "n = 3, seed 0)" in printed


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"GRADING": "guess"}, "evaluate.grading = 'guess'"),
        ({"evaluate__normalize": "words"}, "evaluate.normalize = 'words'"),
    ],
)
def test_an_unknown_grading_is_told(run, capsys, bindings, message):
    assert run(**bindings) == (2, [])
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error


def test_a_task_without_choices_cannot_be_graded_so(tmp_path, capsys):
    """It is told before the weights are looked for."""
    bindings = {"CHECKPOINT": tmp_path / "nowhere", "evaluate__grading": "likelihood"}
    assert tiny.run(tmp_path, "evaluate", **bindings) == 2
    gin.clear_config()
    error = capsys.readouterr().err
    assert re.search(r"needs choices, and task arithmetic\S* has none", error)
    assert "Traceback" not in error
