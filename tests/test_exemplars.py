"""The few-shot examples: our own, and those that a user brings."""

import dataclasses
import json
import re
from fractions import Fraction

import pytest

from star_jax.errors import UserError
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.task import TRAIN
from tests.tiny import trimmed_by

OWN = {
    task.name: task
    for kind in (CommonsenseQATask, GSM8KTask)
    for task in (kind(), kind(direct=True))
}
own = pytest.mark.parametrize("task", OWN.values(), ids=OWN)


# Our own.

FIRST = {
    ("commonsense_qa", False): """\
Q: What would you reach for when your hands are dripping wet after washing up?
Answer Choices:
(a) soap dish
(b) tea towel
(c) plug
(d) apron string
(e) tap
A: The answer must be something that takes water off your hands. A tea towel is a cloth that is \
made to dry things. Therefore, the answer is tea towel (b).

""",
    ("commonsense_qa_direct", True): """\
Q: What would you reach for when your hands are dripping wet after washing up?
Answer Choices:
(a) soap dish
(b) tea towel (CORRECT)
(c) plug
(d) apron string
(e) tap
A: (b).

""",
    ("gsm8k", True): """\
Q: A bakery fills 14 trays with 6 rolls each and sells 59 rolls before noon. How many rolls are \
left? (25)
A: The bakery makes 14*6 = <<14*6=84>>84 rolls.
After the morning there are 84-59 = <<84-59=25>>25 rolls left.
#### 25

""",
    ("gsm8k_direct", False): """\
Q: A bakery fills 14 trays with 6 rolls each and sells 59 rolls before noon. How many rolls are \
left?
A: 25

""",
}


@pytest.mark.parametrize(("name", "hinted"), FIRST)
def test_the_first_exemplar_byte_for_byte(name, hinted):
    assert OWN[name].few_shot_examples("", hinted)[0] == FIRST[name, hinted]


def test_there_are_as_many_as_in_the_paper_and_every_letter_is_an_answer():
    answers = [question.answer for question, _ in OWN["commonsense_qa"].exemplars()]
    assert len(answers) == 7
    assert set(answers) == set("abcde")
    assert len(OWN["gsm8k"].exemplars()) == 6


@own
def test_hinted_exemplars_differ_from_plain_ones_in_the_hint_alone(task):
    plain, hinted = (task.few_shot_examples("", h) for h in (False, True))
    for (question, _), without, with_hint in zip(task.exemplars(), plain, hinted, strict=True):
        hint = " (CORRECT)" if task.BASE == "commonsense_qa" else f" ({question.answer})"
        assert with_hint.count(hint) == without.count(hint) + 1
        assert with_hint.replace(hint, "", 1) == without


@own
def test_exemplars_end_as_they_are_graded_and_with_one_blank_line(task):
    for (question, _), text in zip(
        task.exemplars(), task.few_shot_examples("", False), strict=True
    ):
        assert text.startswith(task.question_text(question, hinted=False))
        completion = text.removeprefix(task.question_text(question, hinted=False))
        assert completion.startswith(" ") and not completion.startswith("  ")
        assert completion.endswith("\n\n") and "\n\n" not in completion[:-2]
        assert trimmed_by(task, question, completion) == completion[:-2]
        assert task.is_correct(question, task.read(question, completion).answer)
        assert not task.leaks_hint(question, completion)


def test_the_letter_of_a_rationale_is_that_of_the_choice_it_names():
    for question, rationale in OWN["commonsense_qa"].exemplars():
        line = f"({question.answer}) "
        (text,) = (x.removeprefix(line) for x in question.text.split("\n") if x.startswith(line))
        assert rationale.endswith(f"Therefore, the answer is {text} ({question.answer}).")


def value_of(expression):
    """12+6*2/3 -> 16; products and quotients before sums."""
    total = Fraction(0)
    for sign, term in re.findall(r"([+-]?)([0-9.*/]+)", expression):
        number, *rest = re.split(r"([*/])", term)
        product = Fraction(number)
        for operator, factor in zip(rest[::2], rest[1::2], strict=True):
            product = product * Fraction(factor) if operator == "*" else product / Fraction(factor)
        total += -product if sign == "-" else product
    return total


def test_every_calculation_of_our_solutions_is_right():
    for question, solution in OWN["gsm8k"].exemplars():
        marks = re.findall(r"(\S+) = \$?<<([^=<>]+)=([^<>]+)>>(\S+)", solution)
        assert len(marks) == solution.count("<<") > 0
        for said, expression, result, written in marks:
            assert said == expression
            assert value_of(expression) == Fraction(result)
            assert written.rstrip(".") == result
        assert marks[-1][2] == question.answer
    assert value_of("12+6*2/3-1.5") == Fraction("14.5")


# A user's.

PLAIN = """\
Q: What is wet?
Answer Choices:
(a) sand
(b) water
A: Water is wet. Therefore, the answer is water (b).

Q: What is dry?
Answer Choices:
(a) sand
(b) water
A: Sand is dry. Therefore, the answer is sand (a).
"""
HINTED = PLAIN.replace("(b) water\nA: Water", "(b) water (CORRECT)\nA: Water").replace(
    "(a) sand\n(b) water\nA: Sand", "(a) sand (CORRECT)\n(b) water\nA: Sand"
)


def task_with(folder, plain, hinted=None, kind=CommonsenseQATask, **fields):
    (folder / "plain.txt").write_text(plain)
    if hinted is not None:
        (folder / "hinted.txt").write_text(hinted)
        fields["hinted_exemplar_file"] = str(folder / "hinted.txt")
    return kind(exemplar_file=str(folder / "plain.txt"), **fields)


@pytest.mark.parametrize("change", [str, lambda x: x.replace("\n", "\r\n"), lambda x: "\n\n" + x,
                                    lambda x: x.replace("\n\n", "\n \n\n"),
                                    lambda x: "\ufeff" + x])  # fmt: skip
def test_files_in_the_papers_format_are_taken(tmp_path, change):
    task = task_with(tmp_path, change(PLAIN), change(HINTED))
    assert "".join(task.few_shot_examples("", hinted=False)) == PLAIN + "\n"
    assert "".join(task.few_shot_examples("", hinted=True)) == HINTED + "\n"
    direct = dataclasses.replace(task, direct=True).few_shot_examples("", hinted=False)
    assert [text.splitlines()[-2] for text in direct] == ["A: (b).", "A: (a)."]


@pytest.mark.parametrize(
    ("hinted", "message"),
    [
        (PLAIN, r"exemplar 1 of .*hinted.txt .* '\(b\) water' where .* '\(b\) water \(CORRECT\)'"),
        (HINTED.replace("(a) sand (CORRECT)", "(a) sand"), r"exemplar 2 of .*hinted.txt"),
        (HINTED.replace("is dry?", "is hot?"), r"exemplar 2 .* 'Q: What is hot\?' .* dry"),
        (HINTED.replace("Water is", "It is"), r"exemplar 1 .* 'A: It is wet"),
        (HINTED.replace("(b) water (CORRECT)", "(b) water CORRECT"), r"exemplar 1 "),
        (HINTED.strip() + "\nSo it is.", r"exemplar 2 .* 'So it is.'"),
        (HINTED.replace("\nA: Sand is dry. Therefore, the answer is sand (a).", ""), "exemplar 2 "),
        (HINTED.split("\n\n")[0], "has 2 examples, .*hinted.txt has 1"),
        (HINTED + "\n" + HINTED, "has 2 examples, .*hinted.txt has 4"),
        ("\n", "hinted.txt has no examples"),
    ],
)
def test_hinted_files_that_disagree_are_refused_by_file_and_number(tmp_path, hinted, message):
    task = task_with(tmp_path, PLAIN, hinted)
    with pytest.raises(UserError, match=message) as raised:
        task.few_shot_examples("", hinted=False)
    assert "\n" not in raised.value.message


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ("", "plain.txt has no examples"),
        ("What is wet? Water.", "exemplar 1 of .* begins 'What is wet"),
        (PLAIN + "\nQ: What is it?", r"exemplar 3 of .* begins 'Q: What is it\?'"),
        (PLAIN + "\nQ: What is it?\nA: Yes (a).", "exemplar 3 of .*plain.txt: .* is not a quest"),
        (PLAIN.replace("(a).", "(c)."), "exemplar 2 of .* no answer can be read from .*sand .c"),
        (PLAIN.replace(" (b).", "."), "exemplar 1 of .* no answer can be read"),
    ],
)
def test_exemplars_that_are_none_are_refused_by_file_and_number(tmp_path, plain, message):
    with pytest.raises(UserError, match=message):
        task_with(tmp_path, plain).few_shot_examples("", hinted=False)


def test_an_exemplar_file_that_cannot_be_read_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the exemplar file .*nowhere"):
        CommonsenseQATask(exemplar_file=str(tmp_path / "nowhere")).few_shot_examples("", False)
    (tmp_path / "latin.txt").write_bytes(b"Q: \xe9\nA: (a)")
    with pytest.raises(UserError, match=r"cannot read the exemplar file .*latin"):
        CommonsenseQATask(exemplar_file=str(tmp_path / "latin.txt")).few_shot_examples("", False)


def test_a_number_hint_must_be_the_answer(tmp_path):
    plain = "Q: What is 40+2?\nA: It is 40+2 = <<40+2=42>>42.\n#### 42\n"
    right = plain.replace("?", "? (42)")
    task = task_with(tmp_path, plain, right, GSM8KTask)
    assert "".join(task.few_shot_examples("", hinted=True)) == right + "\n"
    (tmp_path / "wrong").mkdir()
    task = task_with(tmp_path / "wrong", plain, plain.replace("?", "? (41)"), GSM8KTask)
    with pytest.raises(UserError, match=r"exemplar 1 of .* '.*\(41\)' where .*\(42\)'"):
        task.few_shot_examples("", hinted=True)


# Exemplars that are training questions.


def test_exemplars_among_the_training_questions_stay_unless_they_are_excluded(tmp_path):
    problems = ["What is  1+1?", "what is 40 + 2?", "What is 40+3?"]
    lines = [json.dumps({"question": text, "answer": "#### 2"}) for text in problems]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    plain = "Q: What is 1+1?\nA: It is 2.\n#### 2\n\nQ: What is 40+2?\nA: It is 42.\n#### 42\n"
    task = task_with(tmp_path, plain, None, GSM8KTask, train_file=str(tmp_path / "train.jsonl"))
    assert len(task.questions(TRAIN)) == 3
    without = dataclasses.replace(task, exclude_exemplars=True)
    assert [q.id for q in without.questions(TRAIN)] == ["train_00003"]


def test_a_question_is_known_again_whatever_its_choices(tmp_path):
    choices = [{"label": "A", "text": "the sea"}, {"label": "B", "text": "a sponge"}]
    question = {"stem": "What  is wet?", "choices": choices}
    row = {"id": "1", "answerKey": "A", "question": question}
    other = {**row, "id": "2", "question": {**question, "stem": "What is wetter?"}}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(other))
    task = task_with(
        tmp_path, PLAIN, train_file=str(tmp_path / "train.jsonl"), exclude_exemplars=True
    )
    assert [q.id for q in task.questions(TRAIN)] == ["2"]
