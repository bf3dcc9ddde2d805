"""The command line: `--run_mode=... --gin_file=... --gin.NAME=VALUE`, read with argparse."""

import argparse
import dataclasses
import functools
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import NoReturn

import star_jax
from star_jax.cli.quiet import quiet_imports
from star_jax.errors import UserError, did_you_mean
from star_jax.modes import MODES, find_mode
from star_jax.modes.mode import RunMode

USAGE = "python -m star_jax.main --run_mode=MODE [--gin_file=FILE ...] [--gin.NAME=VALUE ...]"
EXAMPLES = """\
examples:
  python -m star_jax.main --run_mode=star --gin_file=runs/quickstart.gin \\
      --gin.MODEL_DIR="'runs/mine'" --gin.MODEL_CHECKPOINT="'runs/quickstart/base'"
  python -m star_jax.main --run_mode=precompile --topology=v3-8 \\
      --gin_file=paper/table1_star_with_rationalization.gin
  python -m star_jax.main --run_mode=report --gin.report.model_dirs="['runs/a', 'runs/b']"
"""
ROOT = Path(__file__).parents[2]
GIN = "--gin."
POD = "pod"  # a value of --processes


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A command line, read but not yet checked against any gin file."""

    run_mode: str
    mode: type[RunMode]
    gin_files: tuple[str, ...]  # in the order given; later files win
    bindings: tuple[tuple[str, str], ...]  # (NAME, VALUE) of each --gin.NAME=VALUE
    search_paths: tuple[str, ...]  # of --gin_search_paths
    processes: str = ""  # of --processes; "" for one process


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message.removeprefix("argument "))


def quick_answer(argv: Sequence[str]) -> str:
    """What `--help` prints, with the user's own run mode, or `--version`; "" without either."""
    if "--help" in argv or "-h" in argv:
        return _parser(_known_modes(argv)).format_help()
    return _version() if "--version" in argv else ""


def _version() -> str:
    """Versions, and the commit if star_jax runs from a git checkout."""
    describe = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    has_git = (ROOT / ".git").exists() and shutil.which("git")
    said = subprocess.run(describe, capture_output=True, text=True).stdout if has_git else ""
    commit = f"commit {said.strip()}" if said else "no commit"
    return f"star_jax {star_jax.__version__} ({commit}), jax {metadata.version('jax')}\n"


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """Reads the arguments that follow the program's name; the last --run_mode wins.

    Raises:
      UserError: an unknown flag, run mode or topology, a flag without its value or of another run
        mode, or an argument that is not a flag.
    """
    modes = _known_modes(argv)
    parser = _parser(modes)
    options, rest = parser.parse_known_args([word for word in argv if not word.startswith(GIN)])
    bindings = [_binding(word) for word in argv if word.startswith(GIN)]
    if rest:
        raise _unknown(rest[0], parser)
    if options.run_mode is None:
        raise UserError(f"--run_mode is missing; it is one of {', '.join(MODES)}")
    mode = find_mode(options.run_mode)
    for name, owner in modes.items():
        for field, flag in owner.flags().items():
            value = getattr(options, f"{name}.{field}", None)
            if value is not None and owner is not mode:
                owned = f"{flag['flag']} belongs to --run_mode={name}"
                raise UserError(f"{owned}, not to {options.run_mode}")
            if value is not None:
                bindings.append((f"{name.rpartition('.')[2]}.{field}", repr(value)))
    processes = options.processes or ""
    if processes == POD:
        processes = "auto" if mode.many_processes else ""
    if processes and not mode.many_processes:
        several = (name for name, other in MODES.items() if other.many_processes)
        raise UserError(
            f"--run_mode={options.run_mode} runs in one process; remove --processes, which is for "
            f"{', '.join(several)}"
        )
    paths = tuple(path for path in (options.gin_search_paths or "").split(",") if path)
    files = tuple(options.gin_file)
    return CommandLine(options.run_mode, mode, files, tuple(bindings), paths, processes)


def _known_modes(argv: Sequence[str]) -> Mapping[str, type[RunMode]]:
    """The built-in run modes, and the user's own one if --run_mode names it."""
    words = [word for word in argv if not word.startswith(GIN)]
    name = _parser({}).parse_known_args(words)[0].run_mode or ""
    if "." not in name:
        return MODES
    with quiet_imports():  # of the user's module
        return {**MODES, name: find_mode(name)}


def _parser(modes: Mapping[str, type[RunMode]]) -> argparse.ArgumentParser:
    what = "\n".join(f"  {name:22} {mode.help}" for name, mode in modes.items())
    parser = _Parser(
        usage=USAGE,
        description=f"run modes:\n{what}",
        epilog=EXAMPLES,
        formatter_class=functools.partial(
            argparse.RawDescriptionHelpFormatter, max_help_position=25, width=100
        ),
        add_help=False,
        allow_abbrev=False,
        conflict_handler="resolve",  # a user's run mode may have a flag of the same name
    )
    add = parser.add_argument
    add("--run_mode", metavar="MODE", help="one of the above, or module.Class for one of your own")
    add(
        "--gin_file", metavar="FILE", action="append", default=[], type=_text,
        help="a gin file; may be repeated, later files win",
    )  # fmt: skip
    add(
        f"{GIN}NAME=VALUE", action="store_true",  # for --help only: these never reach the parser
        help="a gin binding, wins over every file; NAME is a macro (MODEL_DIR) or a parameter "
        "(TrainerConfig.batch_size), VALUE is a gin value, or a text without quotes",
    )  # fmt: skip
    add(
        "--gin_search_paths", metavar="DIRS", type=_text,
        help="more folders with gin files, separated by commas; they come after the current folder "
        "and before star_jax's own gin_configs/",
    )  # fmt: skip
    add(
        "--processes", metavar="auto", type=_text,
        help="this is one of several processes, as on the hosts of a TPU pod, each started with "
        "the same command; where JAX cannot find the others, INDEX/COUNT@HOST:PORT with the "
        f"address of process 0; `{POD}` is auto for the run modes that allow it, and nothing for "
        "the others",
    )  # fmt: skip
    for name, mode in modes.items():
        for field, flag in mode.flags().items():
            what = f"{name}: {flag.get('help', '')}".replace("%", "%%")
            options = {**flag, "help": what, "default": argparse.SUPPRESS}
            add(options.pop("flag"), dest=f"{name}.{field}", **options)
    add("-h", "--help", action="store_true", help="print this text")
    add("--version", action="store_true", help="print the versions of star_jax and JAX")
    return parser


def _text(value: str) -> str:
    if not value:
        raise argparse.ArgumentTypeError("needs a value")
    return value


def _binding(word: str) -> tuple[str, str]:
    """--gin.MODEL_DIR='x' -> (MODEL_DIR, 'x')."""
    name, _, value = word.removeprefix(GIN).partition("=")
    if not (name and value):
        raise UserError(f"{word} needs a name and a value: {GIN}NAME=VALUE")
    return name, value


def _unknown(word: str, parser: argparse.ArgumentParser) -> UserError:
    flag = word.partition("=")[0]
    if not flag.startswith("-"):
        return UserError(f"'{word}' is not a flag; flags look like --run_mode=star")
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    hint = did_you_mean(flag, known, f"; the flags are {', '.join(known)}")
    return UserError(f"unknown flag '{flag}'{hint}")
