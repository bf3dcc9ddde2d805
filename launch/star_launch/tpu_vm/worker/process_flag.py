"""Prints the flag by which the workers of a pod share one run, if the run mode takes it.

It runs where star_jax is installed, with star_jax's arguments: `python -m ... ARGUMENTS`.
"""

import sys
from collections.abc import Sequence

from star_jax.errors import UserError
from star_jax.main import ON_MANY_PROCESSES, parse_command_line


def process_flag(arguments: Sequence[str]) -> str:
    """Returns the flag to add to star_jax's arguments.

    "" if the arguments have it already, for a run mode of one process, and for wrong arguments,
    which star_jax itself reports.
    """
    try:
        command = parse_command_line(arguments)
    except UserError:
        return ""
    shared = runs_on_many_processes(command.run_mode) and not command.processes
    return "--processes=auto" if shared else ""


def runs_on_many_processes(run_mode: str) -> bool:
    """Whether several processes can share a run of this mode; star_jax knows."""
    return run_mode in ON_MANY_PROCESSES


if __name__ == "__main__":
    print(process_flag(sys.argv[1:]))
