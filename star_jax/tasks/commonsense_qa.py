"""CommonsenseQA (Talmor et al. 2019), the paper's section 4.2: five choices and no rationales.

    Q: What do you dry your hands on?
    Answer Choices:
    (a) a towel (CORRECT)      <- hinted only
    (b) a tap
    ...
    A: Hands are dried on ... Therefore, the answer is a towel (a).

The completion begins with the space after "A:".
"""

import dataclasses
import re
from typing import ClassVar

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.tasks import rows
from star_jax.tasks.data_set import DataSetTask
from star_jax.tasks.readers.choices import HEADER, choices_of
from star_jax.tasks.rows import Row

HINT = " (CORRECT)"
CHOICE_ANYWHERE = re.compile(r"(?:^|\s)\(([A-Za-z])\)\s+")
HINT_SAID_AGAIN = re.compile(
    r"\(\s*correct\s*\)|\b(?:marked|labell?ed|tagged)\s+(?:as\s+)?\W{0,2}correct\b", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class CommonsenseQATask(DataSetTask):
    """9,741 training and 1,221 validation questions of common sense."""

    answer_by_position: bool = False  # the released code's way to read an answer, see parity/

    BASE: ClassVar[str] = "commonsense_qa"
    answer_kind = "choice"

    def make_question(self, id_: str, text: str) -> Question:
        """Reads "What ...? (a) ... (b) ...", on one line or several, without an answer."""
        stem, *parts = CHOICE_ANYWHERE.split(text.strip())
        choices = list(zip(parts[::2], parts[1::2], strict=True))
        stem = stem.strip().removeprefix("Q:").removesuffix("Answer Choices:").strip()
        if not stem or len(choices) < 2 or not all(text.strip() for _, text in choices):
            raise UserError(
                f"{text[:60]!r} is not a question with choices such as 'What is wet? (a) sand "
                f"(b) water'"
            )
        try:
            return _question(id_, stem, choices)
        except rows.BadRow as reason:
            raise UserError(f"question {text[:60]!r} {reason}") from reason

    def question_of(self, id_: str, row: Row) -> Question:
        """The question of a published row, under the row's own id."""
        stem = rows.text_of(row, "question", "stem")
        choices = row["question"].get("choices")
        if not isinstance(choices, list) or len(choices) < 2:
            raise rows.BadRow("has no list of at least two 'question.choices'")
        pairs = [(rows.text_of(x, "label"), rows.text_of(x, "text")) for x in choices]
        answer = rows.text_of(row, "answerKey")
        return _question(rows.text_of(row, "id"), stem, pairs, answer)

    def published(self, row: Row) -> Row:
        """The builder's fields under the published names."""
        question = {"stem": row.get("question"), "choices": labelled(row.get("choices"))}
        return {"id": row.get("id"), "answerKey": row.get("answer_key"), "question": question}

    def question_text(self, question: Question, hinted: bool) -> str:
        """The question and its choices up to "A:"; hinted, the right one is marked."""
        stem, header, choices = question.text.partition(HEADER)
        if hinted:
            lines = choices.split("\n")
            right = f"({question.answer}) "
            choices = "\n".join(x + HINT if x.startswith(right) else x for x in lines)
        return f"Q: {stem}{header}{choices}\nA:"

    def open_text(self, question: Question) -> str:
        """The question up to "A:" without its choices."""
        return f"Q: {self.stem(question)}\nA:"

    def find_answer(self, question: Question, completion: str) -> tuple[str | None, int]:
        """The letter of the conclusion (see `ChoiceReader`), None if it is no choice's."""
        if self.answer_by_position:
            line = completion.partition("\n")[0]
            letter = line[-3:-2].lower()
            return letter if letter in choices_of(question.text) else None, len(line)
        answer, end = super().find_answer(question, completion)
        return answer, len(completion) if answer is None else end

    def leaks_hint(self, question: Question, said: str) -> bool:
        """Whether a rationale says that a choice was marked as correct."""
        return bool(HINT_SAID_AGAIN.search(said)) or super().leaks_hint(question, said)


def labelled(choices: rows.Json) -> list[rows.Json]:
    """Choices of any form as CommonsenseQA's [{"label": "A", "text": ...}]; [] for no choices.

    The others are [text, ...], {"a": text, ...} and ARC's {"label": [...], "text": [...]}.
    """
    match choices:
        case {"label": list(labels), "text": list(texts)} if len(labels) == len(texts):
            pass
        case {}:
            labels, texts = list(choices), list(choices.values())
        case [{}, *_]:
            return choices
        case [*texts]:
            labels = [chr(ord("a") + i) for i in range(len(texts))]
        case _:
            return []
    return [{"label": label, "text": text} for label, text in zip(labels, texts, strict=True)]


def _question(
    id_: str, stem: str, choices: list[tuple[str, str]], answer: str | None = None
) -> Question:
    letters = [letter.strip().lower() for letter, _ in choices]
    if letters != [chr(ord("a") + i) for i in range(len(letters))]:
        raise rows.BadRow(f"has choices labelled {letters}, which should be a, b, c and so on")
    if answer is not None and answer.strip().lower() not in letters:
        raise rows.BadRow(f"has the answer {answer!r}, which is none of its choices {letters}")
    lines = [f"({a.strip().lower()}) {rows.one_line(text)}" for a, text in choices]
    text = rows.one_line(stem) + HEADER + "\n".join(lines)
    return Question(id_, text, (answer or "").strip().lower())
