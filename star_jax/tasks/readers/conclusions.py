r"""Answers as instruct models write them: "\boxed{72}", "Answer: 72", "**72 clips**", or "#### 72".

docs/answers.md has the rules of `ConclusionReader` as a table.
"""

import dataclasses
import re
from typing import NamedTuple

from star_jax.tasks.readers import numbers
from star_jax.tasks.readers.reader import Found, this_answer

BOX = re.compile(r"\\(?:boxed|fbox)\s*(?=\{)|\\boxed\s*(?=[^\s{A-Za-z])")
BRACE = re.compile(r"\\.|[{}]", re.DOTALL)
# What ends the mathematics, text or bold that a box is in; displays may end on the next line.
CLOSER = re.compile(r"\*\*|[^\S\n]*(?:\$(?!\w)|\\\)|\})|\s*(?:\\\]|\$\$)")
# A mark that begins a heading is none: "#### Step 2", "#### 2. Add the clips".
MARK = re.compile(r"####(?!#)(?![\W_]*[^\W\d_])(?![\W_]*\d+[.)]\s+\w)")
# "Answer:" begins a line or sentence; "the answer is" may be anywhere.
STATEMENT = re.compile(
    r"""(?:^|[.!?][^\S\n])[^\w\n]*(?:(?:so|thus|hence|therefore|the|final|correct)\b[ ,*]*){0,4}
        answer(?:\*\*)?[^\S\n]*:(?:\*\*)?
      | \banswer(?:[^\S\n]+[A-Za-z]+){0,6}?(?:\*\*)?[^\S\n]+is\b:?(?:\*\*)?""",
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
QUESTIONED = re.compile(r"\b(?:if|whether)(?:\s+\w+){0,4}\s*$", re.IGNORECASE)
BOLD = re.compile(r"\*\*(?=[^*\w\n]*\d)([^*\n]+)(?<!:)\*\*(?!:)")
LIST_ITEM = re.compile(r"\s*(?:[-+*>#\u2022]+\s)")
# Before a box: commands that do not change what is in it, and any other one.
THEREFORE = re.compile(r"\\(?:(?:Long)?[rR]ightarrow|implies|therefore|to|q?quad|;|,|\s)\s*$")
COMMAND = re.compile(r"\\[A-Za-z]+\s*$")
FRACTION = re.compile(r"(\d\s*)?\\[dtc]?frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))")


class Box(NamedTuple):
    r"""A `\boxed{...}`: where it starts and ends in its text, and what is in it."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    r"""Every `\boxed{...}` and `\fbox{...}` in order, braces nested; [] if one is not closed.

    Of boxes in boxes, the outer ones. `\boxed 3`, as TeX allows it, has one character.
    """
    found: list[Box] = []
    for match in BOX.finditer(text):
        if found and match.start() < found[-1].end:
            continue
        first = match.end()
        end = closing(text, first) if text[first] == "{" else first
        if end is None:
            return []
        content = text[first + 1 : end] if text[first] == "{" else text[first]
        found.append(Box(match.start(), end + 1, content))
    return found


def closing(text: str, start: int) -> int | None:
    """Where the brace at `start` is closed; None if it is not. Escaped braces do not count."""
    depth = 0
    for brace in BRACE.finditer(text, start):
        depth += {"{": 1, "}": -1}.get(brace[0], 0)
        if depth == 0 and brace[0] == "}":
            return brace.start()
    return None


@dataclasses.dataclass(frozen=True)
class BoxReader:
    r"""What is in the last `\boxed{...}`, as it is written."""

    def read(self, completion: str) -> Found | None:
        """The box's content; its end includes the closing marks of mathematics around the box."""
        text = this_answer(completion, blank_line_ends=False)
        for box in boxes(text)[-1:]:
            if content := box.content.strip():
                return Found(content, _end_of_surroundings(text, box.end))
        return None


@dataclasses.dataclass(frozen=True)
class ConclusionReader:
    r"""The number that a completion concludes with, in the most explicit form that it has.

    1. after the last "####" that begins no heading  2. in the last `\boxed{}`  3. on the line of
    the last "answer is" or "Answer:" with a number  4. in bold on the last line. A less explicit
    form is never taken because the explicit one cannot be read.
    """

    def read(self, completion: str) -> Found | None:
        """The number, written canonically."""
        text = this_answer(completion, blank_line_ends=False)
        if marks := list(MARK.finditer(text)):
            return _on_rest_of_line(text, marks[-1].end())
        if BOX.search(text):
            return _boxed(text)
        if (start := _last_statement(text)) is not None:
            return _on_rest_of_line(text, start)
        return _bold(text.rstrip())


def _on_rest_of_line(text: str, start: int) -> Found | None:
    first = text.rfind("\n", 0, start) + 1
    opened = "**" * (text.count("**", first, start) % 2)  # "**Answer: 72**" is kept whole
    found = numbers.on_line(opened + text[start:].partition("\n")[0])
    return found and Found(found.text, start + found.end - len(opened))


def _boxed(text: str) -> Found | None:
    found = boxes(text)
    if not found:
        return None
    box = found[-1]
    line = text.rfind("\n", 0, box.start)
    number = numbers.on_line(FRACTION.sub(_plain_fraction, box.content))
    if not number or len({each.content for each in found if each.start > line}) > 1:
        return None
    end = _end_of_surroundings(text, box.end)
    before = THEREFORE.sub("", text[line + 1 : box.start])
    after = text[end:].partition("\n")[0]
    if numbers.changes(before, after) or COMMAND.search(before):
        return None
    later = _last_statement(text[end:])
    stated = None if later is None else _on_rest_of_line(text, end + later)
    return None if stated and stated.text != number.text else Found(number.text, end)


def _plain_fraction(match: re.Match[str]) -> str:
    r"""`\frac{3}{4}` as 3/4, and 1\frac{3}{4} as 1 3/4."""
    whole, *parts = match.groups()
    over, under = filter(None, parts)
    return f"{whole.strip()} {over}/{under}" if whole else f"{over}/{under}"


def _end_of_surroundings(text: str, end: int) -> int:
    while closer := CLOSER.match(text, end):
        end = closer.end()
    return end


def _last_statement(text: str) -> int | None:
    """Where the line starts that the last statement with a digit refers to; None without one.

    It may be the next line that is not blank: "**Final Answer:**", then "72".
    """
    starts = []
    for match in STATEMENT.finditer(text):
        if QUESTIONED.search(text[max(0, match.start() - 40) : match.start()]):
            continue
        rest = text[match.end() :]
        if not re.search(r"\w", rest.partition("\n")[0]):
            blank = re.match(r"[^\n\w]*\n\s*", rest)
            rest = rest[blank.end() :] if blank else ""
        if re.search(r"\d", rest.partition("\n")[0]):
            starts.append(len(text) - len(rest))
    return starts[-1] if starts else None


def _bold(text: str) -> Found | None:
    """The number in the one bold part of the last line, alone on it or after its last "="."""
    first = text.rfind("\n") + 1
    bold = list(BOLD.finditer(text, first))
    if len(bold) != 1 or text.count("**", first) != 2 or LIST_ITEM.match(text[first:]):
        return None
    if text[first : bold[0].start()].rstrip().endswith("="):
        first = bold[0].start()
    found = numbers.on_line(text[first:])
    return found and Found(found.text, first + found.end)
