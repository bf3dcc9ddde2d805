"""Checks the steps of a rationale: GSM8K's calculator marks, and the lines of a scratchpad.

    Half of them: 48/2 = <<48/2=24>>24 clips.

A mark has a calculation and its result. It is right if
  1. its left side is a calculation (`evaluate`),
  2. the number on its right side is the calculation's value: exact, or with its decimals rounded or
     truncated, "10/3=3.33" but never "10/3=3"; a percent sign is a unit or means hundredths,
     "20/40*100=50%" and "20/40=50%", and
  3. so is the number directly after the mark, if there is one.
Sums without a mark are ignored. Nothing here raises or evaluates code, whatever the text, and the
time is linear in its length.
"""

import re
from fractions import Fraction

from star_jax.tasks.readers import numbers

LONGEST = 200  # characters of a calculation; in GSM8K they have at most 36
MARK = re.compile(r"<<(?P<inside>.*?)(?P<end>>>|$)", re.MULTILINE)  # an open one ends in ""
TOKEN = re.compile(r"(?:[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.[0-9]*)?|\.[0-9]+|//|[-+*/()%]")
DECIMALS = re.compile(r"\.([0-9]+)")


def count_marks(rationale: str) -> int:
    """The number of calculator marks, broken ones too."""
    return sum(1 for _ in MARK.finditer(rationale))


def marks_right(rationale: str) -> bool | None:
    """Whether every calculator mark is right (see the module); None if there is none."""
    marks = list(MARK.finditer(rationale))
    return all(_is_right(mark) for mark in marks) if marks else None


def count_digit_steps(scratchpad: str) -> int:
    """The number of digits that a scratchpad adds: its lines with a carry, except the first."""
    return max(0, sum("C:" in line.split(" ") for line in scratchpad.split("\n")) - 1)


def evaluate(calculation: str) -> Fraction | None:
    """The exact value: "2*(3+4)" -> 14, "20%*1,500" -> 300, "-.5/3" -> -1/6; else None.

    Numbers with decimals or thousands commas, + - * / ( ), // (without a rest), a sign before a
    number or a parenthesis, and a percent sign after one, which always means hundredths. None too
    if it is longer than 200 characters or divides by zero.
    """
    if len(calculation) > LONGEST or TOKEN.sub("", calculation).strip():
        return None
    tokens = TOKEN.findall(calculation)
    try:
        value = _sum(tokens)
    except (ValueError, ZeroDivisionError, RecursionError):
        return None
    return None if tokens else value


def _sum(tokens: list[str]) -> Fraction:
    """The value of the sum at the head of the tokens, which it removes; ValueError for none."""
    value = _product(tokens)
    while tokens and tokens[0] in "+-":
        sign = 1 if tokens.pop(0) == "+" else -1
        value += sign * _product(tokens)
    return value


def _product(tokens: list[str]) -> Fraction:
    value = _operand(tokens)
    while tokens and tokens[0] in ("*", "/", "//"):
        operator, operand = tokens.pop(0), _operand(tokens)
        value = value * operand if operator == "*" else value / operand
        if operator == "//" and value.denominator != 1:
            raise ValueError("// has a rest")
    return value


def _operand(tokens: list[str]) -> Fraction:
    """A number or parenthesis, with any signs before it and percent signs after it."""
    token = tokens.pop(0) if tokens else ""
    if token in ("+", "-"):
        return -_operand(tokens) if token == "-" else _operand(tokens)
    if token == "(":
        value = _sum(tokens)
        if not tokens or tokens.pop(0) != ")":
            raise ValueError("a parenthesis is not closed")
    else:
        value = Fraction(token.replace(",", ""))  # raises ValueError for what is no number
    while tokens and tokens[0] == "%":
        tokens.pop(0)
        value /= 100
    return value


def _is_right(mark: re.Match[str]) -> bool:
    calculation, _, result = mark["inside"].partition("=")
    value = evaluate(calculation)
    if not mark["end"] or value is None or not _agrees(result, value):
        return False
    after = mark.string[mark.end() : mark.end() + LONGEST].partition("\n")[0]
    written = numbers.leading_number(after)
    return written is None or _agrees(written[0], value)


def _agrees(written: str, value: Fraction) -> bool:
    """Whether a number as written is `value`, rounded or truncated to its decimals."""
    number = numbers.to_number(written)
    if number is None:
        return False
    decimals = DECIMALS.search(written)
    unit = Fraction(1, 10 ** len(decimals[1])) if decimals else Fraction(0)
    for exact in (value, 100 * value) if "%" in written else (value,):
        is_truncated = 0 <= abs(exact) - abs(number) < unit and number * exact >= 0
        if number == exact or is_truncated or 2 * abs(exact - number) <= unit:
            return True
    return False
