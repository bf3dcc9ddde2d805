"""The command line: `python -m star_jax.main --run_mode=... --gin_file=... --gin.NAME=VALUE`.

Answers to `--help` and to a wrong command line come before the heavy imports, so they are quick.
"""

import contextlib
import dataclasses
import importlib
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence

from star_jax.errors import UserError, did_you_mean
from star_jax.parallel.topologies import ALL, find_topologies

RUN_MODES = {
    "star": "the outer loop: generate, rationalize, filter, fine-tune the base",
    "few_shot": "accuracy of the base behind few-shot examples (a baseline)",
    "pretrain": "make a small base model from scratch",
    "finetune": "fine-tune the base on worked solutions or on answers alone",
    "evaluate": "accuracy of a checkpoint on a task",
    "infer": "print what a checkpoint writes for your own questions",
    "convert": "weights into Orbax, or out as a Hugging Face directory",
    "precompile": "does a run fit a TPU, and how long would it take there; needs no TPU",
    "report": "tables and figures of finished runs, side by side",
    "compare": "pairs of rationales for a blind comparison by people, and the key",
    "score_comparison": "what those people preferred",
}

# absl's C++ lines of information and warning, and the head it puts above them.
CHATTER = re.compile(rb"[IW]\d{4} |WARNING: All log messages before absl::InitializeLog")

PRECOMPILE_FLAGS = {
    "--topology": "precompile.topologies",
    "--json": "precompile.json_file",
    "--search": "precompile.search",
}
SWITCHES = ("--search",)  # flags without a value
FLAGS = (
    "--run_mode", "--gin_file", "--gin_search_paths", "--processes", *PRECOMPILE_FLAGS, "--help"
)  # fmt: skip
ON_MANY_PROCESSES = ("star", "few_shot", "pretrain", "finetune", "evaluate", "infer")
# What `precompile` does not look at, so that nobody has to set it.
NOT_NEEDED = {"precompile": ("MODEL_DIR", "MODEL_CHECKPOINT")}

HELP = """\
usage: python -m star_jax.main --run_mode=MODE [--gin_file=FILE ...] [--gin.NAME=VALUE ...]

  --run_mode=MODE          what to do:
{modes}
  --gin_file=FILE          a gin file; repeat it, later files win
  --gin.NAME=VALUE         one gin binding, wins over every file; NAME is a macro (MODEL_DIR) or a
                           parameter (Trainer.batch_size), VALUE a gin value (a text in quotes)
  --gin_search_paths=DIRS  more folders to look for gin files in, comma-separated; the current
                           folder comes before them and star_jax's own gin_configs/ after them
  --processes=auto         one of several processes, as on the hosts of a TPU pod, where each is
                           started with the same command; elsewhere INDEX/COUNT@HOST:PORT with
                           the address of process 0
  --topology=NAME          precompile: a TPU as Cloud TPU (v3-8) or the compiler (v3:2x2) calls it;
                           repeat it, or `all`
  --json=FILE              precompile: the same as JSON
  --search                 precompile: look for the quickest mesh that fits
  --help                   this text

examples:
  python -m star_jax.main --run_mode=star --gin_file=runs/quickstart.gin \\
      --gin.MODEL_DIR="'runs/mine'" --gin.MODEL_CHECKPOINT="'runs/quickstart/base'"
  python -m star_jax.main --run_mode=precompile --topology=v3-8 \\
      --gin_file=paper/table1_star_with_rationalization.gin
  python -m star_jax.main --run_mode=report --gin.report.model_dirs="['runs/a', 'runs/b']"
"""


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """What the user asked for, split up but not yet checked against any file."""

    run_mode: str
    gin_files: tuple[str, ...]  # in the order given; later files win
    bindings: tuple[tuple[str, str], ...]  # (NAME, VALUE) of each --gin.NAME=VALUE
    search_paths: tuple[str, ...]  # of --gin_search_paths
    processes: str = ""  # of --processes; "" for one alone


def help_text() -> str:
    """Returns what `--help` prints."""
    modes = "\n".join(f"{'':13}{mode:16} {what}" for mode, what in RUN_MODES.items())
    return HELP.format(modes=modes)


def parse_command_line(argv: Sequence[str]) -> CommandLine:
    """Splits the arguments after the program's name, T5X style; the last --run_mode counts.

    Raises:
      UserError: an unknown flag, run mode or topology, a flag without its value, or a stray
        argument.
    """
    run_mode, processes, gin_files, bindings, search_paths = None, "", [], [], []
    own: dict[str, list[str]] = {}
    for flag, value in _split_flags(argv):
        if flag == "--run_mode":
            run_mode = value
        elif flag == "--gin_file":
            gin_files.append(value)
        elif flag == "--gin_search_paths":
            search_paths.extend(path for path in value.split(",") if path)
        elif flag == "--processes":
            processes = value
        elif flag in PRECOMPILE_FLAGS:
            own.setdefault(flag, []).append(value)
        else:
            bindings.append((flag.removeprefix("--gin."), value))
    if run_mode is None:
        raise UserError(f"--run_mode is missing; it is one of {', '.join(RUN_MODES)}")
    if run_mode not in RUN_MODES:
        hint = did_you_mean(run_mode, RUN_MODES, f"; it is one of {', '.join(RUN_MODES)}")
        raise UserError(f"unknown --run_mode '{run_mode}'{hint}")
    if own and run_mode != "precompile":
        raise UserError(f"{next(iter(own))} belongs to --run_mode=precompile, not to {run_mode}")
    if processes and run_mode not in ON_MANY_PROCESSES:
        raise UserError(
            f"--run_mode={run_mode} runs in one process; leave --processes away, which is for "
            f"{', '.join(ON_MANY_PROCESSES)}"
        )
    find_topologies([*own.get("--topology", ()), ALL])  # refuses a wrong one at once
    bindings.extend(_as_bindings(own))
    return CommandLine(run_mode, tuple(gin_files), tuple(bindings), tuple(search_paths), processes)


def _as_bindings(own: Mapping[str, Sequence[str]]) -> list[tuple[str, str]]:
    """`precompile`'s own flags as what gin binds: --topology=v3-8 -> topologies = ['v3-8']."""
    values = {
        "--topology": lambda given: repr(list(given)),
        "--json": lambda given: repr(given[-1]),
        "--search": lambda given: "True",
    }
    return [(PRECOMPILE_FLAGS[flag], values[flag](given)) for flag, given in own.items()]


def _split_flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yields (flag, value) for `--flag=value` and `--flag value`."""
    rest = iter(argv)
    for argument in rest:
        flag, equals, value = argument.partition("=")
        if not flag.startswith("-"):
            raise UserError(f"stray argument '{argument}'; flags look like --run_mode=star")
        is_binding = flag.startswith("--gin.") and flag != "--gin."
        if not is_binding and flag not in FLAGS:
            hint = did_you_mean(flag, FLAGS, f"; the flags are {', '.join(FLAGS)} and --gin.NAME")
            raise UserError(f"unknown flag '{flag}'{hint}")
        if flag in SWITCHES:
            if equals:
                raise UserError(f"{flag} takes no value")
            yield flag, ""
            continue
        if not equals and not is_binding:
            value = next(rest, "")
        if not value or (not equals and value.startswith("--")):
            raise UserError(f"{flag} needs a value: {flag}=VALUE")
        yield flag, value


def run_mode_from(command: CommandLine) -> int:
    """Loads the configuration and calls the run mode's entry point; returns the exit code.

    Raises:
      UserError: any mistake in the files or bindings, or one that the run itself found.
    """
    # Gin is light, but a wrong flag need not wait even for it.
    from star_jax.cli import gin_errors, gin_sources

    sources = gin_sources.read_sources(
        command.gin_files,
        command.bindings,
        command.search_paths,
        NOT_NEEDED.get(command.run_mode, ()),
    )
    quiet_libraries()
    with chatter_left_out():
        configurables = importlib.import_module("star_jax.cli.configurables")
    from star_jax.parallel import processes
    from star_jax.run import progress

    with processes.joined(command.processes):
        progress.CONSOLE.quiet = not processes.is_lead()
        gin_errors.load(sources)
        with gin_errors.missing_bindings_told():
            return configurables.ENTRY_POINTS[command.run_mode]() or 0


def quiet_libraries() -> None:
    """Hushes the start-up talk of TensorFlow, absl, Orbax and JAX; call before their import."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s")
    for name in ("absl", "orbax", "jax", "tensorflow"):
        logging.getLogger(name).setLevel(logging.ERROR)


@contextlib.contextmanager
def chatter_left_out() -> Iterator[None]:
    """Leaves out of stderr what TensorFlow's C++ says of itself while it loads.

    It says so before it reads any setting, and straight to the file descriptor. All else that was
    written meanwhile is shown at the end.
    """
    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            os.write(2, b"".join(line for line in held if not CHATTER.match(line)))


def main(argv: Sequence[str]) -> int:
    """Runs one command line and returns the exit code: 0, 2 for a user's mistake, 130 for Ctrl-C.

    1 says that `precompile` found what does not fit. Any other exception is a bug of ours and keeps
    its traceback.
    """
    try:
        if "--help" in argv or "-h" in argv:
            print(help_text(), end="")
        else:
            return run_mode_from(parse_command_line(argv))
    except UserError as error:
        return _fail(error.message, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on from the last finished stage", 130)
    except ModuleNotFoundError as error:
        # Outside .venv the packages are missing; a missing module of our own is a bug.
        if (error.name or "star_jax").partition(".")[0] == "star_jax":
            raise
        return _fail(
            f"the package '{error.name}' is not installed for {sys.executable}; use "
            ".venv/bin/python, which ./launch/quickstart.sh makes",
            2,
        )
    return 0


def _fail(message: str, exit_code: int) -> int:
    print(f"star_jax: error: {message}", file=sys.stderr)
    return exit_code


def run() -> None:
    """The console script `star_jax`."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    run()
