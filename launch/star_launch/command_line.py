"""What the command lines of the launchers have in common."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NoReturn


class Parser(argparse.ArgumentParser):
    """Prints --help as it is written, takes no abbreviations, and reports errors in one line."""

    def __init__(self, prog: str, usage: str | None, description: str, epilog: str):
        super().__init__(
            prog=prog,
            usage=usage,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Ends the program with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def fail(prog: str, message: str, exit_code: int) -> int:
    """Prints an error in one line and returns the exit code."""
    print(f"{prog}: error: {message}", file=sys.stderr)
    return exit_code


def say(prog: str, message: str) -> None:
    """Reports progress on stderr; stdout is for what the user asked for."""
    print(f"{prog}: {message}", file=sys.stderr, flush=True)


def split_at_dashes(argv: Sequence[str]) -> tuple[list[str], list[str] | None]:
    """Returns the arguments before the first lone -- and those after it, None without a --."""
    words = list(argv)
    if "--" not in words:
        return words, None
    cut = words.index("--")
    return words[:cut], words[cut + 1 :]
