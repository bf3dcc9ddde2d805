"""Texts: what follows a mark on its line, or what a user's pattern found."""

import dataclasses
import re
import unicodedata

from star_jax.tasks.readers.reader import Found, marked_line, this_answer

LONGEST_SEARCHED = 4_000  # characters at a completion's end that a user's pattern searches
TYPOGRAPHIC = str.maketrans("\u2018\u2019\u201c\u201d\u2010\u2011\u2013\u2014\u2212", "''\"\"-----")
PAIR = re.compile(
    r""""([^"\u201c\u201d]+)" | '([^'\u2018\u2019]+)' | \u201c([^"\u201c\u201d]+)\u201d
      | \u2018([^'\u2018\u2019]+)\u2019 | \*([^*]+)\* | `([^`]+)` | \$([^$]+)\$""",
    re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class TextReader:
    """What follows the first `mark` on its line; "" takes the first line that is not blank."""

    mark: str

    def read(self, completion: str) -> Found | None:
        """The text as it is written, without the punctuation around it."""
        start, line = marked_line(this_answer(completion, blank_line_ends=False), self.mark)
        line = line.rstrip()
        answer = bare(line)
        return Found(answer, start + len(line)) if answer else None


@dataclasses.dataclass(frozen=True)
class PatternReader:
    """What the one group of `pattern` found first at the completion's end."""

    pattern: str

    def read(self, completion: str) -> Found | None:
        """The group's text; None if it found nothing."""
        completion = this_answer(completion, blank_line_ends=False)
        start = max(0, len(completion) - LONGEST_SEARCHED)
        match = re.compile(self.pattern, re.MULTILINE).search(completion[start:])
        answer = (match[1] or "").strip() if match else ""
        return Found(answer, start + match.end()) if match and answer else None


def bare(text: str) -> str:
    """The text without the punctuation of the sentence around it; never empty for a text."""
    text = text.strip()
    while True:
        inner = text.lstrip(": ").removeprefix("**").removesuffix("**").rstrip(" .,:;?")
        calm = inner.rstrip("!")
        if calm[-1:].isalpha() and calm[-2:-1].isalpha():  # but 5! is another number
            inner = calm
        pair = PAIR.fullmatch(inner)
        if pair and (within := next(filter(None, pair.groups())).strip()):
            inner = within
        elif inner[:1] + inner[-1:] in ("()", "[]"):  # (rain), but not (0, 1)
            inner = inner[1:-1] if all(map(str.isalpha, inner[1:-1].split())) else inner
        inner = inner.strip()
        if not inner or inner == text:
            return text
        text = inner


def same_text(left: str, right: str) -> bool:
    """Whether two texts agree, whatever their case, spacing and the punctuation around them.

    Composed and decomposed accents are equal, and so are typographic and plain quotes and dashes.
    """
    return _compared(left) == _compared(right)


def _compared(text: str) -> str:
    folded = unicodedata.normalize("NFC", text.casefold())
    return bare(" ".join(folded.translate(TYPOGRAPHIC).split()))


def words(text: str) -> list[str]:
    """A text's words, whatever their case, spacing and punctuation."""
    return re.findall(r"\w+", text.casefold())
