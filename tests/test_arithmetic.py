import itertools

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.tasks.arithmetic import (
    ArithmeticTask,
    arithmetic_vocabulary,
    held_out,
    make_question,
    parse_problem,
    scratchpad,
    spell,
)
from star_jax.tasks.seqio_tasks import answer_accuracy, register
from star_jax.tasks.task import TRAIN, VALIDATION
from tests.tiny import trimmed_by

TASK = ArithmeticTask()
VOCABULARY = arithmetic_vocabulary()
QUESTION = TASK.make_question("q", "29+57")
SMALL = ArithmeticTask(n_train=300, n_validation=40, digits=(1, 2, 3))


def unordered(questions):
    return {frozenset(parse_problem(q.text)) for q in questions}


def problems_of(examples):
    return [
        line for text in examples for line in text.splitlines() if "+" in line and "," not in line
    ]


# The format, as in the paper's section 4.2.

GOLDENS = {
    (29, 57): "2 9 + 5 7 , C: 0\n2 + 5 , 6 C: 1\n, 8 6 C: 0\n0 8 6\n</scratch>\n8 6",
    (99, 99): "9 9 + 9 9 , C: 0\n9 + 9 , 8 C: 1\n, 9 8 C: 1\n1 9 8\n</scratch>\n1 9 8",
    (3, 4): "3 + 4 , C: 0\n, 7 C: 0\n0 7\n</scratch>\n7",
    (0, 0): "0 + 0 , C: 0\n, 0 C: 0\n0 0\n</scratch>\n0",
    (5, 5): "5 + 5 , C: 0\n, 0 C: 1\n1 0\n</scratch>\n1 0",
    (500, 500): (
        "5 0 0 + 5 0 0 , C: 0\n5 0 + 5 0 , 0 C: 0\n5 + 5 , 0 0 C: 0\n, 0 0 0 C: 1\n"
        "1 0 0 0\n</scratch>\n1 0 0 0"
    ),
}


@pytest.mark.parametrize("pair", GOLDENS)
def test_scratchpads_are_the_papers(pair):
    assert scratchpad(*pair) == "<scratch>\n" + GOLDENS[pair]


def test_a_question_is_written_as_in_the_paper():
    question = TASK.make_question("q", "29+57")
    assert question == Question("q", "2 9 + 5 7", "8 6", "2")
    assert TASK.question_text(question, hinted=False) == "Input:\n2 9 + 5 7\nTarget:\n"
    assert TASK.question_text(question, hinted=True) == "Input:\n2 9 + 5 7\nTarget: 8 6\n"


def numbers(n_digits):
    return st.integers(10 ** (n_digits - 1), 10**n_digits - 1)


@given(st.integers(1, 18).flatmap(lambda n: st.tuples(numbers(n), numbers(n))))
def test_every_step_of_a_scratchpad_is_right(pair):
    a, b = pair
    n = len(str(a))
    lines = scratchpad(a, b).splitlines()
    assert (lines[0], lines[-2], lines[-1]) == ("<scratch>", "</scratch>", spell(a + b))
    for done, line in enumerate(lines[1:-3]):
        left, _, rest = line.partition(",")
        result, _, carry = rest.partition("C:")
        low = 10**done
        # The digits done so far and the carry are the sum of what was taken away so far.
        total = a % low + b % low
        assert result.split() == list(str(total % low).zfill(done) if done else "")
        assert int(carry) == total // low
        remaining = [str(x)[: n - done] for x in (a, b)] if done < n else []
        assert left.split() == (" + ".join(map(" ".join, remaining)).split() if remaining else [])
    assert len(lines) == n + 5
    assert int(lines[-3].replace(" ", "")) == a + b
    assert len(lines[-3].split()) == n + 1


@given(st.integers(0, 10**18 - 1), st.integers(0, 10**18 - 1))
def test_a_problem_is_read_as_it_is_written(a, b):
    assert parse_problem(make_question("", a, b).text) == (a, b)


def test_a_question_is_in_the_group_of_its_longer_number():
    assert [make_question("", *pair).group for pair in ((5, 123), (123, 5), (9, 9))] == list("331")


@pytest.mark.parametrize("text", ["", "5", "5+", "+5", "a+b", "1+2+3", "-1+2", "1.5+2", "5 - 2"])
def test_what_is_no_addition_is_refused(text):
    with pytest.raises(UserError, match="is not an addition"):
        TASK.make_question("q", text)


def test_hint_and_target_agree():
    for question in SMALL.questions(TRAIN) + SMALL.questions(VALIDATION):
        text = SMALL.question_text(question, hinted=True)
        hint = text.splitlines()[2].removeprefix("Target: ")
        assert hint == question.answer == SMALL.gold_completion(question).splitlines()[-1]
        gold = SMALL.gold_completion(question)
        assert SMALL.read(question, gold).answer == question.answer
        left, right = parse_problem(question.text)
        assert int(hint.replace(" ", "")) == left + right


# Reading answers.

R = "<scratch>\n2 + 5 , 6 C: 1\n</scratch>\n"


@pytest.mark.parametrize(
    ("completion", "answer", "trimmed"),
    [
        (f"{R}8 6", "8 6", f"{R}8 6"),
        (f"{R}8 6\n\nInput:\n1 + 2", "8 6", f"{R}8 6"),
        (f"{R}8 6\n</scratch>\n9", "8 6", f"{R}8 6"),
        (f"{R}</scratch>\n8", None, f"{R}</scratch>"),
        (f"{R}", None, R),
        (f"{R}\n8 6", None, R),
        (f"{R}8 + 6", None, None),
        (f"{R}8 6 ,", None, None),
        (f"{R}C: 8", None, None),
        (f"{R}0 8 6", "0 8 6", f"{R}0 8 6"),
        ("<scratch>\n8 6", None, None),
        ("</scratch>\n8 6", None, None),  # no line break before it: not the end of a rationale
        ("\n</scratch>\n8 6", "8 6", "\n</scratch>\n8 6"),
        ("8 6", None, None),
        ("", None, None),
        ("<scratch>\n8 6 </scratch>\n8 6", None, None),
        ("<scratch>\n</scratch> 8 6", None, None),
    ],
)
def test_answers_are_the_line_after_the_scratchpad(completion, answer, trimmed):
    assert TASK.read(QUESTION, completion).answer == answer
    if trimmed is not None:
        assert trimmed_by(TASK, QUESTION, completion) == trimmed


def test_leading_zeros_are_not_equal_and_none_is_not_right():
    question = TASK.make_question("q", "29+57")
    assert TASK.is_correct(question, "8 6")
    assert not TASK.is_correct(question, "0 8 6")
    assert not TASK.is_correct(question, "86")
    assert not TASK.is_correct(question, None)


def test_direct_answers_have_no_scratchpad():
    task = ArithmeticTask(direct=True)
    question = task.make_question("q", "29+57")
    assert task.gold_completion(question) == "8 6"
    assert task.read(question, "8 6\nInput:").answer == "8 6"
    assert trimmed_by(task, question, "8 6\nInput:") == "8 6"
    assert task.read(question, "<scratch>\n8 6").answer is None
    assert task.name == "arithmetic_direct" != TASK.name


@given(st.lists(st.sampled_from(["8", "\n", "</scratch>", "<scratch>", ","]), max_size=12))
def test_trimming_changes_no_answer(words):
    completion = VOCABULARY.decode(VOCABULARY.encode(" ".join(words)))
    trimmed = trimmed_by(TASK, QUESTION, completion)
    assert TASK.read(QUESTION, trimmed).answer == TASK.read(QUESTION, completion).answer
    assert completion.startswith(trimmed)


# The data.


def test_fifty_thousand_training_problems_uniform_over_digit_counts():
    questions = TASK.questions(TRAIN)
    counts = {group: sum(q.group == group for q in questions) for group in "12345"}
    assert len(questions) == sum(counts.values()) == 50_000
    # A fair die falls outside of six standard deviations (90 each) once in 10^9 throws.
    assert all(abs(count - 10_000) < 6 * 90 for count in counts.values()), counts
    assert len({q.id for q in questions}) == 50_000
    for question in questions[:2000]:
        left, right = question.text.split(" + ")
        assert len(left.split()) == len(right.split()) == int(question.group)


def test_digits_are_uniform_and_the_order_is_mixed():
    questions = ArithmeticTask(digits=(3,), n_train=5000).questions(TRAIN)
    last = [q.text.split()[2] for q in questions]
    assert all(abs(last.count(str(d)) - 500) < 6 * 22 for d in range(10))
    groups = [q.group for q in TASK.questions(TRAIN)[:500]]
    assert set(groups) == set("12345")
    assert sum(a != b for a, b in itertools.pairwise(groups)) > 300


def test_data_are_reproducible_and_follow_the_seed():
    again = ArithmeticTask(n_train=300, n_validation=40, digits=(1, 2, 3))
    other = ArithmeticTask(n_train=300, n_validation=40, digits=(1, 2, 3), seed=1)
    assert again.questions(TRAIN) == SMALL.questions(TRAIN)
    assert other.questions(TRAIN) != SMALL.questions(TRAIN)
    assert other.questions(VALIDATION) != SMALL.questions(VALIDATION)
    # Frozen: a run of last year must find the questions it was made of.
    assert [q.text for q in SMALL.questions(TRAIN)[:3]] == [
        "8 7 4 + 4 8 3", "8 1 + 5 7", "8 + 9",
    ]  # fmt: skip


@pytest.mark.parametrize("digits", [(1, 2, 3, 4, 5), (6, 7, 8, 9, 10), (1, 10), (18,)])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_validation_shares_no_problem_nor_mirror_image_with_training(digits, seed):
    task = ArithmeticTask(digits=digits, n_train=4000, n_validation=300, seed=seed)
    other_seed = ArithmeticTask(digits=digits, n_train=4000, n_validation=300, seed=seed + 1)
    validation = unordered(task.questions(VALIDATION))
    assert not validation & unordered(task.questions(TRAIN))
    assert not validation & unordered(other_seed.questions(TRAIN))
    few_shot = [
        frozenset(parse_problem(line))
        for n in digits
        for line in problems_of(task.few_shot_examples(str(n), hinted=False))
    ]
    assert len(few_shot) == 10 * len(digits)
    assert not validation & set(few_shot)


def test_held_out_is_symmetric_and_about_a_fifth():
    pairs = np.random.default_rng(0).integers(0, 10**10, (100_000, 2))
    chosen = held_out(pairs[:, 0], pairs[:, 1])
    assert (chosen == held_out(pairs[:, 1], pairs[:, 0])).all()
    assert abs(chosen.mean() - 0.2) < 0.008


def test_all_held_out_problems_of_one_digit_and_500_of_the_others():
    validation = TASK.questions(VALIDATION)
    groups = [q.group for q in validation]
    every = [(a, b) for a in range(10) for b in range(10)]
    held = {(a, b) for a, b in every if held_out(np.array(a), np.array(b))}
    assert {parse_problem(q.text) for q in validation if q.group == "1"} == held
    assert 5 < groups.count("1") == len(held) < 40
    assert [groups.count(n) for n in "2345"] == [500] * 4
    assert len({q.text for q in validation}) == len(validation)
    # What is not held out is all there to be trained on.
    trained = {parse_problem(q.text) for q in TASK.questions(TRAIN) if q.group == "1"}
    assert trained == set(every) - held


def test_few_shot_examples():
    for group in "135":
        plain = TASK.few_shot_examples(group, hinted=False)
        hinted = TASK.few_shot_examples(group, hinted=True)
        assert len(problems_of(plain)) == 10
        assert {len(line.split(" + ")[0].split()) for line in problems_of(plain)} == {int(group)}
        assert problems_of(plain) == problems_of(hinted)
        other = ArithmeticTask(seed=1).few_shot_examples(group, hinted=False)
        assert problems_of(plain) != problems_of(other)
        assert len(plain) == 10
        assert all("Target:\n" in text and text.endswith("\n\n") for text in plain)
        for text in hinted:
            lines = text.removesuffix("\n\n").splitlines()
            assert lines[2] == f"Target: {lines[-1]}"
        # Examples and a question are encoded apart and must read as one text.
        texts = [*plain, TASK.question_text(TASK.make_question("", "1+2"), False)]
        joined = [id_ for text in texts for id_ in VOCABULARY.encode(text)]
        assert joined == VOCABULARY.encode("".join(texts))
    assert ArithmeticTask(n_few_shot=0).few_shot_examples("3", hinted=True) == ()
    question = TASK.make_question("", "1+2")
    assert TASK.prompt(question, hinted=True, few_shot=False).examples == ()
    assert TASK.prompt(question, hinted=True, few_shot=True).examples == TASK.few_shot_examples(
        "1", hinted=True
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"digits": ()},
        {"digits": (0,)},
        {"digits": (19,)},
        {"digits": (2, 2)},
        {"n_train": 0},
        {"n_validation": 0},
        {"n_few_shot": -1},
    ],
)
def test_settings_that_make_no_data_are_refused(fields):
    with pytest.raises(UserError, match="ArithmeticTask"):
        ArithmeticTask(**fields)


# As seqio tasks.


def texts_of(name, split="validation", n=20):
    dataset = seqio.get_mixture_or_task(name).get_dataset(
        sequence_length=None, split=split, shuffle=False
    )
    for example in dataset.take(n).as_numpy_iterator():
        yield example, VOCABULARY.decode(example["inputs"]), VOCABULARY.decode(example["targets"])


def test_seqio_gives_the_texts_as_inputs_and_targets():
    register(TASK, VOCABULARY)
    register(ArithmeticTask(direct=True), VOCABULARY)
    questions = TASK.questions(VALIDATION)
    plain, hinted, direct = (
        zip(questions, texts_of(f"arithmetic{variant}"), strict=False)
        for variant in ("", "_hinted", "_direct")
    )
    for question, (example, inputs, targets) in plain:
        assert inputs == TASK.question_text(question, hinted=False)
        assert targets == TASK.gold_completion(question)
        assert example["targets"][-1] == VOCABULARY.eos_id
        assert VOCABULARY.eos_id not in example["inputs"]
    for question, (_, inputs, targets) in hinted:
        assert inputs == TASK.question_text(question, hinted=True)
        assert targets == TASK.gold_completion(question)
    for question, (_, _, targets) in direct:
        assert targets == question.answer


def test_seqio_shuffles_and_shards_the_training_split():
    task = seqio.get_mixture_or_task(register(SMALL, VOCABULARY))
    sizes = []
    for i in range(3):
        shard = seqio.ShardInfo(index=i, num_shards=3)
        dataset = task.get_dataset(None, "train", shuffle=True, seed=0, shard_info=shard)
        sizes.append(sum(1 for _ in dataset))
    assert sum(sizes) == 300


@pytest.mark.parametrize("perfect", [True, False])
def test_seqio_evaluates_predictions_through_the_answer_parser(perfect):
    name = register(SMALL, VOCABULARY)

    def predict(dataset, *args, **kwargs):
        examples = list(dataset.as_numpy_iterator())
        rows = [example[1] if isinstance(example, tuple) else example for example in examples]
        ids = [row["decoder_target_tokens"].tolist() for row in rows]
        unreadable = VOCABULARY.encode("8 6")
        return list(enumerate(ids if perfect else [unreadable] * len(ids)))

    evaluator = seqio.Evaluator(
        name,
        feature_converter=seqio.EncDecFeatureConverter(pack=False),
        eval_split="validation",
        sequence_length={"inputs": 32, "targets": 64},
        use_memory_cache=False,
    )
    metrics, _ = evaluator.evaluate(
        compute_metrics=True,
        step=0,
        predict_fn=predict,
        score_fn=lambda dataset, *args: [],
    )
    result = metrics.result()[name] if hasattr(metrics, "result") else metrics[name]
    assert result["accuracy"] == (100.0 if perfect else 0.0)
    assert result["unparsable"] == (0.0 if perfect else 100.0)


def test_answer_accuracy_counts_the_unreadable_as_wrong():
    assert answer_accuracy(["1", "2", "3", "4"], ["1", "0 2", None, "4"]) == {
        "accuracy": 50.0,
        "unparsable": 25.0,
    }
    assert answer_accuracy([], []) == {"accuracy": 0.0, "unparsable": 0.0}


def test_a_mixture_of_arithmetic_tasks():
    four = ArithmeticTask(digits=(4,), n_train=300, n_validation=40)
    names = [register(SMALL, VOCABULARY), register(four, VOCABULARY)]
    mixture = "test_arithmetic_mixture"
    if mixture not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add(mixture, [(name, 1.0) for name in names])
    texts = [inputs for _, inputs, _ in texts_of(mixture, "train", n=60)]
    counts = [len(text.splitlines()[1].split(" + ")[0].split()) for text in texts]
    assert 10 < counts.count(4) < 50
    assert set(counts) - {4} <= {1, 2, 3}


class _Empty(ArithmeticTask):
    """Arithmetic without a question."""

    def load_questions(self, split):
        return []


def test_an_empty_or_unknown_split_is_refused():
    with pytest.raises(UserError, match="'train' has no questions"):
        _Empty().questions("train")
    with pytest.raises(UserError, match="no split 'test'"):
        TASK.questions("test")


@settings(max_examples=10, deadline=None)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=3, unique=True), st.integers(0, 99))
def test_other_settings_get_their_own_task(digits, seed):
    task = ArithmeticTask(digits=tuple(digits), n_train=30, n_validation=5, seed=seed)
    assert task.name != "arithmetic"
    assert task.name not in seqio.TaskRegistry.names()  # looking at a task registers nothing
    assert {q.group for q in task.questions(TRAIN)} <= {str(n) for n in digits}
    assert register(task, VOCABULARY) == task.name
    assert isinstance(seqio.get_mixture_or_task(task.name).source, seqio.FunctionDataSource)
    assert tf.executing_eagerly()
