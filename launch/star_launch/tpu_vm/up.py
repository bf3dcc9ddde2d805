"""`tpu_vm.py up`: takes a run to its end, whatever becomes of the TPU VM meanwhile.

Each round looks at how things are and does what is missing, so a round after a preemption and the
first round are the same. star_jax itself goes on from MODEL_DIR.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from star_launch.tpu_vm import create as tpu_create
from star_launch.tpu_vm import run as tpu_run
from star_launch.tpu_vm import tpu_worker
from star_launch.tpu_vm.gcloud import GcloudError, LaunchError, Node, Tpu, label
from star_launch.tpu_vm.run import Standing

SILENCE_SECONDS = 600  # a line of progress comes at least this often
PATIENCE = 3  # rounds in a row that find the same trouble, before it counts
USER_MISTAKE = 2  # star_jax's exit code for what would be wrong the next time too
PASSING = ("offline", "passing")  # says nothing of the TPU VM
BROKEN = ("lost", "unreachable")  # the TPU VM may be gone, which the next round finds out
WORKER = "worker"  # such as a package index that is down


@dataclasses.dataclass
class Progress:
    """What earlier rounds of this `up` have seen."""

    seen_alive: bool = False  # so a run that has ended since has ended under our eyes
    troubles: int = 0  # rounds in a row without an answer from the workers
    answered: bool = False  # whether this TPU VM's workers ever did
    setbacks: int = 0  # rounds in a row in which a worker could not do what it was told
    failures: int = 0  # rounds in a row that found a run that had failed
    restarts: int = 0  # since the last finished iteration
    iteration: int = -1
    said: str = ""
    said_at: float = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `up` is to bring about."""

    wish: tpu_create.Wish
    arguments: tuple[str, ...]
    data: tuple[str, ...]
    folder: Path  # where the results go
    delete_at_end: bool

    @property
    def model_dir(self) -> str:
        """The run's directory."""
        return tpu_run.checked_model_dir(self.arguments)


def up(tpu: Tpu, plan: Plan) -> None:
    """Creates, sets up, runs, watches, fetches, and deletes if asked to.

    Raises:
      LaunchError: the run failed, or cannot go on.
    """
    tpu_run.check_place(tpu, plan.model_dir, plan.wish.min_workers, plan.wish.spot)
    progress = Progress()
    while not round_of(tpu, plan, progress):
        if not tpu.gcloud.is_rehearsal:
            time.sleep(plan.wish.poll_seconds)
    tpu_run.fetch(tpu, tpu.node(), plan.folder, plan.model_dir)
    if plan.delete_at_end:
        tpu_create.delete(tpu, plan.wish.poll_seconds)
    else:
        tpu.say("the run is over; the TPU VM costs money until `tpu_vm.py delete`")


def round_of(tpu: Tpu, plan: Plan, progress: Progress) -> bool:
    """Does what is missing now; returns whether the run has ended well."""
    try:
        node = tpu_create.ensure_ready(tpu, plan.wish, why_not_anew(plan, progress))
        finished = advance(tpu, node, plan, progress)
        progress.troubles, progress.setbacks, progress.answered = 0, 0, True
        return finished
    except GcloudError as error:
        progress.troubles += error.kind in BROKEN
        progress.setbacks += error.kind == WORKER
        is_known = error.kind in (*PASSING, *BROKEN, WORKER)
        if not is_known or progress.setbacks >= PATIENCE:
            raise
        tpu.say(str(error))
        if progress.troubles >= PATIENCE:
            if not progress.answered:  # then it is the way there, and another TPU VM has the same
                raise
            replace_silent(tpu, plan)
            progress.troubles, progress.answered = 0, False
    return False


def replace_silent(tpu: Tpu, plan: Plan) -> None:
    """Deletes a TPU VM that is READY and no longer answers; the next round makes another."""
    if not tpu_run.is_bucket(plan.model_dir):
        raise LaunchError(
            f"{tpu.name}: a worker does not answer, and MODEL_DIR {plan.model_dir} is on its disk; "
            "look at it in the console before you delete it"
        )
    tpu.say("a worker does not answer; making the TPU VM anew")
    tpu_create.delete(tpu, plan.wish.poll_seconds)


def why_not_anew(plan: Plan, progress: Progress) -> str:
    """Returns why the run cannot go on with another TPU VM, "" if it can."""
    if tpu_run.is_bucket(plan.model_dir) or not progress.seen_alive:
        return ""
    return (
        f"the TPU VM was lost, and MODEL_DIR {plan.model_dir} with its disk; bind MODEL_DIR to "
        "gs://BUCKET/NAME and a run can go on"
    )


def advance(tpu: Tpu, node: Node, plan: Plan, progress: Progress) -> bool:
    """Starts the run if none is going on; returns whether it has ended well.

    Raises:
      LaunchError: it has failed, was stopped, or cannot be gone on with.
    """
    standing = tpu_run.look(tpu, node, plan.model_dir)
    own_id = tpu_worker.run_id(plan.arguments)
    answers = [a for a in standing.answers if a.get("run_id", own_id) == own_id]
    states = {answer["state"] for answer in answers} - {"none"}
    if "running" in {answer["state"] for answer in standing.answers} and not states:
        raise LaunchError(f"{tpu.name}: another run is going on; stop it first")
    if states == {"exited"} and all(is_good_end(answer) for answer in answers):
        tell(tpu, standing, progress)
        return True
    failed = [a for a in answers if a["state"] == "exited" and (a["exit_code"] or a["stopped"])]
    if failed and progress.seen_alive:
        note_failure(tpu, node, failed, progress)
    elif states & {"running"} and "vanished" not in states:
        progress.seen_alive, progress.failures = True, 0
        tell(tpu, standing, progress)
    else:
        begin(tpu, node, plan, progress, standing)
    return False


def is_good_end(answer: dict) -> bool:
    """Whether a worker's run has come to its end by itself."""
    return answer.get("exit_code") == 0 and not answer.get("stopped")


def begin(tpu: Tpu, node: Node, plan: Plan, progress: Progress, standing: Standing) -> None:
    """Sets up and starts the run on all workers, after stopping those that go on without others."""
    if progress.seen_alive:
        iteration = standing.summary["iteration"] if standing.summary else -1
        progress.restarts = progress.restarts + 1 if iteration == progress.iteration else 1
        progress.iteration = iteration
        if progress.restarts > PATIENCE:
            raise LaunchError(
                f"{tpu.name}: the run was cut off {PATIENCE} times without finishing an iteration; "
                "look at `tpu_vm.py logs`"
            )
        tpu.say(f"the run was cut off; {standing.line()}; starting it again")
    if any(answer["state"] == "running" for answer in standing.answers):
        tpu_run.stop(tpu, node)
    tpu_run.setup(tpu, node, plan.data)
    tpu_run.start(tpu, node, plan.arguments)
    progress.seen_alive, progress.failures = True, 0


def note_failure(tpu: Tpu, node: Node, failed: Sequence[dict], progress: Progress) -> None:
    """Raises LaunchError once a failure is certain to be the run's own.

    A preemption also makes workers fail, and is in the TPU VM's state only some time later.
    """
    progress.failures += 1
    words = "; ".join(map(tpu_run.worker_line, failed))
    stopped = any(answer["stopped"] for answer in failed)
    certain = stopped or any(answer["exit_code"] == USER_MISTAKE for answer in failed)
    if not certain and progress.failures < PATIENCE:
        tpu.say(f"{words}; looking whether the TPU VM was preempted")
        return
    if not stopped:
        tpu_run.stop(tpu, node)  # the other workers would wait for the failed one
    raise LaunchError(
        f"{tpu.name}: {words}; see `tpu_vm.py logs --worker="
        f"{label(failed[0]).rpartition(' ')[2]}`; the TPU VM is still there and costs money"
    )


def tell(tpu: Tpu, standing: Standing, progress: Progress) -> None:
    """Says how far the run is: when an iteration is finished, and now and then."""
    iteration = standing.summary["iteration"] if standing.summary else None
    news = str(iteration)
    if news != progress.said or time.monotonic() - progress.said_at > SILENCE_SECONDS:
        tpu.say(standing.line())
        progress.said, progress.said_at = news, time.monotonic()
