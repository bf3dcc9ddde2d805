"""What the toy worlds have in common."""

from typing import Any, NamedTuple

CORPUS, TRAIN, VALIDATION = PARTS = ("corpus", "train", "validation")  # share no question

Fact = tuple[str, str]  # (how it begins, how it goes on)


class Worked(NamedTuple):
    """A question as a row of the published files, and a right completion."""

    row: dict[str, Any]
    completion: str
