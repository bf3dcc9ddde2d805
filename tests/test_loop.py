"""Algorithm 1 put together: which weights answer which prompts, and what is trained on."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.loop.config import StarConfig
from star_jax.loop.evaluate import evaluation_metrics
from star_jax.loop.examples import examples_of, tokenized, with_few_shot
from star_jax.loop.filters import AtMost, Distinct, NoHintLeak, RightAnswer, keep, step_counts
from star_jax.loop.finetune import finetune_from_base
from star_jax.loop.stages import (
    EVALUATE,
    GENERATE,
    RATIONALIZE,
    Rollout,
    draw_attempts,
    failures,
    right_or_wrong,
)
from star_jax.loop.star import Star, draw_questions, outer_iteration
from star_jax.models.base_weights import Base
from star_jax.records import (
    GENERATED,
    RATIONALIZED,
    Attempt,
    KeptExample,
    Reading,
    TokenizedExample,
    from_json,
    to_json,
)
from star_jax.rollout.engine import prompt_key
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.run import checkpoints, metrics
from star_jax.run.run_dir import RunDir
from star_jax.run.stage_dir import Lazy, StageDir
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.testing.engine import FakeEngine, digest
from star_jax.training.schedules import EpochSteps, GeometricSteps
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import TrainerConfig
from tests.tiny import (
    fake_engine,
    gold,
    prompts_of,
    question,
    read_lines,
    run_star,
    trainer,
    wrong,
)

TASK = ArithmeticTask(digits=(1, 2), n_train=60, n_validation=10, n_few_shot=2)
VOCABULARY = arithmetic_vocabulary()
QUESTIONS = [question(29, 57), question(3, 4), question(99, 99), question(5, 5)]
PAPER = (RightAnswer(), NoHintLeak())


def rollout(says, task=TASK, **settings):
    return Rollout(fake_engine(says), task, **{"seed": 0, "iteration": 1, **settings})


def right_for(*texts, hinted_too=()):
    """Right on questions in `texts`, and with a hint on those in `hinted_too`; else wrong."""

    def says(prompt):
        chosen = hinted_too if prompt.hinted else texts
        return gold(prompt) if prompt.text.splitlines()[1] in chosen else wrong(prompt)

    return says


def loop_with(config, task=TASK):
    return Star(config, task, fake_engine(gold), None, GeometricSteps(), None)


def attempts_of(draw, questions=QUESTIONS):
    """Lines 3 and 4: generated, then the failures with hints."""
    generated = draw_attempts("M", questions, draw, GENERATE)
    failed = failures(questions, generated)
    return generated, draw_attempts("M", failed, draw, RATIONALIZE)


# Lines 3-6.


def test_generate_samples_every_question_in_order_without_hints():
    draw = rollout(right_for("3 + 4"))
    attempts = draw_attempts("M", QUESTIONS, draw, GENERATE)
    assert [a.question_id for a in attempts] == [q.id for q in QUESTIONS]
    assert [a.correct for a in attempts] == [False, True, False, False]
    assert [a.reward for a in attempts] == [0.0, 1.0, 0.0, 0.0]
    assert [a.group for a in attempts] == ["2", "1", "2", "1"]
    assert not any(a.hinted for a in attempts)
    assert [a.key for a in attempts] == [(q.id, 0, 0) for q in QUESTIONS]
    assert [p.text for p in prompts_of(draw.engine)] == [
        TASK.question_text(q, hinted=False) for q in QUESTIONS
    ]


def test_rationalize_samples_the_failures_only_with_hints():
    draw = rollout(right_for("3 + 4", hinted_too=("2 9 + 5 7",)))
    _, hinted = attempts_of(draw)
    assert [a.question_id for a in hinted] == ["29+57", "99+99", "5+5"]
    assert all(a.hinted for a in hinted)
    assert [a.correct for a in hinted] == [True, False, False]
    assert [p.text.splitlines()[2] for p in prompts_of(draw.engine)[4:]] == [
        "Target: 8 6", "Target: 1 9 8", "Target: 1 0",
    ]  # fmt: skip


def test_nothing_to_rationalize_when_all_is_right():
    generated, hinted = attempts_of(rollout(gold))
    assert all(a.correct for a in generated) and hinted == []


def test_a_question_is_a_failure_if_no_sample_of_it_is_right():
    generated, _ = attempts_of(rollout(right_for("3 + 4")))
    again = [dataclasses.replace(generated[0], sample=1, reading=generated[1].reading)]
    assert [q.id for q in failures(QUESTIONS, generated + again)] == ["99+99", "5+5"]


def test_right_answers_are_kept_and_know_their_source():
    generated, hinted = attempts_of(rollout(right_for("3 + 4", hinted_too=("2 9 + 5 7",))))
    kept, dropped = keep(generated + hinted, PAPER)
    assert [(k.question_id, k.source) for k in kept] == [
        ("3+4", GENERATED), ("29+57", RATIONALIZED),
    ]  # fmt: skip
    assert dropped == {
        "right_answer": {"generate": 3, "rationalize": 2},
        "no_hint_leak": {"generate": 0, "rationalize": 0},
    }
    assert keep([], PAPER) == ([], {"right_answer": {}, "no_hint_leak": {}})


def test_hint_never_reaches_kept_example():
    draw = rollout(right_for(hinted_too=[q.text for q in QUESTIONS]), few_shot=True)
    _, hinted = attempts_of(draw)
    assert all("Target: " in p.examples[0] for p in prompts_of(draw.engine) if p.hinted)
    kept = examples_of(keep(hinted, PAPER)[0], QUESTIONS, TASK)
    assert [k.prompt for k in kept] == [TASK.question_text(q, hinted=False) for q in QUESTIONS]
    assert not any(k.hint_kept for k in kept)
    for example in kept:
        assert "Target:\n" in VOCABULARY.decode(tokenized(example, VOCABULARY).tokens)


def test_a_rationale_that_repeats_its_hint_is_dropped_and_counted_only_if_there_was_a_hint():
    @dataclasses.dataclass(frozen=True)
    class Leaky(ArithmeticTask):
        def leaks_hint(self, question, said):
            return question.id != "99+99"

    says = right_for("3 + 4", hinted_too=[q.text for q in QUESTIONS])
    generated, hinted = attempts_of(rollout(says, Leaky(digits=(1, 2))))
    kept, dropped = keep(generated + hinted, PAPER)
    assert [k.question_id for k in kept] == ["3+4", "99+99"]
    assert dropped["no_hint_leak"] == {"generate": 0, "rationalize": 2}
    assert step_counts(generated + hinted)["rationalize"]["right"] == 1


def test_distinct_keeps_the_first_of_a_questions_equal_texts_up_to_the_answer():
    (first, other, *_), _ = attempts_of(rollout(gold))
    longer = dataclasses.replace(first, sample=1, completion=first.completion + "\n\nInput:")
    same_text = dataclasses.replace(first, question_id="another")
    again = dataclasses.replace(first)
    left = Distinct()([first, other, longer, same_text, again])
    assert [id(a) for a in left] == [id(first), id(other), id(same_text)]


def test_at_most_keeps_the_first_attempts_of_each_question():
    (first, other, *_), _ = attempts_of(rollout(gold))
    samples = [dataclasses.replace(first, sample=i) for i in range(4)]
    assert AtMost(2)([*samples, other]) == [*samples[:2], other]
    with pytest.raises(UserError, match=r"at_most.n = 0"):
        AtMost(0)


def test_a_question_that_was_not_sampled_reaches_no_filter():
    attempts = draw_attempts("M", QUESTIONS, rollout(lambda prompt: None), GENERATE)
    assert keep(attempts, ()) == ([], {}) and len(attempts) == 4


@pytest.mark.parametrize("places", [[0, 0, 1, 2, 3], [0, 1, 2], [0, 1, 2, 9], []])
def test_an_engine_that_does_not_answer_each_prompt_once_is_refused(places):
    class Careless(FakeEngine):
        def generate(self, model, prompts, keys, **options):
            return ((i, self._completion("0")) for i in places)

    draw = dataclasses.replace(rollout(gold), engine=Careless(gold, VOCABULARY))
    with pytest.raises(UserError, match=r"the engine Careless gave .* exactly one"):
        draw_attempts("M", QUESTIONS, draw, GENERATE)


@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), "good"])
def test_a_reward_that_is_no_finite_number_is_refused(value):
    with pytest.raises(UserError, match=r"the reward <lambda> gave .* for .*: give a finite"):
        draw_attempts("M", QUESTIONS, rollout(gold, reward=lambda *given: value), GENERATE)


def test_errors_of_a_users_function_name_it_and_its_line():
    def broken(attempts):
        raise KeyError("missing")

    with pytest.raises(UserError, match=r"the filter broken failed: KeyError.*test_loop.py, line"):
        keep(KEPT, [broken])
    with pytest.raises(UserError, match=r"the reward <lambda> failed: TypeError"):
        draw_attempts("M", QUESTIONS, rollout(gold, reward=lambda question: 1.0), GENERATE)
    with pytest.raises(UserError, match=r"the filter <lambda> failed: TypeError"):
        keep(KEPT, [lambda attempts: None])


def test_what_follows_the_answer_is_trimmed_before_training():
    more = "\n\nInput:\n1 + 1\nTarget:"
    (attempt,) = draw_attempts(
        "M", QUESTIONS[:1], rollout(lambda prompt: gold(prompt) + more), GENERATE
    )
    (kept,) = examples_of([attempt], QUESTIONS, TASK)
    assert attempt.completion.endswith("Target:")
    assert kept.completion == TASK.gold_completion(QUESTIONS[0])
    assert kept.token_ids is None  # those of the text that was trimmed are of no use


def test_a_completion_without_an_answer_is_unparsable_and_wrong():
    answers = iter(["", "<scratch>", "</scratch>\n7", "<scratch>\n</scratch>\n7"])
    attempts = draw_attempts("M", QUESTIONS, rollout(lambda prompt: next(answers)), EVALUATE)
    assert [a.reading.answer for a in attempts] == [None, None, None, "7"]
    result = evaluation_metrics(attempts)
    assert (result["unparsable"], result["dropped"], result["accuracy"]) == (3, 0, 0.0)


def test_a_question_that_exceeds_the_context_is_dropped_and_wrong():
    def says(prompt):
        return None if prompt.question_id == "3+4" else gold(prompt)

    attempts = draw_attempts("M", QUESTIONS, rollout(says), EVALUATE)
    assert [a.dropped for a in attempts] == [False, True, False, False]
    result = evaluation_metrics(attempts)
    assert (result["unparsable"], result["dropped"], result["accuracy"]) == (0, 1, 0.75)
    truncated = [dataclasses.replace(attempt, ended=False) for attempt in attempts]
    assert evaluation_metrics(truncated) == result  # which were sampled all the same


def test_evaluation_counts_by_group_in_the_order_of_digits():
    questions = [question(10**9, 10**9), *QUESTIONS]
    attempts = draw_attempts("M", questions, rollout(right_for("3 + 4", "2 9 + 5 7")), EVALUATE)
    result = evaluation_metrics(attempts)
    assert result["accuracy"] == 2 / 5
    assert list(result["accuracy_by_group"].items()) == [("1", 0.5), ("2", 0.5), ("10", 0.0)]
    assert result["n_eval_by_group"] == {"1": 2, "2": 2, "10": 1}
    assert result["n_eval"] == 5
    assert metrics.accuracy([]) == 0.0


def test_draws_differ_by_hint_iteration_sample_and_seed():
    draw = rollout(wrong)
    one = QUESTIONS[:1]
    attempts_of(draw, one)
    draw_attempts("M", one, dataclasses.replace(draw, iteration=2), GENERATE)
    draw_attempts("M", one, dataclasses.replace(draw, seed=1), GENERATE)
    draw_attempts("M", one, draw, dataclasses.replace(GENERATE, first_sample=1))
    assert len({call.key for call in draw.engine.calls}) == 5


def test_a_users_reward_is_noted_with_the_attempt():
    draw = rollout(gold, reward=lambda question, completion, reading: len(completion) / 7)
    attempts = draw_attempts("M", QUESTIONS, draw, GENERATE)
    assert [a.reward for a in attempts] == [len(a.completion) / 7 for a in attempts]


# The whole loop, by hand from M. Each setting has a value that shows.

SETTINGS = {"iterations": 2, "questions_per_iteration": 12, "seed": 3}


def half_right(prompt):
    """Right where the first digit is even, and with a hint where it is a multiple of three."""
    a = int(prompt.text.splitlines()[1][0])
    return gold(prompt) if a % 2 == 0 or (prompt.hinted and a % 3 == 0) else wrong(prompt)


def trained_by_hand(small, base, examples, schedule, n, seed):
    """M_n = train(M, examples), with nothing of the loop's own code but its seeds' recipe."""
    per_step = small.config.examples_per_step(examples)
    order = int(np.random.default_rng([seed, 5, n]).integers(1 << 31))
    state = small.init_state(base)
    return small.train(state, examples, schedule(n, len(examples), per_step), order).state.params


@pytest.mark.parametrize(
    "settings",
    [
        {"few_shot": "always"},
        {"few_shot": "first", "hinted_share": 1.0},
        {"few_shot": "never", "few_shot_in_training": True, "hinted_share": 0.4},
        {"few_shot": "never", "rationalize": False},
    ],
    ids=str,
)
def test_algorithm_1_line_by_line(tmp_path, settings):
    config = StarConfig(**SETTINGS, **settings)
    small, schedule = trainer(row_length=256), GeometricSteps(3, 2.0)
    base = small.random_params(0)
    engine = fake_engine(half_right)
    lines = run_star(tmp_path, "run", config, TASK, engine, small, schedule)

    # Which weights answered which prompts, hinted or not, behind which examples, by which draws.
    held_out = TASK.questions(VALIDATION)
    model, expected = base, [(digest(base), q, False, 0, 0) for q in held_out]
    for n in (1, 2):
        questions = draw_questions(loop_with(config), n)
        right = [q for q in questions if int(q.text[0]) % 2 == 0]
        failed = [q for q in questions if q not in right]
        expected += [(digest(model), q, False, n - 1, n) for q in questions]
        if config.rationalize:
            expected += [(digest(model), q, True, n - 1, n) for q in failed]
        hinted = [q for q in failed if int(q.text[0]) % 3 == 0 and config.rationalize]
        kept = [(q, False) for q in right] + [(q, True) for q in hinted]
        draws = np.random.default_rng([3, n, len(kept)]).random(len(kept))
        documents = []
        for (q, rationalized), draw in zip(kept, draws, strict=True):
            shows_hint = rationalized and draw < config.hinted_share
            examples = TASK.few_shot_examples(q.group, shows_hint)
            texts = [
                *(examples if config.few_shot_in_training else ()),
                TASK.question_text(q, shows_hint),
            ]
            prompt = [id_ for text in texts for id_ in VOCABULARY.encode(text)]
            learnt = [*VOCABULARY.encode(TASK.gold_completion(q)), VOCABULARY.eos_id]
            weights = np.array([0.0] * len(prompt) + [1.0] * len(learnt), np.float32)
            documents.append((np.array(prompt + learnt, np.int32), weights))
        examples = [TokenizedExample(*document) for document in documents]
        model = trained_by_hand(small, base, examples, schedule, n, seed=3)
        saved = checkpoints.load(tmp_path / f"run/iter_00{n}/checkpoint", small.abstract_params())
        assert digest(saved) == digest(model), "not M_n = train(M, what was kept)"
        expected += [(digest(model), q, False, n, n) for q in held_out]
        line = lines[n]
        assert line.kept.get("generate", 0) == len(right)
        assert line.kept.get("rationalize", 0) == len(hinted)
        assert line.train_fraction == len(kept) / 12
        assert line.training["steps"] == schedule(n, 0, 1)
        assert line.n_questions == 12

    calls = [(call.model, call.prompt, call.key) for call in engine.calls]
    assert len(calls) == len(expected)
    for (weights, prompt, key), (wanted, q, hinted, m, n) in zip(calls, expected, strict=True):
        assert weights == wanted, f"{prompt} was answered by other weights than M_{m}"
        assert prompt.text == TASK.question_text(q, hinted)
        shows = config.few_shot == "always" or (config.few_shot == "first" and m == 0)
        assert prompt.examples == (TASK.few_shot_examples(q.group, hinted) if shows else ())
        assert key == prompt_key(3, n, q.id + " hinted" * hinted).tobytes()


def test_the_weights_come_from_train_jsonl_alone_bit_by_bit(tmp_path):
    config = StarConfig(**SETTINGS, few_shot="never", few_shot_in_training=True, hinted_share=0.5)
    small = trainer(row_length=110)  # too short for some of the few-shot texts
    run_star(tmp_path, "run", config, TASK, fake_engine(half_right), small, GeometricSteps(3))
    for n in (1, 2):
        folder = tmp_path / f"run/iter_00{n}"
        kept = [from_json(KeptExample, line) for line in read_lines(folder / "train.jsonl")]
        assert {k.hint_kept for k in kept} == {True, False}
        examples = [tokenized(example, VOCABULARY) for example in kept]
        base = small.random_params(0)
        ours = trained_by_hand(small, base, examples, GeometricSteps(3), n, seed=3)
        saved = checkpoints.load(folder / "checkpoint", small.abstract_params())
        assert digest(ours) == digest(saved)


def test_reward_choices_and_loss_on_prompts_reach_the_loop(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class WithChoices(ArithmeticTask):
        def choices(self, question):
            return dict.fromkeys("abcd", "")

    config = StarConfig(1, 12, reward=lambda question, said, reading: reading.correct - 0.25)
    small = trainer(loss_on_prompt=True)
    task = WithChoices(digits=(1,), n_train=60, n_few_shot=1)
    setting = (task, fake_engine(half_right), small, GeometricSteps(2))
    lines = run_star(tmp_path, "run", config, *setting)
    assert [line.chance for line in lines] == [0.25, 0.25]
    folder = tmp_path / "run/iter_001"
    assert [*StageDir(folder).read_stats()] == ["generate", "rationalize", "evaluate"]
    for name in ("generations", "rationalizations", "eval"):
        for attempt in read_lines(folder / f"{name}.jsonl"):
            assert attempt["reward"] == attempt["reading"]["correct"] - 0.25
    kept = [from_json(KeptExample, line) for line in read_lines(folder / "train.jsonl")]
    examples = [tokenized(example, VOCABULARY, loss_on_prompt=True) for example in kept]
    ours = trained_by_hand(small, small.random_params(0), examples, GeometricSteps(2), 1, seed=0)
    saved = checkpoints.load(folder / "checkpoint", small.abstract_params())
    assert digest(ours) == digest(saved)


def test_the_previous_model_is_dropped_before_the_next_is_trained(tmp_path):
    loaded, loaded_again = [], []

    @dataclasses.dataclass(frozen=True)
    class Spy(GeometricSteps):
        def __call__(self, *numbers):
            previous()
            loaded_again.append(len(loaded))
            return super().__call__(*numbers)

    small = trainer()
    checkpoints.save(tmp_path / "base", small.random_params(0))
    base = Base(str(tmp_path / "base"), small.model, small.abstract_params())
    star = Star(StarConfig(1, 12), TASK, fake_engine(half_right), small, Spy(2), base)
    previous = Lazy(lambda: loaded.append("M") or "M")
    outer_iteration(star, star.stages(1, RunDir(tmp_path)), previous)
    assert loaded_again == [2]


def test_weights_that_were_not_trained_on_train_jsonl_are_refused(tmp_path):
    config = StarConfig(1, 12, few_shot="never")
    setting = (TASK, fake_engine(half_right), trainer(), GeometricSteps(2))
    run_star(tmp_path, "run", config, *setting)
    file = tmp_path / "run/iter_001/train.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[1:]))
    with pytest.raises(UserError, match=r"train.jsonl is not what was written"):
        run_star(tmp_path, "run", config, *setting)
    (file.parent / "train.done").unlink()
    (file.parent / "generations.done").unlink()
    other = fake_engine(gold)
    with pytest.raises(UserError, match=r"checkpoint was not trained on .*train.jsonl as it is"):
        run_star(tmp_path, "run", config, TASK, other, *setting[2:])


def test_iterations_of_the_whole_loop(tmp_path):
    small = trainer()

    def run(name, **config):
        settings = StarConfig(1, 30, few_shot="never", **config)
        return run_star(
            tmp_path, name, settings, TASK, fake_engine(half_right), small, GeometricSteps(2)
        )

    base, first = run("with")
    firsts = [int(q.text[0]) for q in draw_questions(loop_with(StarConfig(1, 30)), 1)]
    even = sum(a % 2 == 0 for a in firsts)
    threes = sum(a % 2 == 1 and a % 3 == 0 for a in firsts)
    assert first.kept == {"generate": even, "rationalize": threes}
    assert first.counts["generate"] == {
        "attempts": 30, "right": even, "checkable": even, "right_steps": even,
    }  # fmt: skip
    assert first.counts["rationalize"]["attempts"] == 30 - even
    assert first.filtered["right_answer"] == {
        "generate": 30 - even, "rationalize": 30 - even - threes,
    }  # fmt: skip
    assert (first.n_questions, first.training["steps"], first.rationalize) == (30, 2, True)
    assert list(first.seconds) == ["generate", "rationalize", "finetune", "evaluate"]
    assert (base.iteration, base.training["loss"], base.training["steps"]) == (0, None, 0)
    assert list(base.seconds) == ["evaluate"]
    _, without = run("without", rationalize=False)
    assert (without.kept, without.rationalize) == ({"generate": even}, False)
    assert not (tmp_path / "without/iter_001/rationalizations.jsonl").exists()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["iteration 1", "of 20 questions", "right_answer, no_hint_leak", "generations.jsonl"]),
        ({"rationalize": False}, ["rationalization (StarConfig.rationalize = True)"]),
        ({"few_shot": "never"}, ["few-shot prompts"]),
    ],
)
def test_no_kept_examples_stops_with_clear_error(tmp_path, config, words):
    setting = (TASK, fake_engine(wrong), trainer(), GeometricSteps(2))
    with pytest.raises(UserError) as error:
        run_star(tmp_path, "run", StarConfig(1, 20, **config), *setting)
    assert all(word in error.value.message for word in words)
    assert (tmp_path / "run/iter_001/generations.jsonl").exists()
    assert not (tmp_path / "run/iter_001/checkpoint").exists()


def test_epochs_schedule_sees_every_kept_example(tmp_path):
    seen = []

    @dataclasses.dataclass(frozen=True)
    class Spy(EpochSteps):
        def __call__(self, iteration, n_examples, examples_per_step):
            seen.append((iteration, n_examples, examples_per_step))
            return super().__call__(iteration, n_examples, examples_per_step)

    config = StarConfig(2, 10, few_shot="never")
    lines = run_star(tmp_path, "run", config, TASK, fake_engine(gold), trainer(), Spy(2.0))
    assert [(n, count) for n, count, _ in seen] == [(1, 10), (2, 10)]
    for line, (_, count, per_step) in zip(lines[1:], seen, strict=True):
        # Rows of 64 tokens, two a step; a document has some 30 to 48 tokens.
        assert 2 <= per_step < 5
        assert line.training["steps"] == -(-2 * count // per_step)


# Which prompts are few-shot.


@pytest.mark.parametrize(
    ("policy", "base", "later"),
    [("always", True, True), ("first", True, False), ("never", False, False)],
)
def test_few_shot_policies(policy, base, later):
    config = StarConfig(few_shot=policy)
    assert config.shows_examples(0) is base  # evaluating M_0, and sampling from it
    assert config.shows_examples(1) is config.shows_examples(7) is later


def test_few_shot_prompts_hold_examples_of_the_questions_group():
    draw = rollout(wrong, few_shot=True)
    generated, _ = attempts_of(draw, QUESTIONS[:2])
    assert [p.examples for p in prompts_of(draw.engine)] == [
        TASK.few_shot_examples(group, hinted) for hinted in (False, True) for group in ("2", "1")
    ]
    # The prompt that is noted has none of them.
    assert generated[0].prompt == TASK.question_text(QUESTIONS[0], hinted=False)


# Which questions.


def test_questions_are_drawn_anew_and_reproducibly():
    loop = loop_with(StarConfig(questions_per_iteration=20))
    drawn = [[q.id for q in draw_questions(loop, n)] for n in (1, 2)]
    assert [len(set(ids)) for ids in drawn] == [20, 20]
    assert drawn[0] != drawn[1]
    assert drawn[0] == [q.id for q in draw_questions(loop, 1)]
    other = loop_with(StarConfig(questions_per_iteration=20, seed=1))
    assert drawn[0] != [q.id for q in draw_questions(other, 1)]
    assert draw_questions(loop_with(StarConfig()), 1) == TASK.questions(TRAIN)


def test_all_questions_may_be_drawn():
    drawn = draw_questions(loop_with(StarConfig(questions_per_iteration=60)), 1)
    assert sorted(q.id for q in drawn) == sorted(q.id for q in TASK.questions(TRAIN))


def test_more_questions_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"questions_per_iteration = 61.*only 60"):
        draw_questions(loop_with(StarConfig(questions_per_iteration=61)), 1)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"few_shot": "sometimes"}, "StarConfig.few_shot = 'sometimes' is none of"),
        ({"iterations": 0}, "iterations = 0 must be positive"),
        ({"questions_per_iteration": -1}, "questions_per_iteration = -1 must not be negative"),
        ({"rationalize": "no"}, "StarConfig.rationalize = 'no' is not True or False"),
        ({"filters": [RightAnswer]}, "with their parentheses"),
        ({"hinted_share": 1.5}, "hinted_share = 1.5"),
        ({"seed": -1}, "seed = -1"),
        ({"filters": RightAnswer()}, r"StarConfig.filters = .*give functions"),
        ({"filters": ["right_answer"]}, r"StarConfig.filters = .*@right_answer\(\)"),
        ({"reward": 1.0}, "StarConfig.reward = 1.0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        StarConfig(**settings)


def test_the_defaults_are_the_papers():
    assert StarConfig() == StarConfig(
        iterations=16, rationalize=True, few_shot="always", hinted_share=0.0,
        few_shot_in_training=False, resample_temperature=0.0, filters=PAPER, reward=right_or_wrong,
        first_iteration={}, seed=0,
    )  # fmt: skip
    assert GeometricSteps() == GeometricSteps(first=40, growth=1.2, cap=None)
    assert OptimizerConfig() == OptimizerConfig(
        learning_rate=1e-6, warmup_steps=100, b1=0.9, b2=0.999, epsilon=1e-8, clip_norm=1.0,
        decay_share=0.0,
    )  # fmt: skip
    assert SamplerConfig().temperature == 0.0
    assert (TrainerConfig().batch_size, TrainerConfig().loss_on_prompt) == (8, False)


# Line 7.


def correct_attempts(source):
    draw = rollout(gold)
    attempts = draw_attempts("M", QUESTIONS, draw, GENERATE)
    return [dataclasses.replace(a, source=source) for a in attempts]


KEPT = [
    dataclasses.replace(a, source=RATIONALIZED if i % 2 else GENERATED)
    for i, a in enumerate(correct_attempts(GENERATED))
]


def documents(kept=KEPT, loss_on_prompt=False, **options):
    examples = examples_of(kept, QUESTIONS, TASK, **options)
    return [tokenized(example, VOCABULARY, loss_on_prompt) for example in examples]


def test_hinted_share_touches_rationalized_examples_only():
    def hinted(share, seed=0):
        many = KEPT * 100
        examples = examples_of(many, QUESTIONS, TASK, hinted_share=share, seed=(seed,))
        shown = [k.prompt.splitlines()[2] != "Target:" for k in examples]
        assert shown == [k.hint_kept for k in examples]
        assert not any(shown[i] for i, k in enumerate(many) if k.source == GENERATED)
        return shown

    assert sum(hinted(0.0)) == 0
    assert sum(hinted(1.0)) == 200
    assert 60 < sum(hinted(0.5)) < 140
    assert hinted(0.5) == hinted(0.5) != hinted(0.5, seed=1)


def test_loss_is_on_the_completion_only_with_or_without_the_hint():
    for share in (0.0, 1.0):
        for kept, example in zip(KEPT, documents(hinted_share=share), strict=True):
            n_learnt = len(VOCABULARY.encode(kept.completion)) + 1
            assert example.loss_weights.sum() == n_learnt
            assert example.loss_weights[-n_learnt:].all()
            assert VOCABULARY.decode(example.tokens[-n_learnt:]) == kept.completion
    (example,) = documents(KEPT[:1], loss_on_prompt=True)
    assert example.loss_weights.sum() == len(example.tokens) - 1


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_none_and_all(share):
    with pytest.raises(UserError, match="hinted_share"):
        examples_of(KEPT, QUESTIONS, TASK, hinted_share=share)


class OtherIds(type(VOCABULARY)):
    """Reads <scratch> in a second way, too: as the last of its words."""

    def __init__(self):
        super().__init__([*VOCABULARY.words[3:], "<other>"])

    def _decode(self, ids):
        last = len(self.words) - 1
        return super()._decode([self._ids["<scratch>"] if i == last else i for i in ids])


def test_tokens_are_trained_on_as_they_were_sampled():
    vocabulary = OtherIds()
    text = TASK.gold_completion(QUESTIONS[0])
    encoded = tuple(vocabulary.encode(text))
    sampled = (len(vocabulary.words) - 1, *encoded[1:])
    assert vocabulary.decode(sampled) == text and sampled != encoded
    prompt = TASK.question_text(QUESTIONS[0], hinted=False)
    kept = KeptExample("29+57", 0, 0, GENERATED, prompt, text, token_ids=sampled)
    n = len(sampled) + 1
    assert tokenized(kept, vocabulary).tokens.tolist()[-n:-1] == list(sampled)
    # A trimmed text has no ids of its own, and is encoded.
    anew = dataclasses.replace(kept, token_ids=None)
    assert tokenized(anew, vocabulary).tokens.tolist()[-n:-1] == list(encoded)


def test_tokens_that_would_read_otherwise_behind_the_prompt_are_encoded_anew():
    class Merging(type(VOCABULARY)):
        """A decoder that swallows the first word behind this prompt's end."""

        def _decode(self, ids):
            text = super()._decode(ids)
            return text.replace("Target:\n<scratch>\n", "Target:\n")

    vocabulary = Merging(VOCABULARY.words[3:])
    text = TASK.gold_completion(QUESTIONS[0])
    prompt = TASK.question_text(QUESTIONS[0], hinted=False)
    strange = tuple(reversed(vocabulary.encode(text)))
    kept = KeptExample("29+57", 0, 0, GENERATED, prompt, text, token_ids=strange)
    assert tokenized(kept, vocabulary).tokens.tolist()[-len(strange) - 1 : -1] == vocabulary.encode(
        text
    )


def test_a_weight_multiplies_the_loss_of_its_example():
    small = trainer()
    examples = examples_of(KEPT, QUESTIONS, TASK)
    heavy = [dataclasses.replace(k, weight=2.5 if i == 1 else 1.0) for i, k in enumerate(examples)]
    plain = [tokenized(k, VOCABULARY) for k in examples]
    weighted = [tokenized(k, VOCABULARY) for k in heavy]
    np.testing.assert_array_equal(weighted[1].loss_weights, 2.5 * plain[1].loss_weights)
    np.testing.assert_array_equal(weighted[0].loss_weights, plain[0].loss_weights)
    after = [
        digest(finetune_from_base(lambda: small.random_params(0), x, small, n_steps=2, seed=0)[0])
        for x in (plain, weighted, plain)
    ]
    assert after[0] == after[2] != after[1]


def test_few_shot_texts_come_before_the_prompt_in_the_file_itself():
    examples = examples_of(KEPT, QUESTIONS, TASK)
    shown = with_few_shot(examples, [a.group for a in KEPT], TASK, VOCABULARY, 10**6)
    for question_, example in zip(QUESTIONS, shown, strict=True):
        assert example.examples == TASK.few_shot_examples(question_.group, False)
    assert [dataclasses.replace(x, examples=()) for x in shown] == examples


def test_training_starts_from_the_base_and_lowers_the_loss():
    small = trainer()
    base = small.random_params(0)
    runs = [
        finetune_from_base(lambda: base, documents(), small, n_steps=20, seed=0) for _ in range(2)
    ]
    assert runs[0][1]["steps"] == 20
    one_step = finetune_from_base(lambda: base, documents(), small, n_steps=1, seed=0)
    assert runs[0][1]["loss"] < one_step[1]["loss"]
    leaves = [[np.asarray(x) for x in jax.tree.leaves(params)] for params, _ in runs]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)  # training gave up neither base nor determinism


def test_training_resumes_from_its_checkpoint_to_the_same_weights_and_loss(tmp_path):
    for every in (1, 7, 19):  # 19 is among the last tenth, whose loss is noted: not kept
        small = trainer(checkpoint_every=every)
        base = small.random_params(0)
        checkpoint = checkpoints.TrainingCheckpoint(tmp_path / str(every))

        def fine_tune(small=small, base=base, checkpoint=checkpoint):
            return finetune_from_base(
                lambda: base, documents(), small, n_steps=20, seed=0, checkpoint=checkpoint
            )

        whole = fine_tune()
        # The state inside training is still there, as if the process had died at its end.
        assert (tmp_path / str(every)).exists() is (every != 19)
        resumed = fine_tune()
        assert resumed[1] == whole[1]
        jax.tree.map(np.testing.assert_array_equal, whole[0], resumed[0])


def noted_losses(small, checkpoint):
    """The notes of 20 steps, and the first step and the losses that were noted."""
    noted = []
    _, notes = finetune_from_base(
        lambda: small.random_params(0), documents(), small, n_steps=20, seed=0,
        checkpoint=checkpoint, on_losses=lambda first, losses: noted.append((first, losses)),
    )  # fmt: skip
    ((first, losses),) = noted
    return notes, first, losses


def test_the_noted_loss_is_of_the_last_tenth_of_the_steps():
    notes, first, losses = noted_losses(trainer(), None)
    assert (first, len(losses)) == (1, 20)
    assert notes["loss"] == sum(losses[-2:]) / 2


def test_the_noted_losses_begin_where_training_was_resumed(tmp_path):
    small, checkpoint = trainer(checkpoint_every=7), checkpoints.TrainingCheckpoint(tmp_path / "x")
    _, first, whole = noted_losses(small, checkpoint)
    assert (first, len(whole)) == (1, 20)
    _, first, losses = noted_losses(small, checkpoint)  # from step 14, the last one that was saved
    assert (first, losses) == (15, whole[14:])


def test_a_checkpoint_that_may_have_spoilt_the_loss_is_removed(tmp_path, monkeypatch):
    def train(*_):
        raise UserError("the loss is nan")

    small, checkpoint = trainer(checkpoint_every=7), checkpoints.TrainingCheckpoint(tmp_path / "x")
    checkpoint.save(7, small.init_state(small.random_params(0)))
    monkeypatch.setattr(type(small), "train", train)
    with pytest.raises(UserError, match="the loss is nan"):
        noted_losses(small, checkpoint)
    assert checkpoint.restore(small.abstract_state()) is None


def test_nothing_to_train_on_is_reported_before_the_base_is_read():
    def load_base():
        raise AssertionError("read")

    with pytest.raises(UserError, match="nothing to train on"):
        finetune_from_base(load_base, [], trainer(), n_steps=1, seed=0)
    long = KeptExample("29+57", 0, 0, GENERATED, "Input:\n", "1 " * 80)
    with pytest.raises(UserError, match="row_length"):
        finetune_from_base(load_base, [tokenized(long, VOCABULARY)], trainer(), n_steps=1, seed=0)


# Records on disk.


def test_records_survive_json():
    (attempt, *_) = KEPT
    assert attempt.token_ids and isinstance(attempt.reading, Reading)
    for record in (
        dataclasses.replace(attempt, sample=3, turn=2, reward=-1.0, dropped=True),
        dataclasses.replace(
            examples_of(KEPT[:1], QUESTIONS, TASK)[0], weight=0.25, examples=("a\n\n", "b\n\n")
        ),
    ):
        again = from_json(type(record), json.loads(json.dumps(to_json(record))))
        assert again == record and type(again) is type(record)
    with pytest.raises(TypeError):
        from_json(Attempt, {**to_json(attempt), "left_out": False})
