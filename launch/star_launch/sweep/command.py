"""The command line of launch/sweep.py; --help needs no packages."""

import argparse
import re
import sys
from collections.abc import Sequence

from star_launch.command_line import Parser, fail, split_at_dashes
from star_launch.sweep import PROG, SWEEPS
from star_launch.tpu_vm.run import SAFE_PATH, is_bucket

USAGE = "python launch/sweep.py FILE [options] [--gin.NAME=VALUE ...] [-- options of tpu_vm.py up]"
DESCRIPTION = """\
Runs every point of a sweep (see gin_configs/sweeps/), each in its own directory, and reports on all
of them side by side. The same command resumes an interrupted sweep.
"""
EPILOG = """\
--gin.NAME=VALUE binds a macro or parameter of the sweep's own file, such as Sweep.output_dir.
With --tpu, the options of `launch/tpu_vm.py up` follow a lone --:
  python launch/sweep.py sweeps/learning_rate.gin --parallel 4 --tpu gs://BUCKET/learning_rate -- \\
      --accelerator_type=v3-8 --spot --data=commonsense_qa --data=paper_prompts --data=gptj
exit code: 0 success, 1 some runs failed, 2 a wrong command or sweep, 130 Ctrl-C
"""


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]], list[str]]:
    """Reads the command line; ends the program if it is wrong.

    Returns:
      the options, the (NAME, VALUE) bindings for the sweep's file, and the options of tpu_vm.py.
    """
    own, tpu_options = split_at_dashes(argv)
    flags = [word for word in own if word.startswith("--gin.")]
    parser = Parser(PROG, USAGE, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("file", metavar="FILE", help="the sweep's gin file")
    add("--output_dir", default="", help=f"for the results (default: {SWEEPS}/NAME of the file)")
    add("--parallel", type=int, default=1, metavar="N", help="runs at the same time (default: 1)")
    add("--dry_run", action="store_true", help="print the commands, run none")
    add(
        "--tpu",
        default="",
        metavar="gs://BUCKET/FOLDER",
        help="one TPU VM per run, MODEL_DIRs there",
    )
    options = parser.parse_args([word for word in own if word not in flags])
    options.tpu = options.tpu.rstrip("/")
    if options.parallel < 1:
        parser.error(f"--parallel {options.parallel} is not positive")
    is_folder = is_bucket(options.tpu) and SAFE_PATH.fullmatch(options.tpu)
    if options.tpu and not (is_folder and "/" in options.tpu.removeprefix("gs://")):
        parser.error(f"--tpu '{options.tpu}' is not gs://BUCKET/FOLDER")
    if tpu_options and not options.tpu:
        parser.error("what follows a lone -- is for TPU VMs; give --tpu gs://BUCKET/FOLDER")
    parser.refuse_own_flags(tpu_options or ())
    for word in flags:
        if not re.fullmatch(r"--gin\.[^=]+=.+", word, re.DOTALL):
            parser.error(f"{word} is not --gin.NAME=VALUE")
    pairs = (word.removeprefix("--gin.").partition("=") for word in flags)
    return options, [(name, value) for name, _, value in pairs], tpu_options or []


def main(argv: Sequence[str]) -> int:
    """Returns 0, 1 when runs failed, 2 for a wrong command or sweep, 130 for Ctrl-C."""
    options, bindings, tpu_options = parse(argv)
    try:
        from star_jax.errors import UserError
        from star_launch.sweep.sweep import run_sweep
    except ModuleNotFoundError as missing:
        if not missing.name or missing.name.startswith(("star_jax.", "star_launch.")):
            raise  # a bug of ours
        return fail(
            PROG,
            f"the package '{missing.name}' is not installed for {sys.executable}; use "
            ".venv/bin/python, which ./launch/quickstart.sh makes",
            2,
        )
    try:
        return run_sweep(options, bindings, tpu_options)
    except UserError as error:
        return fail(PROG, error.message, 2)
    except KeyboardInterrupt:  # before the first run, or during the report
        return fail(PROG, "interrupted; the same command resumes", 130)
