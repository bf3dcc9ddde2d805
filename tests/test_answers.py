"""docs/answers.md: every row of its tables, and a second reader that was written from them."""

import re
from pathlib import Path

import pytest

from star_jax.tasks import rows, steps
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.readers.choices import ChoiceReader
from star_jax.tasks.readers.numbers import NumberReader
from star_jax.tasks.readers.texts import TextReader, same_text

PAGE = (Path(__file__).parents[1] / "docs/answers.md").read_text()
CHOICES = {"a": "ignore", "b": "enforce", "c": "f(x)", "d": "vitamin (b)"}
SIGNS = str.maketrans("↵⍽", "\n\u00a0")
NONE = "no answer"


def examples_of(heading, column=2):
    """(example, last cell) of the tables under a heading."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    for line in section.splitlines():
        cells = re.split(r"(?<!\\)\|", line.strip("|")) if line.startswith("| ") else []
        if len(cells) == 3 and "`" in cells[1]:
            found, wanted = (re.findall("`([^`]*)`", cell) for cell in cells[1:])
            assert len(wanted) == 1, line
            for example in found:
                yield example.replace("\\|", "|").translate(SIGNS), wanted[0]


def read(reader, completion):
    found = reader.read(completion)
    return found.text if found else NONE


@pytest.mark.parametrize(("example", "wanted"), examples_of("Numbers"))
def test_numbers_are_read_as_the_page_says(example, wanted):
    assert read(NumberReader(), f"So.\n#### {example}") == wanted
    assert read(NumberReader(""), example) == wanted or "####" in example or "\n" in example


@pytest.mark.parametrize(("example", "wanted"), examples_of("Choices"))
def test_choices_are_read_as_the_page_says(example, wanted):
    assert read(ChoiceReader(CHOICES), f" {example}") == wanted


TEXTS = PAGE.partition("\n## Texts\n")[2].partition("\n| different")


@pytest.mark.parametrize(("example", "wanted"), examples_of("Texts"))
def test_texts_are_compared_as_the_page_says(example, wanted):
    row = next(
        x for x in PAGE.splitlines() if x.endswith(f"| `{wanted}` |") and f"`{example}`" in x
    )
    equal = row in TEXTS[0]
    found = TextReader("The answer is").read(f"The answer is {example}")
    assert same_text(found.text, wanted) is same_text(example, wanted) is equal


@pytest.mark.parametrize(("example", "wanted"), examples_of("Calculator marks"))
def test_marks_are_checked_as_the_page_says(example, wanted):
    assert steps.marks_right(f"So {example}") is (wanted == "yes")


@pytest.mark.parametrize(("example", "wanted"), examples_of("Numbers in JSON"))
def test_json_numbers_are_kept_as_the_page_says(example, wanted):
    line = f'{{"question": {example}, "answer": {example}}}'
    (question,), malformed = rows.questions_of([(1, line)], JsonlTask("x").question_of, "line")
    assert (question.text, question.answer, malformed) == (wanted, wanted, [])
