"""What the command lines of the launchers have in common."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
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

    def refuse_own_flags(self, words: Sequence[str]) -> None:
        """Ends the program if a flag of this parser is among the words after a lone --."""
        own = {flag for action in self._actions for flag in action.option_strings}
        for flag in (word.partition("=")[0] for word in words):
            if flag in own:
                self.error(f"{flag} is an option of {self.prog}; move it before the lone --")


def run(main: Callable[[Sequence[str]], int]) -> NoReturn:
    """Ends the program with the exit code of `main`, or 141 if the reader of its output is gone.

    A reader that does not wait for the end is `head`, for example; a shell reports 141 for SIGPIPE.
    """
    try:
        try:
            code = main(sys.argv[1:])
        except SystemExit as end:  # --help, or a wrong command line
            code = end.code
        sys.stdout.flush()
    except BrokenPipeError:
        for stream in (sys.stdout, sys.stderr):  # Python flushes them once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        code = 141
    sys.exit(code)


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
