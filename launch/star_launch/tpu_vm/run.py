"""A run on a TPU VM: code sent, star_jax started, looked at, fetched from and stopped."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from star_launch import ROOT
from star_launch.fetch.meter import human_time
from star_launch.tpu_vm import pack as tpu_pack
from star_launch.tpu_vm import tpu_worker
from star_launch.tpu_vm.gcloud import GcloudError, LaunchError, Node, Tpu, label

RECORDS = ROOT / "runs/tpu"  # git leaves it out, and so does the packer
RESULTS = ("config.gin", "row.json", "metrics.jsonl", "report")
# No spaces and no wildcards: the name also goes through scp and gcloud storage.
SAFE_PATH = re.compile(r"(gs://)?[\w.=+-]*(/[\w.=+-]+)*/?", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Record:
    """What this machine remembers of a run, since the disk of a spot TPU goes with it."""

    model_dir: str = ""
    first_began: float | None = None  # seconds since 1970


def record_file(tpu: Tpu) -> Path:
    """Returns where the run on a TPU is remembered."""
    place = f"{tpu.project}_{tpu.zone}_{tpu.name}".replace(":", "_")
    return RECORDS / ".records" / f"{place}.json"


def recall(tpu: Tpu) -> Record:
    """Returns what is remembered of the run on a TPU."""
    return Record(**tpu_worker.read_json(record_file(tpu), {}))


def remember(tpu: Tpu, model_dir: str, began: float) -> None:
    """Notes when the first run into a MODEL_DIR began."""
    if recall(tpu).model_dir != model_dir:
        record = Record(model_dir, began)
        tpu_worker.write_json(record_file(tpu), dataclasses.asdict(record))


def is_bucket(model_dir: str) -> bool:
    """Whether a MODEL_DIR outlives the TPU VM."""
    return model_dir.startswith("gs://")


def checked_model_dir(arguments: Sequence[str]) -> str:
    """Returns the MODEL_DIR that star_jax's arguments bind.

    Raises:
      ValueError: they bind none, or one that could not be fetched from.
    """
    model_dir = tpu_worker.model_dir_of(arguments)
    if not model_dir:
        raise ValueError(
            "star_jax's arguments, which follow a lone --, must bind the run's directory: "
            "--gin.MODEL_DIR=\"'gs://BUCKET/NAME'\""
        )
    if not SAFE_PATH.fullmatch(model_dir):
        raise ValueError(
            f"MODEL_DIR '{model_dir}' has characters that are not safe in a remote path; use "
            "letters, digits and _ . = + - /"
        )
    return model_dir


def check_place(tpu: Tpu, model_dir: str, workers: int, spot: bool) -> None:
    """Raises LaunchError if MODEL_DIR cannot be on the disk of a TPU VM, and is to be."""
    if is_bucket(model_dir):
        return
    way_out = f"bind MODEL_DIR to gs://BUCKET/NAME, not '{model_dir}'"
    if spot:
        raise LaunchError(
            f"{tpu.name} is a spot TPU: when it is preempted its disk is lost, and the run with "
            f"it; {way_out}"
        )
    if workers > 1:
        raise LaunchError(
            f"{tpu.name} has {workers} workers, each with a disk of its own, and they write one "
            f"MODEL_DIR together; {way_out}"
        )


def setup(tpu: Tpu, node: Node, data: Sequence[str]) -> None:
    """Sends the checkout to every worker and makes its environment there."""
    archive = RECORDS / "star_jax.tar.gz"
    packed = tpu_pack.pack(ROOT)
    digest = tpu_pack.digest_of(packed)
    if not tpu.gcloud.is_rehearsal:
        archive.parent.mkdir(parents=True, exist_ok=True)
        fresh = archive.with_name(f"{archive.name}.{os.getpid()}")  # a sweep has many of us
        fresh.write_bytes(packed)
        fresh.replace(archive)
    left_out = tpu_pack.untracked_files(ROOT)
    if left_out:
        more = f" and {len(left_out) - 3} more" if len(left_out) > 3 else ""
        tpu.say(f"not sent, since git does not track it: {', '.join(left_out[:3])}{more}")
    tpu.send(str(archive), str(Path(tpu_worker.__file__)))
    answers = tpu.ask(node, "setup", digest, *data, what="setting up, some minutes the first time")
    made = [label(answer) for answer in answers if answer.get("setup") != "as it was"]
    tpu.say(f"{', '.join(made)} set up" if made else "is set up already")


def start(tpu: Tpu, node: Node, arguments: Sequence[str]) -> None:
    """Starts star_jax on every worker, unless the same run is going on.

    Raises:
      LaunchError: another run is going on, or MODEL_DIR is in the wrong place.
    """
    model_dir = checked_model_dir(arguments)
    check_place(tpu, model_dir, node.workers, node.spot)
    answers = tpu.ask(node, "report")
    if len({answer["digest"] for answer in answers}) > 1 or not answers[0]["digest"]:
        raise LaunchError(f"{tpu.name}: not every worker has the same code; run `setup` first")
    running = [answer for answer in answers if answer["state"] == "running"]
    if any(answer["run_id"] != tpu_worker.run_id(arguments) for answer in running):
        raise LaunchError(f"{tpu.name}: another run is going on; stop it first")
    if running and len(running) < len(answers):
        names = ", ".join(map(label, running))
        raise LaunchError(
            f"{tpu.name}: of its workers only {names} runs, and they can only start together; "
            "stop the run, then run it again"
        )
    if not running:
        answers = tpu.ask(node, "start", *arguments, what="starting")
    if not tpu.gcloud.is_rehearsal:
        remember(tpu, model_dir, min(answer["began"] for answer in answers))
    tpu.say("the run is going on already" if running else "the run is started")


def stop(tpu: Tpu, node: Node) -> None:
    """Ends the run on every worker."""
    answers = tpu.ask(node, "stop", what="stopping")
    ran = [label(answer) for answer in answers if answer.get("was_running", True)]
    tpu.say(f"{', '.join(ran)} stopped" if ran else "no run is going on")


@dataclasses.dataclass(frozen=True)
class Standing:
    """How a run stands."""

    model_dir: str
    answers: tuple[dict, ...]  # of tpu_worker.report, by worker; () without a TPU VM
    summary: dict | None  # of tpu_worker.summarize
    first_began: float | None  # seconds since 1970

    def goodput(self) -> tuple[float, float] | None:
        """Returns productive seconds and all seconds since the first run began."""
        if self.first_began is None or self.summary is None:
            return None
        is_over = self.answers and all(answer["state"] == "exited" for answer in self.answers)
        end = max(answer["ended"] for answer in self.answers) if is_over else time.time()
        return self.summary["productive_seconds"], max(end - self.first_began, 1e-9)

    def line(self) -> str:
        """Returns iteration, accuracy and goodput in one line."""
        if self.summary is None:
            return "no iteration is finished yet"
        parts = [
            f"iteration {self.summary['iteration']} is finished, "
            f"accuracy {100 * self.summary['accuracy']:.1f} %"
        ]
        if goodput := self.goodput():
            productive, total = goodput
            parts.append(
                f"goodput {100 * productive / total:.1f} % ({human_time(productive)} of finished "
                f"iterations in {human_time(total)})"
            )
        return ", ".join(parts)


def look(tpu: Tpu, node: Node | None, model_dir: str = "") -> Standing:
    """Asks the workers and MODEL_DIR how the run stands; a TPU VM without code has no run.

    Without `model_dir` it is the one that the workers, or else this machine, know of.
    """
    answers: list[dict] = []
    if node is not None and node.state == "READY":
        try:
            answers = tpu.ask(node, "report")
        except GcloudError as error:
            if error.kind != "not_set_up":
                raise
    known = [answer for answer in answers if answer["state"] != "none"]
    record = recall(tpu)
    if not model_dir:
        model_dir = known[0].get("model_dir", "") if known else record.model_dir
    began = [answer["first_began"] for answer in known if "first_began" in answer]
    if record.model_dir == model_dir and record.first_began is not None:
        began.append(record.first_began)
    summary = known[0].get("summary") if known else None
    if is_bucket(model_dir):
        summary = bucket_summary(tpu, model_dir)
    return Standing(model_dir, tuple(answers), summary, min(began, default=None))


def bucket_summary(tpu: Tpu, model_dir: str) -> dict | None:
    """Returns the summary of a metrics.jsonl in a bucket, None while there is none."""
    try:
        metrics = tpu.gcloud.call("storage", "cat", f"{model_dir}/metrics.jsonl")
    except GcloudError as error:
        if error.kind != "missing":
            raise
        return None
    return tpu_worker.summarize(metrics)


def worker_line(answer: dict) -> str:
    """Returns what a worker's report says, in one line."""
    if answer["state"] == "none":
        return f"{label(answer)}: has run nothing yet"
    if "began" not in answer:  # a rehearsal
        return f"{label(answer)}: {answer['state']}"
    span = human_time(answer["ended"] - answer["began"])
    attempt = f"attempt {answer['attempts']}"
    if answer["state"] == "running":
        words = f"running for {span}"
    elif answer["state"] == "vanished":
        words = f"ended without an exit code after {span}"
    elif answer["stopped"]:
        words = f"was stopped after {span}"
    else:
        words = f"ended with exit code {answer['exit_code']} after {span}"
    return f"{label(answer)}: {words}, {attempt}: {answer['last_line']}"


def status(tpu: Tpu, model_dir: str) -> str:
    """Returns how the TPU VM and its run stand, as lines."""
    node, request = tpu.node(), None
    if node is None or node.state != "READY":
        request = tpu.request()
    lines = [f"{tpu.name}: {node_words(node)}"]
    if request is not None:
        lines.append(f"queued resource: {request[0]}")
    try:
        standing = look(tpu, node, model_dir)
    except GcloudError as error:  # the rest is worth telling
        return "\n".join([*lines, f"workers: {error}"])
    lines += [worker_line(answer) for answer in standing.answers]
    if standing.model_dir:
        lines.append(f"{standing.model_dir}: {standing.line()}")
    return "\n".join(lines)


def node_words(node: Node | None) -> str:
    """Returns what a TPU VM is: "READY, v3-8, spot, 1 worker"."""
    if node is None:
        return "there is no TPU VM"
    plural = "" if node.workers == 1 else "s"
    words = (
        node.state,
        node.accelerator_type,
        "spot" if node.spot else "",
        f"{node.workers} worker{plural}",
    )
    return ", ".join(filter(None, words))


def fetch(tpu: Tpu, node: Node | None, folder: Path, model_dir: str) -> None:
    """Brings MODEL_DIR's report, metrics and configuration into a folder.

    Raises:
      LaunchError: there is nothing to bring.
    """
    model_dir = model_dir or look(tpu, node).model_dir
    if not model_dir and tpu.gcloud.is_rehearsal:
        model_dir = "MODEL_DIR"
    if not model_dir:
        raise LaunchError(f"{tpu.name}: no run is known here; name its directory with --model_dir")
    if node is None and not is_bucket(model_dir):
        raise LaunchError(f"{tpu.name}: there is no TPU VM, and {model_dir} was on its disk")
    if not tpu.gcloud.is_rehearsal:
        folder.mkdir(parents=True, exist_ok=True)
    brought = []
    for name in RESULTS:
        with contextlib.suppress(Missing):
            bring(tpu, f"{model_dir}/{name}", folder)
            brought.append(name)
    if not brought:
        raise LaunchError(f"{tpu.name}: {model_dir} has none of {', '.join(RESULTS)} yet")
    tpu.say(f"{', '.join(brought)} brought to {folder}")


class Missing(Exception):
    """What was to be brought is not there (yet)."""


def bring(tpu: Tpu, path: str, folder: Path) -> None:
    """Copies one file or folder of MODEL_DIR here; raises Missing if it is not there."""
    try:
        if is_bucket(path):
            command = ("storage", "cp", path, f"{folder}/", "--recursive")
            tpu.gcloud.call(*command, what=f"bringing {path}")
        else:
            tpu.bring(path if path.startswith("/") else f"star_jax/{path}", f"{folder}/")
    except GcloudError as error:
        if error.kind == "missing" or "No such file" in str(error):
            raise Missing from error
        raise
