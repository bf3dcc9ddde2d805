"""What the readers of answers share. Nothing in them raises, whatever the text.

Only this answer is read: what a model continues with, above all another "Q:", is not part of it.
"""

import re
from typing import NamedTuple, Protocol

# An end token that reached the text, or the next question.
OTHER_TEXT = re.compile(r"<\|[a-z_]+\|>|</s>|(?<!\w)Q:")
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


class Found(NamedTuple):
    """An answer and where it ends in the completion it was read from (in characters)."""

    text: str
    end: int


class Reader(Protocol):
    """How the answer of a completion is read; each kind of answer has a reader."""

    def read(self, completion: str) -> Found | None:
        """The answer, with its end; None if there is none, or no single one."""
        ...


def this_answer(completion: str, *, blank_line_ends: bool) -> str:
    """The completion up to the next question and, if so wanted, up to the first blank line."""
    answer = OTHER_TEXT.split(completion, maxsplit=1)[0]
    return BLANK_LINE.split(answer, maxsplit=1)[0] if blank_line_ends else answer


def marked_line(text: str, mark: str) -> tuple[int, str]:
    """(start, rest of the line) after the first `mark`, or of the first line that is not blank.

    A text without `mark` may have it in another case: "So the answer is" for "The answer is".
    """
    start = len(text) - len(text.lstrip())
    if mark:
        same = text.find(mark)
        other = None if same >= 0 else re.search(re.escape(mark), text, re.IGNORECASE)
        start = other.end() if other else same + len(mark) if same >= 0 else len(text)
    return start, text[start:].partition("\n")[0]
