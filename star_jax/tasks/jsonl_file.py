"""Lines of a user's JSON Lines file become questions; malformed lines are reported and counted."""

import hashlib
import re
from collections.abc import Callable, Sequence

from star_jax.errors import UserError, did_you_mean
from star_jax.records import Question
from star_jax.run.progress import log
from star_jax.tasks import rows
from star_jax.tasks.task import TRAIN, VALIDATION

SHOWN = 20  # malformed lines that are reported; further ones are only counted
SHOWN_IN_AN_ERROR = 3


def read_questions(
    path: str, question_of: Callable[[str, rows.Json], Question], tolerated_share: float
) -> list[Question]:
    """The questions of a file in its order, with distinct ids; blank lines are skipped.

    Args:
      path: a file, or one of star_jax's own examples.
      question_of: makes a question of an id (`line_00001`) and a line's value.
      tolerated_share: the share of malformed lines that are dropped with a warning.

    Raises:
      UserError: the file cannot be read or has no questions, or too many lines are malformed.
    """
    found: dict[str, Question] = {}
    malformed: list[str] = []
    for number, line in rows.read_lines(path):
        try:
            question = question_of(f"line_{number:05d}", rows.parse_json(line))
            if question.id in found:
                raise rows.BadRow(f"its id {question.id!r} is not unique")
            found[question.id] = question
        except rows.BadRow as reason:
            malformed.append(f"line {number}: {reason}")
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
    return list(found.values())


def value_of(row: rows.Json, field: str, binding: str) -> str:
    """A field's text, or its number as text; `binding` is where the field's name comes from.

    Raises:
      rows.BadRow: there is none, or something else.
    """
    if not isinstance(row, dict):
        raise rows.BadRow(f"is a JSON {type(row).__name__}, not an object with fields")
    if field not in row:
        hint = did_you_mean(field, row, f"; it has {', '.join(row) or 'none at all'}")
        raise rows.BadRow(f"has no field {field!r} ({binding}){hint}")
    value = row[field]
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return rows.text_of(row, field).strip()


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
    places = [_place(question, seed) for question in questions]
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


def check_apart(
    train: Sequence[Question], validation: Sequence[Question], paths: tuple[str, str]
) -> None:
    """Raises UserError if an id is in both files."""
    both = sorted({q.id for q in train} & {q.id for q in validation})
    if both:
        raise UserError(
            f"{paths[0]} and {paths[1]} share {len(both)} ids, such as {both[0]!r}; a question "
            f"is for training or for validation"
        )


def _place(question: Question, seed: int) -> float:
    """The hash of a question's words, as a number from 0 to 1."""
    words = " ".join(re.findall(r"\w+|[^\w\s]", question.text.casefold()))
    digest = hashlib.blake2b(f"{seed} {words}".encode(), digest_size=6).digest()
    return int.from_bytes(digest, "big") / 2**48
