import dataclasses
import json

import pytest
import seqio
from tensorflow_datasets.text.gsm8k.gsm8k import Gsm8k

from star_jax.errors import UserError
from star_jax.loop.examples import examples_of
from star_jax.loop.filters import NoHintLeak, RightAnswer, keep
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.seqio_tasks import register, register_paper_tasks
from star_jax.tasks.task import TRAIN, VALIDATION
from tests.tiny import attempt_of, trimmed_by

TASK = GSM8KTask()
DIRECT = GSM8KTask(direct=True)
SOLUTION = (
    "The crates hold 25*40 = <<25*40=1000>>1000 pears.\n"
    "She keeps 1000+80 = <<1000+80=1080>>1080 pears.\n#### 1,080"
)
ROW = {"question": "25 crates hold 40 pears each.  Mia has 80 more. How many?", "answer": SOLUTION}
QUESTION = TASK.question_of("train_00001", ROW)


def rows(n, last="#### 7"):
    return [{"question": f"How many is {i}?", "answer": f"It is {i}.\n{last}"} for i in range(n)]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


# The texts, byte for byte.

PLAIN = """\
Q: 25 crates hold 40 pears each.  Mia has 80 more. How many?
A:"""
HINTED = """\
Q: 25 crates hold 40 pears each.  Mia has 80 more. How many? (1080)
A:"""
GOLD = """\
 The crates hold 25*40 = <<25*40=1000>>1000 pears.
She keeps 1000+80 = <<1000+80=1080>>1080 pears.
#### 1,080"""
SOLUTION_AS_HINT = """\
Q: 25 crates hold 40 pears each.  Mia has 80 more. How many? \
(The crates hold 25*40 = <<25*40=1000>>1000 pears.
She keeps 1000+80 = <<1000+80=1080>>1080 pears.
#### 1,080)
A:"""


def test_a_question_is_written_as_in_the_paper():
    for task in (TASK, DIRECT):
        assert task.question_text(QUESTION, hinted=False) == PLAIN
        assert task.question_text(QUESTION, hinted=True) == HINTED
    assert TASK.gold_completion(QUESTION) == GOLD
    assert DIRECT.gold_completion(QUESTION) == TASK.bare_answer(QUESTION) == " 1080"


def test_the_released_codes_hint_is_the_whole_solution():
    task = GSM8KTask(hint="solution")
    assert task.question_text(QUESTION, hinted=False) == PLAIN
    assert task.question_text(QUESTION, hinted=True) == SOLUTION_AS_HINT
    assert task.name not in (TASK.name, DIRECT.name)
    # The exemplars show the answer alone, there as here.
    assert task.few_shot_examples("", hinted=True) == TASK.few_shot_examples("", hinted=True)
    assert not task.leaks_hint(QUESTION, GOLD)  # or nothing would be kept
    with pytest.raises(UserError, match=r"GSM8KTask.hint = 'all' is none of"):
        GSM8KTask(hint="all")


def test_any_text_but_an_empty_one_is_a_question():
    assert TASK.make_question("q", " What is\n1+1? ").text == "What is 1+1?"
    with pytest.raises(UserError, match="an empty text is no problem"):
        TASK.make_question("q", " \n")


# Answers.


@pytest.mark.parametrize(
    ("completion", "answer", "right", "trimmed"),
    [
        (GOLD, "1080", True, GOLD),
        (" So.\n#### 1080.00 pears\n#### 3", "1080", True, " So.\n#### 1080.00"),
        (" #### 1080", "1080", True, " #### 1080"),  # an empty rationale
        (" So.\n#### 108", "108", False, " So.\n#### 108"),
        (" So.\n#### -1080", "-1080", False, " So.\n#### -1080"),
        (" It is 1080.", None, False, " It is 1080."),
        (" It is 1080.\n\nQ: And?\nA: So.\n#### 1080", None, False, None),
    ],
)
def test_answers_are_numbers_after_the_mark(completion, answer, right, trimmed):
    assert TASK.read(QUESTION, completion).answer == answer
    assert TASK.is_correct(QUESTION, answer) is right
    if trimmed:
        assert trimmed_by(TASK, QUESTION, completion) == trimmed


@pytest.mark.parametrize(
    ("completion", "answer", "trimmed"),
    [
        (" 1080", "1080", " 1080"),
        (" $1,080.\n\nQ: And?", "1080", " $1,080"),
        (" 1080 pears in all", "1080", " 1080"),
        (GOLD, "1080", GOLD),
        (" 25 crates of 40", None, None),
        (" Many", None, None),
    ],
)
def test_direct_answers_may_lack_the_mark(completion, answer, trimmed):
    assert DIRECT.read(QUESTION, completion).answer == answer
    if trimmed:
        assert trimmed_by(DIRECT, QUESTION, completion) == trimmed
    assert DIRECT.is_correct(QUESTION, DIRECT.read(QUESTION, " 1080").answer)


EIGHTEEN = dataclasses.replace(QUESTION, answer="18")


@pytest.mark.parametrize(
    "said",
    ["18{,}000", "18½", "18 million", "18 \\times 10^3", "18k", "18 : 4", "18!", "18/2", "18 1/2"],
)
def test_a_number_that_only_begins_like_the_answer_is_wrong(said):
    reading = TASK.read(EIGHTEEN, f" So.\n#### {said}")
    assert not reading.correct


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("\\boxed{18}", "\\boxed{18}"),
        ("**18**", "**18**"),
        ("$\\boxed{18}$.", "$\\boxed{18}$"),
        ("**18 dollars** in all", "**18 dollars**"),
        ("(18) dollars", "(18)"),
        ("18 dollars", "18"),
        ("18.00.", "18.00"),
    ],
)
def test_an_answer_is_kept_with_all_of_its_brackets(said, kept):
    completion = f" So.\n#### {said}"
    assert TASK.read(EIGHTEEN, completion).correct
    assert trimmed_by(TASK, EIGHTEEN, completion) == f" So.\n#### {kept}"


@pytest.mark.parametrize("answer", ["1080", "1,080", "1080.0", "$1080", "2160/2"])
def test_answers_are_compared_as_numbers(answer):
    assert TASK.is_correct(QUESTION, answer)
    assert TASK.is_correct(dataclasses.replace(QUESTION, answer=answer), "1080")
    assert not TASK.is_correct(dataclasses.replace(QUESTION, answer=answer), "1081")


@pytest.mark.parametrize(
    ("rationale", "leaks"),
    [
        (GOLD, False),
        (" She has 1000+80 (1080) pears.\n#### 1080", True),
        (" The answer is (1,080.0).\n#### 1080", True),
        (" The hint says 1080.\n#### 1080", True),
        (" She has (25*40)+80 = (1000)+80 pears.\n#### 1080", False),
        (" A hint of pears.\n#### 1080", False),
    ],
)
def test_rationales_that_repeat_the_hint_are_counted_and_not_kept(rationale, leaks):
    assert TASK.leaks_hint(QUESTION, rationale) is leaks
    attempts = [attempt_of(TASK, QUESTION, rationale + "\n(1080)", hinted=True)]
    right, dropped = keep(attempts, (RightAnswer(), NoHintLeak()))
    kept = examples_of(right, [QUESTION], TASK)
    assert dropped["no_hint_leak"] == {"rationalize": leaks}
    assert [(k.prompt, k.completion) for k in kept] == ([] if leaks else [(PLAIN, rationale)])


# The data.


def test_questions_come_from_the_published_file(tmp_path):
    train = write(tmp_path / "train.jsonl", [ROW, *rows(3)])
    test = write(tmp_path / "test.jsonl", rows(2, "#### -1,234.50"))
    task = GSM8KTask(train_file=train, validation_file=test)
    assert task.questions(TRAIN)[0] == QUESTION
    assert [q.id for q in task.questions(TRAIN)] == [f"train_0000{i}" for i in (1, 2, 3, 4)]
    assert [(q.id, q.answer) for q in task.questions(VALIDATION)] == [
        ("validation_00001", "-1234.5"),
        ("validation_00002", "-1234.5"),
    ]


def test_without_a_test_file_the_last_lines_may_be_held_out(tmp_path):
    train = write(tmp_path / "train.jsonl", rows(5))
    task = GSM8KTask(train_file=train, held_out=2)
    assert [q.id for q in task.questions(TRAIN)] == ["train_00001", "train_00002", "train_00003"]
    assert [q.id for q in task.questions(VALIDATION)] == ["train_00004", "train_00005"]
    with pytest.raises(UserError, match=r"bind GSM8KTask.validation_file or hold .* held_out"):
        GSM8KTask(train_file=train).questions(VALIDATION)
    with pytest.raises(UserError, match=r"GSM8KTask.held_out = 2"):
        GSM8KTask(train_file=train, validation_file=train, held_out=2)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "How many?"}, "line 2: has no field 'answer'"),
        ({"question": "", "answer": "#### 1"}, "line 2: field 'question' is \"\""),
        ({"question": "How many?", "answer": 7}, "line 2: field 'answer' is 7"),
        ({"question": "How many?", "answer": "7"}, "line 2: its solution has no number after '##"),
        ({"question": "How many?", "answer": "#### many"}, "line 2: its solution has no number"),
    ],
)
def test_a_malformed_row_is_reported_by_file_and_line(tmp_path, row, message):
    file = write(tmp_path / "train.jsonl", [ROW, row])
    with pytest.raises(UserError, match=f"^{file}, {message}"):
        GSM8KTask(train_file=file).questions(TRAIN)


class FewProblems(Gsm8k, skip_registration=True):
    """TFDS's own builder over a few problems, without the download."""

    name = "gsm8k"
    code_path = None  # where TFDS would look for checksums
    files = ()

    def _split_generators(self, dl_manager):
        splits = zip(("train", "test"), self.files, strict=True)
        return {split: self._generate_examples(file) for split, file in splits}


def test_questions_come_through_tfds_and_its_test_split_is_for_validation(tmp_path, monkeypatch):
    files = write(tmp_path / "train.jsonl", [ROW] * 2), write(tmp_path / "test.jsonl", rows(1))
    monkeypatch.setattr(FewProblems, "files", files)
    FewProblems(data_dir=tmp_path / "tfds").download_and_prepare()
    task = GSM8KTask(data_dir=str(tmp_path / "tfds"))
    again = dataclasses.replace(QUESTION, id="train_00002")
    assert task.questions(TRAIN) == [QUESTION, again]
    (question,) = task.questions(VALIDATION)
    assert (question.id, question.text) == ("validation_00001", "How many is 0?")


def test_missing_tfds_data_are_reported_with_the_ways_out(tmp_path):
    with pytest.raises(UserError) as raised:
        GSM8KTask(data_dir=str(tmp_path)).questions(TRAIN)
    for part in ("'gsm8k'", str(tmp_path), "launch/fetch.py", "GSM8KTask.train_file"):
        assert part in raised.value.message


# As seqio tasks.


@pytest.fixture
def files(tmp_path):
    return GSM8KTask(train_file=write(tmp_path / "train.jsonl", [ROW, *rows(2)]), held_out=1)


def documents_of(task, variant=""):
    name = register(task, seqio.ByteVocabulary()) + variant
    dataset = seqio.get_mixture_or_task(name).get_dataset(None, split=TRAIN, shuffle=False)
    vocabulary = seqio.ByteVocabulary()
    return [
        (vocabulary.decode(x["inputs"].tolist()), vocabulary.decode(x["targets"].tolist()))
        for x in dataset.as_numpy_iterator()
    ]


def test_seqio_gives_the_texts_of_each_variant(files):
    assert (TASK.name, DIRECT.name) == ("gsm8k", "gsm8k_direct")
    assert {"gsm8k", "gsm8k_direct"} <= set(register_paper_tasks())
    assert {"gsm8k", "gsm8k_hinted", "gsm8k_direct"} <= set(seqio.TaskRegistry.names())
    assert documents_of(files)[0] == (PLAIN, GOLD)
    assert documents_of(files, "_hinted")[0] == (HINTED, GOLD)
    assert documents_of(dataclasses.replace(files, direct=True))[0] == (PLAIN, " 1080")


def test_seqio_compares_numbers(files):
    task = seqio.get_mixture_or_task(register(files, seqio.ByteVocabulary()))
    raw = next(task.source.get_dataset(TRAIN, shuffle=False).as_numpy_iterator())
    raw["answer"] = b"1,080.00"  # as another data set might write it
    target = task.postprocess_fn("ignored", example=raw, is_target=True)
    outputs = [GOLD, "#### 1080", "#### $1,080.0", "#### 1081", "1080"]
    predictions = [task.postprocess_fn(x, example=raw, is_target=False) for x in outputs]
    (metric,) = task.metric_fns
    assert metric([target] * 5, predictions) == {"accuracy": 60.0, "unparsable": 20.0}


@pytest.mark.parametrize(
    ("field", "value"), [("held_out", 0.5), ("held_out", "a"), ("train_file", 5), ("direct", "yes")]
)
def test_settings_of_the_wrong_type_are_reported(field, value):
    with pytest.raises(UserError, match=rf"GSM8KTask\.{field} = '{value}' is not"):
        GSM8KTask(**{field: value})


def test_half_a_character_is_a_malformed_row(tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text('{"question": "What is \\ud800?", "answer": "1\\n#### 1"}\n')
    with pytest.raises(UserError, match="half a character"):
        GSM8KTask(train_file=str(path)).questions("train")
