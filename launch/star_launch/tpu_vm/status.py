"""The state of a run on a TPU VM: its workers, its last outer iteration, its goodput."""

from __future__ import annotations

import dataclasses
import json
import time

from star_launch.text import human_time
from star_launch.tpu_vm.gcloud import GcloudError
from star_launch.tpu_vm.run import is_bucket, read_record
from star_launch.tpu_vm.tpu import Node, Tpu, index_of, label
from star_launch.tpu_vm.worker import supervise, tpu_worker


@dataclasses.dataclass(frozen=True)
class RunState:
    """The state of a run."""

    model_dir: str
    answers: tuple[dict, ...]  # of tpu_worker.report, in worker order; () without a TPU VM
    summary: dict | None  # of tpu_worker.summarize
    first_began: float | None  # seconds since 1970

    def goodput(self) -> tuple[float, float] | None:
        """Returns productive seconds, and all seconds since the first run began."""
        if self.first_began is None or self.summary is None:
            return None
        states = {answer["state"] for answer in self.answers}
        is_over = states == {tpu_worker.EXITED}
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


def run_state(tpu: Tpu, node: Node | None, model_dir: str = "") -> RunState:
    """Returns the state of the run, from the workers and MODEL_DIR.

    Args:
      tpu: the TPU VM.
      node: its state; one without code has no run.
      model_dir: the run directory; "" for that of the workers, or else of this machine's record.
    """
    answers: list[dict] = []
    if node is not None and node.state == "READY":
        try:
            answers = tpu.ask(node, "report")
        except GcloudError as error:
            if error.kind != "not_set_up":
                raise
    record = read_record(tpu)
    if node is None and is_bucket(model_dir or record.model_dir):
        answers = saved_answers(tpu, model_dir or record.model_dir)
    known = [answer for answer in answers if answer["state"] != tpu_worker.NONE]
    if not model_dir:
        model_dir = known[0].get("model_dir", "") if known else record.model_dir
    began = [answer["first_began"] for answer in known if "first_began" in answer]
    if record.model_dir == model_dir and record.first_began is not None:
        began.append(record.first_began)
    summary = known[0].get("summary") if known else None
    if is_bucket(model_dir):
        summary = tpu_worker.summarize(bucket_text(tpu, f"{model_dir}/{tpu_worker.METRICS}"))
    return RunState(model_dir, tuple(answers), summary, min(began, default=None))


def saved_answers(tpu: Tpu, model_dir: str) -> list[dict]:
    """Returns what the workers reported before they deleted their TPU VM; [] if they did not."""
    lines = bucket_text(tpu, f"{supervise.outcome(model_dir, '*')}.json").splitlines()
    return sorted(map(json.loads, lines), key=lambda answer: index_of(answer["worker"]))


def bucket_text(tpu: Tpu, url: str) -> str:
    """Returns the text of objects in a bucket, "" if there are none."""
    try:
        return tpu.gcloud.call("storage", "cat", url)
    except GcloudError as error:
        if error.kind != "missing":
            raise
        return ""


def worker_line(answer: dict) -> str:
    """Returns a worker's report in one line."""
    if answer["state"] == tpu_worker.NONE:
        return f"{label(answer)}: no run yet"
    if "began" not in answer:  # in a dry run
        return f"{label(answer)}: {answer['state']}"
    span = human_time(answer["ended"] - answer["began"])
    if answer["state"] == tpu_worker.RUNNING:
        words = f"running for {span}"
    elif answer["state"] == tpu_worker.VANISHED:
        words = f"ended without an exit code after {span}"
    elif answer["stopped"]:
        words = f"was stopped after {span}"
    else:
        words = f"ended with exit code {answer['exit_code']} after {span}"
    return f"{label(answer)}: {words}, attempt {answer['attempts']}: {answer['last_line']}"


def end_line(ends_at: float | None) -> str:
    """Returns when the TPU VM deletes itself (seconds since 1970), in one line."""
    if ends_at is None:
        return "the TPU VM does not delete itself; it costs money until `tpu_vm.py delete`"
    return f"the TPU VM deletes itself in {human_time(max(0.0, ends_at - time.time()))}"


def status(tpu: Tpu, model_dir: str) -> str:
    """Returns the state of the TPU VM and its run, as lines."""
    node, request = tpu.node(), None
    if node is None or node.state != "READY":
        request = tpu.request()
    lines = [f"{tpu.name}: {node or 'there is no TPU VM'}"]
    if request is not None:
        lines.append(f"queued resource: {request[0]}")
    try:
        state = run_state(tpu, node, model_dir)
    except GcloudError as error:  # the other lines are still useful
        return "\n".join([*lines, f"workers: {error}"])
    lines += [worker_line(answer) for answer in state.answers]
    if node is not None and state.answers:
        lines.append(end_line(state.answers[0].get("ends_at")))
    if state.model_dir:
        lines.append(f"{state.model_dir}: {state.line()}")
    return "\n".join(lines)
