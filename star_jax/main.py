"""The program: `python -m star_jax.main --run_mode=... --gin_file=... --gin.NAME=VALUE`.

`--help` and the answer to a wrong command line come before the heavy imports, so they are quick.
"""

import sys
from collections.abc import Sequence

from star_jax.cli.command_line import CommandLine, parse_command_line, quick_answer
from star_jax.cli.quiet import is_stdout_closed, quiet_imports
from star_jax.errors import UserError


def run_mode_from(command: CommandLine) -> int:
    """Loads the configuration and calls the run mode; returns the exit code.

    Raises:
      UserError: a mistake in the files or bindings, or one that the run itself found.
    """
    from star_jax.cli import gin_errors, gin_sources  # light, but a wrong flag is found without

    sources = gin_sources.read_sources(
        command.gin_files, command.bindings, command.search_paths, command.mode.not_needed
    )
    with quiet_imports():
        from star_jax.cli import configurables
    from star_jax.parallel import processes
    from star_jax.run import progress

    configurables.register_mode(command.run_mode, command.mode)
    with processes.joined(command.processes):
        progress.CONSOLE.quiet = not processes.is_lead()
        gin_errors.load(sources)
        with gin_errors.missing_bindings_reported():
            return configurables.bound_mode(command.run_mode, command.mode)()


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns the exit code.

    0 is success, 1 says that `precompile` found what does not fit, 2 is a user's mistake, 130 is
    Ctrl-C, and 141 says that the reader of stdout is gone. Any other exception is a bug of ours and
    keeps its traceback.
    """
    try:
        answer = quick_answer(argv)
        print(answer, end="")
        code = 0 if answer else run_mode_from(parse_command_line(argv))
        sys.stdout.flush()
        return code
    except UserError as error:
        return _fail(error.message, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command resumes after the last finished stage", 130)
    except BrokenPipeError:
        if is_stdout_closed():
            return 141
        raise
    except ModuleNotFoundError as error:
        # Outside .venv the packages are missing; a missing module of our own is a bug.
        if (error.name or "star_jax").partition(".")[0] == "star_jax":
            raise
        return _fail(
            f"the package '{error.name}' is not installed for {sys.executable}; use "
            ".venv/bin/python, which ./launch/quickstart.sh makes",
            2,
        )


def _fail(message: str, exit_code: int) -> int:
    print(f"star_jax: error: {message}", file=sys.stderr)
    return exit_code


def run() -> None:
    """The console script `star_jax`."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
