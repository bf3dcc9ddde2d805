r"""Answers in LaTeX, as MATH has them, in one form: "\frac{1}{2}" and "0.5" are the same.

    answer = elements, between commas        element = [name "="] expression [unit]

What cannot be parsed is compared as it is written. docs/answers.md has the rules as tables.
"""

import functools
import re
from typing import NamedTuple

from star_jax.tasks.readers.conclusions import closing
from star_jax.tasks.readers.expressions import CLOSING, FUNCTIONS, OPENING, Node, parse
from star_jax.tasks.readers.numbers import SCALE

LONGEST = 400  # characters of an answer that is parsed; longer ones are compared as written
SPACES = re.compile(
    r"(?<!\\)\\(?:[!,;: ]|(?:left|right|[Bb]ig+[lr]?|displaystyle|q?quad)(?![a-z]))|~"
)
ALIKE = {
    "\u2212": "-", "\u2013": "-", "\u03c0": "\\pi ", "\u221e": "\\infty ", "\u00b0": "^\\circ ",
    "\u00d7": "\\times ", "\u22c5": "\\cdot ", "\u221a": "\\sqrt ", "\u222a": "\\cup ",
    "\u2264": "\\le ", "\u2265": "\\ge ", "\\leqslant": "\\le", "\\geqslant": "\\ge",
    "\\leq": "\\le", "\\geq": "\\ge", "\\neq": "\\ne", "\\lt": "<", "\\gt": ">",
    "\\dfrac": "\\frac", "\\tfrac": "\\frac", "\\cfrac": "\\frac",
    "\\varnothing": "\\emptyset", "^{\\circ}": "^\\circ ", "\\degree": "^\\circ ",
}  # fmt: skip
GROUPED = re.compile(r"(?<![\d.])\d{1,3}(?:(?:,\\!|\{,\}|\\,)\d{3})+(?!\d)")
GROUPED_BY_COMMAS = re.compile(r"(?<![\d.,])[1-9]\d{0,2}(?:,\d{3})+(?![\d,])")
TEXT = re.compile(r"\\(?:text(?:bf|rm|it|normal)?|mbox|mathrm|operatorname|mathit)\s*(?=\{)")
WORDS = re.compile(r"[A-Za-z]|[A-Za-z]{3,}|[A-Za-z]+(?:[ -][A-Za-z]+)+")
NAMED = re.compile(r"([A-Za-z]|\\[a-z]+|[A-Za-z]\([A-Za-z]\))\s*(?:=|\\in(?![a-z]))\s*([^=<>]+)")
NO_UNIT = re.compile(
    rf"\b(?:{SCALE}|not?|none|or|than|if|is|are|and|times|over|to|[a-fi-kn-rt-z])\b"
)
BARE_UNIT = re.compile(
    r"""(?<=[\d\s}])\s*((?:square\ |cubic\ )?
        (?:inch(?:es)?|feet|foot|ft|yards?|miles?|[cmk]?m(?:eters)?|units?|dollars?|cents?|degrees?
        |percent|hours?|minutes?|seconds?|days?|weeks?|years?|pounds?|mph))$""",
    re.VERBOSE,
)


class Element(NamedTuple):
    """One of an answer's values; a name or unit that is "" agrees with any."""

    name: str  # of "x = 3"
    value: Node
    unit: str


def same_answer(left: str, right: str) -> bool:
    """Whether two answers in LaTeX are the same; the order of a list without brackets is free."""
    lefts, rights = elements(left), elements(right)
    return len(lefts) == len(rights) and all(map(_agree, lefts, rights))


def _agree(left: Element, right: Element) -> bool:
    return (
        left.value == right.value
        and (left.name == right.name or not (left.name and right.name))
        and (left.unit == right.unit or not (left.unit and right.unit))
    )


@functools.lru_cache(maxsize=4096)
def elements(answer: str) -> tuple[Element, ...]:
    """The values of an answer, sorted; never empty."""
    text = _cleaned(answer)
    if len(text) > LONGEST:
        return (Element("", ("raw", text), ""),)
    if text.startswith("\\{") and text.endswith("\\}") and "\\{" not in text[2:]:
        text = text[2:-2]
    found = [_element(part) for part in _parts(text)]
    return tuple(sorted(found, key=repr_of_value))


def repr_of_value(element: Element) -> str:
    """What elements are sorted by."""
    return repr(element.value)


def _cleaned(answer: str) -> str:
    """The answer in one way of writing, without what only sets it."""
    text = answer.strip().strip("$").removeprefix("\\(").removesuffix("\\)").strip()
    text = text.removesuffix(".").strip()
    if (whole := TEXT.match(text)) and closing(text, whole.end()) == len(text) - 1:
        text = text[whole.end() + 1 : -1].strip().removesuffix(".")
    for old, new in ALIKE.items():
        text = text.replace(old, new)
    text = GROUPED.sub(lambda m: re.sub(r"\D", "", m[0]), text)
    if not re.search(r"[(\[]|\\\{", text):
        text = GROUPED_BY_COMMAS.sub(lambda m: m[0].replace(",", ""), text)
    return " ".join(SPACES.sub(" ", text).split())


def _parts(text: str) -> list[str]:
    """The text split at commas, "and" and "or" outside of all brackets."""
    text = re.sub(
        r"\\text\s*\{\s*,?\s*(?:and|or)\s*\}|(?<![A-Za-z\\])\s(?:and|or)\s(?![A-Za-z])", ",", text
    )
    parts, depth, start = [], 0, 0
    for token in re.finditer(r"\\.|[(\[{)\]},;]", text):
        depth += (token[0] in OPENING) - (token[0] in CLOSING)
        if token[0] in ",;" and depth == 0:
            parts.append(text[start : token.start()])
            start = token.end()
    return [part.strip() for part in [*parts, text[start:]] if part.strip()] or [text]


def _element(text: str) -> Element:
    name = ""
    if match := NAMED.fullmatch(text):
        letters = re.search(r"[A-Za-hj-z]", re.sub(r"\\[A-Za-z]+", "", match[2]))  # i is a number
        if "(" in match[1] or not letters:
            name, text = match[1], match[2]
    plain = TEXT.sub("", text)
    bare = re.sub(r"[{}]", "", plain) if plain != text else text
    bare = re.sub(r"^\(([A-Za-z])\)$", r"\1", bare.strip())
    if WORDS.fullmatch(bare):
        is_name = bare.isupper()  # ABC is not abc, but Odd is odd
        word = bare if is_name or len(bare) == 1 else bare.casefold()
        return Element(name, ("text", word), "")
    text, unit = _without_unit(text)
    return Element(name, parse(text) or ("raw", text.replace(" ", "")), unit)


def _without_unit(text: str) -> tuple[str, str]:
    r"""(the text, its unit): "5 \text{ cm}^2" -> ("5", "cm^2"); a scale such as million is none."""
    dollars = re.match(r"(-?\s*)\\?\$\s*", text)
    if dollars:
        return dollars[1] + text[dollars.end() :], "$"
    function = re.search(r"\\(?:" + "|".join(FUNCTIONS) + r")(?![a-z])", text)
    if (sign := re.search(r"\s*(\^\s*\\circ|\\?%)\s*[CF]?$", text)) and not function:
        return text[: sign.start()], "%" if "%" in sign[1] else "degree"
    words = re.search(TEXT.pattern + r"\{([^{}\d]*)\}\s*(?:\^\s*\{?([23])\}?)?$", text)
    words = words or BARE_UNIT.search(text)
    if not words or not text[: words.start()].strip():
        return text, ""
    unit = " ".join(words[1].casefold().strip(" .").split())
    if NO_UNIT.search(unit) or not re.search(r"\w", unit):
        return text, ""
    unit = unit if unit in ("feet", "mph") else re.sub(r"(?<=ch)es$|(?<=\w\w)s$", "", unit)
    power = words[2] if words.re is not BARE_UNIT and words[2] else ""
    return text[: words.start()], unit + power
