"""Choices: the letter that a completion concludes with; docs/answers.md has the rules."""

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

from star_jax.tasks.readers.reader import Found, this_answer
from star_jax.tasks.readers.texts import words

HEADER = "\nAnswer Choices:\n"
CHOICE = re.compile(r"^\(([a-z])\) (.+)$", re.MULTILINE)
LABEL = re.compile(r"\(\s?([A-Za-z])\s?\)")
# Other ways to write a label, which `_plain` writes as "(x)".
WRAPPED = re.compile(
    r"\\boxed\{\s*(?:\\[a-z]+\{)?\s*\(?([A-Za-z])\)?\s*\}+|(?<![\w$])\$\(?([A-Za-z])\)?\$(?![\w$])"
    r"|\*\*\(?([A-Za-z])\)?\*\*|(?<!\w)\[([A-Za-z])\](?!\w)"
)
BOX = re.compile(r"\\(?:boxed|text(?:bf)?|math(?:bf|rm))\{")
# Only this may follow a closing "(x)".
NOTHING_MORE = re.compile(r"""[\s.!?:;,"'\u201d\u2019*)\]}$]*""")
SENTENCE_END = re.compile(r"""[.!?]["'\u201d\u2019*)\]}$]*(?=\s|$)""")
# "the answer is", "Answer:", "the correct choice would be"; what it says follows.
STATEMENT = re.compile(
    r"\b(?:answer|choice|option)(?!\s+choices)(?:\s+\w+){0,4}?"
    r"(?:\s+(?:is|would\s+be|must\s+be|should\s+be)\b|\s*[:=])",
    re.IGNORECASE,
)
# "(b) is the answer", "(b) inkwell is correct", "Option B is right", "B (rain) is the answer"
REVERSED = re.compile(
    rf"(?:{LABEL.pattern}[^.()\n]{{0,60}}?|(?:\b(?:option|choice|letter)\s+(?P<named>[A-Za-z])"
    r"|(?:^\s*|[.:,!?]\s+|\b(?:so|thus|therefore|hence|and|or)\s+)(?-i:(?P<capital>[A-Z])))(?!\w)"
    r"(?:\s*\((?![A-Za-z]\))[^()\n]{0,60}\))?\s+)\bis\s+(?:the\s+)?(?:(?!not\b)\w+\s+){0,2}?"
    r"(?:answer|correct|right)\b",
    re.IGNORECASE,
)
# A letter without parentheses, right after a statement; "a" is a word unless marked as a letter.
BARE_LETTER = re.compile(
    r"""[\s:"'\u201c\u2018*]* (?:the\s+)? (?P<word>(?:option|choice|letter)\s+)?(?P<letter>[A-Za-z])
        (?P<mark> \) | [\]}$.:,;!?"'\u201d\u2019*]+(?=\s|$) | \s*$ | (?=\s+(?:because|since|as)\b)
                | (?=\s+(?:-|\((?![A-Za-z]\)))) )
        (?P<more> (?:(?<=,)|\s*(?:[,/&]|and\b|or\b)) \s*(?:and\s+|or\s+)?
                  \(?[A-Za-z](?!\w|['\u2019]|\s+\w) )?""",
    re.VERBOSE | re.IGNORECASE,
)
ONE_CHOICE = re.compile(r"\W*([A-Za-z])(?:\W*|\W+(\S.*))")  # a letter, or with its text
FEW_WORDS = r"\s+(?:[\w'\u2019-]+\s+){0,3}$"
REJECTED = re.compile(
    r"\b(?:eliminat(?:e|es|ed|ing)|rul(?:e|es|ed|ing)\s+out|reject(?:s|ed|ing)?|dismiss(?:es|ed|ing)?"
    rf"|discard(?:s|ed|ing)?|exclude[sd]?|cross(?:es|ed|ing)?\s+out){FEW_WORDS}",
    re.IGNORECASE,
)
DENIED = re.compile(
    rf"(?:(?:\b(?:not|never|cannot|unlike|neither|nor|except(?:\s+for)?|(?:apart|aside)\s+from"
    r"|instead\s+of|in\s+place\s+of|opposed\s+to|compared\s+(?:to|with)|versus"
    rf"|(?:any|every|no)thing\s+but|(?:all|any|none)\s+but)|n['\u2019]t){FEW_WORDS}"
    rf"|\bthan\s+(?:[\w'\u2019-]+\s+){{0,6}}$|{REJECTED.pattern})",
    re.IGNORECASE,
)
# These deny a label only if another one precedes: "(b) over (a)", but "he jumped over (a)".
DENIED_AFTER_ANOTHER = re.compile(
    rf"\b(?:over|without|excluding|besides|beats|beating){FEW_WORDS}", re.IGNORECASE
)
# What separates two labels of which neither is preferred: "(a) or (b)", "(a), (b)".
UNDECIDED = re.compile(
    r"\s*(?:,?\s*(?:and/or|or|nor|/)\s*(?:[\w'\u2019-]+\s+){0,4}"
    r"|(?:,?\s*(?:and|&|as\s+well\s+as)|[,;])?\s*(?:(?:an?|the|also|both|option|choice)\s+)*[_\s]*)",
    re.IGNORECASE,
)
REASON = re.compile(r"\b(?:because|since|as|for|which|while|whereas)\b|[;\u2014]", re.IGNORECASE)


@functools.lru_cache(maxsize=1024)
def choices_of(question: str) -> dict[str, str]:
    """Letter -> text of the choices in a question's text, after HEADER."""
    return dict(CHOICE.findall(question.partition(HEADER)[2]))


@dataclasses.dataclass(frozen=True)
class ChoiceReader:
    """The letter of the conclusion: "Therefore, the answer is blotter (e)." -> "e"; none -> None.

    1. The first line that says "the answer is ... (x)": the (x) of its last statement, or one that
       closes the line in a later sentence.  2. The last line that is closed by an (x).  3. A first
       line that is nothing but a letter, or a letter with its choice's text.

    A completion is read up to the first blank line, the next "Q:" or "Answer Choices:". Lines that
    only repeat the choices are not read.
    """

    choices: Mapping[str, str]  # lower-case letter -> text; any other letter is no answer

    def read(self, completion: str) -> Found | None:
        """The letter in lower case, up to the end of its sentence."""
        answer = this_answer(completion, blank_line_ends=True).partition(HEADER.rstrip())[0]
        lines = [(line, _plain(line, self.choices)) for line in answer.splitlines(keepends=True)]
        alone = [_only_a_choice(line, plain, self.choices) for line, plain in lines]
        repeats = len({letter for letter in alone if letter}) > 1
        found, start, is_first = None, 0, True
        for (line, plain), letter in zip(lines, alone, strict=True):
            reading, stated = _conclusion(plain)
            if letter and is_first and not reading:
                reading = Found(letter, len(line))
            if reading and not (repeats and letter):
                found = Found(reading.text, start + reading.end)
            if stated:
                break
            start, is_first = start + len(line), is_first and not line.strip()
        if not found or found.text not in self.choices:
            return None
        return Found(found.text, len(answer[: found.end].rstrip()))


def _plain(line: str, choices: Mapping[str, str]) -> str:
    r"""The line with \boxed{B}, $B$, **B** and [B] as (B), and _ for choices' texts; as long.

    Such a text is next to its label, or has a label in it: what it says is no part of the sentence.
    """
    for text in choices.values():
        if "(" in text or WRAPPED.search(text):
            line = re.sub(re.escape(text), lambda m: "_" * len(m[0]), line, flags=re.IGNORECASE)
    line = WRAPPED.sub(lambda m: f"({next(filter(None, m.groups()))})".rjust(len(m[0])), line)
    line = BOX.sub(lambda m: " " * len(m[0]), line)
    for label in LABEL.finditer(line):
        if text := choices.get(label[1].lower(), ""):
            before = len(line[: label.start()].rstrip()) - len(text)
            after = len(line) - len(line[label.end() :].lstrip())
            for start in (before, after):
                stop = start + len(text)
                if start >= 0 and line[start:stop].casefold() == text.casefold():
                    line = line[:start] + "_" * len(text) + line[stop:]
    return line


def _only_a_choice(line: str, plain: str, choices: Mapping[str, str]) -> str | None:
    """The letter of a line that is nothing but a choice: "b", "B - rain", "rain (b)."."""
    labels = list(LABEL.finditer(plain))
    texts = []
    if match := ONE_CHOICE.fullmatch(plain.rstrip()):
        inside = plain if "_" not in plain else line  # the text is as the choice has it
        text = inside[match.start(2) : match.end(2)] if match[2] else ""
        texts.append((match[1].lower(), text))
    if len(labels) == 1 and NOTHING_MORE.fullmatch(plain, labels[0].end()):
        texts.append((labels[0][1].lower(), line[: labels[0].start()]))
    for letter, text in texts:
        if not text.strip() or _same(text, choices.get(letter, "")):
            return letter
    return None


def _same(left: str, right: str) -> bool:
    return (words(left) or left.split()) == (words(right) or right.split())


def _conclusion(line: str) -> tuple[Found | None, bool]:
    """The letter a line concludes with, if any, and whether "the answer is" introduces it."""
    labels = list(LABEL.finditer(line))
    firm = [label for i, label in enumerate(labels) if _is_firm(line, labels, i)]
    statements = [*STATEMENT.finditer(line), *REVERSED.finditer(line)]
    stated = [reading for match in statements if (reading := _stated(line, match, firm))]
    last = labels[-1] if labels and NOTHING_MORE.fullmatch(line, labels[-1].end()) else None
    is_said = last and any(m.end() <= last.start() < _scope(line, m) for m in statements)
    if last in firm and not is_said:
        return Found(last[1].lower(), len(line)), bool(stated)
    if stated:
        end = max(reading.end for reading in stated)
        letters = {reading.text for reading in stated if reading.end == end}
        return Found(letters.pop(), end) if len(letters) == 1 else None, True
    if last and last not in firm and not _is_rejected(line, last):
        start = max((m.end() for m in SENTENCE_END.finditer(line, 0, last.start())), default=0)
        letters = {label[1].lower() for label in firm if label.start() >= start}
        if len(letters) == 1:
            return Found(letters.pop(), len(line)), False
    return None, False


def _stated(line: str, statement: re.Match[str], firm: Sequence[re.Match[str]]) -> Found | None:
    """What one "the answer is" says: the one letter up to a reason, or a bare one after it."""
    if statement.re is REVERSED:
        if letter := statement["named"] or statement["capital"]:
            denied = DENIED.search(line[max(0, statement.start() - 80) : statement.start()] + " ")
            end = _sentence_end(line, statement.end())
            return None if denied else Found(letter.lower(), end)
        label = next((label for label in firm if label.start() == statement.start()), None)
        return label and Found(label[1].lower(), _sentence_end(line, statement.end()))
    scope = _scope(line, statement)
    said = [label for label in firm if statement.end() <= label.start() < scope]
    if said:
        reason = REASON.search(line, said[0].end(), scope)
        group = [label for label in said if not reason or label.start() < reason.start()]
        one = len({label[1].lower() for label in group}) == 1
        return Found(group[0][1].lower(), _sentence_end(line, group[-1].end())) if one else None
    bare = BARE_LETTER.match(line, statement.end())
    is_word = bare and bare["letter"] == "a" and not bare["word"] and bare["mark"] != ")"
    if not bare or is_word or bare["more"]:
        return None
    ends = SENTENCE_END.match(line, bare.end("letter"))
    end = bare.end() if ends else _sentence_end(line, bare.end())
    return Found(bare["letter"].lower(), end)


def _scope(line: str, statement: re.Match[str]) -> int:
    """Where the sentence of a statement ends."""
    stop = SENTENCE_END.search(line, statement.end())
    return stop.end() if stop else len(line)


def _sentence_end(line: str, position: int) -> int:
    """Where the sentence around `position` ends; `position` itself if it was truncated before."""
    stop = SENTENCE_END.search(line, max(0, position - 1))
    return stop.end() if stop else position


def _is_firm(line: str, labels: Sequence[re.Match[str]], i: int) -> bool:
    """Whether labels[i] is neither denied ("not (a)") nor one of several ("(a) or (b)")."""
    before = line[labels[i - 1].end() if i else 0 : labels[i].start()]
    near = before[-80:].rstrip() + " "
    another = i > 0 and not SENTENCE_END.search(before)
    if DENIED.search(near) or (another and DENIED_AFTER_ANOTHER.search(near)):
        return False
    pairs = [(j, j + 1) for j in (i - 1, i) if 0 <= j < len(labels) - 1]
    return not any(_is_undecided(line, labels[j], labels[k]) for j, k in pairs)


def _is_undecided(line: str, left: re.Match[str], right: re.Match[str]) -> bool:
    between = line[left.end() : right.start()]
    differ = left[1].lower() != right[1].lower()
    return differ and len(between) < 80 and bool(UNDECIDED.fullmatch(between))


def _is_rejected(line: str, label: re.Match[str]) -> bool:
    """Whether the words before a label reject it without preferring another."""
    return bool(REJECTED.search(line[max(0, label.start() - 80) : label.start()].rstrip() + " "))
