"""What the tasks in words share: kinds of answers, and the few-shot prompt set P from a file.

The file has examples as the model reads them, with blank lines between them:

    Q: What is ...?
    A: Because ... Therefore, the answer is ...

Only the plain file is needed: the hinted examples are made from it, so the two cannot disagree. A
hinted file, if given, is only checked.
"""

import dataclasses
import functools
import hashlib
import itertools
import re
from pathlib import Path
from typing import ClassVar

from star_jax.errors import UserError, check_types
from star_jax.records import Question
from star_jax.tasks import steps
from star_jax.tasks.readers import choices, numbers, texts
from star_jax.tasks.readers.reader import Reader, this_answer
from star_jax.tasks.rows import read_text
from star_jax.tasks.task import ReasoningTask

EXEMPLARS = Path(__file__).parent / "exemplars"
KINDS = ("text", "number", "choice", "regex")


class TextTask(ReasoningTask):
    """Questions in words; a subclass is a frozen dataclass with these settings, or fixes them.

    Answer kinds, and what is read from a completion (None if there is nothing to be read):
      text    what follows the first `answer_mark` on its line; case, spacing and punctuation
              around it do not count
      number  the number after the first `answer_mark`: "1,000" equals "1000.0"
      choice  the letter of the conclusion, as `ChoiceReader` reads it
      regex   what the one group of `answer_pattern` found first in the last 4,000 characters; ^
              and $ match at lines. The limit keeps slow patterns bearable, but not those whose
              time grows exponentially, such as (a+)+$. Compared as texts are.
    """

    BASE: ClassVar[str] = ""  # of published data: name in seqio, in TFDS and of our own exemplars
    answer_kind: str  # of KINDS
    answer_mark: str = ""  # for text and number; "" reads the first line
    answer_pattern: str = ""  # for regex
    exemplar_file: str  # Q: and A: examples with blank lines between them
    hinted_exemplar_file: str  # the same with hints, checked if given; "" makes them
    direct: bool  # the answer alone, without a rationale

    def __post_init__(self):
        """Raises UserError for a setting of the wrong type or a hinted file without its plain."""
        check_types(self)
        if self.hinted_exemplar_file and not self.exemplar_file:
            kind = type(self).__name__
            raise UserError(
                f"{kind}.hinted_exemplar_file = {self.hinted_exemplar_file!r} needs its plain "
                f"version; bind {kind}.exemplar_file too"
            )

    @property
    def lead(self) -> str:
        """The space that completions begin with."""
        return " "

    def settings_digest(self) -> str:
        """8 hexadecimal digits by which these settings differ from others."""
        settings = repr(dataclasses.astuple(self)).encode()  # type: ignore[call-overload]
        return hashlib.blake2b(settings, digest_size=4).hexdigest()

    def opening(self, hinted: bool) -> str:
        """As exemplar files have it; `find_answer` reads what precedes the next one."""
        return "Q:"

    def bare_answer(self, question: Question) -> str:
        """The answer alone: " rain", or " (b)." of choices."""
        is_choice = self.answer_kind == "choice"
        return self.lead + (f"({question.answer})." if is_choice else question.answer)

    def gold_completion(self, question: Question) -> str | None:
        """The data's rationale, None where they have none; the bare answer if `direct`."""
        if self.direct:
            return self.bare_answer(question)
        return self.lead + question.solution if question.solution else None

    def choices(self, question: Question) -> dict[str, str]:
        """Letter -> a choice's text as a completion begins with it; {} for the other kinds."""
        found = choices.choices_of(question.text) if self.answer_kind == "choice" else {}
        return {letter: self.lead + text for letter, text in found.items()}

    def stem(self, question: Question) -> str:
        """The question without its choices."""
        is_choice = self.answer_kind == "choice"
        return question.text.partition(choices.HEADER)[0] if is_choice else question.text

    def reader(self, question: Question) -> Reader:
        """What reads the answers to a question."""
        if self.answer_kind == "choice":
            return choices.ChoiceReader(choices.choices_of(question.text))
        if self.answer_kind == "regex":
            return texts.PatternReader(self.answer_pattern)
        return self._reader_after(self.answer_mark)

    def find_answer(self, question: Question, completion: str) -> tuple[str | None, int]:
        """The answer as the class says for its kind; if `direct`, also the first line."""
        text = this_answer(completion, blank_line_ends=False)
        found = self.reader(question).read(text)
        if self.direct and not found and self.answer_kind != "choice":
            found = self._reader_after("").read(text)
        return (found.text, found.end) if found else (None, len(text))

    def is_correct(self, question: Question, answer: str | None) -> bool:
        """Whether the two are the same number, letter or text, whatever its case and spacing."""
        if answer is None or self.answer_kind == "choice":
            return answer == question.answer
        same = numbers.same_number if self.answer_kind == "number" else texts.same_text
        return same(answer, question.answer)

    def steps_right(self, question: Question, said: str) -> bool | None:
        """Of the kind number: whether every calculator mark is right; None if there is none."""
        return steps.marks_right(said) if self._may_have_marks else None

    def count_steps(self, said: str) -> int | None:
        """Of the kind number: the calculator marks up to the answer; else None."""
        return steps.count_marks(said) if self._may_have_marks else None

    def exemplars(self) -> list[tuple[Question, str]]:
        """(question, completion) of each exemplar; the question has the completion's answer.

        Raises UserError if an exemplar is not a question and a completion with an answer that the
        task can read, or the hinted file is not the plain one with the answers as hints.
        """
        file = self.exemplar_file or (self.BASE and EXEMPLARS / f"{self.BASE}.txt")
        texts = enumerate(read_examples(file) if file else [], start=1)
        found = [self._exemplar(f"exemplar {i} of {file}", text) for i, text in texts]
        if self.hinted_exemplar_file:
            self._check_hinted(found)
        return found

    @functools.lru_cache(maxsize=32)  # noqa: B019  of few tasks, equal ones share it
    def few_shot_examples(self, group: str, hinted: bool) -> tuple[str, ...]:
        """All exemplars of the file, the same for every question; none without a file."""
        return tuple(
            self.question_text(question, hinted)
            + (self.bare_answer(question) if self.direct else completion)
            + "\n\n"
            for question, completion in self.exemplars()
        )

    def _reader_after(self, mark: str) -> Reader:
        is_number = self.answer_kind == "number"
        return numbers.NumberReader(mark) if is_number else texts.TextReader(mark)

    @property
    def _may_have_marks(self) -> bool:
        return self.answer_kind == "number" and not self.direct

    def _exemplar(self, where: str, text: str) -> tuple[Question, str]:
        body, has_answer, completion = text.partition("\nA:")
        if not has_answer or not body.startswith("Q:"):
            raise UserError(
                f"{where} begins {text[:40]!r}; it must have a line that begins with 'Q:' and "
                f"after it one that begins with 'A:'"
            )
        try:
            question = self.make_question(where, body.removeprefix("Q:").strip())
        except UserError as error:
            raise UserError(f"{where}: {error.message}") from error
        answer, _ = self.find_answer(question, completion)
        if answer is None:
            raise UserError(f"{where}: no answer can be read from {completion.strip()[-60:]!r}")
        return dataclasses.replace(question, answer=answer), completion

    def _check_hinted(self, plain: list[tuple[Question, str]]) -> None:
        file, hinted_file = self.exemplar_file, self.hinted_exemplar_file
        hinted = read_examples(hinted_file)
        if len(plain) != len(hinted):
            raise UserError(
                f"the exemplar files disagree: {file} has {len(plain)} examples, {hinted_file} has "
                f"{len(hinted)}; give both the same ones, in the same order"
            )
        for i, ((question, completion), text) in enumerate(zip(plain, hinted, strict=True), 1):
            expected = (self.question_text(question, hinted=True) + completion).splitlines()
            for wanted, found in itertools.zip_longest(expected, text.splitlines(), fillvalue=""):
                if wanted.split() != found.split():
                    raise UserError(
                        f"exemplar {i} of {hinted_file} does not agree with exemplar {i} of "
                        f"{file}: it has the line {found!r} where the other, with its hint, has "
                        f"{wanted!r}"
                    )


def read_examples(file: str | Path) -> list[str]:
    """The texts of a file; raises UserError if it has none or cannot be read."""
    text = read_text(file, "exemplar file")
    examples = list(filter(None, map(str.strip, re.split(r"\n[^\S\n]*\n", text))))
    if not examples:
        raise UserError(f"the exemplar file {file} has no examples; write at least one into it")
    return examples
