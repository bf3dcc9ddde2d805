r"""Reads the answer a completion ends in: a choice's letter, a number or a text; compares them.

Only this answer is read: what a model writes on, above all another "Q:", is not part of it.
Nothing here raises, whatever the text.
"""

import decimal
import functools
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

# An end token that reached the text, or the next question.
OTHER_TEXT = re.compile(r"<\|endoftext\|>|</s>|(?<!\w)Q:")
BLANK_LINE = re.compile(r"\n[^\S\n]*\n")


class Found(NamedTuple):
    """An answer and where it ends in the completion it was read from (in characters)."""

    text: str
    end: int


def this_answer(completion: str, *, blank_line_ends: bool) -> str:
    """The completion up to the next question and, if so wanted, up to the first blank line."""
    answer = OTHER_TEXT.split(completion, maxsplit=1)[0]
    return BLANK_LINE.split(answer, maxsplit=1)[0] if blank_line_ends else answer


# Choices.

HEADER = "\nAnswer Choices:\n"
CHOICE = re.compile(r"^\(([a-z])\) (.+)$", re.MULTILINE)
LABEL = re.compile(r"\(\s?([A-Za-z])\s?\)")
# Only this may follow a closing "(x)".
NOTHING_MORE = re.compile(r"""[\s.!?:;,"'\u201d\u2019*)\]]*""")
SENTENCE_END = re.compile(r"""[.!?]["'\u201d\u2019*)\]]*(?=\s|$)""")
# "the answer is", "Answer:", "the correct choice would be"; what it says follows.
STATEMENT = re.compile(
    r"\b(?:answer|choice|option)(?!\s+choices)(?:\s+\w+){0,4}?"
    r"(?:\s+(?:is|would\s+be|must\s+be|should\s+be)\b|\s*[:=])",
    re.IGNORECASE,
)
# "(b) is the answer", "(b) inkwell is correct"
REVERSED = re.compile(
    LABEL.pattern + r"[^.()\n]{0,60}?\bis\s+(?:the\s+)?(?:(?!not\b)\w+\s+){0,2}?"
    r"(?:answer|correct|right)\b",
    re.IGNORECASE,
)
# A letter without parentheses, right after a statement; "a" is a word unless marked as a letter.
BARE_LETTER = re.compile(
    r"""[\s:"'\u201c\u2018*]*(?:the\s+)?(?P<word>(?:option|choice|letter)\s+)?(?P<letter>[A-Za-z])"""
    r"""(?P<mark>\)|[\].:,;!?"'\u201d\u2019*]+(?=\s|$)|\s*$|(?=\s+(?:because|since|as)\b))""",
    re.IGNORECASE,
)
ONLY_A_LETTER = re.compile(r"\W*([A-Za-z])\W*")
LETTER_AND_TEXT = re.compile(r"\s*\(?([A-Za-z])[).:]\s*(.+)")
NEGATED = re.compile(
    r"(?:\b(?:not|never|cannot|rather\s+than|instead\s+of|unlike|neither|nor)|n['\u2019]t)\s+"
    r"(?:[\w'\u2019-]+\s+){0,3}$",
    re.IGNORECASE,
)
# What separates two letters of which neither is preferred: "(a) or (b)", "(a), (b)".
UNDECIDED = re.compile(
    r"\s*(?:,?\s*(?:and/or|or|nor|/)\s*(?:[\w'\u2019-]+\s+){0,4}|,?\s*(?:and|&)\s*|,\s*)",
    re.IGNORECASE,
)


@functools.lru_cache(maxsize=1024)
def choices_of(question: str) -> dict[str, str]:
    """Letter -> text of the choices in a question's text, after HEADER."""
    return dict(CHOICE.findall(question.partition(HEADER)[2]))


def read_choice(completion: str, choices: Mapping[str, str]) -> Found | None:
    """The letter of the conclusion: "Therefore, the answer is blotter (e)." -> "e"; none -> None.

    1. The first line that says "the answer is ... (x)": the (x) that closes it, or else the
       one of its last statement.  2. The last line that is closed by an (x).  3. A first line
       that is nothing but a letter, or a letter with its choice's text.

    Args:
      completion: read up to the first blank line or the next "Q:".
      choices: lower-case letter -> text; any other letter is no answer.
    """
    answer = this_answer(completion, blank_line_ends=True)
    found, start = None, 0
    for line in answer.splitlines(keepends=True):
        reading, stated = _conclusion(line, choices)
        if reading:
            found = Found(reading.text, start + reading.end)
        if stated:
            break
        start += len(line)
    found = found or _only_a_choice(answer, choices)
    if not found or found.text not in choices:
        return None
    return Found(found.text, len(answer[: found.end].rstrip()))


def _conclusion(line: str, choices: Mapping[str, str]) -> tuple[Found | None, bool]:
    """The letter a line concludes with, if any, and whether "the answer is" introduces it."""
    labels = list(LABEL.finditer(line))
    firm = [label for i, label in enumerate(labels) if _is_firm(line, labels, i, choices)]
    stated = [
        reading
        for match in [*STATEMENT.finditer(line), *REVERSED.finditer(line)]
        if (reading := _stated(line, match, firm))
    ]
    if firm and firm[-1] is labels[-1] and NOTHING_MORE.fullmatch(line, firm[-1].end()):
        return Found(firm[-1][1].lower(), len(line)), bool(stated)
    return (max(stated, key=lambda r: r.end), True) if stated else (None, False)


def _stated(line: str, statement: re.Match, firm: Sequence[re.Match]) -> Found | None:
    """What one "the answer is" says: the letter that closes its sentence, or the first in it."""
    if statement.re is REVERSED:
        label = next((label for label in firm if label.start() == statement.start()), None)
        return label and Found(label[1].lower(), _sentence_end(line, statement.end()))
    stop = SENTENCE_END.search(line, statement.end())
    scope = stop.end() if stop else len(line)
    said = [label for label in firm if statement.end() <= label.start() < scope]
    if said:
        closed = NOTHING_MORE.fullmatch(line, said[-1].end(), scope)
        label = said[-1] if closed else said[0]
        return Found(label[1].lower(), _sentence_end(line, label.end()))
    bare = BARE_LETTER.match(line, statement.end())
    is_word = bare and bare["letter"] == "a" and not bare["word"] and bare["mark"] != ")"
    if not bare or is_word:
        return None
    end = bare.end() if SENTENCE_END.match(line, bare.end("letter")) else None
    return Found(bare["letter"].lower(), end or _sentence_end(line, bare.end()))


def _sentence_end(line: str, position: int) -> int:
    """Where the sentence around `position` ends; `position` itself if it was cut before."""
    stop = SENTENCE_END.search(line, max(0, position - 1))
    return stop.end() if stop else position


def _is_firm(line: str, labels: Sequence[re.Match], i: int, choices: Mapping[str, str]) -> bool:
    """Whether labels[i] is neither denied ("not (a)") nor one of several ("(a) or (b)")."""
    before = line[labels[i - 1].end() if i else 0 : labels[i].start()].rstrip()
    choice = choices.get(labels[i][1].lower(), "")
    if choice and before.casefold().endswith(choice.casefold()):
        before = before[: -len(choice)]  # a "not" within the choice denies nothing
    if NEGATED.search(before[-80:].rstrip() + " "):
        return False
    pairs = [(j, j + 1) for j in (i - 1, i) if 0 <= j < len(labels) - 1]
    return not any(_is_undecided(line, labels[j], labels[k]) for j, k in pairs)


def _is_undecided(line: str, left: re.Match, right: re.Match) -> bool:
    between = line[left.end() : right.start()]
    differ = left[1].lower() != right[1].lower()
    return differ and len(between) < 80 and bool(UNDECIDED.fullmatch(between))


def _only_a_choice(answer: str, choices: Mapping[str, str]) -> Found | None:
    line = answer.lstrip().partition("\n")[0]
    end = len(answer) - len(answer.lstrip()) + len(line)
    if letter := ONLY_A_LETTER.fullmatch(line):
        return Found(letter[1].lower(), end)
    both = LETTER_AND_TEXT.fullmatch(line)
    if both and words(both[2]) == words(choices.get(both[1].lower(), "")):
        return Found(both[1].lower(), end)
    return None


def words(text: str) -> list[str]:
    """A text's words, whatever their case, spacing and punctuation."""
    return re.findall(r"\w+", text.casefold())


# Numbers.

MARK = "####"
LONGEST_NUMBER = 64  # characters, written canonically; what is longer is no answer
NUMBER = re.compile(
    r"""(?<![\w.])(?P<sign>[-+\u2212\u2013]|minus\s|negative\s)?\s?[$€£]?\s?(?P<inner>[-\u2212])?
        (?: (?P<whole>[0-9]+)\s(?P<over>[0-9]+)/(?P<under>[0-9]+)
          | (?P<number>[0-9]+(?:,[0-9]{3})*(?![0-9])(?:\.[0-9]+)?|\.[0-9]+)
            (?P<power>[eE][-+]?[0-9]{1,2}(?![0-9]))?
            (?:\s?/\s?(?P<divisor>[0-9]+))?
        )(?:\s?%)?""",
    re.VERBOSE | re.IGNORECASE,
)
# What may not follow: more digits, another number, the rest of a sum, a range or a list.
MORE_NUMBERS = re.compile(
    r"[.,:]?[0-9]|\s[0-9]|,\s?[$€£]?[0-9]|[eE][-+]?[0-9]|\}\s*\{"
    r"|\s*(?:[-+\u2212\u2013*\u00d7x/\u00f7=^]|or\s|to\s|and\s)\s*[-\u2212]?[$€£]?\.?[0-9]",
    re.IGNORECASE,
)
CALCULATION = re.compile(r"<<[^<>\n]*>>")


def read_number(completion: str, mark: str = MARK) -> Found | None:
    r"""The number after the first `mark`, on its line: "#### $1,000.00" -> "1000"; none -> None.

    Args:
      completion: read up to the next "Q:".
      mark: what announces the answer; "" takes the first line that is not blank, which must then
        have no other number.
    """
    answer = this_answer(completion, blank_line_ends=False)
    start, line = _marked_line(answer, mark)
    line = CALCULATION.sub(lambda m: " " * len(m[0]), line)
    match = NUMBER.search(line)
    if not match or MORE_NUMBERS.match(line, match.end()):
        return None
    if not mark and NUMBER.search(line, match.end()):
        return None
    value = _value(match)
    return None if value is None else Found(canonical(value), start + match.end())


def to_number(text: str) -> Fraction | None:
    """The number a text consists of: "1,000" -> 1000, "3/4" -> 3/4; anything else -> None."""
    match = NUMBER.fullmatch(text.strip().removesuffix("."))
    return _value(match) if match else None


def same_number(left: str, right: str) -> bool:
    """Whether two texts are numbers and equal as such: "1,000" and "1000.0"."""
    value = to_number(left)
    return value is not None and value == to_number(right)


def canonical(value: Fraction) -> str:
    """The one way to write a number: 1000, -0.5 and, where no decimal is exact, 1/3."""
    with decimal.localcontext(decimal.Context(prec=10 * LONGEST_NUMBER)) as context:
        exact = decimal.Decimal(value.numerator) / decimal.Decimal(value.denominator)
        return str(value) if context.flags[decimal.Inexact] else f"{exact.normalize():f}"


def _value(match: re.Match) -> Fraction | None:
    """The number a match of NUMBER stands for; None of a division by 0 or an endless one."""
    if len(match[0]) > 2 * LONGEST_NUMBER:
        return None
    part = match.groupdict()
    if part["whole"]:
        numerator, denominator = Fraction(part["over"]), Fraction(part["under"])
    else:
        number = part["number"].replace(",", "") + (part["power"] or "")
        numerator, denominator = Fraction(number), Fraction(part["divisor"] or 1)
    if denominator == 0:
        return None
    value = Fraction(part["whole"] or 0) + numerator / denominator
    negative = part["sign"] not in (None, "+") or part["inner"]
    value = -value if negative else value
    return value if len(canonical(value)) <= LONGEST_NUMBER else None


# Texts.

LONGEST_SEARCHED = 4_000  # characters at a completion's end that a user's pattern searches
AROUND_AN_ANSWER = " \t.,:;!?\"'*()[]\u201c\u201d\u2018\u2019"


def read_text(completion: str, mark: str) -> Found | None:
    """What follows the first `mark` on its line; "" takes the first line that is not blank."""
    start, line = _marked_line(completion, mark)
    line = line.rstrip()
    answer = line.strip(AROUND_AN_ANSWER) or line.strip()
    return Found(answer, start + len(line)) if answer else None


def read_pattern(completion: str, pattern: str) -> Found | None:
    """What the one group of `pattern` found first at the completion's end."""
    start = max(0, len(completion) - LONGEST_SEARCHED)
    match = re.compile(pattern, re.MULTILINE).search(completion[start:])
    answer = (match[1] or "").strip() if match else ""
    return Found(answer, start + match.end()) if match and answer else None


def same_text(left: str, right: str) -> bool:
    """Whether two texts agree, whatever their case, spacing and the punctuation around them."""
    left, right = (" ".join(text.casefold().split()) for text in (left, right))
    return (left.strip(AROUND_AN_ANSWER) or left) == (right.strip(AROUND_AN_ANSWER) or right)


def _marked_line(text: str, mark: str) -> tuple[int, str]:
    """(start, rest of the line) after the first `mark`, or of the first line that is not blank."""
    rest = text.partition(mark)[2] if mark else text.lstrip()
    return len(text) - len(rest), rest.partition("\n")[0]
