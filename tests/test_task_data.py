"""The real data sets, all of them: STAR_JAX_DATA names the folder with the published files.

STAR_JAX_DATA/commonsenseqa/{train,dev}_rand_split.jsonl
STAR_JAX_DATA/gsm8k/train.jsonl
STAR_JAX_DATA/gsm8k/{test,example_model_solutions}.jsonl   (if there; of openai/grade-school-math)
STAR_JAX_DATA/math/test_800.jsonl   (if there; 800 of MATH's test problems)
STAR_JAX_DATA/paper_prompts/{commonsenseqa,gsm}/prompts*.txt   (of the paper's repository)
"""

import dataclasses
import itertools
import json
import os
import re
from pathlib import Path

import pytest
import seqio

from star_jax.records import groups_in
from star_jax.tasks.builders.commonsense_qa import CommonsenseQA, prepare_commonsense_qa
from star_jax.tasks.commonsense_qa import CommonsenseQATask, choices_of
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.math import MathTask
from star_jax.tasks.readers.latex import elements, same_answer
from star_jax.tasks.readers.numbers import NumberReader, same_number, to_number
from star_jax.tasks.seqio_tasks import register
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.tasks.text_task import EXEMPLARS
from tests.tiny import trimmed_by

FOLDER = os.environ.get("STAR_JAX_DATA")
DATA = Path(FOLDER or ".")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOLDER, reason="STAR_JAX_DATA is not set to the folder of the data"),
]

CQA_FILES = {
    TRAIN: DATA / "commonsenseqa/train_rand_split.jsonl",
    VALIDATION: DATA / "commonsenseqa/dev_rand_split.jsonl",
}
CQA = CommonsenseQATask(
    train_file=str(CQA_FILES[TRAIN]), validation_file=str(CQA_FILES[VALIDATION])
)
GSM_FILE = DATA / "gsm8k/train.jsonl"
GSM = GSM8KTask(train_file=str(GSM_FILE), held_out=473)
RATIONALES = (
    " The answer must be something. Of the above choices, {0} makes the most sense. Therefore, "
    "the answer is {0} ({1}).",
    " So it is {0} ({1})",
    " The answer is ({1}) {0}.",
    " ({1}).",
    " ({1}) {0}",
)


def read(file):
    with open(file, encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def words(text):
    return re.findall(r"\w+", text.casefold())


@pytest.mark.parametrize(("split", "n"), [(TRAIN, 9741), (VALIDATION, 1221)])
def test_every_cqa_question_becomes_a_prompt_with_nothing_lost(split, n):
    rows, questions = read(CQA_FILES[split]), CQA.questions(split)
    assert len(rows) == len(questions) == len({q.id for q in questions}) == n
    for row, question in zip(rows, questions, strict=True):
        assert question.id == row["id"]
        assert question.answer == row["answerKey"].lower()
        stem, choices = row["question"]["stem"], row["question"]["choices"]
        lines = [f"Q: {stem.strip()}", "Answer Choices:"]
        lines += [f"({c['label'].lower()}) {c['text'].strip()}" for c in choices]
        plain = CQA.prompt(question, hinted=False, few_shot=True)
        assert plain.text == "\n".join([*lines, "A:"])
        assert len(plain.examples) == 7
        right = "ABCDE".index(row["answerKey"])
        lines[2 + right] += " (CORRECT)"
        assert CQA.question_text(question, hinted=True) == "\n".join([*lines, "A:"])


@pytest.mark.parametrize("split", [TRAIN, VALIDATION])
def test_gold_cqa_rationales_are_graded_right_in_every_letter(split):
    """Each of the five letters as the right one and as a wrong one, in several wordings."""
    graded = {letter: 0 for letter in "abcde"}
    for question in CQA.questions(split):
        for letter, text in choices_of(question.text).items():
            for rationale in RATIONALES:
                completion = rationale.format(text, letter)
                answer = CQA.read(question, completion).answer
                assert answer == letter, completion
                assert CQA.is_correct(question, answer) is (letter == question.answer)
                trimmed = trimmed_by(CQA, question, completion)
                assert completion.startswith(trimmed)
                assert CQA.read(question, trimmed).answer == letter
                assert not CQA.leaks_hint(question, completion)
            graded[letter] += 1
    assert set(graded.values()) == {len(CQA.questions(split))}


def test_every_gsm8k_question_becomes_a_prompt_with_nothing_lost():
    rows = read(GSM_FILE)
    questions = GSM.questions(TRAIN) + GSM.questions(VALIDATION)
    assert len(rows) == len(questions) == len({q.id for q in questions}) == 7473
    assert (questions[0].id, questions[-1].id) == ("train_00001", "train_07473")
    for row, question in zip(rows, questions, strict=True):
        assert question.text == row["question"]
        assert GSM.gold_completion(question) == " " + row["answer"]
        plain = GSM.prompt(question, hinted=False, few_shot=True)
        assert plain.text == f"Q: {row['question']}\nA:"
        assert len(plain.examples) == 6
        hinted = GSM.question_text(question, hinted=True)
        assert hinted == f"Q: {row['question']} ({question.answer})\nA:"


def test_the_gold_answer_is_parsed_from_every_gold_solution():
    direct, leaks = dataclasses.replace(GSM, direct=True), 0
    for question in GSM.questions(TRAIN) + GSM.questions(VALIDATION):
        gold = GSM.gold_completion(question)
        answer = GSM.read(question, gold).answer
        # Another reading than the reader's: the bare text after the mark.
        assert to_number(answer) == int(gold.split("####")[1].replace(",", ""))
        assert GSM.is_correct(question, answer)
        assert trimmed_by(GSM, question, gold) == gold
        leaks += GSM.leaks_hint(question, gold)
        bare = direct.gold_completion(question)
        assert direct.is_correct(question, direct.read(question, bare).answer)
    assert leaks == 2  # numbers that are in parentheses for other reasons, as "(2) two kids"


@pytest.mark.parametrize("name", ["train", "test"])
def test_every_published_solution_ends_in_its_number(name):
    file = DATA / f"gsm8k/{name}.jsonl"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    for row in read(file):
        found = NumberReader().read(row["answer"])
        assert int(found.text) == int(row["answer"].split("#### ")[1].replace(",", ""))
        assert found.end == len(row["answer"])


def test_published_model_solutions_are_graded_as_published():
    """1,319 problems, four models: the verdicts of OpenAI's own reader."""
    file, reader = DATA / "gsm8k/example_model_solutions.jsonl", NumberReader("\nA: ")
    if not file.exists():
        pytest.skip(f"{file} is not there")
    n = 0
    for row in read(file):
        gold = reader.read("\n" + row.pop("ground_truth"))
        for solution in (value for value in row.values() if isinstance(value, dict)):
            found = reader.read("\n" + solution["solution"])
            right = bool(found) and same_number(found.text, gold.text)
            assert right is solution["is_correct"], solution["solution"]
            n += 1
    assert n == 4 * 1319


def test_seqio_gives_every_question():
    for task, n in ((CQA, 9741), (GSM, 7000)):
        name = register(task, seqio.ByteVocabulary())
        dataset = seqio.get_mixture_or_task(name).get_dataset(None, split=TRAIN, shuffle=False)
        assert sum(1 for _ in dataset) == n


def test_the_tfds_builder_gives_what_the_files_give(tmp_path):
    prepare_commonsense_qa(str(tmp_path), str(DATA / "commonsenseqa"))
    assert (tmp_path / CommonsenseQA.name).is_dir()
    through_tfds = CommonsenseQATask(data_dir=str(tmp_path))
    for split in (TRAIN, VALIDATION):
        assert through_tfds.questions(split) == CQA.questions(split)


def test_our_exemplars_are_in_no_data_set():
    math = MathTask(train_file=str(MATH_FILE), held_out=1)
    for task in (CQA, GSM, *([math] if MATH_FILE.exists() else [])):
        data = {
            " ".join(words(task.stem(q))) for s in (TRAIN, VALIDATION) for q in task.questions(s)
        }
        for question, _ in task.exemplars():
            assert " ".join(words(task.stem(question))) not in data


MATH_FILE = DATA / "math/test_800.jsonl"
# Answers of different problems that are the same, though they are written differently.
SAME_IN_MATH = {
    ("-\\frac{1}{2}", "-\\$0.50"), (".5", "\\frac{1}{2}"), ("2.5", "\\frac{5}{2}"),
    ("0.8", "\\frac{4}{5}"), ("9", "x=9"), ("5", "5\\text{ inches}"), ("9 \\pi", "9\\pi"),
    ("\\frac{1}{10}", "\\frac1{10}"), ("\\frac13", "\\frac{1}{3}"), ("\\frac32", "\\frac{3}{2}"),
    ("\\frac34", "\\frac{3}{4}"), ("\\frac35", "\\frac{3}{5}"), ("\\sqrt2", "\\sqrt{2}"),
    ("\\dfrac{40}{243}", "\\frac{40}{243}"), ("(\\text{E})", "\\text{(E)}"),
    ("1\\frac{12}{13}", "\\frac{25}{13}"),
    *((n, f"{n}^\\circ") for n in ("120", "22", "30", "45", "48", "50", "54", "90")),
}  # fmt: skip


def test_the_gold_answers_of_math_are_equal_to_themselves_and_to_no_others():
    if not MATH_FILE.exists():
        pytest.skip(f"{MATH_FILE} is not there")
    task, rows = MathTask(validation_file=str(MATH_FILE)), read(MATH_FILE)
    questions = task.questions(VALIDATION)
    assert len(questions) == len(rows) == 800
    for row, question in zip(rows, questions, strict=True):
        assert question.text == row["problem"].strip()
        assert groups_in(question.group) == [row["type"], row["level"]]
        reading = task.read(question, task.gold_completion(question))
        assert reading.correct and reading.answer == question.answer
        assert task.read(question, task.bare_answer(question)).correct
        # Another way to find it: braces are counted from the last box on.
        rest = row["solution"].rpartition("\\boxed")[2]
        ends = [i for i, c in enumerate(rest) if c == "}"]
        inner = next(rest[:i] for i in ends if rest[:i].count("{") == rest[:i].count("}") + 1)
        assert question.answer == inner.strip().removeprefix("{").strip()
    answers = sorted({question.answer for question in questions})
    pairs = {pair for pair in itertools.combinations(answers, 2) if same_answer(*pair)}
    assert pairs == {tuple(sorted(pair)) for pair in SAME_IN_MATH}
    assert not [a for a in answers if elements(a)[0].value[0] == "raw"]


PAPER = {
    "commonsenseqa": (CQA, "prompts.txt", "prompts_answer_key.txt", 7),
    "commonsenseqa direct": (
        dataclasses.replace(CQA, direct=True), "prompts_direct.txt",
        "prompts_direct_answer_key.txt", 7,
    ),
    "gsm": (GSM, "prompts.txt", "prompts_answer_key.txt", 6),
}  # fmt: skip


@pytest.mark.parametrize("name", PAPER)
def test_the_papers_exemplar_files_agree_and_come_out_byte_for_byte(name):
    task, plain, hinted, n = PAPER[name]
    folder = DATA / "paper_prompts" / name.split()[0]
    task = dataclasses.replace(
        task, exemplar_file=str(folder / plain), hinted_exemplar_file=str(folder / hinted)
    )
    for file, is_hinted in ((plain, False), (hinted, True)):
        text = "".join(task.few_shot_examples("", is_hinted))
        assert text == (folder / file).read_text() + "\n\n"
    # They are training questions, kept as in the paper; the switch takes out these and no others.
    without = dataclasses.replace(task, exclude_exemplars=True)
    gone = set(task.questions(TRAIN)) - set(without.questions(TRAIN))
    assert len(gone) == len(task.questions(TRAIN)) - len(without.questions(TRAIN)) == n


def test_nothing_of_ours_is_in_the_papers_files():
    ours = [file.read_text() for file in EXEMPLARS.glob("*.txt")]
    sentences = {
        sentence.strip()
        for file in (DATA / "paper_prompts").rglob("*.txt")
        for sentence in re.split(r"[.?\n]", file.read_text())
        if len(words(sentence)) > 6
    }
    assert len(sentences) > 50
    assert not [s for s in sentences if any(s in text for text in ours)]
