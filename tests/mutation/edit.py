"""One edit: a mistake that an engineer could make, and the tests that should notice it."""

import dataclasses
from pathlib import Path


class Stale(Exception):
    """The code no longer has the text that an edit replaces, or has it more than once."""


@dataclasses.dataclass(frozen=True)
class Edit:
    """Replaces one piece of text in one file of the package."""

    file: str  # below star_jax/
    old: str  # must occur exactly once
    new: str
    what: str  # what it breaks, in a few words
    tests: tuple[str, ...]  # what pytest runs: files below tests/, or tests in them

    def applied(self, root: Path) -> str:
        """The file's text with the edit; `root` is the checkout.

        Raises:
          Stale: the old text does not occur exactly once.
        """
        text = self.path(root).read_text()
        n = text.count(self.old)
        if n != 1:
            raise Stale(f"{self.file}: {self.old!r} occurs {n} times; correct the edit")
        return text.replace(self.old, self.new)

    def path(self, root: Path) -> Path:
        """The edited file in a checkout."""
        return root / "star_jax" / self.file

    @property
    def selection(self) -> tuple[str, ...]:
        """The arguments that choose the tests for pytest, from the checkout's root."""
        return tuple(f"tests/{test}" for test in self.tests)

    def __str__(self):
        return f"{self.file}: {self.what}"


def edits_of(file: str, tests: str, *changes: tuple[str, ...]) -> list[Edit]:
    """Edits of one file.

    Args:
      file: below star_jax/.
      tests: that should notice the edits, separated by spaces; see `Edit.tests`.
      *changes: (old text, new text, what it breaks), or with tests of its own as a fourth.
    """
    return [
        Edit(file, old, new, what, tuple((own[0] if own else tests).split()))
        for old, new, what, *own in changes
    ]
