"""A run on a TPU VM: sends the code, starts star_jax, stops it."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

from star_launch import ROOT, check
from star_launch.files import write_whole
from star_launch.text import first_few, human_time
from star_launch.tpu_vm import pack
from star_launch.tpu_vm.gcloud import LaunchError
from star_launch.tpu_vm.tpu import WORKER_SCRIPT, Node, Tpu, label
from star_launch.tpu_vm.worker import tpu_worker

RECORDS = ROOT / "runs/tpu"  # ignored by git, and not packed
# No spaces and no wildcards: the path is also an argument of scp and gcloud storage.
SAFE_PATH = re.compile(r"(gs://)?[\w.=+-]*(/[\w.=+-]+)*/?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Record:
    """What this machine records of a run, since a spot TPU VM loses its disk."""

    model_dir: str = ""
    first_began: float | None = None  # seconds since 1970


def record_file(tpu: Tpu) -> Path:
    """Returns the file of the record of the run on a TPU VM."""
    place = f"{tpu.project}_{tpu.zone}_{tpu.name}".replace(":", "_")
    return RECORDS / ".records" / f"{place}.json"


def read_record(tpu: Tpu) -> Record:
    """Returns the record of the run on a TPU VM."""
    return Record(**tpu_worker.read_json(record_file(tpu), {}))


def write_record(tpu: Tpu, record: Record) -> None:
    """Records when the first run into a MODEL_DIR began, unless that is recorded already."""
    if read_record(tpu).model_dir != record.model_dir:
        file = record_file(tpu)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(dataclasses.asdict(record)).encode())


def is_bucket(model_dir: str) -> bool:
    """Whether a MODEL_DIR is in a bucket, and so outlives the TPU VM."""
    return model_dir.startswith("gs://")


def checked_model_dir(arguments: Sequence[str]) -> str:
    """Returns the MODEL_DIR that star_jax's arguments bind.

    Raises:
      ValueError: they bind none, or one that could not be fetched.
    """
    model_dir = tpu_worker.model_dir_of(arguments)
    if not model_dir:
        raise ValueError(
            "star_jax's arguments, after a lone --, must bind the run directory: "
            "--gin.MODEL_DIR=\"'gs://BUCKET/NAME'\""
        )
    if any("\n" in argument for argument in arguments):
        raise ValueError("an argument of star_jax has a line break; put it into a gin file")
    if not SAFE_PATH.fullmatch(model_dir):
        raise ValueError(
            f"MODEL_DIR '{model_dir}' has characters that are not safe in a remote path; use "
            "letters, digits and _ . = + - /"
        )
    return model_dir


def check_arguments(arguments: Sequence[str]) -> None:
    """Raises LaunchError for a mistake in star_jax's arguments."""
    try:
        check.checked_configurations({"": arguments}, on_worker=True)
    except check.CheckError as error:
        raise LaunchError(str(error)) from error


def check_disk(tpu: Tpu, model_dir: str, workers: int, spot: bool, ends: bool) -> None:
    """Raises LaunchError if MODEL_DIR is on a disk of the TPU VM and has to be in a bucket.

    Args:
      tpu: the TPU VM.
      model_dir: the run directory.
      workers: machines of the TPU VM.
      spot: whether the TPU VM may be preempted.
      ends: whether the TPU VM deletes itself after the run, which nothing may be watching.
    """
    if is_bucket(model_dir):
        return
    way_out = f"bind MODEL_DIR to gs://BUCKET/NAME, not '{model_dir}'"
    if spot:
        raise LaunchError(
            f"{tpu.name} is a spot TPU VM: a preemption deletes its disk, and the run with it; "
            f"{way_out}"
        )
    if ends:
        raise LaunchError(
            f"{tpu.name}: with --delete_at_end the TPU VM deletes itself after the run, and its "
            f"disk with it; {way_out}"
        )
    if workers > 1:
        raise LaunchError(
            f"{tpu.name} has {workers} workers, each with its own disk, and all write to one "
            f"MODEL_DIR; {way_out}"
        )


def setup(tpu: Tpu, node: Node, data: Sequence[str]) -> None:
    """Sends the checkout to every worker and makes the environment there."""
    wanted = f"downloads {', '.join(data)}" if data else "downloads no data"
    about = f"Every worker unpacks the code, installs Python and the packages, and {wanted}."
    tpu.gcloud.step("Send the code and set up every worker", about)
    packed = pack.pack(ROOT)
    digest = pack.digest_of(packed)
    archive = local_file(tpu_worker.ARCHIVE, packed)
    if left_out := pack.untracked_files(ROOT):
        tpu.say(f"not sent, because git does not track it: {first_few(left_out, 3)}")
    tpu.send(archive, WORKER_SCRIPT)
    what = "setting up; the first time takes some minutes"
    answers = tpu.ask(node, "setup", digest, *data, what=what)
    changed = [label(answer) for answer in answers if answer.get("changed", True)]
    tpu.say(f"{', '.join(changed)} set up" if changed else "is set up already")


def local_file(name: str, content: bytes) -> Path:
    """Writes a file for the workers; a dry run also does, so that its commands can be used."""
    RECORDS.mkdir(parents=True, exist_ok=True)
    write_whole(RECORDS / name, content)
    return RECORDS / name


def start(tpu: Tpu, node: Node, arguments: Sequence[str], delete_after: float | None) -> None:
    """Starts star_jax on every worker, unless the same run is active.

    Args:
      tpu: the TPU VM.
      node: its state.
      arguments: of star_jax.
      delete_after: seconds from the end of the run until the TPU VM deletes itself; None for never.

    Raises:
      LaunchError: another run is active.
    """
    file = local_file(f"{tpu.name}.args", "".join(f"{line}\n" for line in arguments).encode())
    about = [f"{file} has star_jax's arguments, one per line:", *(f"    {a}" for a in arguments)]
    if delete_after is not None:
        wait = human_time(delete_after)
        about.append(f"{wait} after its end, also after a failure, the TPU VM deletes itself.")
    tpu.gcloud.step("Start star_jax on every worker", *about)
    answers = tpu.ask(node, "report")
    if len({answer["digest"] for answer in answers}) > 1 or not answers[0]["digest"]:
        raise LaunchError(f"{tpu.name}: the workers do not have the same code; run `setup` first")
    running = [answer for answer in answers if answer["state"] == tpu_worker.RUNNING]
    if any(answer["run_id"] != tpu_worker.run_id(arguments) for answer in running):
        raise LaunchError(f"{tpu.name}: another run is active; stop it first")
    if running and len(running) < len(answers):
        raise LaunchError(
            f"{tpu.name}: the run is active on {', '.join(map(label, running))} only, and the "
            "workers have to start together; `stop`, then `run` again"
        )
    if not running:
        tpu.send(file)
        after = "never" if delete_after is None else f"{delete_after:g}"
        answers = tpu.ask(node, "start", file.name, after, what="starting")
    if not tpu.gcloud.is_dry_run:
        model_dir = checked_model_dir(arguments)
        write_record(tpu, Record(model_dir, min(answer["began"] for answer in answers)))
    tpu.say("the run is active already" if running else "the run has started")


def stop(tpu: Tpu, node: Node) -> None:
    """Ends the run on every worker."""
    answers = tpu.ask(node, "stop", what="stopping")
    stopped = [label(answer) for answer in answers if answer.get("was_running", True)]
    tpu.say(f"{', '.join(stopped)} stopped" if stopped else "no run is active")
