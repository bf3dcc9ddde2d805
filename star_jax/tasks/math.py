r"""MATH (Hendrycks et al. 2021): problems of competitions, with solutions that end in a box.

    Q: What is the value of $\frac{6}{8} + \frac{1}{4}$? (1)      <- hinted: the answer
    A: The first fraction is $\frac{3}{4}$, so the sum is $\boxed{1}$.

The completion begins with the space after "A:". The answer is what the last \boxed{} has.
Accuracy is reported by type and by level.
"""

import dataclasses
import functools
from typing import ClassVar

from star_jax.errors import INSTALL, UserError, check_one_of
from star_jax.records import Question
from star_jax.run.progress import log
from star_jax.tasks import rows
from star_jax.tasks.data_set import DataSetTask
from star_jax.tasks.readers.conclusions import BoxReader
from star_jax.tasks.readers.latex import same_answer
from star_jax.tasks.readers.reader import Reader

OWN, MATH_VERIFY = "own", "math_verify"


@dataclasses.dataclass(frozen=True)
class MathTask(DataSetTask):
    """7,500 training and 5,000 test problems; the latter, or a part of them, for validation.

    `train_file` and `validation_file` are JSON Lines files or the published folders, which have a
    JSON file per problem: problem, level, type, solution.
    """

    grader: str = OWN  # or "math_verify", if installed; what ours grades otherwise is listed

    BASE: ClassVar[str] = "math"
    TFDS_VALIDATION: ClassVar[str] = ""
    answer_kind = "text"

    def __post_init__(self):
        """Raises UserError for an unknown grader and what every data set refuses."""
        super().__post_init__()
        check_one_of("MathTask.grader", self.grader, (OWN, MATH_VERIFY))

    def make_question(self, id_: str, text: str) -> Question:
        """Any text is a problem, with its line breaks."""
        if not text.strip():
            raise UserError("an empty text is no problem to solve; write one")
        return Question(id_, text.strip(), "")

    def question_of(self, id_: str, row: rows.Row) -> Question:
        """The problem of a published row, with its solution and what this has in its last box."""
        solution = rows.text_of(row, "solution").strip()
        answer = BoxReader().read(solution)
        if answer is None:
            raise rows.BadRow("its solution has no \\boxed{} with an answer")
        level = rows.text_of(row, "level", or_number=True).removeprefix("Level ")
        return Question(
            id_,
            rows.text_of(row, "problem").strip(),
            answer.text,
            group=f"{rows.text_of(row, 'type')}; Level {level}",
            solution=solution,
        )

    def question_text(self, question: Question, hinted: bool) -> str:
        """The problem up to "A:"; hinted, the answer follows it in parentheses."""
        return f"Q: {question.text}{f' ({question.answer})' if hinted else ''}\nA:"

    def bare_answer(self, question: Question) -> str:
        """The answer in a box, without a rationale."""
        return f"{self.lead}\\boxed{{{question.answer}}}"

    def reader(self, question: Question) -> Reader:
        """What reads the last box."""
        return BoxReader()

    def is_correct(self, question: Question, answer: str | None) -> bool:
        """Whether the two are the same answer (see `readers.latex`), or math-verify says so."""
        if answer is None:
            return False
        if self.grader == MATH_VERIFY:
            return verified(question.answer, answer)
        return same_answer(question.answer, answer)


@functools.lru_cache(maxsize=65536)
def verified(right: str, answer: str) -> bool:
    """What math-verify says; a verdict that is not ours is printed, once for each pair.

    Raises UserError if it is not installed.
    """
    try:
        import math_verify
    except ImportError as error:
        raise UserError(
            f"MathTask.grader = 'math_verify' needs the package math-verify, which is not "
            f"installed: {INSTALL.format('math')}, or bind MathTask.grader = 'own'"
        ) from error
    gold, ours = (math_verify.parse(f"\\boxed{{{text}}}") for text in (right, answer))
    verdict = bool(math_verify.verify(gold, ours))
    if verdict is not same_answer(right, answer):
        word = "right" if verdict else "wrong"
        log(f"math-verify takes {answer!r} for {word}, where {right!r} is; star_jax does not")
    return verdict
