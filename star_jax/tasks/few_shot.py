"""The few-shot prompt set P from a file: examples as the model reads them, split at blank lines.

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

from star_jax.errors import UserError, check_types
from star_jax.records import Question
from star_jax.tasks.rows import read_text
from star_jax.tasks.task import ReasoningTask


class ExemplarTask(ReasoningTask):
    """A task with exemplars from a file; each kind is a frozen dataclass with these settings.

    The direct form of a task wants the answer alone, without a rationale.
    """

    exemplar_file: str  # Q: and A: examples with blank lines between them
    hinted_exemplar_file: str  # the same with hints, checked if given; "" makes them
    direct: bool

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

    @property
    def exemplar_path(self) -> str | Path:
        """The file of exemplars; "" for none."""
        return self.exemplar_file

    def settings_digest(self) -> str:
        """8 hexadecimal digits that tell these settings from others."""
        settings = repr(dataclasses.astuple(self)).encode()  # type: ignore[call-overload]
        return hashlib.blake2b(settings, digest_size=4).hexdigest()

    def bare_answer(self, question: Question) -> str:
        """The answer, as " 12"."""
        return self.lead + question.answer

    def gold_completion(self, question: Question) -> str | None:
        """The data's rationale, None where they have none; the bare answer if `direct`."""
        if self.direct:
            return self.bare_answer(question)
        return self.lead + question.solution if question.solution else None

    def exemplars(self) -> list[tuple[Question, str]]:
        """(question, completion) of each exemplar; the question has the completion's answer.

        Raises:
          UserError: an exemplar is not a question and a completion with an answer that the task can
            read, or the hinted file is not the plain one with the answers as hints.
        """
        file = self.exemplar_path
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
