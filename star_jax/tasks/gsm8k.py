"""GSM8K (Cobbe et al. 2021), the paper's section 4.2: grade-school problems with solutions.

    Q: Ann has 3 boxes of 4 pens. How many pens has she? (12)      <- hinted: the answer
    A: She has 3*4 = <<3*4=12>>12 pens.
    #### 12

The completion begins with the space after "A:". Validation is the published test split.
"""

import dataclasses
import re
from typing import ClassVar

from star_jax.errors import UserError, check_one_of
from star_jax.records import Question
from star_jax.tasks import rows
from star_jax.tasks.data_set import DataSetTask
from star_jax.tasks.readers import numbers
from star_jax.tasks.readers.conclusions import ConclusionReader
from star_jax.tasks.readers.reader import Reader
from star_jax.tasks.task import HINT_IN_WORDS

HINTS = ("answer", "solution")
FORMS = ("paper", "instruct")


@dataclasses.dataclass(frozen=True)
class GSM8KTask(DataSetTask):
    """7,473 training problems, and 1,319 of the test split for validation.

    The published files have no ids: a question's is its line, or its place in the TFDS folder.
    """

    hint: str = "answer"  # or "solution", the whole one, as in the released code; see parity/

    answer_form: str = "paper"  # "####"; or "instruct", which also reads boxes, bold and "Answer:"

    BASE: ClassVar[str] = "gsm8k"
    TFDS_VALIDATION: ClassVar[str] = "test"
    answer_kind, answer_mark = "number", numbers.MARK

    def __post_init__(self):
        """Raises UserError for an unknown hint or form and what every data set refuses."""
        super().__post_init__()
        check_one_of("GSM8KTask.hint", self.hint, HINTS)
        check_one_of("GSM8KTask.answer_form", self.answer_form, FORMS)

    def make_question(self, id_: str, text: str) -> Question:
        """Any text is a problem, put on one line."""
        if not text.strip():
            raise UserError("an empty text is no problem to solve; write one")
        return Question(id_, rows.one_line(text), "")

    def question_of(self, id_: str, row: rows.Row) -> Question:
        """The problem of a published row, with its solution and the number that this ends in."""
        solution = rows.text_of(row, "answer").strip()
        answer = numbers.NumberReader().read(solution)
        if answer is None:
            raise rows.BadRow(f"its solution has no number after {numbers.MARK!r}")
        text = rows.one_line(rows.text_of(row, "question"))
        return Question(id_, text, answer.text, solution=solution)

    def question_text(self, question: Question, hinted: bool) -> str:
        """The problem up to "A:"; hinted, the answer follows it in parentheses."""
        hint = question.answer
        if self.hint == "solution":
            hint = question.solution or hint  # exemplars show the answer, there as here
        return f"Q: {question.text}{f' ({hint})' if hinted else ''}\nA:"

    def reader(self, question: Question) -> Reader:
        """What reads the answers in their form."""
        return ConclusionReader() if self.answer_form == "instruct" else super().reader(question)

    def leaks_hint(self, question: Question, said: str) -> bool:
        """Whether a solution has the answer in parentheses, as the hint had, or names the hint.

        With the whole solution for a hint, copying cannot be distinguished from reasoning.
        """
        bracketed = re.findall(r"\(([^()\n]{1,64})\)", said)
        return any(numbers.same_number(text, question.answer) for text in bracketed) or bool(
            HINT_IN_WORDS.search(said)
        )
