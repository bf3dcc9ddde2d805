"""A user's own questions: templates, answers, malformed lines, splits, and the worked example."""

import functools
import gzip
import json
import re
import unicodedata
from pathlib import Path
from unittest import mock

import gin
import jax
import pytest
import seqio
from hypothesis import given
from hypothesis import strategies as st

from star_jax.errors import UserError
from star_jax.main import main
from star_jax.models.base_weights import Base
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import make_mesh
from star_jax.records import Question
from star_jax.tasks import jsonl_file, rows
from star_jax.tasks.corpus import JsonlCorpus, jsonl_vocabulary
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.rows import EXAMPLES
from star_jax.tasks.seqio_tasks import register
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.tasks.text_task import KINDS
from star_jax.training import trainer
from tests import tiny
from tests.tiny import trimmed_by

EXAMPLE = "bus_line.jsonl"
RUN_FILE = "runs/own_questions.gin"
CHOICES = {"a": "sand", "b": "rain", "c": "the hot wind"}


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def write(folder, rows, name="own.jsonl"):
    """Writes rows, or lines as they are, into a file and returns its path."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path = folder / name
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def rows_of(n, **more):
    return [{"question": f"What is {i} ?", "answer": f"thing {i}", **more} for i in range(n)]


def all_questions(task):
    return task.questions(TRAIN) + task.questions(VALIDATION)


def choice_task():
    return JsonlTask("own.jsonl", answer_kind="choice", choices_field="choices")


def make(task, row):
    return task.question_of("line_00001", row)


# Templates.


def test_prompts_have_the_question_and_only_hinted_ones_the_answer():
    task = JsonlTask("own.jsonl")
    question = Question("q", "Which is {wet}?\nThink.", "rain {answer}")
    assert task.question_text(question, False) == "Q: Which is {wet}?\nThink.\nA:"
    hinted = task.question_text(question, True)
    assert hinted == "Q: Which is {wet}?\nThink.\n(Hint: rain {answer})\nA:"


def test_double_braces_are_braces():
    task = JsonlTask("own.jsonl", template="{{x}} {question}:")
    assert task.question_text(Question("q", "why", "a"), False) == "{x} why:"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"template": "Q: {questoin}"}, "for braces); did you mean 'question'?"),
        ({"template": "Q: {question.__class__}"}, "{question.__class__}"),
        ({"template": "Q: {question!r}"}, "{question!r}"),
        ({"template": "Q: {question:>9}"}, "{question>9}"),
        ({"template": "Q: {question} {0}"}, "{0}"),
        ({"template": "Q: {question} {answer}"}, "unknown placeholder {answer}"),
        ({"template": "Q: {question"}, "JsonlTask.template"),
        ({"template": ""}, "lacks {question}"),
        ({"template": 3}, "JsonlTask.template"),
        ({"hint_template": "Q: {question}\nA:"}, "lacks {answer}"),
        ({"hint_template": "Q: {question}\n{answer}\nA:"}, "alone on a line"),
        ({"hint_template": "Q: {question} ({answer})\nA:\n"}, "both end"),
        ({"hint_template": "Q: {question} ({answer})\nA:  "}, "as many spaces"),
        ({"encoding": None}, "JsonlTask.encoding = 'None' is not a text in quotes"),
        ({"answer_kind": "numbers"}, "did you mean 'number'?"),
        ({"answer_kind": "choice"}, "choices_field"),
        ({"choices_field": "choices"}, "choices_field is for the kind 'choice'"),
        ({"answer_kind": "regex"}, "answer_pattern"),
        ({"answer_kind": "regex", "answer_pattern": "(a"}, "no regular expression"),
        ({"answer_kind": "regex", "answer_pattern": "a+"}, "has 0 groups"),
        ({"answer_kind": "regex", "answer_pattern": "(a)(b)"}, "has 2 groups"),
        ({"held_out": 1.5}, "held_out = 1.5"),
        ({"held_out": -1}, "held_out = -1"),
        ({"held_out": True}, "held_out = True"),
        ({"held_out": 0}, "validation_path"),
        ({"validation_path": "other.jsonl"}, "validation_path"),
        ({"tolerated_share": 2}, "tolerated_share = 2"),
        ({"tolerated_share": "all"}, "tolerated_share = 'all'"),
        ({"hinted_exemplar_file": "x.txt"}, "needs its plain version"),
    ],
)
def test_wrong_settings_are_one_line_that_names_them(settings, said):
    with pytest.raises(UserError) as error:
        JsonlTask("own.jsonl", **settings)
    assert said in error.value.message
    assert "\n" not in error.value.message


# Answers.

NUMBER = {"answer_kind": "number"}
REGEX = {"answer_kind": "regex", "answer_pattern": r"^=> (?:is )?(\w+)"}


@pytest.mark.parametrize(
    ("settings", "completion", "answer", "right"),
    [
        ({}, " It is wet.\nThe answer is rain", "rain", True),
        ({}, "The answer is  The  RAIN.", "The  RAIN", False),
        ({}, 'The answer is: "Rain".', "Rain", True),
        ({}, "The answer is rain\nThe answer is sand", "rain", True),
        ({}, "The answer is sand\nThe answer is rain", "sand", False),
        ({}, "rain", None, False),
        ({}, "The answer is\nrain", None, False),
        ({}, "So:\nQ: What next?\nThe answer is rain", None, False),
        ({}, "So the answer is rain.", "rain", True),
        ({}, "THE ANSWER IS Rain", "Rain", True),
        ({}, "If the answer is sand, ...\nThe answer is rain", "rain", True),
        ({"answer_mark": "=>"}, "wet => rain", "rain", True),
        ({"answer_mark": ""}, "\nrain\nor so", "rain", True),
        ({"direct": True}, " Rain!\nsand", "Rain", True),
        ({"direct": True}, " The answer is rain", "rain", True),
        ({"template": "Input: {question}\nA:"}, "?\nInput: more\nThe answer is rain", None, False),
        (REGEX, "so\n=> is Rain and more", "Rain", True),
        (REGEX, "=> sand\n=> rain", "sand", False),
        (REGEX, "so => rain", None, False),
        (REGEX, "=> sand\n" + "x" * 4000 + "\n=> rain", "rain", True),
        ({**REGEX, "direct": True}, " rain", "rain", True),
    ],
)
def test_texts_are_read_and_compared(settings, completion, answer, right):
    task, question = JsonlTask("own.jsonl", **settings), Question("q", "Which is wet?", "rain")
    assert task.read(question, completion).answer == answer
    assert task.is_correct(question, answer) is right


@pytest.mark.parametrize(
    ("settings", "completion", "answer", "right"),
    [
        (NUMBER, "The answer is $1,000.00.", "1000", True),
        (NUMBER, "The answer is 1e3", "1000", True),
        (NUMBER, "The answer is 1001", "1001", False),
        (NUMBER, "So the answer is 1000.", "1000", True),
        (NUMBER, "The answer is 1{,}000 in all.", "1000", True),
        (NUMBER, "The answer is 1000 million", None, False),
        (NUMBER, "1000", None, False),
        ({**NUMBER, "answer_mark": "####"}, "10*100\n#### 1000", "1000", True),
        ({**NUMBER, "direct": True}, " 1000", "1000", True),
    ],
)
def test_numbers_are_read_and_compared(settings, completion, answer, right):
    task, row = JsonlTask("own.jsonl", **settings), {"question": "How many?", "answer": "1,000.0"}
    question = make(task, row)
    assert question.answer == "1000"
    assert task.read(question, completion).answer == answer
    assert task.is_correct(question, answer) is right


def test_numbers_in_json_are_taken_as_they_are_written(tmp_path):
    digits = "0.1234567890123456789"
    lines = [f'{{"question": 1.10, "answer": {digits}{last}}}' for last in "01"]
    path = write(tmp_path, [*lines, *rows_of(1, answer="7"), '{"question": "?", "answer": 1e2}'])
    task = JsonlTask(
        path, validation_path=write(tmp_path, rows_of(1, question="!"), "v.jsonl"), held_out=0
    )
    assert [q.answer for q in task.questions(TRAIN)] == [digits + "0", digits + "1", "7", "1e2"]
    assert task.questions(TRAIN)[0].text == "1.10"
    number = make(JsonlTask("x", **NUMBER), json.loads(lines[1], parse_float=rows.Written))
    assert number.answer == digits + "1"
    assert not JsonlTask("x", **NUMBER).is_correct(number, digits)


def test_a_text_of_one_character_is_an_answer_unless_it_is_a_letter():
    row = {"question": "Which?", "choices": ["x", "7", "a"]}
    answers = [make(choice_task(), {**row, "answer": text}).answer for text in ("x", "7", "a")]
    assert answers == ["a", "b", "a"]


def test_choices_can_be_weighed_by_their_text():
    task = choice_task()
    question = make(task, {"question": "Which?", "answer": "b", "choices": ["ink", "(x) sand"]})
    assert task.choices(question) == {"a": " ink", "b": " (x) sand"}
    assert task.open_text(question) == "Q: Which?\nA:"
    plain = JsonlTask("own.jsonl")
    other = make(plain, {"question": "Why?", "answer": "so"})
    assert (plain.choices(other), plain.open_text(other)) == ({}, "Q: Why?\nA:")


@pytest.mark.parametrize("answer", ["b", "B", "rain", "Rain"])
@pytest.mark.parametrize("choices", [CHOICES, list(CHOICES.values())])
def test_choices_are_letters_or_their_texts(answer, choices):
    task = choice_task()
    question = make(task, {"question": "Which?", "answer": answer, "choices": choices})
    assert question.answer == "b"
    shown = "Q: Which?\nAnswer Choices:\n(a) sand\n(b) rain\n(c) the hot wind\n"
    assert task.question_text(question, False) == shown + "A:"
    assert task.question_text(question, True) == shown + "(Hint: b)\nA:"
    assert task.read(question, " Clouds. Therefore, the answer is rain (b).").answer == "b"
    assert task.read(question, " It is hot.").answer is None
    assert task.bare_answer(question) == " (b)."
    typed = task.make_question("q", "Which? (a) sand (b) rain (c) the hot wind")
    assert typed.text == question.text


@pytest.mark.parametrize("kind", KINDS)
def test_a_rationale_is_completed_by_its_answer_and_trimmed_after_it(kind):
    settings = {
        "choice": {"choices_field": "choices"},
        "regex": {"answer_pattern": r"The answer is (\w+)"},
    }
    task = JsonlTask("x", rationale_field="why", answer_kind=kind, **settings.get(kind, {}))
    row = {"question": "Which?", "answer": "7", "choices": ["6", "7"], "why": "Just so."}
    row["answer"] = "b" if kind == "choice" else "7"
    question = make(task, row)
    ending = "(b)." if kind == "choice" else "7"
    assert task.gold_completion(question) == f" Just so.\nThe answer is {ending}"
    again = make(task, {**row, "why": task.gold_completion(question)})
    assert again.solution == question.solution
    written_on = task.gold_completion(question) + "\nQ: another"
    assert trimmed_by(task, question, written_on) == task.gold_completion(question)
    without = make(task, {**row, "why": ""})
    assert task.gold_completion(without) is None


def test_a_completion_begins_where_its_template_ends():
    line = JsonlTask("x", template="{question}\n", hint_template="{question} {answer}!\n")
    assert line.bare_answer(Question("q", "?", "rain")) == "rain"
    assert JsonlTask("x").bare_answer(Question("q", "?", "rain")) == " rain"


@pytest.mark.parametrize("end", ["", " ", "  ", "\t", "\n "])
def test_a_space_that_a_template_ends_in_begins_the_completion(end):
    task = JsonlTask("x", template="Q: {question}\nA:" + end,
                     hint_template="Q: {question} ({answer})\nA:" + end)  # fmt: skip
    question = Question("q", "Which?", "rain", solution="So.\nThe answer is rain")
    for prompt in (*(task.question_text(question, h) for h in (False, True)),
                   task.open_text(question)):  # fmt: skip
        assert prompt.endswith("A:" + "\n" * end.count("\n"))
        assert prompt + task.bare_answer(question) == prompt + (end.strip("\n") or " ") + "rain"
        assert task.gold_completion(question).startswith((end.strip("\n") or " ") + "So.")


def test_spaces_at_the_end_of_one_template_alone_are_the_default():
    assert JsonlTask("x", template="Q: {question}\nA: ").lead == " "


def test_what_has_no_answer_is_not_trimmed():
    said = " Rain is water, and so on"
    assert JsonlTask("x").find_answer(Question("q", "Which?", "rain"), said) == (None, len(said))


def test_a_repeated_hint_is_a_leak_and_the_answer_alone_is_none():
    task, question = JsonlTask("x"), Question("q", "Which?", "rain")
    assert task.leaks_hint(question, " (Hint: rain)\nThe answer is rain")
    assert not task.leaks_hint(question, " Wet.\nThe answer is rain")


@given(st.text(), st.sampled_from(KINDS), st.booleans())
def test_reading_never_raises_and_trimming_keeps_the_answer(text, kind, direct):
    settings = {"choice": {"choices_field": "c"}, "regex": {"answer_pattern": r"is (\w+)"}}
    task = JsonlTask("x", answer_kind=kind, direct=direct, **settings.get(kind, {}))
    question = Question("q", "Which?\nAnswer Choices:\n(a) sand\n(b) rain", "a")
    for completion in (text, f" so\nThe answer is {text}", f"The answer is b\n{text}"):
        answer = task.read(question, completion).answer
        trimmed = trimmed_by(task, question, completion)
        assert completion.startswith(trimmed)
        assert answer is None or task.read(question, trimmed).answer == answer


# Files.


@pytest.mark.parametrize(
    ("line", "settings", "reason"),
    [
        ("{not json", {}, "not JSON"),
        ("[1, 2]", {}, "not an object"),
        ({"questions": "?", "answer": "a"}, {}, "did you mean 'questions'?"),
        ({"question": "?", "reply": "a"}, {}, "no field 'answer' (JsonlTask.answer_field)"),
        ({"question": "  ", "answer": "a"}, {}, "'question' is"),
        ({"question": "?", "answer": True}, {}, "'answer' is true"),
        ('{"question": "?", "answer": NaN}', {}, "not JSON (NaN is no value of it)"),
        ('{"question": "?", "answer": "a", "more": [-Infinity]}', {}, "not JSON (-Infinity is no"),
        ('{"question": Infinity, "answer": "a"}', {}, "not JSON (Infinity is no"),
        ("7", {}, "is not an object"),
        ({"question": "?", "answer": None}, {}, "'answer' is null"),
        ({"question": "\ud800", "answer": "a"}, {}, "surrogate"),
        ({"question": "?", "answer": "many"}, {"answer_kind": "number"}, "'many', which is no"),
        ({"question": "?", "answer": "a", "why": "The answer is b"}, {"rationale_field": "why"},
         "ends in the answer 'b', its answer is 'a'"),
        ({"question": "?", "answer": "a"}, {"group_field": "kind"}, "no field 'kind'"),
    ],
)  # fmt: skip
def test_a_malformed_line_stops_the_run_with_its_number_and_reason(
    tmp_path, line, settings, reason
):
    answers = {"answer": "7", "kind": "x", "why": ""}
    path = write(tmp_path, [*rows_of(9, **answers), "", line])
    with pytest.raises(UserError, match=r"1 of 10 lines are not questions.*line 11: ") as error:
        JsonlTask(path, held_out=3, **settings).questions(TRAIN)
    assert reason in error.value.message
    assert "\n" not in error.value.message
    # ... and is only reported where so many are tolerated.
    tolerant = JsonlTask(path, held_out=3, tolerated_share=0.1, **settings)
    assert len(all_questions(tolerant)) == 9


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"choices": ["a"], "answer": "a"}, "has no list of 2 to 26 choices"),
        ({"answer": "a"}, "has no list of 2 to 26 choices"),
        ({"choices": ["x", "y"], "answer": "d"}, "none of its choices"),
        ({"choices": {"a": "x", "c": "y"}, "answer": "a"}, "a, b, c and so on"),
        ({"choices": ["x", "y"], "answer": "z"}, "none of its choices"),
        ({"choices": ["x", "x"], "answer": "x"}, "none of its choices"),
        ({"choices": ["x", ["y"]], "answer": "x"}, """'choices.text' is ["y"], which is not a"""),
        (
            {"choices": ["x", None], "answer": "x"},
            "field 'choices.text' is null, which is not a text",
        ),
        ({"choices": None, "answer": "x"}, "has no list of 2 to 26 choices"),
        ({"choices": "xy", "answer": "a"}, "has no list of 2 to 26 choices"),
        (
            {"choices": [f"x{i}" for i in range(27)], "answer": "a"},
            "has no list of 2 to 26 choices",
        ),
        ({"choices": {"a": "x", "b": {"text": "y"}}, "answer": "a"}, "'choices.text' is {"),
        ({"choices": {"label": ["A", "B"], "text": ["x"]}, "answer": "A"}, "'choices.text' is ["),
        ({"choices": {"label": ["B", "A"], "text": ["x", "y"]}, "answer": "A"}, "a, b, c and so"),
        (
            {"choices": [{"label": "A", "text": "x"}, {"text": "y"}], "answer": "A"},
            "field 'choices.label'",
        ),
        (
            {"choices": [{"label": "A", "text": "x"}, "y"], "answer": "A"},
            "no field 'choices.label'",
        ),
        (
            {"choices": [{"label": "A", "text": None}, {"label": "B", "text": "y"}], "answer": "A"},
            "'choices.text' is null",
        ),
    ],
)
def test_malformed_choices_are_reported(tmp_path, row, reason):
    path = write(tmp_path, [{"question": "Which?", **row}])
    with pytest.raises(UserError) as error:
        JsonlTask(path, answer_kind="choice", choices_field="choices").questions(TRAIN)
    assert reason in error.value.message


@pytest.mark.parametrize(
    ("choices", "answers"),
    [
        ([{"label": a, "text": t} for a, t in zip("ABC", CHOICES.values(), strict=True)], "Bb"),
        ({"label": ["A", "B", "C"], "text": list(CHOICES.values())}, "Bb"),
        ({"label": ["1", "2", "3"], "text": list(CHOICES.values())}, "2"),
        ({"label": [1, 2, 3], "text": list(CHOICES.values())}, "2"),
        ({"A": "sand", "B": "rain", "C": "the hot wind"}, "Bb"),
    ],
)
def test_published_forms_of_choices_are_read_with_their_labels(tmp_path, choices, answers):
    for answer in (*answers, "rain"):
        path = write(tmp_path, [{"question": "Which?", "choices": choices, "answer": answer}] * 9)
        task = JsonlTask(path, answer_kind="choice", choices_field="choices", held_out=0,
                         validation_path=write(tmp_path, [], "v.jsonl"))  # fmt: skip
        (question, *_) = jsonl_file.read_questions(path, task.question_of, 0)
        assert (question.answer, task.choices(question)) == (
            "b", {letter: f" {text}" for letter, text in CHOICES.items()},
        )  # fmt: skip


def test_numbers_are_texts_as_they_are_written(tmp_path):
    written = ["12.50", "0.1000000000000000055511151231257827", "1e3", "-0.0", "9" * 4000]
    path = write(tmp_path, [f'{{"question": {x}, "answer": {x}}}' for x in written])
    questions = jsonl_file.read_questions(path, JsonlTask(path).question_of, 0)
    assert [(q.text, q.answer) for q in questions] == [(x, x) for x in written]
    row = ['{"question": "How many?", "answer": 1.000000000000000000001}']
    exact = jsonl_file.read_questions(
        write(tmp_path, row), JsonlTask(path, **NUMBER).question_of, 0
    )
    assert exact[0].answer == "1.000000000000000000001"


@pytest.mark.parametrize("name", ["own.jsonl.gz", "own.jsonl"])
def test_a_compressed_file_is_read(tmp_path, name):
    plain = JsonlTask(write(tmp_path, rows_of(30), "plain.jsonl"))
    file = tmp_path / name
    data = Path(plain.path).read_bytes()
    file.write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]))
    assert all_questions(JsonlTask(str(file))) == all_questions(plain)
    file.write_bytes(gzip.compress(data)[:-9])
    with pytest.raises(UserError, match=f"cannot read the data file .*{name}: ") as error:
        JsonlTask(str(file), held_out=1).questions(TRAIN)
    assert "\n" not in error.value.message


def test_another_encoding_is_named_with_its_line_and_can_be_bound(tmp_path):
    rows = [*rows_of(5), {"question": "Où ?", "answer": "là"}]
    text = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        file = tmp_path / f"{encoding}.jsonl"
        file.write_bytes(text.encode(encoding))
        task = JsonlTask(str(file), encoding=encoding, held_out=1)
        assert {(q.text, q.answer) for q in all_questions(task)} >= {("Où ?", "là")}
    with pytest.raises(UserError) as error:
        JsonlTask(str(tmp_path / "latin-1.jsonl")).questions(TRAIN)
    assert f"the data file {tmp_path}/latin-1.jsonl: line 6 is not utf-8" in error.value.message
    assert "JsonlTask.encoding, such as 'latin-1'" in error.value.message
    assert all_questions(JsonlTask(str(tmp_path / "utf-8-sig.jsonl"), held_out=1))
    for unknown in ("latin-one", "hex"):
        with pytest.raises(UserError, match=rf"cannot read the data file .*{unknown}"):
            JsonlTask(str(file), encoding=unknown).questions(TRAIN)


def test_tolerated_lines_are_reported_one_by_one(tmp_path, monkeypatch):
    logged = []
    monkeypatch.setattr(jsonl_file, "log", logged.append)
    path = write(tmp_path, ["{", *rows_of(30), *["{"] * 29])
    assert len(all_questions(JsonlTask(path, tolerated_share=0.5))) == 30
    (text,) = logged
    assert text.startswith(f"{path}: 30 of 60 lines are dropped:\n  line 1: not JSON")
    assert text.count("\n  line ") == 20
    assert text.endswith("  and 10 more")
    with pytest.raises(UserError, match=r"0\.49 allows 29: line 1: .*and 27 more$"):
        JsonlTask(path, tolerated_share=0.49).questions(TRAIN)


def test_an_id_that_was_there_before_is_malformed(tmp_path):
    rows = [{**row, "key": i // 2 * 2} for i, row in enumerate(rows_of(10))]
    path = write(tmp_path, rows)
    with pytest.raises(UserError, match="line 2: its id '0' is not unique"):
        JsonlTask(path, id_field="key").questions(TRAIN)
    found = all_questions(JsonlTask(path, held_out=2, id_field="key", tolerated_share=0.5))
    assert sorted(q.id for q in found) == ["0", "2", "4", "6", "8"]


@pytest.mark.parametrize("path", ["", None, 3])
def test_no_path_is_one_clear_line(path):
    with pytest.raises(UserError, match="give your JSON Lines file"):
        JsonlTask(path)


@pytest.mark.parametrize("lines", [[], ["", "  "]])
def test_an_empty_file_is_one_clear_line(tmp_path, lines):
    with pytest.raises(UserError, match="has no lines"):
        JsonlTask(write(tmp_path, lines)).questions(TRAIN)


def test_all_lines_malformed_stop_the_run_whatever_is_tolerated(tmp_path):
    path = write(tmp_path, rows_of(5))
    with pytest.raises(UserError, match=r"5 of 5 lines .*did you mean 'question'"):
        JsonlTask(path, question_field="questoin", tolerated_share=1.0).questions(TRAIN)


def test_a_missing_file_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="cannot read the data file"):
        JsonlTask(str(tmp_path / "none.jsonl")).questions(TRAIN)


# Splits and seqio.


def test_a_share_and_a_number_are_held_out(tmp_path):
    path = write(tmp_path, rows_of(400))
    share, number = JsonlTask(path), JsonlTask(path, held_out=33)
    assert 50 < len(share.questions(VALIDATION)) < 110
    assert len(number.questions(VALIDATION)) == 33
    for task in (share, number):
        assert len({q.id for q in all_questions(task)}) == 400
    other = JsonlTask(path, seed=1)
    assert share.questions(VALIDATION) != other.questions(VALIDATION)


def test_new_lines_move_no_question_to_the_other_side(tmp_path):
    rows = rows_of(60)
    before = JsonlTask(write(tmp_path, rows, "before.jsonl")).questions(VALIDATION)
    after = JsonlTask(write(tmp_path, [*rows_of(90)[60:], *rows], "after.jsonl"))
    assert {q.text for q in before} <= {q.text for q in after.questions(VALIDATION)}


def test_the_same_question_is_never_on_both_sides(tmp_path):
    rows = rows_of(40)
    twice = [*rows, *({**row, "question": row["question"].upper() + " "} for row in rows)]
    for held_out in (0.5, 21):
        task = JsonlTask(write(tmp_path, twice), held_out=held_out)
        sides = [{q.text.upper() for q in task.questions(s)} for s in (TRAIN, VALIDATION)]
        assert all(sides)
        assert not sides[0] & sides[1]


@pytest.mark.parametrize("held_out", [5, 900, 0.001])
def test_an_empty_side_is_refused(tmp_path, held_out):
    with pytest.raises(UserError, match="choose another value"):
        JsonlTask(write(tmp_path, rows_of(5)), held_out=held_out).questions(TRAIN)


def test_a_second_file_is_the_validation_split(tmp_path):
    rows = rows_of(8)
    train, validation = write(tmp_path, rows[:4], "t.jsonl"), write(tmp_path, rows[4:], "v.jsonl")
    task = JsonlTask(train, validation_path=validation, held_out=0)
    assert [q.id for q in task.questions(TRAIN)][:2] == ["line_00001", "line_00002"]
    assert task.questions(VALIDATION)[0].id == "validation_line_00001"
    same_id = [{**row, "key": "t"} for row in rows[:2]]
    with pytest.raises(UserError, match=r"has 1 of the 1 questions of .*w.jsonl too, such as t: "):
        JsonlTask(
            write(tmp_path, same_id[:1]),
            validation_path=write(tmp_path, same_id[1:], "w.jsonl"),
            held_out=0,
            id_field="key",
        ).questions(TRAIN)


@pytest.mark.parametrize("id_field", ["", "key"])
@pytest.mark.parametrize("change", [str, str.upper, lambda text: f" {text.replace(' ', '  ')}"])
def test_validation_questions_that_are_trained_on_are_counted_and_refused(
    tmp_path, id_field, change
):
    rows = [{**row, "key": f"k{i}"} for i, row in enumerate(rows_of(20))]
    again = [{**row, "question": change(row["question"]), "key": f"v{row['key']}"} for row in rows]
    task = JsonlTask(
        write(tmp_path, rows[:12], "t.jsonl"), id_field=id_field, held_out=0,
        validation_path=write(tmp_path, again[9:], "v.jsonl"),
    )  # fmt: skip
    with pytest.raises(UserError) as error:
        task.questions(VALIDATION)
    first = "vk9" if id_field else "validation_line_00001"
    assert f"t.jsonl has 3 of the 11 questions of {tmp_path}/v.jsonl too" in error.value.message
    assert f"such as {first}: '{change('What is 9 ?').strip()}'; a quest" in error.value.message
    same = JsonlTask(task.path, validation_path=task.path, held_out=0)
    with pytest.raises(UserError, match="has 12 of the 12 questions"):
        same.questions(TRAIN)


def test_a_question_is_the_same_however_its_accents_are_composed(tmp_path):
    written = [unicodedata.normalize(form, "O\u00f9 ?") for form in ("NFC", "NFD")]
    train, validation = (
        write(tmp_path, [{"question": text, "answer": "a"}], f"{i}.jsonl")
        for i, text in enumerate(written)
    )
    with pytest.raises(UserError, match="has 1 of the 1 questions"):
        JsonlTask(train, validation_path=validation, held_out=0).questions(TRAIN)


def test_seqio_has_the_rationale_the_hinted_and_the_direct_variant(tmp_path):
    path = write(tmp_path, rows_of(5, why="Because."))
    task = JsonlTask(path, rationale_field="why", held_out=1)
    direct = JsonlTask(path, rationale_field="why", held_out=1, direct=True)
    assert re.fullmatch(r"jsonl_own_[0-9a-f]{8}", task.name)
    assert re.fullmatch(r"jsonl_own_direct_[0-9a-f]{8}", direct.name)
    ends = {task.name: "A: Because.\nThe answer is thing", direct.name: "A: thing",
            task.name + "_hinted": "(Hint: thing"}  # fmt: skip
    register(task, seqio.ByteVocabulary())
    register(direct, seqio.ByteVocabulary())
    for name, end in ends.items():
        examples = seqio.get_mixture_or_task(name).get_dataset(
            sequence_length=None, split=TRAIN, shuffle=False
        )
        texts = [
            seqio.ByteVocabulary().decode(x["inputs"].tolist() + x["targets"].tolist())
            for x in examples.as_numpy_iterator()
        ]
        assert len(texts) == 4
        assert all(end in text for text in texts), texts


# Exemplars.


def test_exemplars_are_shown_in_the_task_s_template(tmp_path):
    file = tmp_path / "shots.txt"
    file.write_text(
        "Q: Which is wet?\nA: Clouds.\nThe answer is rain\n\nQ: Dry?\nA: The answer is sand"
    )
    task = JsonlTask(
        "x", template="{question}\n", hint_template="{question} <{answer}>\n",
        exemplar_file=str(file),
    )  # fmt: skip
    plain, hinted = (task.few_shot_examples("", hinted) for hinted in (False, True))
    assert plain[0] == "Which is wet?\nClouds.\nThe answer is rain\n\n"
    assert hinted[1] == "Dry? <sand>\nThe answer is sand\n\n"
    assert JsonlTask("x").few_shot_examples("", False) == ()


# The worked example.

STOPS = (
    "Harbour Jetty Dairy Market Park Castle Bridge Nursery Abbey Garden Island Elm Library Quay "
    "School Forge Orchard Kiln Tower River"
)
LINE = STOPS.split()


def test_the_200_rides_end_where_they_say():
    lines = (EXAMPLES / EXAMPLE).read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert len(rows) == len({row["question"] for row in rows}) == 200
    for row in rows:
        start, n = re.fullmatch(
            r"The bus is at (\w+) \. Where is it (\d+) stops on \?", row["question"]
        ).groups()
        passed = [LINE[(LINE.index(start) + k) % 20] for k in range(1, int(n) + 1)]
        assert row["answer"] == passed[-1]
        assert row["ride"] == ("short", "medium", "long")[(int(n) > 3) + (int(n) > 6)]
        steps = "\n".join(f"{k} {stop}" for k, stop in enumerate(passed, 1))
        assert row.get("rationale", steps) == steps


def test_the_corpus_holds_training_rationales_and_nothing_held_out():
    task = JsonlTask(EXAMPLE, rationale_field="rationale", hint_template="{question} is {answer} :",
                     template="{question} :")  # fmt: skip
    vocabulary = jsonl_vocabulary(task)
    corpus = JsonlCorpus(task)
    texts = [vocabulary.decode(doc.tokens.tolist()) for doc in corpus.documents(vocabulary)]
    given_rationale = [q for q in task.questions(TRAIN) if q.solution]
    assert len(texts) == 2 * len(given_rationale) > 0
    assert all(sum(q.text in text for text in texts) == 2 for q in given_rationale)
    held_out = {q.text for q in task.questions(VALIDATION)}
    assert not any(question in text for question in held_out for text in texts)
    plain = JsonlCorpus(task, hinted=False).documents(vocabulary)
    assert len(plain) == len(given_rationale)
    loss = plain[0].loss_weights
    prompt = vocabulary.encode(task.question_text(given_rationale[0], False))
    assert not loss[: len(prompt)].any() and loss[len(prompt) :].all()


def test_a_corpus_without_rationales_says_what_to_bind():
    task = JsonlTask(EXAMPLE)
    with pytest.raises(UserError, match=r"JsonlTask\.rationale_field"):
        JsonlCorpus(task).documents(jsonl_vocabulary(task))
    with pytest.raises(UserError, match="both False"):
        JsonlCorpus(task, plain=False, hinted=False)


def test_the_worked_example_runs_and_learns(tmp_path):
    assert run(tmp_path, "pretrain") == 0
    assert run(tmp_path, "star", ITERATIONS=1) == 0
    base, end = tiny.read_lines(tmp_path / "star/metrics.jsonl")
    assert end["kept"]["generate"] > 0
    assert end["kept"]["rationalize"] > 0
    assert base["n_eval"] == 56
    assert end["accuracy"] > base["accuracy"] + 0.1


def run(folder: Path, run_mode: str, **bindings: object) -> int:
    bindings = {"BASE_DIR": str(folder / "base"), "MODEL_DIR": str(folder / "star"), **bindings}
    flags = [f"--gin.{name}={value!r}" for name, value in bindings.items()]
    one_device = functools.partial(make_mesh, devices=jax.devices()[:1])
    with mock.patch.object(partitioning, "make_mesh", one_device):
        return main([f"--run_mode={run_mode}", f"--gin_file={RUN_FILE}", *flags])


def not_compiled(*_):
    raise AssertionError("found too late")


def own_file(folder, rationale="1 Quay", words=0):
    """Ten questions, with as many words that no other question has."""
    lines = [
        {
            "question": f"The bus is at stop {i} . {' '.join(f'w{k}' for k in range(words))}",
            "answer": "Quay", "ride": "short", "rationale": rationale,
        }
        for i in range(10)
    ]  # fmt: skip
    (folder / "own.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return {"QUESTIONS": str(folder / "own.jsonl")}


@pytest.mark.parametrize(
    ("rationale", "words", "said"),
    [
        (
            "1 Quay",
            60,
            "the vocabulary has {} ids, the model room for 64; set DecoderConfig.vocab_",
        ),
        ("1 Quay " * 70, 0, "set TrainerConfig.row_length (now 128) to {} or more"),
    ],
)
def test_a_base_that_is_too_small_for_the_file_is_refused_at_once(
    tmp_path, capsys, monkeypatch, rationale, words, said
):
    monkeypatch.setattr(trainer, "init_params", not_compiled)
    file = own_file(tmp_path, rationale, words)
    assert run(tmp_path, "pretrain", **file) == 2
    task = JsonlTask(
        file["QUESTIONS"], rationale_field="rationale", held_out=0.25,
        hint_template="Q: {question}\nHint: {answer}\nA:",
    )  # fmt: skip
    vocabulary = jsonl_vocabulary(task)
    hinted = [task.question_text(q, True) + task.gold_completion(q) for q in task.questions(TRAIN)]
    longest = max(len(vocabulary.encode(text)) for text in hinted) + 1  # EOS
    value = vocabulary.vocab_size if words else longest
    message = capsys.readouterr().err.splitlines()[-1]
    assert said.format(value) in message, message
    # With the value that it names, it is large enough.
    name = "DecoderConfig.vocab_size" if words else "TrainerConfig.row_length"
    enough = {name: value, "DecoderConfig.context_length": 256}
    with pytest.raises(AssertionError, match="found too late"):
        run(tmp_path, "pretrain", **file, **enough)


@pytest.mark.parametrize(
    ("words", "bindings", "name", "value"),
    [
        # "Q: The bus is at stop 7 . w0 ... \nHint: Quay\nA:" and 40 new tokens; EOS in a row.
        (0, {"TrainerConfig.row_length": 53}, "TrainerConfig.row_length", 54),
        (40, {"DecoderConfig.vocab_size": 99, "TrainerConfig.row_length": 93},
         "TrainerConfig.row_length", 94),
        (90, {"DecoderConfig.vocab_size": 150}, "DecoderConfig.context_length", 143),
    ],
)  # fmt: skip
def test_a_run_that_is_too_small_for_the_file_is_refused_at_once(
    tmp_path, capsys, monkeypatch, words, bindings, name, value
):
    monkeypatch.setattr(Base, "load", not_compiled)
    monkeypatch.setattr(Base, "check", not_compiled)
    file = own_file(tmp_path, words=words)
    assert run(tmp_path, "star", **file, **bindings) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert f"{name} = " in message and f"set it to {value} or more" in message
    enough = {"DecoderConfig.vocab_size": 150, "DecoderConfig.context_length": 256, name: value}
    if name == "DecoderConfig.context_length":
        enough |= {name: value, "TrainerConfig.row_length": value}
    with pytest.raises(AssertionError, match="found too late"):
        run(tmp_path, "star", **file, **enough)


def test_few_shot_prompts_without_an_exemplar_file_are_refused(tmp_path, capsys):
    assert run(tmp_path, "star", **{"StarConfig.few_shot": "always"}) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "StarConfig.few_shot = 'always' (not 'never') needs few-shot examples" in message
    assert "JsonlTask.exemplar_file" in message
    assert not (tmp_path / "star").exists()


@pytest.mark.parametrize(
    ("bindings", "said"),
    [
        ({"QUESTIONS": "/nowhere/none.jsonl"}, "/nowhere/none.jsonl"),
        ({"JsonlTask.answer_field": "anser"}, "did you mean 'answer'?"),
        ({"JsonlTask.template": "Q: {q}"}, "unknown placeholder {q}"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path, capsys, bindings, said):
    assert run(tmp_path, "pretrain", **bindings) == 2
    printed = capsys.readouterr().err.splitlines()
    assert len(printed) == 1
    assert said in printed[0]
