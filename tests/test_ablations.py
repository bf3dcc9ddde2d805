"""What the paper leaves out or adds to see what it is worth: ablations, and Figure 5's digits."""

import dataclasses

import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.loop.config import StarConfig
from star_jax.loop.examples import examples_of, tokenized, with_few_shot
from star_jax.loop.filters import RightSteps, keep, step_counts
from star_jax.loop.stages import GENERATE, RATIONALIZE, RESAMPLE, draw_attempts, failures
from star_jax.loop.star import draw_questions
from star_jax.records import GENERATED, RATIONALIZED, RESAMPLED
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.training.schedules import GeometricSteps
from tests.test_loop import PAPER, QUESTIONS, loop_with, rollout
from tests.tiny import fake_engine, gold, read_lines, run_star, trainer, wrong

TASK = ArithmeticTask(digits=(1, 2), n_train=60, n_validation=10, n_few_shot=2)
VOCABULARY = arithmetic_vocabulary()
STRICT = (*PAPER, RightSteps())


# A higher temperature instead of rationalization.


def luckier(prompt, temperature=0.0):
    """Right on even first digits, and when warm on multiples of three, too."""
    a = int(prompt.text.splitlines()[1][0])
    return gold(prompt) if a % 2 == 0 or (temperature == 0.7 and a % 3 == 0) else wrong(prompt)


def test_failures_are_resampled_at_the_temperature_without_a_hint():
    draw = rollout(luckier)
    generated = draw_attempts("M", QUESTIONS, draw, GENERATE)
    (stage,) = StarConfig(rationalize=False, resample_temperature=0.7).retries
    failed = failures(QUESTIONS, generated)
    again = draw_attempts("M", failed, draw, stage)
    assert [a.question_id for a in again] == [q.id for q in failed]
    assert len(failed) == 3
    assert [a.correct for a in again] == [True, True, False]  # 99 + 99, 3 + 4, 5 + 5
    assert not any(a.hinted for a in again)
    assert {(a.source, a.sample) for a in again} == {(RESAMPLED, 1)}
    assert [call.temperature for call in draw.engine.calls] == [None] * 4 + [0.7] * 3


def test_a_second_sample_has_another_key():
    draw = rollout(lambda prompt, temperature=0: wrong(prompt))
    generated = draw_attempts("M", QUESTIONS, draw, GENERATE)
    draw_attempts("M", failures(QUESTIONS, generated), draw, RESAMPLE)
    keys = [call.key for call in draw.engine.calls]
    assert len(keys) == len(set(keys)) == 2 * len(QUESTIONS)


def test_a_run_keeps_what_was_right_when_warm_and_says_so(tmp_path):
    config = StarConfig(1, 30, rationalize=False, few_shot="never", resample_temperature=0.7)
    setting = (TASK, fake_engine(luckier), trainer(), GeometricSteps(2))
    _, first = run_star(tmp_path, "run", config, *setting)
    firsts = [int(q.text[0]) for q in draw_questions(loop_with(StarConfig(1, 30)), 1)]
    even = sum(a % 2 == 0 for a in firsts)
    threes = sum(a % 2 == 1 and a % 3 == 0 for a in firsts)
    assert first.kept == {"generate": even, "resample": threes}
    assert 0 < threes < 30 - even
    assert first.train_fraction == (even + threes) / 30
    assert len(read_lines(tmp_path / "run/iter_001/resamplings.jsonl")) == 30 - even
    sources = [line["source"] for line in read_lines(tmp_path / "run/iter_001/train.jsonl")]
    assert sources == [GENERATED] * even + [RESAMPLED] * threes


@pytest.mark.parametrize("settings", [{"resample_temperature": 0.7}, {"resample_temperature": -1}])
def test_it_replaces_rationalization(settings):
    with pytest.raises(UserError, match=r"StarConfig.resample_temperature = .*rationalize = False"):
        StarConfig(**settings)


# Few-shot prompts in training.

KEPT = [
    dataclasses.replace(attempt, source=RATIONALIZED)
    for attempt in draw_attempts("M", QUESTIONS, rollout(gold), GENERATE)
]


def trained_on(row_length, loss_on_prompt=False, **options):
    examples = examples_of(KEPT, QUESTIONS, TASK, **options)
    if row_length:
        groups = [attempt.group for attempt in KEPT]
        examples = with_few_shot(examples, groups, TASK, VOCABULARY, row_length)
    return [tokenized(example, VOCABULARY, loss_on_prompt) for example in examples]


@pytest.mark.parametrize("hinted_share", [0.0, 1.0])
def test_the_prompt_in_training_is_the_one_in_sampling_and_has_no_loss(hinted_share):
    hinted = hinted_share == 1.0
    for question, example in zip(
        QUESTIONS, trained_on(10**6, hinted_share=hinted_share), strict=True
    ):
        prompt = TASK.prompt(question, hinted=hinted, few_shot=True)
        sampled = [x for text in (*prompt.examples, prompt.text) for x in VOCABULARY.encode(text)]
        tokens, loss = example.tokens.tolist(), example.loss_weights
        assert tokens[: len(sampled)] == sampled
        assert not loss[: len(sampled)].any()
        assert loss[len(sampled) :].all()
        assert VOCABULARY.decode(tokens[len(sampled) : -1]) == TASK.gold_completion(question)


def test_the_oldest_examples_are_dropped_where_a_row_is_too_short(capsys):
    full, plain = trained_on(10**6), trained_on(0)
    last = [len(VOCABULARY.encode(TASK.few_shot_examples(q.group, False)[-1])) for q in QUESTIONS]
    for i in range(len(QUESTIONS)):
        alone, n_last = plain[i].tokens.tolist(), last[i]
        assert trained_on(len(alone))[i].tokens.tolist() == alone
        assert trained_on(len(alone) + n_last - 1)[i].tokens.tolist() == alone
        one = trained_on(len(alone) + n_last)[i].tokens.tolist()
        assert one == full[i].tokens.tolist()[-len(alone) - n_last :]
    said = " ".join(capsys.readouterr().err.split())
    assert "of 4 training examples exceed TrainerConfig.row_length =" in said
    trained_on(10**6)
    assert capsys.readouterr().err == ""


def test_the_loss_of_all_tokens_has_the_examples_too():
    (example, *_) = trained_on(10**6, loss_on_prompt=True)
    assert example.loss_weights[1:].all()
    (plain, *_) = trained_on(0)
    assert len(example.tokens) > len(plain.tokens)


# Only right steps.


@dataclasses.dataclass(frozen=True)
class Strict(ArithmeticTask):
    """Finds all steps right but those of 3 + 4, and cannot tell of 5 + 5."""

    def steps_right(self, question, said):
        return {"3+4": False, "5+5": None}.get(question.id, True)


def test_wrong_steps_are_marked_counted_and_dropped_by_the_filter():
    task = Strict(digits=(1, 2))
    attempts = draw_attempts("M", QUESTIONS, rollout(gold, task), GENERATE)
    marks = [x.steps_right for x in examples_of(keep(attempts, PAPER)[0], QUESTIONS, task)]
    assert marks == [True, False, True, None]
    strict, dropped = keep(attempts, STRICT)
    assert [x.question_id for x in strict] == ["29+57", "99+99", "5+5"]
    assert dropped["right_steps"] == {"generate": 1}
    hinted = draw_attempts("M", QUESTIONS[1:2], rollout(gold, task), RATIONALIZE)
    assert step_counts([*attempts, *hinted]) == {
        "generate": {"attempts": 4, "right": 4, "checkable": 3, "right_steps": 2},
        "rationalize": {"attempts": 1, "right": 1, "checkable": 1, "right_steps": 0},
    }


def test_a_run_that_filters_by_steps_trains_on_no_others(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class EvenOnly(ArithmeticTask):
        def steps_right(self, question, said):
            return int(question.text[0]) % 2 == 0

    task = EvenOnly(digits=(1, 2), n_train=60, n_validation=10, n_few_shot=2)
    config = StarConfig(1, 30, few_shot="never", filters=STRICT)
    setting = (task, fake_engine(gold), trainer(), GeometricSteps(2))
    _, first = run_star(tmp_path, "run", config, *setting)
    n_kept = first.kept["generate"]
    assert 0 < n_kept < 30
    assert first.counts["generate"] == {
        "attempts": 30, "right": 30, "checkable": 30, "right_steps": n_kept,
    }  # fmt: skip
    kept = read_lines(tmp_path / "run/iter_001/train.jsonl")
    assert [line["steps_right"] for line in kept] == [True] * n_kept


def test_without_a_checker_nothing_is_said_of_steps():
    class Blind(ArithmeticTask):
        def steps_right(self, question, said):
            return None

    attempts = draw_attempts("M", QUESTIONS, rollout(gold, Blind(digits=(1, 2))), GENERATE)
    assert step_counts(attempts)["generate"] == {
        "attempts": 4, "right": 4, "checkable": 0, "right_steps": 0,
    }  # fmt: skip
    assert len(keep(attempts, STRICT)[0]) == 4


# Questions that enter later (Figure 5).


def test_a_group_is_trained_on_from_its_iteration_on():
    loop = loop_with(StarConfig(questions_per_iteration=20, first_iteration={"2": 3}), task=TASK)
    drawn = [{q.group for q in draw_questions(loop, n)} for n in (1, 2, 3, 4)]
    assert drawn == [{"1"}, {"1"}, {"1", "2"}, {"1", "2"}]
    everything = loop_with(StarConfig(first_iteration={"2": 3}), task=TASK)
    assert len(draw_questions(everything, 2)) < len(draw_questions(everything, 3)) == 60


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"first_iteration": {"7": 3}}, r"group '7'; the training questions .* have '1', '2'"),
        ({"first_iteration": {"1": 2, "2": 2}}, "in outer iteration 1 the task has only 0"),
        ({"first_iteration": {"1": 9}, "questions_per_iteration": 60}, "in outer iteration 1"),
    ],
)
def test_what_cannot_enter_is_refused_before_anything_runs(tmp_path, settings, words):
    setting = (TASK, fake_engine(gold), trainer(), GeometricSteps(2))
    with pytest.raises(UserError, match=words):
        run_star(tmp_path, "run", StarConfig(1, **settings), *setting)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [{"6": 0}, {6: 2}, {"6": "20"}])
def test_when_a_group_enters_is_a_whole_number_from_1(value):
    with pytest.raises(UserError, match=r"StarConfig.first_iteration has .* such as"):
        StarConfig(first_iteration=value)


def test_the_held_out_questions_of_all_groups_are_always_sampled(tmp_path):
    config = StarConfig(1, 10, few_shot="never", first_iteration={"2": 5})
    setting = (TASK, fake_engine(gold), trainer(), GeometricSteps(2))
    base, first = run_star(tmp_path, "run", config, *setting)
    assert np.all([line.n_eval_by_group == {"1": 10, "2": 10} for line in (base, first)])
