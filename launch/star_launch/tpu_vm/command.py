"""Runs star_jax on a Cloud TPU VM: see `python3 launch/tpu_vm.py --help` and launch/README.md.

It drives gcloud from your own machine and needs Python 3.9 and nothing else.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from star_launch.tpu_vm import create as tpu_create
from star_launch.tpu_vm import run as tpu_run
from star_launch.tpu_vm import up as tpu_up
from star_launch.tpu_vm.gcloud import Gcloud, LaunchError, Node, Rehearsal, Tpu

COMMANDS = {
    "up": "all of it: create, setup, run, watch, fetch; after a preemption again",
    "create": "make the TPU VM and wait until it is ready",
    "setup": "send the code to every worker and make its environment there",
    "run": "start star_jax on every worker; it goes on when this machine is off",
    "status": "the TPU VM, the run on each worker, the last iteration, goodput",
    "logs": "what a worker's run has printed",
    "fetch": "bring report/, metrics.jsonl and config.gin here",
    "stop": "end the run, keep the TPU VM",
    "delete": "delete the TPU VM, which ends its cost",
}
EPILOG = """\
commands:
{commands}

What star_jax is to do follows a lone --, for `run` and `up`:
  python3 launch/tpu_vm.py up star --accelerator_type=v3-8 -- \\
      --run_mode=star --gin_file=... --gin.MODEL_DIR="'gs://BUCKET/star'"
A relative path there is below ~/star_jax on the worker.
"""
GCLOUD_VARIABLES = {"project": "CLOUDSDK_CORE_PROJECT", "zone": "CLOUDSDK_COMPUTE_ZONE"}
NAMES = {  # what may go into a command; gcloud has the same rules
    "NAME": (r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", "small letters, digits and -"),
    "--zone": (r"[a-z]+-[a-z]+\d+-[a-z]", "such as us-central1-a"),
    "--project": (r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "the project's id"),
    "--runtime_version": (r"[a-z0-9.-]+", "such as tpu-ubuntu2204-base"),
    "--service_account": (r"[\w.+-]+@[\w.-]+", "an e-mail address"),
    "--data": (r"\w+", "a WHAT of launch/fetch.py"),
    "--worker": (r"\d{1,4}", "a number from 0 on"),
}


OPTIONS = {
    "for all commands": {
        "--project": {"help": "Google Cloud project (default: $CLOUDSDK_CORE_PROJECT)"},
        "--zone": {"help": "where the TPU is (default: $CLOUDSDK_COMPUTE_ZONE)"},
        "--dry_run": {"action": "store_true", "help": "print the gcloud commands, run none"},
        "--poll_seconds": {"type": float, "default": 30, "help": "between looks (default: 30)"},
    },
    "for up and create": {
        "--accelerator_type": {"help": "v3-8, v4-8, v5e-16, v5p-8, v6e-8, ..."},
        "--spot": {"action": "store_true", "help": "cheaper, and may be preempted"},
        "--queued": {"action": "store_true", "help": "wait for room in Google's queue"},
        "--runtime_version": {"help": "image (default: the one for JAX)"},
        "--service_account": {"default": "", "help": "(default: the project's own)"},
        "--give_up_hours": {"type": float, "default": 24, "help": "of waiting (default: 24)"},
    },
    "for some commands": {
        "--data": {
            "action": "append",
            "default": [],
            "help": "up, setup: a WHAT of launch/fetch.py that each worker is to have in data/; "
            "repeat it",
        },
        "--delete_at_end": {"action": "store_true", "help": "up: delete when all is well"},
        "--to": {"help": "up, fetch: folder for the results (default: runs/tpu/NAME)"},
        "--model_dir": {"default": "", "help": "status, fetch: of a run that is not known here"},
        "--worker": {"default": "0", "help": "logs: whose (default: 0)"},
        "--lines": {"type": int, "default": 50, "help": "logs: how many (default: 50)"},
        "--follow": {"action": "store_true", "help": "logs: go on until Ctrl-C"},
    },
}


class Parser(argparse.ArgumentParser):
    """Tells of a wrong command line in one line."""

    def error(self, message: str) -> None:
        """Ends the program with exit code 2."""
        self.exit(2, f"{self.prog}: error: {message} (see --help)\n")


def make_parser() -> Parser:
    """Returns the parser of what comes before a lone --."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    parser = Parser(
        prog="tpu_vm.py",
        usage="python3 launch/tpu_vm.py COMMAND NAME [options] [-- arguments of star_jax]",
        description="Runs star_jax on a Cloud TPU VM.",
        epilog=EPILOG.format(commands=listed),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help="see below")
    parser.add_argument("name", metavar="NAME", help="the TPU VM's name, of your choice")
    for title, options in OPTIONS.items():
        group = parser.add_argument_group(title)
        for flag, settings in options.items():
            group.add_argument(flag, **settings)
    return parser


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """Reads the command line; returns the options and star_jax's arguments, or ends the program."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    arguments = tuple(argv[cut + 1 :])
    parser = make_parser()
    options = parser.parse_args(argv[:cut])
    try:
        check(options, arguments, has_arguments=cut < len(argv))
    except ValueError as error:
        parser.error(str(error))
    return options, arguments


def check(options: argparse.Namespace, arguments: Sequence[str], has_arguments: bool) -> None:
    """Completes the options; raises ValueError for a wrong one."""
    for name, variable in GCLOUD_VARIABLES.items():
        if not getattr(options, name):
            setattr(options, name, os.environ.get(variable))
        if not getattr(options, name):
            raise ValueError(f"--{name} is missing, and the environment has no {variable}")
    values = {flag: getattr(options, flag.lstrip("-").lower()) for flag in NAMES}
    for flag, value in values.items():
        pattern, words = NAMES[flag]
        for text in value if isinstance(value, list) else [value]:
            if text and not re.fullmatch(pattern, text, re.ASCII):
                raise ValueError(f"{flag} '{text}' is not {words}")
    if not (options.poll_seconds >= 0 and options.give_up_hours >= 0 and options.lines >= 0):
        raise ValueError("--poll_seconds, --give_up_hours and --lines cannot be negative")
    if options.command in ("up", "create"):
        if not options.accelerator_type:
            raise ValueError("--accelerator_type is missing, such as v3-8")
        options.accelerator_type = tpu_create.full_type(options.accelerator_type)
        if not options.runtime_version:
            options.runtime_version = tpu_create.runtime_version_of(options.accelerator_type)
    if options.command in ("up", "run"):
        tpu_run.checked_model_dir(arguments)
    elif has_arguments:
        raise ValueError(f"`{options.command}` takes no arguments of star_jax after --")
    if options.model_dir and not tpu_run.SAFE_PATH.fullmatch(options.model_dir):
        raise ValueError(f"--model_dir '{options.model_dir}' has characters that are not safe")
    options.model_dir = options.model_dir.rstrip("/")


class Commands:
    """The commands, each named as on the command line."""

    def __init__(self, options: argparse.Namespace, arguments: tuple[str, ...]):
        self._options, self._arguments = options, arguments
        makes = options.command in ("up", "create")
        gcloud = Rehearsal(exists=not makes) if options.dry_run else Gcloud()
        self._tpu = Tpu(gcloud, options.name, options.zone, options.project)
        folder = Path(options.to) if options.to else tpu_run.RECORDS / options.name
        self._folder = folder

    def up(self) -> None:
        """All of it."""
        options = self._options
        plan = tpu_up.Plan(
            self._wish(),
            self._arguments,
            tuple(options.data),
            self._folder,
            options.delete_at_end,
        )
        tpu_up.up(self._tpu, plan)

    def create(self) -> None:
        """Makes the TPU VM."""
        node = tpu_create.ensure_ready(self._tpu, self._wish())
        self._tpu.say(tpu_run.node_words(node))

    def setup(self) -> None:
        """Sends the code."""
        tpu_run.setup(self._tpu, self._ready_node(), self._options.data)

    def run(self) -> None:
        """Starts star_jax."""
        tpu_run.start(self._tpu, self._ready_node(), self._arguments)

    def status(self) -> None:
        """Prints how things stand."""
        text = tpu_run.status(self._tpu, self._options.model_dir)
        if not self._options.dry_run:
            print(text)

    def logs(self) -> None:
        """Prints the end of a worker's log."""
        options = self._options
        follow = ["-F"] if options.follow else []
        command = ["tail", "-n", str(options.lines), *follow, "star_jax/run/log.txt"]
        self._tpu.gcloud.stream(*self._tpu.ssh(command, options.worker))

    def fetch(self) -> None:
        """Brings the results."""
        tpu_run.fetch(self._tpu, self._tpu.node(), self._folder, self._options.model_dir)

    def stop(self) -> None:
        """Ends the run."""
        tpu_run.stop(self._tpu, self._ready_node())

    def delete(self) -> None:
        """Deletes the TPU VM."""
        tpu_create.delete(self._tpu, self._options.poll_seconds)

    def _wish(self) -> tpu_create.Wish:
        options = self._options
        return tpu_create.Wish(
            options.accelerator_type,
            options.runtime_version,
            options.spot,
            options.queued,
            options.service_account,
            options.poll_seconds,
            3600 * options.give_up_hours,
        )

    def _ready_node(self) -> Node:
        """Returns the TPU VM, which must be ready."""
        node = self._tpu.node()
        if node is None:
            raise LaunchError(f"{self._tpu.name}: there is no such TPU VM; create it first")
        if node.state != "READY":
            raise LaunchError(f"{self._tpu.name} is {node.state}, not READY; see `status`")
        return node


def main(argv: Sequence[str]) -> int:
    """Runs one command line; returns 0, 1 for a failure, 2 for a wrong command line, or 130."""
    options, arguments = parse(argv)
    command: Callable[[], None] = getattr(Commands(options, arguments), options.command)
    try:
        command()
    except LaunchError as error:
        return fail(str(error), 1)
    except OSError as error:
        return fail(f"{error.filename or 'this machine'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return fail(interrupted(options.command, options.name), 130)
    return 0


def interrupted(command: str, name: str) -> str:
    """Returns what holds after Ctrl-C."""
    if command != "up":
        return "stopped; the same command goes on from here"
    return (
        f"no longer watching; TPU VM and run go on and cost money. Watch: `up` again, or "
        f"`tpu_vm.py status {name}`; end: `tpu_vm.py stop {name}`, `tpu_vm.py delete {name}`"
    )


def fail(message: str, exit_code: int) -> int:
    """Prints an error and returns the exit code."""
    print(f"tpu_vm.py: error: {message}", file=sys.stderr)
    return exit_code
