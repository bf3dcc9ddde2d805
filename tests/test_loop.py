import dataclasses

import jax
import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.loop import star
from star_jax.loop.ask import Asking
from star_jax.loop.evaluate import evaluate_model, evaluation_metrics
from star_jax.loop.filter import keep_correct
from star_jax.loop.finetune import finetune_from_base, kept_to_examples
from star_jax.loop.generate import generate_rationales
from star_jax.loop.rationalize import rationalize_failures
from star_jax.loop.star import Star, StarConfig, draw_questions
from star_jax.records import GENERATED, RATIONALIZED, Attempt, KeptExample, from_json, to_json
from star_jax.run import checkpoints, metrics
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.task import TRAIN
from star_jax.training.schedules import EpochSteps, GeometricSteps
from tests.tiny import FakeSampler, gold, question, trainer, wrong

TASK = ArithmeticTask(digits=(1, 2), n_train=60, n_validation=10, n_few_shot=2)
VOCABULARY = arithmetic_vocabulary()
QUESTIONS = [question(29, 57), question(3, 4), question(99, 99), question(5, 5)]


def asking(says, few_shot=False, task=TASK):
    return Asking(FakeSampler(says), task, few_shot, seed=0, iteration=1)


def right_for(*texts, hinted_too=()):
    """Right on questions in `texts`, and with a hint on those in `hinted_too`; else wrong."""

    def says(prompt):
        chosen = hinted_too if prompt.hinted else texts
        return gold(prompt) if prompt.text.splitlines()[1] in chosen else wrong(prompt)

    return says


def loop_with(config, sampler=None, task=TASK):
    return Star(
        config, task, sampler or FakeSampler(gold), None, GeometricSteps(), lambda: None,
        task.questions(TRAIN), task.questions("validation"),
    )  # fmt: skip


# Algorithm 1, lines 3-6.


def test_generate_asks_every_question_in_order_without_hints():
    ask = asking(right_for("3 + 4"))
    attempts = generate_rationales(None, QUESTIONS, ask)
    assert [a.question_id for a in attempts] == [q.id for q in QUESTIONS]
    assert [a.correct for a in attempts] == [False, True, False, False]
    assert [a.group for a in attempts] == ["2", "1", "2", "1"]
    assert not any(a.hinted for a in attempts)
    assert [p.text for p in ask.sampler.prompts] == [
        TASK.question_text(q, hinted=False) for q in QUESTIONS
    ]


def test_rationalize_asks_the_failures_only_with_hints():
    ask = asking(right_for("3 + 4", hinted_too=("2 9 + 5 7",)))
    attempts = generate_rationales(None, QUESTIONS, ask)
    ask.sampler.prompts.clear()
    hinted = rationalize_failures(None, QUESTIONS, attempts, ask)
    assert [a.question_id for a in hinted] == ["29+57", "99+99", "5+5"]
    assert all(a.hinted for a in hinted)
    assert [a.correct for a in hinted] == [True, False, False]
    assert [p.text.splitlines()[2] for p in ask.sampler.prompts] == [
        "Target: 8 6", "Target: 1 9 8", "Target: 1 0",
    ]  # fmt: skip


def test_nothing_to_rationalize_when_all_is_right():
    ask = asking(gold)
    attempts = generate_rationales(None, QUESTIONS, ask)
    assert all(a.correct for a in attempts)
    assert rationalize_failures(None, QUESTIONS, attempts, ask) == []


def test_rationalize_wants_an_attempt_for_every_question():
    ask = asking(gold)
    attempts = generate_rationales(None, QUESTIONS, ask)
    with pytest.raises(ValueError, match="zip"):
        rationalize_failures(None, QUESTIONS, attempts[:-1], ask)


def test_filter_keeps_right_answers_only_and_marks_their_source():
    ask = asking(right_for("3 + 4", hinted_too=("2 9 + 5 7",)))
    attempts = generate_rationales(None, QUESTIONS, ask)
    hinted = rationalize_failures(None, QUESTIONS, attempts, ask)
    kept = keep_correct(attempts, QUESTIONS, TASK) + keep_correct(hinted, QUESTIONS, TASK)
    assert [(k.question_id, k.source) for k in kept] == [
        ("3+4", GENERATED), ("29+57", RATIONALIZED),
    ]  # fmt: skip
    assert keep_correct([], QUESTIONS, TASK) == []


def test_hint_never_reaches_kept_example():
    ask = asking(right_for(hinted_too=[q.text for q in QUESTIONS]), few_shot=True)
    attempts = generate_rationales(None, QUESTIONS, ask)
    hinted = rationalize_failures(None, QUESTIONS, attempts, ask)
    assert all("Target: " in p.examples[0] for p in ask.sampler.prompts if p.hinted)
    kept = keep_correct(hinted, QUESTIONS, TASK)
    assert [k.prompt for k in kept] == [TASK.question_text(q, hinted=False) for q in QUESTIONS]
    for example in kept_to_examples(kept, QUESTIONS, TASK, VOCABULARY):
        assert "Target:\n" in VOCABULARY.decode(example.tokens)


def test_what_follows_the_answer_is_cut_before_training():
    ask = asking(lambda prompt: gold(prompt) + "\n\nInput:\n1 + 1\nTarget:")
    attempts = generate_rationales(None, QUESTIONS[:1], ask)
    (kept,) = keep_correct(attempts, QUESTIONS, TASK)
    assert attempts[0].completion.endswith("Target:")
    assert kept.completion == TASK.gold_completion(QUESTIONS[0])


def test_a_completion_without_an_answer_is_unparsable_and_wrong():
    answers = iter(["", "<scratch>", "</scratch>\n7", "<scratch>\n</scratch>\n7"])
    attempts = evaluate_model(None, QUESTIONS, asking(lambda prompt: next(answers)))
    assert [a.answer for a in attempts] == [None, None, None, "7"]
    result = evaluation_metrics(attempts)
    assert result["unparsable"] == 3
    assert result["accuracy"] == 0.0


def test_evaluation_counts_by_class_in_the_order_of_digits():
    questions = [question(10**9, 10**9), *QUESTIONS]
    attempts = evaluate_model(None, questions, asking(right_for("3 + 4", "2 9 + 5 7")))
    result = evaluation_metrics(attempts)
    assert result["accuracy"] == 2 / 5
    assert list(result["accuracy_by_class"].items()) == [("1", 0.5), ("2", 0.5), ("10", 0.0)]
    assert result["n_eval_by_class"] == {"1": 2, "2": 2, "10": 1}
    assert result["n_eval"] == 5
    assert metrics.accuracy([]) == 0.0


def test_draws_differ_by_hint_iteration_and_seed():
    keys = []

    class Recording(FakeSampler):
        def stream(self, model, prompts, row_keys, **options):
            keys.append(row_keys[0].tobytes())
            return super().stream(model, prompts, row_keys, **options)

    ask = Asking(Recording(wrong), TASK, False, seed=0, iteration=1)
    attempts = generate_rationales(None, QUESTIONS[:1], ask)
    rationalize_failures(None, QUESTIONS[:1], attempts, ask)
    generate_rationales(None, QUESTIONS[:1], dataclasses.replace(ask, iteration=2))
    generate_rationales(None, QUESTIONS[:1], dataclasses.replace(ask, seed=1))
    assert len(set(keys)) == 4


# Which prompts are few-shot.


@pytest.mark.parametrize(
    ("policy", "base", "first", "later"),
    [("always", True, True, True), ("first", True, True, False), ("never", False, False, False)],
)
def test_few_shot_policies(policy, base, first, later):
    loop = loop_with(StarConfig(few_shot=policy))
    assert loop.asking(0, 0, None).few_shot is base  # evaluation of the base
    assert loop.asking(1, 0, None).few_shot is first  # sampling in iteration 1, from M_0
    assert loop.asking(1, 1, None).few_shot is later  # evaluation of M_1
    assert loop.asking(2, 1, None).few_shot is later


def test_few_shot_prompts_hold_examples_of_the_questions_digit_count():
    ask = asking(wrong, few_shot=True)
    attempts = generate_rationales(None, QUESTIONS[:2], ask)
    rationalize_failures(None, QUESTIONS[:2], attempts, ask)
    assert [p.examples for p in ask.sampler.prompts] == [
        TASK.few_shot_examples(group, hinted) for hinted in (False, True) for group in ("2", "1")
    ]
    # Neither the prompt that is noted nor the one that is trained on has the examples.
    assert attempts[0].prompt == TASK.question_text(QUESTIONS[0], hinted=False)


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


def test_more_questions_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"questions_per_iteration = 61.*only 60"):
        draw_questions(loop_with(StarConfig(questions_per_iteration=61)), 1)


# Line 7.

KEPT = [
    KeptExample(
        q.id, TASK.question_text(q, False), TASK.gold_completion(q),
        RATIONALIZED if i % 2 else GENERATED,
    )
    for i, q in enumerate(QUESTIONS)
]  # fmt: skip


def is_hinted(example):
    return VOCABULARY.decode(example.tokens).splitlines()[2] != "Target:"


def test_hinted_share_touches_rationalized_examples_only():
    def hinted(share, seed=0):
        many = KEPT * 100
        examples = kept_to_examples(
            many, QUESTIONS, TASK, VOCABULARY, hinted_share=share, seed=(seed,)
        )
        chosen = [is_hinted(example) for example in examples]
        assert not any(chosen[i] for i, k in enumerate(many) if k.source == GENERATED)
        return chosen

    assert sum(hinted(0.0)) == 0
    assert sum(hinted(1.0)) == 200
    assert 60 < sum(hinted(0.5)) < 140
    assert hinted(0.5) == hinted(0.5) != hinted(0.5, seed=1)


def test_loss_is_on_the_completion_only_with_or_without_the_hint():
    for share in (0.0, 1.0):
        examples = kept_to_examples(KEPT, QUESTIONS, TASK, VOCABULARY, hinted_share=share)
        for kept, example in zip(KEPT, examples, strict=True):
            n_learnt = len(VOCABULARY.encode(kept.completion)) + 1
            assert example.loss_weights.sum() == n_learnt
            assert example.loss_weights[-n_learnt:].all()
            learnt = example.tokens[-n_learnt:]
            assert VOCABULARY.decode(learnt) == kept.completion
    (example,) = kept_to_examples(KEPT[:1], QUESTIONS, TASK, VOCABULARY, loss_on_prompt=True)
    assert example.loss_weights.sum() == len(example.tokens) - 1


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_is_between_none_and_all(share):
    with pytest.raises(UserError, match="hinted_share"):
        kept_to_examples(KEPT, QUESTIONS, TASK, VOCABULARY, hinted_share=share)


def test_training_starts_from_the_base_and_lowers_the_loss():
    small = trainer()
    base = small.random_params(0)
    examples = kept_to_examples(KEPT, QUESTIONS, TASK, VOCABULARY)
    runs = [finetune_from_base(lambda: base, examples, small, n_steps=20, seed=0) for _ in range(2)]
    assert runs[0].steps == 20
    one_step = finetune_from_base(lambda: base, examples, small, n_steps=1, seed=0)
    assert runs[0].loss < one_step.loss
    leaves = [[np.asarray(x) for x in jax.tree.leaves(run.params)] for run in runs]
    for a, b in zip(*leaves, strict=True):
        np.testing.assert_array_equal(a, b)  # training gave up neither base nor determinism


def test_training_goes_on_from_its_checkpoint_to_the_same_weights_and_loss(tmp_path):
    examples = kept_to_examples(KEPT, QUESTIONS, TASK, VOCABULARY)
    for every in (1, 7, 19):  # 19 is among the last tenth, whose loss is noted: not kept
        small = trainer(checkpoint_every=every)
        base = small.random_params(0)
        checkpoint = checkpoints.TrainingCheckpoint(tmp_path / str(every))

        def fine_tune(small=small, base=base, checkpoint=checkpoint):
            return finetune_from_base(
                lambda: base, examples, small, n_steps=20, seed=0, checkpoint=checkpoint
            )

        whole = fine_tune()
        # The state inside training is still there, as if the process had died at its end.
        assert (tmp_path / str(every)).exists() is (every != 19)
        resumed = fine_tune()
        assert resumed.loss == whole.loss
        jax.tree.map(np.testing.assert_array_equal, whole.params, resumed.params)


def test_nothing_to_train_on_is_told_before_the_base_is_read():
    def load_base():
        raise AssertionError("read")

    with pytest.raises(UserError, match="nothing to train on"):
        finetune_from_base(load_base, [], trainer(), n_steps=1, seed=0)
    long = kept_to_examples(
        [dataclasses.replace(KEPT[0], completion="1 " * 80)], QUESTIONS, TASK, VOCABULARY
    )
    with pytest.raises(UserError, match="row_length"):
        finetune_from_base(load_base, long, trainer(), n_steps=1, seed=0)


def test_epochs_schedule_sees_every_kept_example(tmp_path):
    asked = []

    @dataclasses.dataclass(frozen=True)
    class Spy(EpochSteps):
        def __call__(self, iteration, n_examples, examples_per_step):
            asked.append((iteration, n_examples, examples_per_step))
            return super().__call__(iteration, n_examples, examples_per_step)

    small = trainer()
    checkpoints.save(tmp_path / "base", small.random_params(0))
    lines = star.run_star(
        str(tmp_path / "run"), str(tmp_path / "base"), StarConfig(2, 10, few_shot="never"),
        TASK, FakeSampler(gold), small, Spy(2.0),
    )  # fmt: skip
    assert [(n, count) for n, count, _ in asked] == [(1, 10), (2, 10)]
    for line, (_, count, per_step) in zip(lines[1:], asked, strict=True):
        # Rows of 64 tokens, two a step; a document has some 30 to 48 tokens.
        assert 2 <= per_step < 5
        assert line.train_steps == -(-2 * count // per_step)


def test_iterations_of_the_whole_loop(tmp_path):
    small = trainer()
    checkpoints.save(tmp_path / "base", small.random_params(0))

    def says(prompt):
        a = int(prompt.text.splitlines()[1][0])
        return gold(prompt) if a % 2 == 0 or (prompt.hinted and a % 3 == 0) else wrong(prompt)

    def run(name, **config):
        return star.run_star(
            str(tmp_path / name), str(tmp_path / "base"),
            StarConfig(iterations=1, questions_per_iteration=30, few_shot="never", **config),
            TASK, FakeSampler(says), small, GeometricSteps(2),
        )  # fmt: skip

    base, first = run("with")
    firsts = [int(q.text[0]) for q in draw_questions(loop_with(StarConfig(1, 30)), 1)]
    even = sum(a % 2 == 0 for a in firsts)
    threes = sum(a % 2 == 1 and a % 3 == 0 for a in firsts)
    assert (first.kept_generated, first.kept_rationalized) == (even, threes)
    assert first.train_fraction == (even + threes) / 30
    assert (first.n_sampled, first.train_steps, first.rationalize) == (30, 2, True)
    assert (base.iteration, base.train_loss, base.train_steps) == (0, None, 0)
    _, without = run("without", rationalize=False)
    assert (without.kept_generated, without.kept_rationalized) == (even, 0)
    assert (without.rationalize, without.seconds_rationalize < 1) == (False, True)
    assert (tmp_path / "without/iter_001/rationalizations.jsonl").read_text() == ""


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, ["iteration 1", "none of 20", "generations.jsonl"]),
        ({"rationalize": False}, ["StarConfig.rationalize = True"]),
        ({"few_shot": "never"}, ['StarConfig.few_shot = "always"']),
    ],
)
def test_no_kept_examples_stops_with_clear_error(tmp_path, config, words):
    small = trainer()
    checkpoints.save(tmp_path / "base", small.random_params(0))
    with pytest.raises(UserError) as error:
        star.run_star(
            str(tmp_path / "run"), str(tmp_path / "base"), StarConfig(1, 20, **config),
            TASK, FakeSampler(wrong), small, GeometricSteps(2),
        )  # fmt: skip
    assert all(word in error.value.message for word in words), error.value.message
    assert "\n" not in error.value.message
    assert len((tmp_path / "run/iter_001/generations.jsonl").read_text().splitlines()) == 20


@pytest.mark.parametrize(
    ("field", "value"),
    [("few_shot", "sometimes"), ("few_shot", True), ("iterations", 0),
     ("questions_per_iteration", -1)],
)  # fmt: skip
def test_settings_that_mean_nothing_are_refused(field, value):
    with pytest.raises(UserError, match=f"{field} = "):
        StarConfig(**{field: value})


def test_records_are_json_and_back():
    attempt = generate_rationales(None, QUESTIONS[:1], asking(gold))[0]
    assert from_json(Attempt, to_json(attempt)) == attempt
    with pytest.raises(TypeError):
        from_json(KeptExample, to_json(attempt))
