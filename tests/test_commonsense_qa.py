import dataclasses
import json

import pytest
import seqio

from star_jax.errors import UserError
from star_jax.loop.examples import examples_of
from star_jax.loop.filters import NoHintLeak, RightAnswer, keep
from star_jax.tasks import rows
from star_jax.tasks.arithmetic import ArithmeticTask
from star_jax.tasks.builders.commonsense_qa import CommonsenseQA, flatten
from star_jax.tasks.commonsense_qa import CommonsenseQATask, choices_of
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.seqio_tasks import register, register_paper_tasks
from star_jax.tasks.task import TRAIN, VALIDATION
from tests.tiny import attempt_of, trimmed_by

TASK = CommonsenseQATask()
DIRECT = CommonsenseQATask(direct=True)
ROW = {
    "id": "id_1",
    "answerKey": "C",
    "question": {
        "question_concept": "kettle",
        "stem": "What does a kettle sing about?",
        "choices": [
            {"label": "A", "text": "the sea"},
            {"label": "B", "text": "its youth"},
            {"label": "C", "text": "boiling water"},
            {"label": "D", "text": "cold tea"},
            {"label": "E", "text": "spoons"},
        ],
    },
}
QUESTION = TASK.question_of("", ROW)
RATIONALE = " A kettle sings when its water boils. Therefore, the answer is boiling water (c)."


def row(id_="id_1", answer="C", **question):
    return {**ROW, "id": id_, "answerKey": answer, "question": {**ROW["question"], **question}}


def write(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(path)


@pytest.fixture
def files(tmp_path):
    """A task over two training questions and one validation question."""
    train = write(tmp_path / "train.jsonl", [row("id_1"), row("id_2", "A", stem="Who purrs?")])
    return CommonsenseQATask(
        train_file=train, validation_file=write(tmp_path / "dev.jsonl", [row("id_3", "B")])
    )


# The texts, byte for byte.

PLAIN = """\
Q: What does a kettle sing about?
Answer Choices:
(a) the sea
(b) its youth
(c) boiling water
(d) cold tea
(e) spoons
A:"""
HINTED = """\
Q: What does a kettle sing about?
Answer Choices:
(a) the sea
(b) its youth
(c) boiling water (CORRECT)
(d) cold tea
(e) spoons
A:"""


def test_a_question_is_written_as_in_the_paper():
    for task in (TASK, DIRECT):
        assert task.question_text(QUESTION, hinted=False) == PLAIN
        assert task.question_text(QUESTION, hinted=True) == HINTED
    assert (QUESTION.id, QUESTION.answer) == ("id_1", "c")


def test_completions_begin_with_the_space_after_the_colon():
    assert DIRECT.gold_completion(QUESTION) == TASK.bare_answer(QUESTION) == " (c)."
    assert TASK.gold_completion(QUESTION) is None
    for letter in "abcde":
        question = dataclasses.replace(QUESTION, answer=letter)
        assert TASK.is_correct(question, TASK.read(question, TASK.bare_answer(question)).answer)


def test_a_hint_marks_the_right_choice_alone():
    words = ["spoon", "spoon (e) spoon", "spoon"]  # choices may be alike, and look like labels
    choices = [{"label": x, "text": y} for x, y in zip("ABC", words, strict=True)]
    question = TASK.question_of("", row("x", "C", choices=choices))
    assert choices_of(question.text) == dict(zip("abc", words, strict=True))
    hinted = TASK.question_text(question, hinted=True).splitlines()
    assert [line for line in hinted if "CORRECT" in line] == ["(c) spoon (CORRECT)"]


def test_spaces_stay_and_line_breaks_do_not():
    question = TASK.question_of("", row(stem=" Who  is it?\n\nSay \tso. "))
    assert question.text.splitlines()[0] == "Who  is it? Say \tso."
    choices = [{"label": "A", "text": "a\nb"}, {"label": "B", "text": " c "}]
    question = TASK.question_of("", row("x", "B", choices=choices))
    assert choices_of(question.text) == {"a": "a b", "b": "c"}


@pytest.mark.parametrize(
    "text",
    [
        "What does a kettle sing about? (a) the sea (b) its youth (c) boiling water (d) cold tea "
        "(e) spoons",
        PLAIN.removeprefix("Q: ").removesuffix("\nA:"),
        PLAIN.removesuffix("\nA:"),
        "What does a kettle sing about?\n(A) the sea\n(B) its youth\n(C) boiling water\n"
        "(D) cold tea\n(E) spoons\n",
    ],
)
def test_users_may_write_a_question_on_one_line_or_several(text):
    assert TASK.make_question("id_1", text) == dataclasses.replace(QUESTION, answer="")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a question with choices"),
        ("What is wet?", "is not a question with choices"),
        ("(a) sand (b) water", "is not a question with choices"),
        ("What is wet? (a) sand", "is not a question with choices"),
        ("What is wet? (a) sand (b) ", "is not a question with choices"),
        ("What is wet? (a) sand (c) water", r"labelled \['a', 'c'\]"),
        ("What is wet? (a) sand (a) water", r"labelled \['a', 'a'\]"),
    ],
)
def test_what_has_no_choices_is_no_question(text, message):
    with pytest.raises(UserError, match=message):
        TASK.make_question("q", text)


# Answers.


def test_only_letters_of_the_question_are_answers():
    assert TASK.read(QUESTION, RATIONALE).answer == "c"
    assert TASK.read(QUESTION, "The answer is (f).").answer is None
    assert TASK.read(QUESTION, " (c) boiling water").answer == "c"
    two = TASK.make_question("", "What is wet? (a) sand (b) water")
    assert TASK.read(two, "The answer is (b).").answer == "b"
    assert TASK.read(two, "The answer is (c).").answer is None
    assert not TASK.is_correct(QUESTION, None)
    assert not TASK.is_correct(QUESTION, "d")


def attempts(*completions, hinted=True):
    return [attempt_of(TASK, QUESTION, x, hinted) for x in completions]


def test_a_kept_example_ends_with_its_answer_and_has_no_hint():
    (kept,) = examples_of(attempts(RATIONALE + "\n\nQ: Who purrs?"), [QUESTION], TASK)
    assert (kept.prompt, kept.completion) == (PLAIN, RATIONALE)


@pytest.mark.parametrize(
    ("rationale", "leaks"),
    [
        (RATIONALE, False),
        (" Water boils. So it is boiling water (CORRECT). The answer is (c).", True),
        (" The third one is (correct). The answer is boiling water (c).", True),
        ("\n(c) boiling water (CORRECT)\nThe answer is (c).", True),
        (" As the hint says, the answer is (c).", True),
        (" Choice (c) is marked as correct. The answer is (c).", True),
        (" The hint of steam shows it. The answer is (c).", False),
        (" It is correct that water boils. The answer is (c).", False),
    ],
)
def test_rationales_that_repeat_the_hint_are_counted_and_not_kept(rationale, leaks):
    assert TASK.leaks_hint(QUESTION, rationale) is leaks
    hinted = attempts(rationale)
    kept, dropped = keep(hinted, (RightAnswer(), NoHintLeak()))
    assert (len(kept), dropped["no_hint_leak"]["rationalize"]) == (1 - leaks, leaks)
    # Without a hint there is none to be repeated; after the answer it does not matter.
    for others in (attempts(rationale, hinted=False), attempts(RATIONALE + "\n(CORRECT)")):
        assert keep(others, (RightAnswer(), NoHintLeak()))[0] == others


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        (RATIONALE, "c"),
        (RATIONALE + "\nThe answer is (d).", "c"),
        (RATIONALE.removesuffix("."), None),
        (" Take the cab.", "a"),
        (" boiling water (c)", None),
        (" (C).", "c"),
        ("", None),
        ("c", None),
    ],
)
def test_the_released_codes_way_reads_the_third_character_from_the_end(output, letter):
    task = CommonsenseQATask(answer_by_position=True)
    assert task.read(QUESTION, output).answer == letter
    assert trimmed_by(task, QUESTION, output) == output.partition("\n")[0]
    assert task.name not in (TASK.name, DIRECT.name)


# The data.


def test_questions_come_from_the_published_files(files):
    train, validation = files.questions(TRAIN), files.questions(VALIDATION)
    assert [(q.id, q.answer) for q in train] == [("id_1", "c"), ("id_2", "a")]
    assert train[0] == QUESTION
    assert [(q.id, q.answer) for q in validation] == [("id_3", "b")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2: not JSON"),
        ("[" * 100_000, "line 2: not JSON"),
        ("[]", "line 2: has no field 'question.stem'"),
        ("7", "line 2: has no field 'question.stem'"),
        (json.dumps({**ROW, "question": {}}), "line 2: has no field 'question.stem'"),
        (json.dumps(row(stem=" ")), "line 2: field 'question.stem' is \" \", which is not a text"),
        (json.dumps(row(stem=7)), "line 2: field 'question.stem' is 7"),
        (json.dumps(row(choices=[])), "line 2: has no list of at least two"),
        (json.dumps(row(choices=["x", "y"])), "line 2: has no field 'label'"),
        (json.dumps(row(answer="F")), r"line 2: has the answer 'F', which is none of"),
        (json.dumps({**ROW, "answerKey": None}), "line 2: field 'answerKey' is null"),
        (
            json.dumps({k: v for k, v in ROW.items() if k != "answerKey"}),
            "line 2: has no field 'answerKey'",
        ),
        (json.dumps(row("id_1")), "line 2: its id 'id_1' is not unique"),
        (
            json.dumps(row(choices=[{"label": "B", "text": "x"}] * 2)),
            r"line 2: .* labelled \['b', 'b'\]",
        ),
    ],
)
def test_a_malformed_row_is_reported_by_file_and_line(tmp_path, line, message):
    file = tmp_path / "train.jsonl"
    file.write_text(json.dumps(ROW) + "\n" + line + "\n")
    with pytest.raises(UserError, match=f"^{file}, {message}") as raised:
        CommonsenseQATask(train_file=str(file)).questions(TRAIN)
    assert "\n" not in raised.value.message


def test_files_that_cannot_be_read_are_reported(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the data file .*nowhere.jsonl"):
        CommonsenseQATask(train_file=str(tmp_path / "nowhere.jsonl")).questions(TRAIN)
    (tmp_path / "latin.jsonl").write_bytes(b'{"id": "\xe9"}\n')
    with pytest.raises(UserError, match=r"cannot read the data file .*latin.jsonl"):
        CommonsenseQATask(train_file=str(tmp_path / "latin.jsonl")).questions(TRAIN)
    empty = write(tmp_path / "empty.jsonl", [])
    with pytest.raises(UserError, match="'train' has no questions"):
        CommonsenseQATask(train_file=empty).questions(TRAIN)


def test_a_missing_split_is_reported_with_the_bindings_that_give_it(tmp_path):
    file = write(tmp_path / "x.jsonl", [row(f"id_{i}") for i in range(5)])
    with pytest.raises(UserError, match=r"CommonsenseQATask.validation_file is empty.*held_out"):
        CommonsenseQATask(train_file=file).questions(VALIDATION)
    with pytest.raises(UserError, match=r"CommonsenseQATask.train_file is empty"):
        CommonsenseQATask(validation_file=file).questions(TRAIN)
    with pytest.raises(UserError, match=r"held_out = 5, but .* has 5 questions"):
        CommonsenseQATask(train_file=file, held_out=5).questions(TRAIN)
    halves = CommonsenseQATask(train_file=file, held_out=2)
    assert [q.id for q in halves.questions(TRAIN)] == ["id_0", "id_1", "id_2"]
    assert [q.id for q in halves.questions(VALIDATION)] == ["id_3", "id_4"]


@pytest.mark.parametrize(
    "fields",
    [
        {"held_out": -1},
        {"held_out": 3},
        {"held_out": 3, "train_file": "a", "validation_file": "b"},
        {"train_file": "a", "validation_file": "a"},
        {"hinted_exemplar_file": "a"},
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields):
    with pytest.raises(UserError, match=f"CommonsenseQATask.{next(iter(fields))}"):
        CommonsenseQATask(**fields)


class FewQuestions(CommonsenseQA, skip_registration=True):
    """The builder over three questions, without the download."""

    name = "commonsense_qa"
    code_path = None  # where TFDS would look for checksums

    def _split_generators(self, dl_manager):
        splits = [row("id_1"), row("id_2", "E")], [row("id_3", "B")]
        pairs = [[(x["id"], flatten(x)) for x in split] for split in splits]
        return dict(zip((TRAIN, VALIDATION), pairs, strict=True))


def test_questions_come_through_tfds(tmp_path):
    FewQuestions(data_dir=tmp_path).download_and_prepare()
    task = CommonsenseQATask(data_dir=str(tmp_path))
    assert task.questions(TRAIN)[0] == QUESTION
    assert [(q.id, q.answer) for q in task.questions(TRAIN)] == [("id_1", "c"), ("id_2", "e")]
    assert [(q.id, q.answer) for q in task.questions(VALIDATION)] == [("id_3", "b")]


def test_registering_a_task_reads_no_data(monkeypatch):
    def read(*args):
        pytest.fail("data were read")

    monkeypatch.setattr(rows, "read_tfds", read)
    monkeypatch.setattr(rows, "read_lines", read)
    for task in (CommonsenseQATask(data_dir="nowhere"), CommonsenseQATask(train_file="nowhere")):
        name = register(task, seqio.ByteVocabulary())
        assert set(seqio.get_mixture_or_task(name).splits) == {TRAIN, VALIDATION}


def test_missing_tfds_data_are_reported_with_the_ways_out(tmp_path):
    with pytest.raises(UserError) as raised:
        CommonsenseQATask(data_dir=str(tmp_path)).questions(TRAIN)
    for part in ("'commonsense_qa'", str(tmp_path), "launch/fetch.py", "CommonsenseQATask.train_"):
        assert part in raised.value.message


# As seqio tasks.


def documents_of(task, variant="", split=TRAIN):
    name = register(task, seqio.ByteVocabulary()) + variant
    dataset = seqio.get_mixture_or_task(name).get_dataset(None, split=split, shuffle=False)
    vocabulary = seqio.ByteVocabulary()
    return [
        (vocabulary.decode(x["inputs"].tolist()), vocabulary.decode(x["targets"].tolist()))
        for x in dataset.as_numpy_iterator()
    ]


def test_the_papers_task_is_registered_in_its_variants_when_it_is_registered():
    register_paper_tasks()
    for name in ("commonsense_qa", "commonsense_qa_hinted", "commonsense_qa_direct"):
        task = seqio.get_mixture_or_task(name)
        assert task.output_features["targets"].vocabulary == seqio.ByteVocabulary()
        assert set(task.source.splits) == {TRAIN, VALIDATION}
    assert (TASK.name, DIRECT.name) == ("commonsense_qa", "commonsense_qa_direct")


def test_seqio_gives_questions_and_bare_answers(files):
    # There are no gold rationales, and an empty target would teach a model to say nothing.
    assert documents_of(files)[0] == (PLAIN, " (c).")
    assert documents_of(files, "_hinted")[0] == (HINTED, " (c).")
    assert documents_of(dataclasses.replace(files, direct=True))[0] == (PLAIN, " (c).")


def test_seqio_scores_through_the_answer_parser(files):
    task = seqio.get_mixture_or_task(register(files, seqio.ByteVocabulary()))
    raw = next(task.source.get_dataset(TRAIN, shuffle=False).as_numpy_iterator())
    target = task.postprocess_fn("ignored", example=raw, is_target=True)
    outputs = [RATIONALE, "The answer is (d).", "Some kettle"]
    predictions = [task.postprocess_fn(x, example=raw, is_target=False) for x in outputs]
    assert (target, predictions) == ("c", ["c", "d", None])
    (metric,) = task.metric_fns
    assert metric([target] * 3, predictions) == {
        "accuracy": pytest.approx(100 / 3),
        "unparsable": pytest.approx(100 / 3),
    }


def test_a_mixture_of_all_three_tasks(tmp_path, files):
    problems = write(tmp_path / "gsm8k.jsonl", [{"question": "1+1?", "answer": "#### 2"}] * 3)
    mixed = {
        "mixed_sums": ArithmeticTask(digits=(1,), n_train=10, n_validation=5),
        "mixed_common_sense": files,
        "mixed_problems": GSM8KTask(train_file=problems, held_out=1),
    }
    for name, task in mixed.items():
        register(task, seqio.ByteVocabulary(), name)
    if "mixed" not in seqio.MixtureRegistry.names():
        seqio.MixtureRegistry.add("mixed", [(name, 1.0) for name in mixed])
    dataset = seqio.get_mixture_or_task("mixed").get_dataset(
        {"inputs": 512, "targets": 512}, split=TRAIN, shuffle=False, num_epochs=None
    )
    inputs = [
        seqio.ByteVocabulary().decode(x["inputs"].tolist())
        for x in dataset.take(60).as_numpy_iterator()
    ]
    assert sum(x.startswith("Input:\n") for x in inputs) > 5
    assert sum("\nAnswer Choices:\n" in x for x in inputs) > 5
    assert sum(x == "Q: 1+1?\nA:" for x in inputs) > 5
