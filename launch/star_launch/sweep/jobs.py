"""The processes of a sweep: one per run, on this machine or on a TPU VM, and one for the report."""

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from star_jax.tools.sweep import SweepRun, gin_text
from star_launch import ROOT
from star_launch.sweep.runner import Job
from star_launch.tpu_vm import command as tpu_vm
from star_launch.tpu_vm import prices

STAR_JAX = (sys.executable, "-m", "star_jax.main")
TPU_VM = (sys.executable, str(ROOT / "launch/tpu_vm.py"))


def local_jobs(runs: Sequence[SweepRun], configs: Mapping[str, str]) -> list[Job]:
    """One process of star_jax per run.

    Args:
      runs: of the sweep.
      configs: gin's text of each run's configuration, by the run's name.
    """
    return [_job(run, configs, (*STAR_JAX, *run.arguments())) for run in runs]


def tpu_jobs(
    runs: Sequence[SweepRun], configs: Mapping[str, str], directory: Path, options: Sequence[str]
) -> list[Job]:
    """One process of `tpu_vm.py up` per run, each with its own TPU VM.

    Ends the program as tpu_vm.py does if it does not accept the options.

    Args:
      runs: of the sweep.
      configs: gin's text of each run's configuration, by the run's name.
      directory: for the results, one folder per run.
      options: of `tpu_vm.py up`.
    """
    jobs = []
    for i, run in enumerate(runs):
        number = run.name.partition("_")[0] if run.is_point else f"before-{i}"
        own = [*options, "--checked", "--delete_at_end", f"--to={directory / run.name}"]
        arguments = ("up", tpu_name(directory.name, number), *own, "--", *run.arguments())
        tpu_vm.parse(arguments)
        jobs.append(_job(run, configs, (*TPU_VM, *arguments)))
    return jobs


def tpu_cost(jobs: Sequence[Job]) -> str:
    """What the TPU VM of a job costs, in one line."""
    options, _ = tpu_vm.parse(jobs[0].command[len(TPU_VM) :])
    return prices.cost_line(options.accelerator_type, options.spot, options.max_hours)


def _job(run: SweepRun, configs: Mapping[str, str], command: tuple[str, ...]) -> Job:
    text = json.dumps([run.arguments(), configs[run.name]])
    digest = hashlib.sha256(text.encode()).hexdigest()
    return Job(run.name, command, run.needs, digest, run.is_point)


def tpu_name(sweep: str, number: str) -> str:
    """The name of a run's TPU VM: learning_rate, 003 -> learning-rate-003."""
    words = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")
    return f"{words if words[:1].isalpha() else f's-{words}'}"[:40].rstrip("-") + f"-{number}"


def report_command(directories: Sequence[Path], output_dir: Path) -> list[str]:
    """The command that reports on runs side by side."""
    model_dirs = gin_text([str(path) for path in directories], "report")
    return [
        *STAR_JAX,
        "--run_mode=report",
        f"--gin.report.model_dirs={model_dirs}",
        f"--gin.report.output_dir={str(output_dir)!r}",
    ]


def environment() -> dict[str, str]:
    """The environment of the runs: this one, with logs that are written at once."""
    return {**os.environ, "PYTHONUNBUFFERED": "1"}
