"""Runs a sweep, many runs that one gin file tells: see `launch/sweep.py --help`."""

import argparse
import hashlib
import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from star_launch import ROOT
from star_launch.fetch.meter import human_time
from star_launch.sweep import runner as sweep_runs
from star_launch.sweep.runner import FINISHED, Interrupted, Job, Outcome, Runner

try:
    from star_jax.errors import UserError
    from star_jax.tools.sweep import Run, expand, gin_text
    from star_launch.sweep import state as sweep_state
except ModuleNotFoundError as missing:
    if (missing.name or "star_jax").partition(".")[0] == "star_jax":
        raise
    print(
        f"sweep: error: the package '{missing.name}' is not installed for {sys.executable}; use "
        ".venv/bin/python, which ./launch/quickstart.sh makes",
        file=sys.stderr,
    )
    sys.exit(2)

STAR_JAX = (sys.executable, "-m", "star_jax.main")
TPU_VM = (sys.executable, str(ROOT / "launch/tpu_vm.py"))
SWEEPS = Path("runs/sweeps")  # git leaves it out
IN_A_BUCKET = re.compile(r"gs://[a-z0-9][\w.-]*(/[\w.=+-]+)+", re.ASCII)
DESCRIPTION = """\
Runs every point of a sweep (gin_configs/sweeps/ has some), each in a directory of its own, and
reports on them side by side. The same command goes on where the sweep was cut off.
"""
EPILOG = """\
--gin.NAME=VALUE binds a macro or parameter of the sweep's own file, such as Sweep.output_dir.
With --tpu the options of `launch/tpu_vm.py up` follow a lone --:
  launch/sweep.py sweeps/learning_rate.gin --parallel 4 --tpu gs://BUCKET/learning_rate -- \\
      --accelerator_type=v3-8 --spot --data=commonsense_qa --data=paper_prompts --data=gptj
exit code: 0 all is well, 1 some runs failed, 2 a wrong command or sweep, 130 Ctrl-C
"""


class Parser(argparse.ArgumentParser):
    """Tells of a wrong command line in one line."""

    def error(self, message: str) -> None:
        """Ends the program with exit code 2."""
        self.exit(2, f"sweep: error: {message} (see --help)\n")


def parse(argv: Sequence[str]) -> tuple[argparse.Namespace, list[tuple[str, str]], list[str]]:
    """Returns the options, the bindings for the sweep's file, and the options of tpu_vm.py."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    own, tpu_options = list(argv[:cut]), list(argv[cut + 1 :])
    flags = [word for word in own if word.startswith("--gin.")]
    parser = Parser(
        prog="launch/sweep.py", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    add = parser.add_argument
    add("file", metavar="FILE", help="the sweep's gin file")
    add("--output_dir", default="", help=f"where it goes (default: {SWEEPS}/NAME of the file)")
    add("--parallel", type=int, default=1, metavar="N", help="runs at once (default: 1)")
    add("--dry_run", action="store_true", help="print the commands, run none")
    add("--tpu", default="", metavar="gs://BUCKET/FOLDER", help="a TPU VM each, MODEL_DIRs there")
    options = parser.parse_args([word for word in own if word not in flags])
    options.tpu = options.tpu.rstrip("/")
    if options.parallel < 1:
        parser.error(f"--parallel {options.parallel} is not positive")
    if options.tpu and not IN_A_BUCKET.fullmatch(options.tpu):
        parser.error(f"--tpu '{options.tpu}' is no gs://BUCKET/FOLDER")
    if tpu_options and not options.tpu:
        parser.error("what follows a lone -- is for TPU VMs; give --tpu gs://BUCKET/FOLDER")
    if "--dry_run" in tpu_options:
        parser.error("--dry_run belongs before the lone --")
    for word in flags:
        if not re.fullmatch(r"--gin\.[^=]+=.+", word, re.DOTALL):
            parser.error(f"{word} is no --gin.NAME=VALUE")
    bindings = [word.removeprefix("--gin.").split("=", 1) for word in flags]
    return options, [(name, value) for name, value in bindings], tpu_options


def say(message: str) -> None:
    """Tells what is going on; stdout is for the report."""
    print(f"sweep: {message}", file=sys.stderr, flush=True)


def jobs_of(
    runs: Sequence[Run],
    configs: Mapping[str, str],
    directory: Path,
    tpu: bool,
    tpu_options: Sequence[str],
) -> list[Job]:
    """The processes of a sweep: star_jax itself, or what has it run on a TPU VM."""
    jobs = []
    for i, run in enumerate(runs):
        arguments = run.arguments()
        if tpu:
            number = run.name.partition("_")[0] if run.is_point else f"before-{i}"
            name = tpu_name(directory.name, number)
            here = [*tpu_options, "--delete_at_end", f"--to={directory / run.name}"]
            command = (*TPU_VM, "up", name, *here, "--", *arguments)
        else:
            command = (*STAR_JAX, *arguments)
        text = json.dumps([arguments, configs[run.name]])
        digest = hashlib.sha256(text.encode()).hexdigest()
        jobs.append(Job(run.name, command, run.needs, digest, run.is_point))
    return jobs


def tpu_name(sweep: str, number: str) -> str:
    """The TPU VM of a run: learning_rate, 003 -> learning-rate-003."""
    words = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")
    return f"{words if words[:1].isalpha() else f's-{words}'}"[:40].rstrip("-") + f"-{number}"


def check_tpu_options(jobs: Sequence[Job]) -> None:
    """Ends the program as tpu_vm.py does if it would not take a command."""
    tpu_vm = importlib.import_module("star_launch.tpu_vm.command")
    for job in jobs:
        tpu_vm.parse(job.command[len(TPU_VM) :])


def report_command(directories: Sequence[Path], output_dir: Path) -> list[str]:
    """The command that sets runs side by side."""
    model_dirs = gin_text([str(path) for path in directories], "report")
    return [
        *STAR_JAX,
        "--run_mode=report",
        f"--gin.report.model_dirs={model_dirs}",
        f"--gin.report.output_dir={str(output_dir)!r}",
    ]


def environment() -> dict[str, str]:
    """What the runs get: the code of this checkout, and logs that are written as they come."""
    path = os.environ.get("PYTHONPATH", "")
    paths = os.pathsep.join([str(ROOT), *filter(None, [path])])
    return {**os.environ, "PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}


def slots_of(parallel: int, is_tpu: bool) -> list[list[int]]:
    """The cores of each run that may go on at once; never more runs than cores."""
    if is_tpu:
        return [[] for _ in range(parallel)]
    cores = sweep_runs.usable_cores()
    if parallel > len(cores):
        say(f"--parallel {parallel}, and {len(cores)} cores to run on: {len(cores)} at once")
    return sweep_runs.shares(cores, min(parallel, len(cores)))


def run_sweep(argv: Sequence[str]) -> int:
    """Runs one command line and returns the exit code.

    Raises:
      UserError: a mistake in the sweep, found before anything runs.
    """
    options, bindings, tpu_options = parse(argv)
    sweep = sweep_state.read_sweep(options.file, bindings)
    default = SWEEPS / Path(options.file).stem
    directory = Path(options.output_dir or sweep.output_dir or default)
    runs = expand(sweep, options.tpu or str(directory))
    sweep_state.check_run_modes(runs)
    configs = sweep_state.checked_configurations(runs)
    jobs = jobs_of(runs, configs, directory, bool(options.tpu), tpu_options)
    if options.tpu:
        check_tpu_options(jobs)
    if options.dry_run:
        return rehearse(directory, jobs)
    with sweep_state.claimed(directory, options.file, runs, configs):
        runner = Runner(
            directory, slots_of(options.parallel, bool(options.tpu)), environment(), say
        )
        say(f"{len(jobs)} runs into {directory}")
        try:
            outcomes = runner.run(jobs)
        except Interrupted:
            cost = "; TPU VMs go on and cost money" if options.tpu else ""
            say(f"interrupted; the same command goes on from here{cost}")
            return 130
        return conclude(directory, jobs, outcomes)


def rehearse(directory: Path, jobs: Sequence[Job]) -> int:
    """Prints every command, behind a # if its run is finished."""
    for job in jobs:
        mark = "" if sweep_runs.finished_seconds(directory, job) is None else "# finished: "
        print(mark + shlex.join(job.command))
    points = [directory / job.name for job in jobs if job.is_point]
    print(shlex.join(report_command(points, directory / "report")))
    return 0


def conclude(directory: Path, jobs: Sequence[Job], outcomes: Mapping[str, Outcome]) -> int:
    """Tells what failed, and reports on what did not; returns the exit code."""
    lost = [job.name for job in jobs if outcomes[job.name].state != FINISHED]
    have_results = [
        directory / job.name
        for job in jobs
        if job.is_point
        and job.name not in lost
        and (directory / job.name / "metrics.jsonl").is_file()
    ]
    reported = 0
    if have_results:
        command = report_command(have_results, directory / "report")
        reported = subprocess.run(command, env=environment(), check=False).returncode
    else:
        say("no run has a metrics.jsonl, so there is nothing to set side by side")
    seconds = sum(outcome.seconds for outcome in outcomes.values())
    say(
        f"{len(jobs) - len(lost)} of {len(jobs)} runs finished, {len(lost)} did not; "
        f"{human_time(seconds)} of runs"
    )
    for name in lost:
        outcome = outcomes[name]
        log = f" (see {directory / name}.log)" if outcome.state == sweep_runs.FAILED else ""
        say(f"{outcome.state}: {name}: {outcome.reason}{log}")
    return 1 if lost or reported else 0


def main(argv: Sequence[str]) -> int:
    """Returns 0, 1 when runs failed, 2 for a wrong command or sweep, 130 for Ctrl-C."""
    try:
        return run_sweep(argv)
    except UserError as error:
        print(f"sweep: error: {error.message}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:  # before anything ran, or during the report
        say("interrupted; the same command goes on from here")
        return 130
