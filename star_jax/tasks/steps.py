"""Checks the steps of a rationale: GSM8K's calculator marks, and the lines of a scratchpad.

    Half of them: 48/2 = <<48/2=24>>24 clips.

A mark says what was calculated and what came out. It is right if
  1. its left side is a calculation (`evaluate`),
  2. the number on its right side is the value of that: exactly, or with its decimals rounded or
     cut off, "10/3=3.33" but never "10/3=3"; the percent sign is a unit or means hundredths,
     "20/40*100=50%" and "20/40=50%", and
  3. so is the number that stands right behind the mark, where one does.
Sums in prose, without a mark, are not looked at. Nothing here raises or runs anything, whatever
the text, and the time grows with its length alone.
"""

import operator
import re
from fractions import Fraction

from star_jax.tasks import grading

LONGEST = 200  # characters of a calculation; in GSM8K they have at most 36
MARK = re.compile(r"<<(?P<inside>.*?)(?P<end>>>|$)", re.MULTILINE)  # an open one ends in ""
TOKEN = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+|[-+*/()%]")
DECIMALS = re.compile(r"\.([0-9]+)")
BEFORE_AN_OPERAND = {"(": "(", "-": "negate", "+": "keep"}
UNARY = {"negate": operator.neg, "keep": operator.pos}
BINARY = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
BINDING = {"(": 0, ")": 1, "+": 1, "-": 1, "*": 2, "/": 2, "negate": 3, "keep": 3}


def count_marks(rationale: str) -> int:
    """The number of calculator marks, broken ones too."""
    return sum(1 for _ in MARK.finditer(rationale))


def marks_right(rationale: str) -> bool | None:
    """Whether every calculator mark is right, as the module says; None if there is none."""
    marks = list(MARK.finditer(rationale))
    return all(_is_right(mark) for mark in marks) if marks else None


def count_digit_steps(scratchpad: str) -> int:
    """The digits that a scratchpad adds: its lines with a carry, but for the first."""
    return max(0, sum("C:" in line.split(" ") for line in scratchpad.split("\n")) - 1)


def evaluate(calculation: str) -> Fraction | None:
    """The exact value: "2*(3+4)" -> 14, "20%*1,500" -> 300, "-.5/3" -> -1/6; else None.

    Numbers with decimals or thousands commas, + - * / ( ), a sign before a number or a
    parenthesis, and a percent sign after one, which always means hundredths. None too if it is
    longer than 200 characters or divides by zero.
    """
    if len(calculation) > LONGEST or TOKEN.sub("", calculation).strip():
        return None
    try:
        return _run(TOKEN.findall(calculation))
    except ZeroDivisionError:
        return None


def _run(tokens: list[str]) -> Fraction | None:
    """Dijkstra's shunting yard: two stacks instead of recursion, all of it in parentheses."""
    values: list[Fraction] = []
    pending = ["("]  # what waits for its right side
    complete = False  # whether an operand has just ended
    for token in [*tokens, ")"]:
        if not pending:
            return None  # one ")" too many
        if token == "%" and complete:
            values[-1] /= 100
        elif (token in BINARY or token == ")") and complete:
            while BINDING[pending[-1]] >= BINDING[token]:
                _apply(pending.pop(), values)
            if token == ")":
                pending.pop()
            else:
                pending.append(token)
                complete = False
        elif token in BEFORE_AN_OPERAND and not complete:
            pending.append(BEFORE_AN_OPERAND[token])
        elif token[-1] in "0123456789." and not complete:
            values.append(Fraction(token.replace(",", "")))
            complete = True
        else:
            return None
    return None if pending else values[0]


def _apply(operation: str, values: list[Fraction]) -> None:
    right = values.pop()
    if operation in UNARY:
        values.append(UNARY[operation](right))
    else:
        values.append(BINARY[operation](values.pop(), right))


def _is_right(mark: re.Match) -> bool:
    calculation, _, result = mark["inside"].partition("=")
    value = evaluate(calculation)
    if not mark["end"] or value is None or not _agrees(result, value):
        return False
    behind = mark.string[mark.end() : mark.end() + LONGEST].partition("\n")[0]
    said = grading.NUMBER.match(behind)
    return said is None or _agrees(said[0], value)


def _agrees(said: str, value: Fraction) -> bool:
    """Whether a number as it is written is `value`, rounded or cut off to its decimals."""
    number = grading.to_number(said)
    if number is None:
        return False
    match = DECIMALS.search(said)
    unit = Fraction(1, 10 ** len(match[1])) if match else Fraction(0)
    meant = (value, 100 * value) if "%" in said else (value,)
    return any(_is_short_for(number, exact, unit) for exact in meant)


def _is_short_for(number: Fraction, exact: Fraction, unit: Fraction) -> bool:
    """Whether `exact` was rounded, or cut off towards zero, to `number`; unit 0: they are equal."""
    cut = abs(exact) - abs(number)
    is_cut = 0 <= cut < unit and number * exact >= 0
    return number == exact or is_cut or 2 * abs(exact - number) <= unit
