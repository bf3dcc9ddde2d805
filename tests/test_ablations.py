"""What the paper leaves out or adds to see what it is worth: ablations, and Figure 5's digits."""

import dataclasses
import json

import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.loop import star
from star_jax.loop.ask import Asking
from star_jax.loop.filter import keep_correct, step_counts, without_wrong_steps
from star_jax.loop.finetune import kept_to_examples
from star_jax.loop.generate import generate_rationales
from star_jax.loop.resample import resample_failures
from star_jax.loop.star import StarConfig, draw_questions
from star_jax.records import GENERATED, RATIONALIZED, RESAMPLED, KeptExample
from star_jax.run import checkpoints
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.training.schedules import GeometricSteps
from tests.test_loop import QUESTIONS, loop_with
from tests.tiny import FakeSampler, gold, trainer, wrong

TASK = ArithmeticTask(digits=(1, 2), n_train=60, n_validation=10, n_few_shot=2)
VOCABULARY = arithmetic_vocabulary()


# A higher temperature in the place of rationalization.


def luckier(prompt, temperature=0.0):
    """Right on even first digits, and when warm on multiples of three, too."""
    a = int(prompt.text.splitlines()[1][0])
    return gold(prompt) if a % 2 == 0 or (temperature == 0.7 and a % 3 == 0) else wrong(prompt)


def test_failures_are_asked_again_at_the_temperature_without_a_hint():
    ask = Asking(FakeSampler(luckier), TASK, few_shot=False, seed=0, iteration=1)
    attempts = generate_rationales(None, QUESTIONS, ask)
    ask.sampler.prompts.clear()
    again = resample_failures(None, QUESTIONS, attempts, ask, 0.7)
    failures = [q for q, a in zip(QUESTIONS, attempts, strict=True) if not a.correct]
    assert [a.question_id for a in again] == [q.id for q in failures]
    assert len(failures) == 3
    assert [a.correct for a in again] == [True, True, False]  # 99 + 99, 3 + 4, 5 + 5
    assert not any(a.hinted for a in again)


def test_a_second_sample_has_another_key():
    keys = []

    class Recording(FakeSampler):
        def stream(self, model, prompts, row_keys, **options):
            keys.extend(key.tobytes() for key in row_keys)
            return super().stream(model, prompts, row_keys, **options)

    sampler = Recording(lambda prompt, temperature=0: wrong(prompt))
    ask = Asking(sampler, TASK, few_shot=False, seed=0, iteration=1)
    attempts = generate_rationales(None, QUESTIONS, ask)
    resample_failures(None, QUESTIONS, attempts, ask, 0.7)
    assert len(keys) == len(set(keys)) == 2 * len(QUESTIONS)


def test_a_run_keeps_what_was_right_when_warm_and_says_so(tmp_path):
    small = trainer()
    checkpoints.save(tmp_path / "base", small.random_params(0))
    _, first = star.run_star(
        str(tmp_path / "run"), str(tmp_path / "base"),
        StarConfig(1, 30, rationalize=False, few_shot="never", resample_temperature=0.7),
        TASK, FakeSampler(luckier), small, GeometricSteps(2),
    )  # fmt: skip
    firsts = [int(q.text[0]) for q in draw_questions(loop_with(StarConfig(1, 30)), 1)]
    even = sum(a % 2 == 0 for a in firsts)
    threes = sum(a % 2 == 1 and a % 3 == 0 for a in firsts)
    assert (first.kept_generated, first.kept_rationalized, first.kept_resampled) == (
        even,
        0,
        threes,
    )
    assert 0 < threes < 30 - even
    assert first.train_fraction == (even + threes) / 30
    asked = (tmp_path / "run/iter_001/resamplings.jsonl").read_text().splitlines()
    assert len(asked) == 30 - even
    kept = (tmp_path / "run/iter_001/train.jsonl").read_text().splitlines()
    sources = [json.loads(line)["source"] for line in kept]
    assert sources == [GENERATED] * even + [RESAMPLED] * threes


@pytest.mark.parametrize("settings", [{"resample_temperature": 0.7}, {"resample_temperature": -1}])
def test_it_takes_the_place_of_rationalization(settings):
    with pytest.raises(UserError, match=r"StarConfig.resample_temperature = .*rationalize = False"):
        StarConfig(**settings)


# Few-shot prompts in training.

KEPT = [
    KeptExample(q.id, TASK.question_text(q, False), TASK.gold_completion(q), RATIONALIZED)
    for q in QUESTIONS
]


def trained_on(row_length, **options):
    return kept_to_examples(
        KEPT, QUESTIONS, TASK, VOCABULARY, few_shot=True, row_length=row_length, **options
    )


@pytest.mark.parametrize("hinted_share", [0.0, 1.0])
def test_the_prompt_in_training_is_the_one_in_sampling_and_has_no_loss(hinted_share):
    hinted = hinted_share == 1.0
    for question, example in zip(
        QUESTIONS, trained_on(10**6, hinted_share=hinted_share), strict=True
    ):
        prompt = TASK.prompt(question, hinted=hinted, few_shot=True)
        asked = [id_ for text in (*prompt.examples, prompt.text) for id_ in VOCABULARY.encode(text)]
        tokens, loss = example.tokens.tolist(), example.loss_weights
        assert tokens[: len(asked)] == asked
        assert not loss[: len(asked)].any()
        assert loss[len(asked) :].all()
        assert VOCABULARY.decode(tokens[len(asked) : -1]) == TASK.gold_completion(question)


def test_the_oldest_examples_go_where_a_row_is_too_short(capsys):
    full, plain = trained_on(10**6), kept_to_examples(KEPT, QUESTIONS, TASK, VOCABULARY)
    last = [len(VOCABULARY.encode(TASK.few_shot_examples(q.group, False)[-1])) for q in QUESTIONS]
    for i in range(len(QUESTIONS)):
        alone, n_last = plain[i].tokens.tolist(), last[i]
        assert trained_on(len(alone))[i].tokens.tolist() == alone
        assert trained_on(len(alone) + n_last - 1)[i].tokens.tolist() == alone
        one = trained_on(len(alone) + n_last)[i].tokens.tolist()
        assert one == full[i].tokens.tolist()[-len(alone) - n_last :]
    said = " ".join(capsys.readouterr().err.split())
    assert "of 4 training examples pass TrainerConfig.row_length =" in said
    trained_on(10**6)
    assert capsys.readouterr().err == ""


def test_the_loss_of_all_tokens_has_the_examples_too():
    (example, *_) = trained_on(10**6, loss_on_prompt=True)
    assert example.loss_weights[1:].all()
    (plain, *_) = kept_to_examples(KEPT, QUESTIONS, TASK, VOCABULARY)
    assert len(example.tokens) > len(plain.tokens)


# Only right steps.


@dataclasses.dataclass(frozen=True)
class Strict(ArithmeticTask):
    """Finds all steps right but those of 3 + 4, and cannot tell of 5 + 5."""

    def steps_right(self, question, completion):
        return {"3+4": False, "5+5": None}.get(question.id, True)


def test_wrong_steps_are_marked_counted_and_left_out_when_asked():
    task = Strict(digits=(1, 2))
    ask = Asking(FakeSampler(gold), task, few_shot=False, seed=0, iteration=1)
    attempts = generate_rationales(None, QUESTIONS, ask)
    marks = [x.steps_right for x in keep_correct(attempts, QUESTIONS, task)]
    assert marks == [True, False, True, None]
    strict = without_wrong_steps(keep_correct(attempts, QUESTIONS, task))
    assert [x.question_id for x in strict] == ["29+57", "99+99", "5+5"]
    answered = {GENERATED: attempts, RATIONALIZED: attempts[1:2]}
    right = {source: keep_correct(given, QUESTIONS, task) for source, given in answered.items()}
    assert step_counts(right) == {
        "right_answers": {GENERATED: 4, RATIONALIZED: 1},
        "checkable": {GENERATED: 3, RATIONALIZED: 1},
        "right_steps": {GENERATED: 2, RATIONALIZED: 0},
    }


def test_a_run_that_asks_for_right_steps_trains_on_no_others(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class EvenOnly(ArithmeticTask):
        def steps_right(self, question, completion):
            return int(question.text[0]) % 2 == 0

    small, task = trainer(), EvenOnly(digits=(1, 2), n_train=60, n_validation=10, n_few_shot=2)
    checkpoints.save(tmp_path / "base", small.random_params(0))
    _, first = star.run_star(
        str(tmp_path / "run"), str(tmp_path / "base"),
        StarConfig(1, 30, few_shot="never", only_right_steps=True),
        task, FakeSampler(gold), small, GeometricSteps(2),
    )  # fmt: skip
    assert first.right_answers == first.checkable == {GENERATED: 30}
    assert first.right_steps == {GENERATED: first.kept_generated}
    assert 0 < first.kept_generated < 30
    kept = (tmp_path / "run/iter_001/train.jsonl").read_text().splitlines()
    assert [json.loads(line)["steps_right"] for line in kept] == [True] * first.kept_generated


def test_without_a_checker_nothing_is_said_of_steps():
    class Blind(ArithmeticTask):
        def steps_right(self, question, completion):
            return None

    ask = Asking(FakeSampler(gold), Blind(digits=(1, 2)), few_shot=False, seed=0, iteration=1)
    attempts = generate_rationales(None, QUESTIONS, ask)
    right = keep_correct(attempts, QUESTIONS, ask.task)
    counts = step_counts({GENERATED: right})
    none = {GENERATED: 0}
    assert counts == {"right_answers": {GENERATED: 4}, "checkable": none, "right_steps": none}
    assert len(without_wrong_steps(right)) == 4


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
def test_what_cannot_enter_is_told_before_anything_runs(tmp_path, settings, words):
    small = trainer()
    checkpoints.save(tmp_path / "base", small.random_params(0))
    with pytest.raises(UserError, match=words):
        star.run_star(
            str(tmp_path / "run"), str(tmp_path / "base"), StarConfig(1, **settings),
            TASK, FakeSampler(gold), small, GeometricSteps(2),
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [{"6": 0}, {6: 2}, {"6": "20"}])
def test_when_a_group_enters_is_a_whole_number_from_1(value):
    with pytest.raises(UserError, match=r"StarConfig.first_iteration has .* such as"):
        StarConfig(first_iteration=value)


def test_the_held_out_questions_of_all_groups_are_always_asked(tmp_path):
    small = trainer()
    checkpoints.save(tmp_path / "base", small.random_params(0))
    base, first = star.run_star(
        str(tmp_path / "run"), str(tmp_path / "base"),
        StarConfig(1, 10, few_shot="never", first_iteration={"2": 5}),
        TASK, FakeSampler(gold), small, GeometricSteps(2),
    )  # fmt: skip
    assert np.all([line.n_eval_by_class == {"1": 10, "2": 10} for line in (base, first)])
