"""The command line of launch/tpu_vm.py."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from star_launch.command_line import Parser, fail, split_at_dashes
from star_launch.fetch.table import TABLE
from star_launch.tpu_vm import PROG, create, prices, results, run, status, up
from star_launch.tpu_vm.dry_run import DryRun
from star_launch.tpu_vm.gcloud import Gcloud, LaunchError
from star_launch.tpu_vm.tpu import Node, Tpu
from star_launch.tpu_vm.worker import tpu_worker

EPILOG = """\
commands:
{commands}

A first step that costs little:
  python3 launch/tpu_vm.py up smoke --smoke

For `run` and `up`, the arguments of star_jax follow a lone --:
  python3 launch/tpu_vm.py up star --accelerator_type=v3-8 -- \\
      --run_mode=star --gin_file=... --gin.MODEL_DIR="'gs://BUCKET/star'"
A relative path there is relative to ~/star_jax on the worker.
"""
MAX_HOURS = 24
# `up --smoke`: a base model of 40 thousand parameters, in minutes, on one chip.
SMOKE_TYPE, SMOKE_HOURS, SMOKE_MINUTES = "v5litepod-1", 1, 20
SMOKE_ARGUMENTS = (
    "--run_mode=pretrain",
    "--gin_file=runs/own_questions.gin",
    "--gin.MODEL_DIR='runs/smoke'",
    "--gin.BASE_DIR=%MODEL_DIR",
)
VARIABLES = {"project": "CLOUDSDK_CORE_PROJECT", "zone": "CLOUDSDK_COMPUTE_ZONE"}  # gcloud's own


class Commands:
    """The commands; --help lists the methods and their docstrings."""

    def __init__(self, options: argparse.Namespace, arguments: tuple[str, ...]):
        self._options, self._arguments = options, arguments
        exists = options.command not in ("up", "create")
        rate = prices.rate(options.accelerator_type) if options.accelerator_type else ""
        gcloud = DryRun(exists, rate) if options.dry_run else Gcloud()
        self._tpu = Tpu(gcloud, options.name, options.zone, options.project)
        self._folder = Path(options.to) if options.to else run.RECORDS / options.name

    def up(self) -> None:
        """All of create, setup, run and fetch; again after a preemption."""
        options = self._options
        plan = up.Plan(
            self._wanted(),
            self._arguments,
            tuple(options.data),
            self._folder,
            options.delete_at_end,
            options.smoke,
        )
        self._check_arguments()
        if options.smoke:
            dollars = prices.per_hour(options.accelerator_type) * SMOKE_MINUTES / 60
            about = f"about {dollars:.2f} dollars for {SMOKE_MINUTES} minutes (never measured)"
            self._tpu.say(f"the smoke run: {about}")
        up.up(self._tpu, plan)

    def create(self) -> None:
        """Create the TPU VM and wait until it is ready."""
        wanted = self._wanted()
        create.announce(self._tpu, wanted)
        self._tpu.say(str(create.ensure_ready(self._tpu, wanted, self._tpu.node())))

    def setup(self) -> None:
        """Send the code to every worker and make the environment there."""
        run.setup(self._tpu, self._ready_node(), self._options.data)

    def run(self) -> None:
        """Start star_jax on every worker; this machine may then be off."""
        options = self._options
        self._check_arguments()
        node, model_dir = self._ready_node(), run.checked_model_dir(self._arguments)
        run.check_disk(self._tpu, model_dir, node.workers, node.spot, options.delete_at_end)
        delete_after = up.GRACE_SECONDS if options.delete_at_end else None
        run.start(self._tpu, node, self._arguments, delete_after)

    def status(self) -> None:
        """Show the TPU VM, the run on each worker, the last iteration and goodput."""
        text = status.status(self._tpu, self._options.model_dir)
        if not self._options.dry_run:
            print(text)

    def logs(self) -> None:
        """Show the end of a worker's log."""
        options = self._options
        follow = ["-F"] if options.follow else []
        command = ["tail", "-n", str(options.lines), *follow, tpu_worker.LOG_FILE]
        self._tpu.gcloud.stream(*self._tpu.ssh(command, options.worker))

    def fetch(self) -> None:
        """Copy the report, metrics and configuration of the run to this machine."""
        results.fetch(self._tpu, self._tpu.node(), self._folder, self._options.model_dir)

    def stop(self) -> None:
        """End the run; the TPU VM stays and costs money until it is deleted."""
        run.stop(self._tpu, self._ready_node())

    def delete(self) -> None:
        """Delete the TPU VM, so that it costs nothing."""
        create.delete(self._tpu, self._options.poll_seconds)

    def _wanted(self) -> create.Wanted:
        options = self._options
        return create.Wanted(
            options.accelerator_type,
            options.runtime_version or create.runtime_version_of(options.accelerator_type),
            options.spot,
            options.queued,
            options.service_account,
            options.poll_seconds,
            3600 * options.give_up_hours,
            options.max_hours,
        )

    def _check_arguments(self) -> None:
        if not self._options.checked:
            self._tpu.say("checking star_jax's arguments")
            run.check_arguments(self._arguments)

    def _ready_node(self) -> Node:
        node = self._tpu.node()
        if node is None:
            raise LaunchError(f"{self._tpu.name}: there is no such TPU VM; create it first")
        if node.state != "READY":
            raise LaunchError(f"{self._tpu.name} is {node.state}, not READY; see `status`")
        return node


COMMANDS = {name: method.__doc__ for name, method in vars(Commands).items() if name[0] != "_"}


def matching(pattern: str, what: str) -> Callable[[str], str]:
    """Returns argparse's check of a text that becomes part of a command; gcloud has these rules."""

    def check(text: str) -> str:
        if text and not re.fullmatch(pattern, text, re.ASCII):  # "" is as good as not given
            raise argparse.ArgumentTypeError(f"'{text}' is not {what}")
        return text

    return check


def positive(number: type) -> Callable[[str], float]:
    """Returns argparse's check of a number that is not negative."""

    def check(text: str) -> float:
        value = number(text)
        if not value >= 0:
            raise argparse.ArgumentTypeError(f"{text} is negative")
        return value

    return check


def hours(text: str) -> float:
    """Returns a number of hours above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a number of hours above 0")
    return value


def accelerator_type(text: str) -> str:
    """Returns Google's name of an accelerator type."""
    try:
        return create.full_type(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def make_parser() -> Parser:
    """Returns the parser of what comes before a lone --."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    parser = Parser(
        PROG,
        "python3 launch/tpu_vm.py COMMAND NAME [options] [-- arguments of star_jax]",
        "Runs star_jax on a Cloud TPU VM.",
        EPILOG.format(commands=listed),
    )
    name = matching(r"[a-z]([a-z0-9-]{0,60}[a-z0-9])?", "of small letters, digits and -")
    parser.add_argument("command", metavar="COMMAND", choices=list(COMMANDS), help="see below")
    parser.add_argument("name", metavar="NAME", type=name, help="the TPU VM's name, of your choice")

    add = parser.add_argument_group("for all commands").add_argument
    project = matching(r"([a-z0-9.-]+:)?[a-z][a-z0-9-]{4,28}[a-z0-9]", "a project id")
    zone = matching(r"[a-z]+-[a-z]+\d+-[a-z]", "a zone such as us-central1-a")
    for option, check in (("project", project), ("zone", zone)):
        default, about = os.environ.get(VARIABLES[option]), f"default: ${VARIABLES[option]}"
        add(f"--{option}", type=check, default=default, help=f"of Google Cloud ({about})")
    add("--dry_run", action="store_true", help="print the gcloud commands, run none")
    add("--poll_seconds", type=positive(float), default=30, help="between checks (default: 30)")

    add = parser.add_argument_group("for up and create").add_argument
    image = matching(r"[a-z0-9.-]+", "an image such as tpu-ubuntu2204-base")
    account = matching(r"[\w.+-]+@[\w.-]+", "an e-mail address")
    add("--accelerator_type", type=accelerator_type, help="v3-8, v4-8, v5e-16, v5p-8, v6e-8, ...")
    add("--spot", action="store_true", help="cheaper, and may be preempted")
    add("--queued", action="store_true", help="create a queued resource instead of retrying")
    add("--runtime_version", type=image, help="image (default: the one for JAX)")
    add("--service_account", type=account, default="", help="(default: the project's own)")
    what = f"the TPU VM deletes itself then (default: {MAX_HOURS}, with --smoke {SMOKE_HOURS})"
    add("--max_hours", type=hours, help=what)
    add("--give_up_hours", type=positive(float), default=24, help="stop waiting (default: 24)")

    add = parser.add_argument_group("for some commands").add_argument
    what = "up, setup: what launch/fetch.py downloads into data/ on each worker; repeat it"
    add("--data", action="append", default=[], choices=list(TABLE), metavar="WHAT", help=what)
    what = "up, run: the TPU VM is deleted after the run, also if it failed or this machine is off"
    add("--delete_at_end", action="store_true", help=what)
    what = f"up: a small run on a {SMOKE_TYPE}, deleted at the end"
    add("--smoke", action="store_true", help=what)
    add("--checked", action="store_true", help="up, run: do not check star_jax's arguments")
    add("--to", help="up, fetch: folder for the results (default: runs/tpu/NAME)")
    model_dir = matching(run.SAFE_PATH.pattern, "a path without special characters")
    add("--model_dir", type=model_dir, default="", help="status, fetch: of a run not recorded here")
    worker = matching(r"\d{1,4}", "a number from 0")
    add("--worker", type=worker, default="0", help="logs: of which worker (default: 0)")
    add("--lines", type=positive(int), default=50, help="logs: how many (default: 50)")
    add("--follow", action="store_true", help="logs: continue until Ctrl-C")
    return parser


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, tuple[str, ...]]:
    """Reads the command line; returns the options and star_jax's arguments, or ends the program."""
    own, arguments = split_at_dashes(argv)
    parser = make_parser()
    options = parser.parse_args(own)
    options.model_dir = options.model_dir.rstrip("/")
    for name in VARIABLES:
        if not getattr(options, name):
            parser.error(f"--{name} is missing, and the environment has no {VARIABLES[name]}")
    parser.refuse_own_flags(arguments or ())
    if options.smoke:
        arguments = smoke(parser, options, arguments)
    options.max_hours = options.max_hours or MAX_HOURS
    if options.command in ("up", "create") and not options.accelerator_type:
        parser.error("--accelerator_type is missing, such as v3-8")
    if options.command in ("up", "run"):
        try:
            run.checked_model_dir(arguments or ())
        except ValueError as error:
            parser.error(str(error))
    elif arguments is not None:
        parser.error(f"`{options.command}` takes no arguments of star_jax after --")
    return options, tuple(arguments or ())


def smoke(
    parser: Parser, options: argparse.Namespace, arguments: Sequence[str] | None
) -> Sequence[str]:
    """Completes the options of `up --smoke`; returns star_jax's arguments."""
    if options.command != "up" or options.spot or arguments is not None:
        parser.error("--smoke is for `up`, without --spot and without arguments of star_jax")
    options.delete_at_end = True
    options.accelerator_type = options.accelerator_type or SMOKE_TYPE
    options.max_hours = options.max_hours or SMOKE_HOURS
    return SMOKE_ARGUMENTS


def main(argv: Sequence[str]) -> int:
    """Runs one command line; returns 0, 1 for a failure, 2 for a wrong command line, or 130."""
    options, arguments = parse(argv)
    command: Callable[[], None] = getattr(Commands(options, arguments), options.command)
    try:
        command()
    except LaunchError as error:
        return fail(PROG, str(error), 1)
    except BrokenPipeError:
        raise  # see command_line.run
    except OSError as error:
        return fail(PROG, f"{error.filename or 'this machine'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        return fail(PROG, interrupted(options.command, options.name), 130)
    return 0


def interrupted(command: str, name: str) -> str:
    """Returns the message after Ctrl-C."""
    if command != "up":
        return "interrupted; the same command resumes"
    return (
        "interrupted; the TPU VM and the run continue and cost money. To watch: `up` again, or "
        f"`{PROG} status {name}`. To end: `{PROG} stop {name}`, `{PROG} delete {name}`"
    )
