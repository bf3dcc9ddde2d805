# ruff: noqa: RUF001  typographic signs are what is read
"""docs/answers.md: every row of its tables, and a second reader that was written from them."""

import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.errors import UserError
from star_jax.tasks import rows, steps
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.readers.choices import ChoiceReader
from star_jax.tasks.readers.conclusions import ConclusionReader
from star_jax.tasks.readers.latex import same_answer
from star_jax.tasks.readers.numbers import NumberReader, canonical
from star_jax.tasks.readers.texts import TextReader, bare, same_text
from tests import slow_choices, slow_numbers, slow_texts

PAGE = (Path(__file__).parents[1] / "docs/answers.md").read_text()
CHOICES = {"a": "ignore", "b": "enforce", "c": "f(x)", "d": "vitamin (b)"}
SIGNS = str.maketrans("↵⍽", "\n\u00a0")
NONE = "no answer"


def examples_of(heading):
    """(example, last cell) of the tables under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return [pair for line in section.splitlines() for pair in examples_in(line)]


def examples_in(line):
    cells = re.split(r"(?<!\\)\|", line.strip("|")) if line.startswith("| ") else []
    if len(cells) != 3 or "`" not in cells[1]:
        return []
    found, wanted = (re.findall("`([^`]*)`", cell) for cell in cells[1:])
    assert len(wanted) == 1, line
    return [(x.replace("\\|", "|").translate(SIGNS), wanted[0]) for x in found]


def read(reader, completion):
    found = reader.read(completion)
    return found.text if found else NONE


@pytest.mark.parametrize(("example", "wanted"), examples_of("Numbers"))
def test_numbers_are_read_as_the_page_says(example, wanted):
    assert read(NumberReader(), f"So.\n#### {example}") == wanted
    assert read(NumberReader(""), example) == wanted or "####" in example or "\n" in example


CONCLUSIONS = examples_of("Numbers as instruct models write them")


@pytest.mark.parametrize(("example", "wanted"), CONCLUSIONS)
def test_conclusions_are_read_as_the_page_says(example, wanted):
    task = GSM8KTask(answer_form="instruct")
    question = task.make_question("q", "How many?")
    completion = f" She sold 48 clips in May.\n\n{example}"
    reading = task.read(question, completion)
    assert (reading.answer or NONE) == wanted
    if reading.answer:  # what is trained on is read as the same
        assert task.read(question, completion[: reading.end]).answer == wanted


@pytest.mark.parametrize(
    ("completion", "kept"),
    [
        ("So $\\boxed{72}$ clips.", "So $\\boxed{72}$"),
        ("So \\[\n\\boxed{72}\n\\]\nIn May.", "So \\[\n\\boxed{72}\n\\]"),
        ("**\\boxed{72}** **or so**", "**\\boxed{72}**"),
        ("**Answer: 72 clips**\n\nIt was May.", "**Answer: 72 clips**"),
        ("She sold **72 clips** in May.", "She sold **72 clips**"),
        ("\\boxed{\\text{72 clips}}. #", "\\boxed{\\text{72 clips}}"),
    ],
)
def test_a_conclusion_is_kept_with_what_it_is_in(completion, kept):
    assert completion[: ConclusionReader().read(completion).end] == kept


def test_the_papers_form_is_the_default_and_reads_no_other():
    question = GSM8KTask().make_question("q", "How many?")
    for example, _ in CONCLUSIONS:
        if "####" not in example:
            assert GSM8KTask().read(question, example).answer is None, example
    with pytest.raises(UserError, match=r"GSM8KTask.answer_form = 'boxed' is none of"):
        GSM8KTask(answer_form="boxed")


@pytest.mark.parametrize(("example", "wanted"), examples_of("Choices"))
def test_choices_are_read_as_the_page_says(example, wanted):
    assert read(ChoiceReader(CHOICES), f" {example}") == wanted


def test_the_page_has_what_cannot_be_seen_in_it():
    for example in ("`caf\u00e9`", "`Cafe\u0301.`", "`1⍽000`", "`1 000`"):
        assert example in PAGE


def compared(heading):
    """(example, last cell, whether they are equal) of the two tables under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    pairs, n_equal = examples_of(heading), section.partition("\n| different")[0].count("\n")
    rows = [i for i, x in enumerate(section.splitlines()) for _ in examples_in(x)]
    return [(*pair, row < n_equal) for pair, row in zip(pairs, rows, strict=True)]


@pytest.mark.parametrize(("example", "wanted", "equal"), compared("Texts"))
def test_texts_are_compared_as_the_page_says(example, wanted, equal):
    found = TextReader("The answer is").read(f"The answer is {example}")
    assert same_text(found.text, wanted) is same_text(example, wanted) is equal


LATEX = compared("LaTeX")


@pytest.mark.parametrize(("example", "wanted", "equal"), LATEX)
def test_latex_is_compared_as_the_page_says(example, wanted, equal):
    assert same_answer(example, wanted) is same_answer(wanted, example) is equal
    assert same_answer(example, example)


def test_the_equal_answers_of_a_row_are_different_from_those_of_all_other_rows():
    equal = [(example, wanted) for example, wanted, equal in LATEX if equal]
    assert len(equal) >= 60 <= len(LATEX) - len(equal)
    for example, wanted in equal:
        for other in {wanted for _, wanted in equal}:
            assert same_answer(example, other) is (other == wanted), (example, other)


def test_parsing_a_hostile_answer_neither_raises_nor_takes_long():
    start = time.process_time()
    for answer in [
        *("(" * 5_000, "{" * 300, "-" * 390, "^" * 99, "\\frac" * 60, "\\sqrt" * 60, "1" * 99_999),
        *("9^{9^{9^9}}", "2^{-" * 60, "\\sqrt{" + "9" * 300 + "}", "\\sqrt{999999937}", "x^" * 200),
        *("\\text{" * 60, "," * 390, "|" * 390, "\\begin{pmatrix}" * 20, "\\left" * 60, "\\", "_"),
        *("\\frac{1}{" * 40 + "3" + "}" * 40, "(1/" * 20 + "3" + ")" * 20, "\\sqrt[0]{2}", "0/0"),
        *("0^{-1}", "\\sqrt[x]{2}", "\\sqrt{(1,2)}", "\\pm", "²", "½", "\ud800", "\x00", "x" * 99),
        *("\\sqrt{x=1}", "{x=1}+2", "|x=1|^2", "\\frac{a<b}{c}", "-{x=1}", "{x=1}^2", "\\sin{x=1}"),
        *("2^{10^{10}}", "x^{99999999}y^{99999999}", "(2x)^{99999999}", "\\sqrt{2}^{99999999}"),
    ]:  # fmt: skip
        assert same_answer(answer, answer)
        assert not same_answer(answer, "17")
    assert time.process_time() - start < 2.0


@pytest.mark.parametrize(("example", "wanted"), examples_of("Calculator marks"))
def test_marks_are_checked_as_the_page_says(example, wanted):
    assert steps.marks_right(f"So {example}") is (wanted == "yes")


@pytest.mark.parametrize(("example", "wanted"), examples_of("Numbers in JSON"))
def test_json_numbers_are_kept_as_the_page_says(example, wanted):
    line = f'{{"question": {example}, "answer": {example}}}'
    (question,), malformed = rows.questions_of([(1, line)], JsonlTask("x").question_of, "line")
    assert (question.text, question.answer, malformed) == (wanted, wanted, [])


# Random texts, read twice.

LAWS = {"a": "ignore", "b": "enforce", "c": "more laws"}
NUMBER_SCRAPS = [
    "72", "5", "18", "1,000", "0.5", ".5", "3/4", "2 1/2", "000", "{,}", "\\,", "_", "\u00a0", ",",
    ".", "-", "−", "+", "$", "\\$", "€", " ", " ", "  ", "\n", "%", "\\%", "/", "*", "**", "^",
    "×", "=", "<", ">", "≥", "~", "!", ":", ";", "(", ")", "[", "]", "{", "}", "\\boxed{",
    "\\text{", "\\frac", "\\times", "\\circ", "^\\circ", "^2", "²", "m2", "cm", "½", "⁶", "１８",
    "٣", "x", "k", "M", "m", "e", "E3", "e5", "π", "million", "half", "and", "a", "and a half",
    "fifty", "clips", "not", "than", "The answer is", "minus", "negative", ".  She", "! He",
    "#### ", "<<1+1=2>>", "<<", "|", "&", "or", "to", "'", '"', "`", "...", "…", "squared",
    "repeating", "n't", "0", "1e9", "é",
]  # fmt: skip
CHOICE_SCRAPS = [
    "The answer is", "Answer:", "So the correct choice must be", "(a)", "(b)", "(c)", "(x)",
    "enforce (b)", "(a) ignore", "more laws (c)", "ignore", "B", "A", "a", "b", "**B**", "[C]",
    "$A$", "\\boxed{B}", "not", "rather than", "than", "because", "which is", "over", "without",
    "excluding", "or", "and", "as well as", "the", "both", "either", ",", ".", ". It", "!", ":",
    "\n", "is correct", "it is strong", "We can eliminate", "except", "anything but", "instead of",
    "isn't", "option", "is the right answer", "better than", "so", "for", "rule out",
]  # fmt: skip
TEXT_SCRAPS = [
    "rain", "Rain", "x", "5", "0, 1", "(", ")", "[", "]", ".", "!", "?", "'", "’", '"', "“", "”",
    "*", "**", "`", "$", ":", ";", ",", " ", "  ", "-", "–", "é", "e\u0301", "ß", "net", "²", "‘",
]  # fmt: skip


def scraps(texts, most):
    return st.lists(st.sampled_from(texts), max_size=most)


def sentence(parts):
    text = ""
    for part in parts:
        glue = "" if not text or part[0] in ",.!:\n" or text[-1] == "\n" else " "
        text += glue + part
    return text


def check_number(parts):
    completion = "####" + "".join(parts)
    value = slow_numbers.number(completion.removeprefix("####"))
    assert read(NumberReader(), completion) == (NONE if value is None else canonical(value))


def check_choice(parts):
    completion = sentence(parts)
    assert read(ChoiceReader(LAWS), completion) == (slow_choices.choice(completion, LAWS) or NONE)


def check_text(pair):
    left, right = map("".join, pair)
    assert same_text(left, right) is same_text(right, left) is slow_texts.same(left, right)
    assert slow_texts.simple(left) == slow_texts.simple(bare(left))


PIECES = [
    *"0127xyiE+-*/^_!,.()[]{}|<>=$%", " ", "\\frac", "\\sqrt", "\\text{", "\\pi", "\\cup", "\\{",
    "\\}", "\\infty", "\\circ", "\\le", "\\cos", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\",
    "\\pm", "inches", "odd", "or", "^\\circ", "\\%", "\\$", "{2}", "\\frac{1}{2}", "\\overline",
    "million",
]  # fmt: skip


@settings(max_examples=2000, deadline=None)
@given(scraps(PIECES, 14).map("".join), scraps(PIECES, 14).map("".join))
def test_any_two_answers_are_compared_alike_in_both_directions(left, right):
    assert same_answer(left, left)
    assert same_answer(left, right) is same_answer(right, left)


FUZZED = [
    (check_number, scraps(NUMBER_SCRAPS, 8)),
    (check_choice, scraps(CHOICE_SCRAPS, 9)),
    (check_text, st.tuples(scraps(TEXT_SCRAPS, 6), scraps(TEXT_SCRAPS, 6))),
]


def fuzz(check, parts, n):
    settings(max_examples=n, deadline=None, database=None)(given(parts)(check))()


@pytest.mark.parametrize(("check", "parts"), FUZZED)
def test_a_second_reader_agrees_on_a_few_hundred_random_texts(check, parts):
    fuzz(check, parts, 400)


@pytest.mark.slow
@pytest.mark.parametrize(("check", "parts"), FUZZED)
def test_a_second_reader_agrees_on_50_000_random_texts(check, parts):
    fuzz(check, parts, 50_000)
