"""`tpu_vm.py up`: takes a run to its end, also across preemptions.

Each round checks the state and does what is missing, so a round after a preemption and the first
round are the same. star_jax itself resumes from MODEL_DIR.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

from star_launch.text import human_time
from star_launch.tpu_vm import create, results, run
from star_launch.tpu_vm.gcloud import GcloudError, LaunchError, RunFailed
from star_launch.tpu_vm.status import RunState, end_line, run_state, saved_answers, worker_line
from star_launch.tpu_vm.tpu import Node, Tpu, index_of
from star_launch.tpu_vm.worker import supervise, tpu_worker

GRACE_SECONDS = 600  # from the end of a run to the deletion of the TPU VM by itself
SILENCE_SECONDS = 600  # between two lines of progress, at most
CLOCK_SECONDS = 120  # clocks differ, and a deletion takes time
PATIENCE = 3  # rounds in a row with the same trouble, before it counts
USER_MISTAKE = 2  # star_jax's exit code for what would fail again
TRANSIENT = ("offline", "transient")  # errors that say nothing about the TPU VM
BROKEN = ("lost", "unreachable")  # the TPU VM may be gone; the next round finds out
WORKER = "worker"  # such as a package index that is down


@dataclasses.dataclass
class Progress:
    """What earlier rounds of this `up` found."""

    exists: bool = False  # whether there is, or was, a TPU VM
    seen_alive: bool = False  # a run that is over now ended during this `up`
    troubles: int = 0  # rounds in a row without an answer from the workers
    answered: bool = False  # whether the workers of this TPU VM ever answered
    setbacks: int = 0  # rounds in a row in which a worker failed to do its part
    failures: int = 0  # rounds in a row that found a failed run
    restarts: int = 0  # since the last finished iteration
    iteration: int = -1
    ends_at: float | None = None  # when the TPU VM deletes itself, seconds since 1970
    began: float = dataclasses.field(default_factory=time.time)  # seconds since 1970
    reported: str | None = None  # the last iteration that was reported
    reported_at: float = 0


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `up` does."""

    wanted: create.Wanted
    arguments: tuple[str, ...]
    data: tuple[str, ...]
    folder: Path  # for the results
    delete_at_end: bool
    is_smoke: bool = False  # its results need not be kept

    @property
    def model_dir(self) -> str:
        """The run directory."""
        return run.checked_model_dir(self.arguments)

    @property
    def delete_after(self) -> float | None:
        """Seconds from the end of the run until the TPU VM deletes itself; None for never."""
        return GRACE_SECONDS if self.delete_at_end else None


def up(tpu: Tpu, plan: Plan) -> None:
    """Creates, sets up, runs, watches, fetches, and deletes if the plan says so.

    Raises:
      LaunchError: the run failed, or cannot be resumed.
    """
    wanted, ends = plan.wanted, plan.delete_at_end and not plan.is_smoke
    run.check_disk(tpu, plan.model_dir, wanted.min_workers, wanted.spot, ends)
    progress = Progress()
    create.announce(tpu, wanted, human_time(GRACE_SECONDS) if plan.delete_at_end else "")
    try:
        while not one_round(tpu, plan, progress):
            tpu.gcloud.step("Watch the run to its end", "This machine may be off meanwhile.")
            if not tpu.gcloud.is_dry_run:
                time.sleep(wanted.poll_seconds)
    except RunFailed as error:
        raise LaunchError(f"{error}; {after_failure(tpu, plan, error)}") from error
    except LaunchError:
        if progress.exists:
            tpu.say("the TPU VM still exists and costs money; see `status` and `delete`")
        raise
    results.fetch(tpu, tpu.node(), plan.folder, plan.model_dir)
    if plan.delete_at_end:
        create.delete(tpu, plan.wanted.poll_seconds)
    else:
        tpu.say("the run is finished; the TPU VM costs money until `tpu_vm.py delete`")


def after_failure(tpu: Tpu, plan: Plan, error: RunFailed) -> str:
    """Deletes the TPU VM if the plan says so; returns what became of it."""
    hint = ""
    if plan.delete_at_end:
        if error.worker is not None:
            hint = f"; its log: {results.fetch_log(tpu, plan.folder, error.worker)}"
        create.delete(tpu, plan.wanted.poll_seconds)
        return f"the TPU VM is deleted{hint}"
    if error.worker is not None:
        hint = f"see `tpu_vm.py logs {tpu.name} --worker={error.worker}`; "
    return f"{hint}the TPU VM still exists and costs money"


def one_round(tpu: Tpu, plan: Plan, progress: Progress) -> bool:
    """Does what is missing now; returns whether the run has ended well."""
    try:
        node = tpu.node()
        if node is None and ended_before(tpu, plan, progress):
            return True
        node = create.ensure_ready(tpu, plan.wanted, node, why_not_again(plan, progress))
        progress.exists = True
        finished = advance(tpu, node, plan, progress)
        progress.troubles, progress.setbacks, progress.answered = 0, 0, True
        return finished
    except GcloudError as error:
        broken = (*BROKEN, "missing") if progress.exists else BROKEN
        progress.troubles += error.kind in broken
        progress.setbacks += error.kind == WORKER
        if error.kind not in (*TRANSIENT, *broken, WORKER):
            raise
        if progress.setbacks >= PATIENCE:
            raise RunFailed(str(error)) from error
        tpu.say(str(error))
        if progress.troubles >= PATIENCE:
            if not progress.answered:  # the connection is at fault, and would be again
                raise RunFailed(str(error)) from error
            replace_silent(tpu, plan)
            progress.troubles, progress.answered, progress.ends_at = 0, False, None
    return False


def ended_before(tpu: Tpu, plan: Plan, progress: Progress) -> bool:
    """Whether the run had ended well before its TPU VM deleted itself.

    Raises:
      LaunchError: the TPU VM deleted itself after the run failed, or before the run ended.
    """
    if not run.is_bucket(plan.model_dir):
        return False
    own_id = tpu_worker.run_id(plan.arguments)
    answers = [a for a in saved_answers(tpu, plan.model_dir) if a["run_id"] == own_id]
    if answers and all(map(has_ended_well, answers)):
        tpu.say("the run has ended, and the TPU VM deleted itself")
        return True
    failed = [a for a in answers if not has_ended_well(a) and a["ended"] > progress.began]
    if failed and progress.seen_alive:
        log = f"{supervise.outcome(plan.model_dir, str(index_of(failed[0]['worker'])))}.log"
        words = "; ".join(map(worker_line, failed))
        raise LaunchError(f"{tpu.name}: {words}; the TPU VM deleted itself; its log: {log}")
    if progress.ends_at is not None and time.time() > progress.ends_at - CLOCK_SECONDS:
        raise LaunchError(
            f"{tpu.name}: the TPU VM deleted itself after {plan.wanted.max_hours:g} h "
            "(--max_hours), before the run ended; the same command resumes on another one"
        )
    return False


def replace_silent(tpu: Tpu, plan: Plan) -> None:
    """Deletes a TPU VM that is READY and no longer answers; the next round creates another."""
    if not run.is_bucket(plan.model_dir):
        raise LaunchError(
            f"{tpu.name}: a worker does not answer, and MODEL_DIR {plan.model_dir} is on its disk; "
            "check it in the console before you delete it"
        )
    tpu.say("a worker does not answer; replacing the TPU VM")
    create.delete(tpu, plan.wanted.poll_seconds)


def why_not_again(plan: Plan, progress: Progress) -> str:
    """Returns why the run cannot resume on another TPU VM, "" if it can."""
    if run.is_bucket(plan.model_dir) or not progress.seen_alive:
        return ""
    return (
        f"the TPU VM was lost, and MODEL_DIR {plan.model_dir} with its disk; a run can resume if "
        "MODEL_DIR is bound to gs://BUCKET/NAME"
    )


def advance(tpu: Tpu, node: Node, plan: Plan, progress: Progress) -> bool:
    """Starts the run if none is active; returns whether it has ended well.

    Args:
      tpu: the TPU VM.
      node: its state.
      plan: the run.
      progress: updated.

    Raises:
      LaunchError: the run failed, was stopped, or cannot be resumed.
    """
    state = run_state(tpu, node, plan.model_dir)
    ends_at = state.answers[0].get("ends_at") if state.answers else None
    if ends_at != progress.ends_at:
        progress.ends_at = ends_at
        tpu.say(end_line(ends_at))
    own_id = tpu_worker.run_id(plan.arguments)
    answers = [a for a in state.answers if a.get("run_id", own_id) == own_id]
    states = {answer["state"] for answer in answers} - {tpu_worker.NONE}
    if tpu_worker.RUNNING in {answer["state"] for answer in state.answers} and not states:
        raise LaunchError(f"{tpu.name}: another run is active; stop it first")
    if states == {tpu_worker.EXITED} and all(has_ended_well(answer) for answer in answers):
        report_progress(tpu, state, progress)
        return True
    failed = [
        answer
        for answer in answers
        if answer["state"] == tpu_worker.EXITED and not has_ended_well(answer)
    ]
    if failed and progress.seen_alive:
        note_failure(tpu, node, failed, progress)
    elif tpu_worker.RUNNING in states and tpu_worker.VANISHED not in states:
        progress.seen_alive, progress.failures = True, 0
        report_progress(tpu, state, progress)
    else:
        begin(tpu, node, plan, progress, state)
    return False


def has_ended_well(answer: dict) -> bool:
    """Whether a worker's run ended by itself and without an error."""
    return answer.get("exit_code") == 0 and not answer.get("stopped")


def begin(tpu: Tpu, node: Node, plan: Plan, progress: Progress, state: RunState) -> None:
    """Sets up and starts the run on all workers, after stopping those that still run alone.

    Args:
      tpu: the TPU VM.
      node: its state.
      plan: the run.
      progress: updated.
      state: of the run.

    Raises:
      LaunchError: the run was interrupted too often.
    """
    if progress.seen_alive:
        iteration = state.summary["iteration"] if state.summary else -1
        progress.restarts = progress.restarts + 1 if iteration == progress.iteration else 1
        progress.iteration = iteration
        if progress.restarts > PATIENCE:
            raise RunFailed(
                f"{tpu.name}: the run was interrupted {PATIENCE} times without finishing an "
                "iteration",
                worker=0,
            )
        tpu.say(f"the run was interrupted; {state.line()}; starting it again")
    if any(answer["state"] == tpu_worker.RUNNING for answer in state.answers):
        run.stop(tpu, node)
    run.setup(tpu, node, plan.data)
    run.start(tpu, node, plan.arguments, plan.delete_after)
    progress.seen_alive, progress.failures = True, 0


def note_failure(tpu: Tpu, node: Node, failed: Sequence[dict], progress: Progress) -> None:
    """Raises LaunchError once it is certain that the run itself failed.

    A preemption also makes workers fail, and the state of the TPU VM shows it only later.

    Args:
      tpu: the TPU VM.
      node: its state.
      failed: reports of workers whose run failed or was stopped.
      progress: updated.
    """
    progress.failures += 1
    words = "; ".join(map(worker_line, failed))
    stopped = any(answer["stopped"] for answer in failed)
    certain = stopped or any(answer["exit_code"] == USER_MISTAKE for answer in failed)
    if not certain and progress.failures < PATIENCE:
        tpu.say(f"{words}; checking whether the TPU VM was preempted")
        return
    if stopped:
        raise LaunchError(f"{tpu.name}: {words}")
    run.stop(tpu, node)  # the other workers would wait for the failed one
    raise RunFailed(f"{tpu.name}: {words}", index_of(failed[0]["worker"]))


def report_progress(tpu: Tpu, state: RunState, progress: Progress) -> None:
    """Reports the last iteration when there is a new one, and every SILENCE_SECONDS."""
    iteration = str(state.summary["iteration"]) if state.summary else ""
    silence = time.monotonic() - progress.reported_at
    if iteration != progress.reported or silence > SILENCE_SECONDS:
        tpu.say(state.line())
        progress.reported, progress.reported_at = iteration, time.monotonic()
