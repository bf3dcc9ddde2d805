r"""Numbers: after "####", there must be one number on the line, and nothing that changes its value.

    line = words without digits, number, what may follow it, words without digits

docs/answers.md says what may come before and after the number. A line that is none of these has no
answer: a number that is only a part of the answer would be a wrong one.
"""

import dataclasses
import decimal
import re
import unicodedata
from fractions import Fraction

from star_jax.tasks.readers.reader import Found, marked_line, this_answer

MARK = "####"
LONGEST = 64  # characters, written canonically; what is longer is no answer
NUMBER = re.compile(
    r"""(?<![\w.])(?:(?P<sign>[-+]|minus\s|negative\s)\s?)?(?:\\?(?P<currency>[$€£¥₹])\s?)?(?P<inner>-)?
        (?: (?P<whole>[0-9]+)[ ](?P<over>[0-9]+)/(?P<under>[0-9]+)
          | (?P<number>(?: [1-9][0-9]{0,2}(?=(?P<comma>,\\!|,|\{,\}|\\,|_|\u00a0))
                           (?:(?P=comma)[0-9]{3})+(?![0-9])
                         | [0-9]+ ) (?:\.[0-9]+)? | \.[0-9]+)
            (?P<power>[eE][-+]?[0-9]{1,2}(?![0-9]))?
            (?:\s?/\s?(?P<divisor>[0-9]+))?
        )(?:\s?\\?%)?""",
    re.VERBOSE | re.IGNORECASE,
)
DIGIT = re.compile("[0-9\u00b2\u00b3\u00bd]")  # after `_plain`, as all below
CALCULATION = re.compile(r"<<[^<>\n]*(?:>>|(?=<<)|$)")
END = "\x1e"  # white space that ends a calculation: one after the number is no part of the answer
COMMAND = re.compile(r"\^(?:\\circ|\{\\circ\})|\\[A-Za-z]+")
HARMLESS = re.compile(
    r"\\(?:f?box(?:ed)?|framebox|(?:text|math)(?:|bf|it|rm)|mbox|bf|rm|[lL]arge|left|right"
    r"|displaystyle|q?quad|degree|circ)$|\^"
)
UNIT_POWER = re.compile(  # cm^2, cm², m2
    r"(?<=[A-Za-z}])(?:\s?\^\s?\{?[23]\}?|[\u00b2\u00b3])"
    r"|(?<![A-Za-z])(?:[cdkm]?m|in|ft|yd|mi|units?)[23](?!\w)"
)
CLOSING = ("*", "`", '"', "$", "\u201d", "\\$")
SENTENCE_END = re.compile(r"[.!?](?=\s+[A-Z])")
# Before a number: an operator, a function, or words by which it is another number.
CHANGED_BEFORE = re.compile(
    r"""(?: [-+/^\u00d7\u00f7\u00b7\u22c5\u00b1\u221a~\u2248<\u2264\u2265\u2260] | [!<>]= | \w\*
          | (?<![\w"'/|=-])> | \w\s+\*\s | [\w)\]}][(\[{]+
          | n['\u2019]t | \b(?:not|than|minus|negative)
        )\s*$""",
    re.VERBOSE | re.IGNORECASE,
)
# After it: an operator, a variable, a scale, or what makes two numbers one.
CHANGED_AFTER = re.compile(
    r"""\s*[!^=+\u00d7\u00f7\u00b7\u22c5\u00b1\u221a\u2248\u2260\u2264\u2265:\u03c0\u221e]
      | \s*[<>][\s=] | [(\[{\\]\w | \*[A-Za-z(] | \s+\*\s
      | \s*[-/~](?!\s*[{(]?\s*[A-Za-z]) | \s*[-/]\s*[xyzn](?!\w)
      | [xXyznie](?![A-Za-z]) | \sx(?!\w) | \s?[kKMB](?![A-Za-z])""",
    re.VERBOSE,
)
SCALE = (
    r"(?:hundred|thousand|(?:m|b|tr|quadr)illion|lakh|crore)s?|mi[lo]|ml?n|bl?n|tr?n|squared"
    r"|cubed|factorial|half|halves|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|tenths"
    r"|hundredths|thousandths"
)
SPELLED = (
    r"one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|quarter|third"
    rf"|(?:thir|four|fif|six|seven|eigh|nine)teen|(?:twen|thir|for|fif|six|seven|eigh|nine)ty|{SCALE}"
)
SCALED = re.compile(
    rf"[^A-Za-z]*(?:and\s+)?(?:(?:an?|one|two|three)\s+)?(?:{SCALE})(?!\w)"
    rf"|.*?\band\s+(?:an?\s+)?(?:{SPELLED})(?!\w)|.*\b(?:repeating|recurring)\b",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class NumberReader:
    r"""The number on the line after the first `mark`: "#### $1,000.00" -> "1000"; none -> None.

    "" as the mark takes the first line that is not blank. The completion is read up to the next
    "Q:", and the line up to a second mark or the end of the number's sentence.
    """

    mark: str = MARK

    def read(self, completion: str) -> Found | None:
        """The number, written canonically; its end includes the brackets that it is in."""
        start, line = marked_line(this_answer(completion, blank_line_ends=False), self.mark)
        found = on_line(line.partition(self.mark)[0] if self.mark else line)
        return found and Found(found.text, start + found.end)


def on_line(line: str) -> Found | None:
    """The one number of a line, written canonically; its end includes the brackets it is in."""
    line = _plain(line)
    match = NUMBER.search(line)
    if not match:
        return None
    before, after = line[: match.start()], _tail(line, match.end())
    end = _closed(before, match.end(), after)
    value = None if _is_changed(before, match, after) else _value(match)
    return None if value is None or end is None else Found(canonical(value), end)


def changes(before: str, after: str) -> bool:
    """Whether the text around a number makes it another one: an operation, a scale, a denial."""
    before, after = _plain(before), _plain(after)
    return bool(CHANGED_BEFORE.search(before) or CHANGED_AFTER.match(after) or SCALED.match(after))


def to_number(text: str) -> Fraction | None:
    """The number a text consists of: "1,000" -> 1000, "3/4" -> 3/4; anything else -> None."""
    match = leading_number(text.strip().removesuffix("."))
    return _value(match) if match and match.end() == len(match.string) else None


def leading_number(text: str) -> re.Match[str] | None:
    """The number that a text begins with, as a match of NUMBER."""
    return NUMBER.match(_fold(text.lstrip()))


def same_number(left: str, right: str) -> bool:
    """Whether two texts are numbers and equal as such: "1,000" and "1000.0"."""
    value = to_number(left)
    return value is not None and value == to_number(right)


def canonical(value: Fraction) -> str:
    """The one way to write a number: 1000, -0.5 and, where no decimal is exact, 1/3."""
    with decimal.localcontext(decimal.Context(prec=10 * LONGEST)) as context:
        exact = decimal.Decimal(value.numerator) / decimal.Decimal(value.denominator)
        return str(value) if context.flags[decimal.Inexact] else f"{exact.normalize():f}"


def _value(match: re.Match[str]) -> Fraction | None:
    """The number a match of NUMBER stands for; None of a division by 0 or an endless one."""
    part = match.groupdict()
    if len(match[0]) > 2 * LONGEST or (part["sign"] and part["inner"]):
        return None
    if part["whole"]:
        numerator, denominator = Fraction(part["over"]), Fraction(part["under"])
    else:
        number = part["number"].replace(part["comma"] or ",", "") + (part["power"] or "")
        numerator, denominator = Fraction(number), Fraction(part["divisor"] or 1)
    if denominator == 0:
        return None
    value = Fraction(part["whole"] or 0) + numerator / denominator
    negative = part["sign"] not in (None, "+") or part["inner"]
    value = -value if negative else value
    return value if len(canonical(value)) <= LONGEST else None


def _plain(line: str) -> str:
    r"""The line with blanks for calculations and harmless LaTeX, ½ for other LaTeX; as long."""
    line = CALCULATION.sub(lambda m: " " * (len(m[0]) - 1) + END, _fold(line))
    return COMMAND.sub(lambda m: (" " if HARMLESS.match(m[0]) else "½") * len(m[0]), line)


def _blank(match: re.Match[str]) -> str:
    return " " * len(match[0])


def _fold(text: str) -> str:
    """Full-width forms and all scripts' digits in ASCII, other numerals as ½; as long."""
    return text if text.isascii() else "".join(map(_folded, text))


def _folded(character: str) -> str:
    if "\uff01" <= character <= "\uff5e":  # full-width
        return chr(ord(character) - 0xFEE0)
    if character in "\u2212\u2013":  # minus, en dash
        return "-"
    if character in "\u2009\u202f":  # thin spaces, as the no-break space between thousands
        return "\u00a0"
    kind = unicodedata.category(character)
    if kind == "Nd":
        return str(unicodedata.decimal(character))
    return "½" if kind in ("No", "Nl") and character not in "²³" else character


def _tail(line: str, end: int) -> str:
    """What follows the number in its sentence, without the powers of its unit."""
    tail = line[end:].partition(END)[0]
    stop = SENTENCE_END.search(tail)
    return UNIT_POWER.sub(_blank, tail[: stop.end()] if stop else tail)


def _is_changed(before: str, number: re.Match[str], after: str) -> bool:
    """Whether there is a second number, or anything by which the value is another one."""
    spaced_sign = number[0][1:2] == " " and number["sign"] in ("-", "+")
    return bool(
        DIGIT.search(before)
        or DIGIT.search(after)
        or CHANGED_BEFORE.search(before)
        or CHANGED_AFTER.match(after)
        or SCALED.match(after)
        or (spaced_sign and re.search(r"\w\s*$", before))  # "profit - 5"
        or (number["currency"] and re.match(r"\s?m(?!\w)", after))  # "$5m"
        or ("." in number[0] and re.match(r"\.\.|…", after))
    )


def _closed(before: str, end: int, after: str) -> int | None:
    """Where the brackets and bold marks around the number end; None if a bracket is not closed."""
    depth = position = 0
    for character in before:
        depth = max(0, depth + (character in "([{") - (character in ")]}"))
    while depth:
        bracket = re.compile(r"[(\[{)\]}]").search(after, position)
        if not bracket:
            return None
        depth += 1 if bracket[0] in "([{" else -1
        position = bracket.end()
    for mark in ("**", '"', "`"):
        if before.count(mark) % 2 and mark in after[position:]:
            position = after.index(mark, position) + len(mark)
    while after.startswith(CLOSING, position):
        position += 1
    return end + position
