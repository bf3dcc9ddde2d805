"""MATH: its files, the box, the prompts, the two groupings, and math-verify as a second grader."""

import dataclasses
import json
import sys
import types

import pytest
import seqio

from star_jax.errors import UserError
from star_jax.records import groups_in
from star_jax.run.metrics import accuracy, by_group
from star_jax.tasks import math
from star_jax.tasks.math import MathTask
from star_jax.tasks.seqio_tasks import register
from star_jax.tasks.task import TRAIN, VALIDATION
from tests.tiny import attempt_of, trimmed_by

TASK = MathTask()
ROW = {
    "problem": "A pond has 3 frogs.\n\nWhich share of 4 frogs is that?",
    "level": "Level 2",
    "type": "Counting & Probability",
    "solution": "It is $\\boxed{3}$ of 4.\n\nSo the share is $\\boxed{\\frac{3}{4}}$.",
}
QUESTION = TASK.question_of("train_00001", ROW)


def row(i, **changes):
    return {**ROW, "problem": f"What is ${i}$?", "solution": f"It is $\\boxed{{{i}}}$.", **changes}


def lines(path, rows):
    path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    return str(path)


def folder(path, rows):
    for i, each in enumerate(rows, start=1):
        file = path / each["type"].lower().replace(" ", "_") / f"{i}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(each))
    return str(path)


def test_a_row_becomes_a_question_with_the_last_box():
    assert QUESTION.answer == "\\frac{3}{4}"
    assert QUESTION.text == ROW["problem"]
    assert QUESTION.solution == ROW["solution"]
    assert groups_in(QUESTION.group) == ["Counting & Probability", "Level 2"]
    by_number = TASK.question_of("q", {**ROW, "level": 2})
    assert by_number.group == QUESTION.group


def test_prompts_and_gold_completions():
    assert TASK.question_text(QUESTION, hinted=False) == f"Q: {ROW['problem']}\nA:"
    hinted = TASK.question_text(QUESTION, hinted=True)
    assert hinted == f"Q: {ROW['problem']} (\\frac{{3}}{{4}})\nA:"
    assert TASK.gold_completion(QUESTION) == " " + ROW["solution"]
    direct = MathTask(direct=True)
    assert direct.gold_completion(QUESTION) == " \\boxed{\\frac{3}{4}}"
    for task in (TASK, direct):
        reading = task.read(QUESTION, task.gold_completion(QUESTION))
        assert reading.correct and not reading.hint_leaked
    assert direct.read(QUESTION, " 3/4").correct  # the first line, without a box


def test_our_exemplars_are_read_with_and_without_hints():
    answers = [question.answer for question, _ in TASK.exemplars()]
    assert answers == ["9", "\\frac{5}{12}", "6", "[-3, 1)"]
    plain, hinted = (TASK.few_shot_examples("", is_hinted) for is_hinted in (False, True))
    for answer, one, other in zip(answers, plain, hinted, strict=True):
        assert other == one.replace("\nA:", f" ({answer})\nA:")


@pytest.mark.parametrize(
    ("completion", "answer", "correct", "kept"),
    [
        (" So $\\boxed{\\frac34}$. It is", "\\frac34", True, " So $\\boxed{\\frac34}$"),
        (" So $\\boxed{0.75}$.", "0.75", True, " So $\\boxed{0.75}$"),
        (" $\\boxed{3}$, no, $\\boxed{\\dfrac{3}{4}}$", "\\dfrac{3}{4}", True, None),
        (" So \\[\\boxed{\\text{$\\frac{3}{4}$ of them}}\\]", None, False, None),
        (" So $\\boxed{\\frac43}$.", "\\frac43", False, None),
        (" So $\\frac34$.", None, False, None),
        (" So $\\boxed{\\frac34", None, False, None),
        (" So $\\boxed{}$", None, False, None),
        (" So $3$.\n\nQ: And?\nA: $\\boxed{\\frac34}$", None, False, None),
    ],
)
def test_completions_are_read_from_their_last_box(completion, answer, correct, kept):
    reading = TASK.read(QUESTION, completion)
    assert reading.correct is correct
    assert answer is None or reading.answer == answer
    assert not kept or trimmed_by(TASK, QUESTION, completion) == kept


def test_folders_and_lines_have_the_same_questions(tmp_path):
    kinds = ["Algebra", "Geometry"]
    rows = [row(i, type=kinds[i > 11], level=f"Level {1 + i % 5}") for i in range(1, 13)]
    from_lines = MathTask(train_file=lines(tmp_path / "train.jsonl", rows), held_out=2)
    from_folder = MathTask(train_file=folder(tmp_path / "train", rows), held_out=2)
    for split, n in ((TRAIN, 10), (VALIDATION, 2)):
        found = [task.questions(split) for task in (from_lines, from_folder)]
        assert len(found[0]) == n
        assert [dataclasses.replace(q, id="") for q in found[0]] == [
            dataclasses.replace(q, id="") for q in found[1]
        ]
    assert [q.id for q in from_folder.questions(TRAIN)][::9] == [
        "train_algebra_1", "train_algebra_10",
    ]  # fmt: skip
    assert [q.id for q in from_folder.questions(VALIDATION)] == [
        "train_algebra_11", "train_geometry_12",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"solution": "It is 1."}, r"its solution has no \\boxed\{\} with an answer"),
        ({"solution": "It is \\boxed{1."}, r"its solution has no \\boxed\{\} with an answer"),
        ({"level": None}, "field 'level' is null, which is not a text"),
        ({"problem": " "}, "field 'problem' is .* which is not a text"),
    ],
)
def test_rows_that_are_no_problems_are_named_with_their_file(tmp_path, changes, reason):
    rows = [row(1, type="Algebra"), row(2, type="Algebra", **changes)]
    as_lines = MathTask(train_file=lines(tmp_path / "train.jsonl", rows))
    with pytest.raises(UserError, match=rf"train.jsonl, line 2: {reason}"):
        as_lines.questions(TRAIN)
    as_folder = MathTask(train_file=folder(tmp_path / "train", rows))
    with pytest.raises(UserError, match=rf"train, file algebra_2: {reason}"):
        as_folder.questions(TRAIN)


def test_settings_that_cannot_work_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"MathTask.grader = 'sympy' is none of"):
        MathTask(grader="sympy")
    with pytest.raises(UserError, match=r"MathTask.train_file is empty, and train questions"):
        TASK.questions(TRAIN)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="the split 'train' has no questions"):
        MathTask(train_file=str(tmp_path / "empty")).questions(TRAIN)
    with pytest.raises(UserError, match="an empty text is no problem"):
        TASK.make_question("q", " \n")


def test_accuracy_is_by_type_and_by_level():
    groups = ["Algebra; Level 1", "Algebra; Level 2", "Geometry; Level 2", "", "Level 2"]
    attempts = [
        attempt_of(TASK, dataclasses.replace(QUESTION, group=group), text)
        for group, text in zip(
            groups, ["\\boxed{0.75}", "\\boxed{1}", "\\boxed{3/4}", "\\boxed{3/4}", ""], strict=True
        )
    ]
    found = by_group(attempts)
    assert {name: len(each) for name, each in found.items()} == {
        "Algebra": 2, "Geometry": 1, "Level 1": 1, "Level 2": 3,
    }  # fmt: skip
    assert list(found) == sorted(found)
    assert accuracy(found["Algebra"]) == 0.5
    assert accuracy(found["Level 2"]) == pytest.approx(1 / 3)


def test_groups_in_a_text():
    assert groups_in("") == groups_in(" ; ") == []
    assert groups_in("2") == ["2"]
    assert groups_in("Counting & Probability;Level 5") == ["Counting & Probability", "Level 5"]


def test_seqio_scores_with_the_tasks_own_grading(tmp_path):
    task = MathTask(train_file=lines(tmp_path / "train.jsonl", [row(i) for i in range(4)]))
    name = register(task, seqio.ByteVocabulary())
    (first, *rest) = seqio.get_mixture_or_task(name).get_dataset(None, split=TRAIN, shuffle=False)
    assert len(rest) == 3
    assert first["group"].numpy().decode() == "Counting & Probability; Level 2"


# math-verify, played by a module of our own: what it decides, and what is printed.


@pytest.fixture
def verifier(monkeypatch):
    """A math_verify that takes answers for right whose texts have the same length."""
    fake = types.ModuleType("math_verify")
    fake.parse = lambda text: text
    fake.verify = lambda gold, answer: len(gold) == len(answer)
    monkeypatch.setitem(sys.modules, "math_verify", fake)
    math.verified.cache_clear()
    yield fake
    math.verified.cache_clear()


def test_math_verify_decides_and_disagreements_are_printed_once(verifier, capsys):
    task = MathTask(grader="math_verify")
    question = dataclasses.replace(QUESTION, answer="25_6")
    assert task.is_correct(question, "25_6")
    assert not task.is_correct(question, "25")
    assert not task.is_correct(question, None)
    assert capsys.readouterr().err + capsys.readouterr().out == ""
    for _ in range(2):
        assert task.is_correct(question, "1234")
        assert not task.is_correct(question, "25_{6}")
    captured = capsys.readouterr()
    printed = (captured.err + captured.out).strip().splitlines()
    assert len(printed) == 2
    assert "math-verify takes '1234' for right, where '25_6' is; star_jax does not" in printed[0]
    assert "math-verify takes '25_{6}' for wrong, where '25_6' is; star_jax does not" in printed[1]


def test_without_math_verify_only_its_binding_is_an_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    math.verified.cache_clear()
    assert TASK.is_correct(QUESTION, "0.75")
    task = MathTask(grader="math_verify")
    with pytest.raises(UserError, match=r"needs the package math-verify.*-e '\.\[math\]'"):
        task.is_correct(QUESTION, "0.75")


def test_the_real_math_verify_agrees_on_plain_answers():
    pytest.importorskip("math_verify")
    math.verified.cache_clear()
    task = MathTask(grader="math_verify")
    assert task.is_correct(QUESTION, "0.75")
    assert not task.is_correct(QUESTION, "\\frac{4}{3}")
