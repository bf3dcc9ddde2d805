"""The questions of a user's JSON Lines file, and their split; malformed lines are reported."""

import re
import unicodedata
from collections.abc import Callable, Sequence

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.run.progress import log
from star_jax.tasks import rows
from star_jax.tasks.task import TRAIN, VALIDATION

SHOWN = 20  # malformed lines that are reported; further ones are only counted
SHOWN_IN_AN_ERROR = 3


def read_questions(
    path: str,
    question_of: Callable[[str, rows.Json], Question],
    tolerated_share: float,
    encoding: str = "utf-8",
) -> list[Question]:
    """The questions of a file in its order, with distinct ids; blank lines are skipped.

    Args:
      path: of the file, which may be compressed by gzip.
      question_of: makes a question of an id (`line_00001`) and a line's value.
      tolerated_share: of the lines that may be malformed, which are dropped with a warning.
      encoding: of the file.

    Raises:
      UserError: the file cannot be read or has no questions, or too many lines are malformed.
    """
    found, reasons = rows.questions_of(rows.read_lines(path, encoding), question_of, "line")
    malformed = [f"line {reason}" for reason in reasons]
    n, n_lines = len(malformed), len(malformed) + len(found)
    if n_lines == 0:
        raise UserError(f"{path} has no lines; write one JSON object per line into it")
    if malformed and (n / n_lines > tolerated_share or not found):
        hidden = f" and {n - SHOWN_IN_AN_ERROR} more" if n > SHOWN_IN_AN_ERROR else ""
        raise UserError(
            f"{path}: {n} of {n_lines} lines are not questions; JsonlTask.tolerated_share = "
            f"{tolerated_share} allows {int(tolerated_share * n_lines)}: "
            f"{'; '.join(malformed[:SHOWN_IN_AN_ERROR])}{hidden}"
        )
    if malformed:
        more = [f"and {n - SHOWN} more"] if n > SHOWN else []
        head = f"{path}: {n} of {n_lines} lines are dropped:"
        log("\n  ".join([head, *malformed[:SHOWN], *more]))
    return found


def check_split(held_out: float, validation_path: str) -> None:
    """Raises UserError for a wrong number of held-out questions, or a second way to split."""
    number = isinstance(held_out, int | float) and not isinstance(held_out, bool)
    if not number or held_out < 0 or (held_out >= 1 and not isinstance(held_out, int)):
        raise UserError(
            f"JsonlTask.held_out = {held_out!r}: give a share below 1 or a whole number of "
            f"questions"
        )
    if bool(held_out) == bool(validation_path):
        raise UserError(
            f"JsonlTask.held_out = {held_out} and JsonlTask.validation_path = "
            f"{validation_path!r}: bind one of them, and the other to 0 or ''"
        )


def split(
    questions: Sequence[Question], held_out: float, seed: int, path: str
) -> dict[str, list[Question]]:
    """{TRAIN: questions, VALIDATION: questions}, split by a hash of their words.

    A line's split does not depend on the other lines (unless `held_out` is a number), and the same
    question under two ids is in one split.

    Args:
      questions: of the file.
      held_out: for validation: a share below 1, or a number of questions.
      seed: of the hash.
      path: of the file, for the error message.

    Raises:
      UserError: a split is empty.
    """
    places = [rows.hashed_share(f"{seed} {text}") for text in map(_words, questions)]
    limit = held_out
    if held_out >= 1:
        limit = sorted(places)[min(int(held_out), len(places)) - 1] + 2**-49
    sides: dict[str, list[Question]] = {TRAIN: [], VALIDATION: []}
    for question, place in zip(questions, places, strict=True):
        sides[VALIDATION if place < limit else TRAIN].append(question)
    if not all(sides.values()):
        raise UserError(
            f"JsonlTask.held_out = {held_out} splits the {len(questions)} questions of {path} into "
            f"{len(sides[TRAIN])} for training and {len(sides[VALIDATION])} for validation; "
            f"choose another value"
        )
    return sides


def shared(questions: Sequence[Question], others: Sequence[Question]) -> list[Question]:
    """Those of `others` that are among `questions`, by their ids or their words."""
    ids, texts = {q.id for q in questions}, set(map(_words, questions))
    return [q for q in others if q.id in ids or _words(q) in texts]


def _words(question: Question) -> str:
    """The text without case and spacing, which do not make it another question."""
    text = unicodedata.normalize("NFC", question.text.casefold())
    return " ".join(re.findall(r"\w+|[^\w\s]", text))
