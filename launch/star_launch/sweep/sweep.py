"""Runs a sweep: checks all of it, starts what is not finished, and reports."""

import argparse
import functools
import subprocess
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import star_jax
from star_jax.errors import UserError
from star_jax.tools.sweep import expand
from star_launch import ROOT, check, command_line
from star_launch.sweep import PROG, SWEEPS, configurations, jobs, machine
from star_launch.sweep.logs import last_accuracy
from star_launch.sweep.runner import (
    FAILED,
    FINISHED,
    Interrupted,
    Job,
    Outcome,
    Runner,
    finished_seconds,
)
from star_launch.sweep.state import claimed
from star_launch.text import command_text, human_time

say = functools.partial(command_line.say, PROG)


def run_sweep(
    options: argparse.Namespace, bindings: Sequence[tuple[str, str]], tpu_options: Sequence[str]
) -> int:
    """Runs a sweep and returns the exit code.

    Args:
      options: of launch/sweep.py.
      bindings: (NAME, VALUE) for the sweep's file.
      tpu_options: of `tpu_vm.py up`.

    Raises:
      UserError: a mistake in the sweep, found before the first run.
    """
    check_checkout()
    sweep = configurations.read_sweep(options.file, bindings)
    default = SWEEPS / Path(options.file).stem
    directory = Path(options.output_dir or sweep.output_dir or default)
    runs = expand(sweep, options.tpu or str(directory))
    try:
        commands = {run.name: run.arguments() for run in runs}
        configs = check.checked_configurations(commands, on_worker=bool(options.tpu))
    except check.CheckError as error:
        raise UserError(str(error)) from error
    if options.tpu:
        wanted = jobs.tpu_jobs(runs, configs, directory, tpu_options)
        say(f"{len(wanted)} TPU VMs, {options.parallel} at a time; each: {jobs.tpu_cost(wanted)}")
    else:
        wanted = jobs.local_jobs(runs, configs)
    if options.dry_run:
        return print_commands(directory, wanted)
    with claimed(directory, options.file, runs, configs):
        slots = [[]] * options.parallel if options.tpu else machine.slots(options.parallel)
        if len(slots) < options.parallel:
            say(f"--parallel {options.parallel} exceeds the {len(slots)} available cores")
        runner = Runner(directory, slots, jobs.environment(), say)
        say(f"{len(wanted)} runs into {directory}")
        try:
            outcomes = runner.run(wanted)
        except Interrupted:
            cost = "; the TPU VMs continue and cost money" if options.tpu else ""
            say(f"interrupted; the same command resumes{cost}")
            return 130
        return conclude(directory, wanted, outcomes)


def check_checkout() -> None:
    """Raises UserError if the runs would use the star_jax of another checkout."""
    found = Path(star_jax.__file__).resolve().parents[1]
    if found != ROOT:
        raise UserError(
            f"Python imports star_jax from {found}, not from this checkout; use "
            f"{ROOT}/.venv/bin/python, or set PYTHONPATH={ROOT}"
        )


def print_commands(directory: Path, wanted: Sequence[Job]) -> int:
    """Prints every command, as a comment if its run is finished; returns the exit code."""
    for job in wanted:
        done = finished_seconds(directory, job) is not None
        print(f"\n# {job.name}{' is finished' if done else ''}")
        print(textwrap.indent(command_text(job.command), "# " if done else ""))
    points = [directory / job.name for job in wanted if job.is_point]
    print(f"\n# report\n{command_text(jobs.report_command(points, directory / 'report'))}")
    return 0


def conclude(directory: Path, wanted: Sequence[Job], outcomes: Mapping[str, Outcome]) -> int:
    """Reports on the finished runs and lists the others; returns the exit code."""
    lost = [job.name for job in wanted if outcomes[job.name].state != FINISHED]
    have_results = [
        directory / job.name
        for job in wanted
        if job.is_point and job.name not in lost and last_accuracy(directory / job.name) is not None
    ]
    reported = 0
    if have_results:
        command = jobs.report_command(have_results, directory / "report")
        reported = subprocess.run(command, env=jobs.environment(), check=False).returncode
    else:
        say("no run has results, so there is no report")
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    say(
        f"{len(wanted) - len(lost)} of {len(wanted)} runs finished, {len(lost)} did not; "
        f"{human_time(seconds)} in total"
    )
    for name in lost:
        outcome = outcomes[name]
        log = f" (see {directory / name}.log)" if outcome.state == FAILED else ""
        say(f"{outcome.state}: {name}: {outcome.reason}{log}")
    return 1 if lost or reported else 0
