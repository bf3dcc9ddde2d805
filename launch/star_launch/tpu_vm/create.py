"""Creates a TPU VM, waits for it, and deletes it; each step only if it is needed."""

from __future__ import annotations

import dataclasses
import re
import time

from star_launch.text import human_time
from star_launch.tpu_vm import prices
from star_launch.tpu_vm.gcloud import GcloudError, LaunchError, kind_of
from star_launch.tpu_vm.tpu import Node, Tpu

# https://cloud.google.com/tpu/docs/runtimes, for JAX
RUNTIME_VERSIONS = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
DELETE_SECONDS = 3600  # a deletion that takes longer will not finish
MAX_BACKOFF = 20  # times --poll_seconds, between attempts that find no capacity

# What to do with an existing TPU VM: READY is used, LOST is deleted and created again, PARKED is
# for the user to decide, and all other states end by themselves.
LOST = ("PREEMPTED", "TERMINATED")
PARKED = ("STOPPED", "HIDDEN", "UNKNOWN")


@dataclasses.dataclass(frozen=True)
class Wanted:
    """The TPU VM that the user wants."""

    accelerator_type: str  # v3-8, v5litepod-16, ...
    runtime_version: str
    spot: bool
    queued: bool
    service_account: str  # "" for the project's default
    poll_seconds: float  # between status checks
    limit_seconds: float  # of waiting
    max_hours: float  # after which it deletes itself

    @property
    def min_workers(self) -> int:
        """1 for what one machine holds, in every generation up to 8, else at least 2."""
        return 1 if int(self.accelerator_type.rpartition("-")[2]) <= 8 else 2

    @property
    def cost(self) -> str:
        """What it costs, in one line."""
        return prices.cost_line(self.accelerator_type, self.spot, self.max_hours)

    def flags(self) -> list[str]:
        """Returns the flags of gcloud that a TPU VM and a queued resource share."""
        flags = [f"--accelerator-type={self.accelerator_type}"]
        if self.service_account:
            flags.append(f"--service-account={self.service_account}")
        return [*flags, "--spot"] if self.spot else flags


@dataclasses.dataclass
class Waiter:
    """Waits, and reports why and since when; waits longer while capacity is missing."""

    tpu: Tpu
    poll_seconds: float
    limit_seconds: float
    refusals: int = 0
    began: float = dataclasses.field(default_factory=lambda: time.monotonic())

    def pause(self, reason: str, refused: bool = False) -> None:
        """Waits until the next status check.

        Raises:
          LaunchError: the time limit is exceeded.
        """
        elapsed = time.monotonic() - self.began
        if elapsed > self.limit_seconds:
            raise LaunchError(
                f"{self.tpu.name}: {reason}, after {human_time(elapsed)}; try another --zone, "
                "--queued, or a longer --give_up_hours"
            )
        self.refusals = self.refusals + 1 if refused else 0
        delay = self.poll_seconds * min(2 ** max(0, self.refusals - 1), MAX_BACKOFF)
        self.tpu.say(f"{reason}; {human_time(elapsed)} so far, next in {human_time(delay)}")
        time.sleep(delay)


def full_type(accelerator_type: str) -> str:
    """Returns Google's name of an accelerator type: v5e-16 -> v5litepod-16.

    Raises:
      ValueError: there is no such type.
    """
    name = re.sub(r"^v5e-", "v5litepod-", accelerator_type)
    if not re.fullmatch(rf"({'|'.join(RUNTIME_VERSIONS)})-[1-9]\d{{0,4}}", name):
        raise ValueError(f"'{accelerator_type}' is not an accelerator type such as v3-8 or v5e-16")
    return name


def runtime_version_of(accelerator_type: str) -> str:
    """Returns the image for JAX on an accelerator type."""
    return RUNTIME_VERSIONS[accelerator_type.partition("-")[0]]


def announce(tpu: Tpu, wanted: Wanted, grace: str = "") -> None:
    """Reports what the TPU VM costs and what ends that.

    Args:
      tpu: its name and place.
      wanted: its type and hours.
      grace: the time from the end of a run to its deletion; "" if the run does not end it.
    """
    itself = [f"{wanted.max_hours:g} h after it started (--max_hours)"]
    itself += [f"{grace} after the end of the run (--delete_at_end)"] if grace else []
    lines = [f"    the TPU VM itself, {when}" for when in itself]
    lines.append(f"    `tpu_vm.py delete {tpu.name}`; `stop` does not")
    title = "Create the TPU VM, if there is none"
    tpu.gcloud.step(title, wanted.cost, "What ends the cost:", *lines)
    tpu.say(f"{wanted.cost}; it deletes itself {', or '.join(itself)}")


def ensure_ready(tpu: Tpu, wanted: Wanted, node: Node | None, if_lost: str = "") -> Node:
    """Returns the TPU VM when it is ready; creates it if there is none.

    Args:
      tpu: its name and place.
      wanted: its type and image.
      node: its state, None if there is none.
      if_lost: why another TPU VM cannot replace a lost one; "" if it can.

    Raises:
      LaunchError: there is no such TPU VM to be had.
    """
    waiter = Waiter(tpu, wanted.poll_seconds, wanted.limit_seconds)
    while True:
        refused = False
        if node is not None and node.state == "READY":
            check_type(tpu, node, wanted)
            return node
        if if_lost and (node is None or node.state in LOST):
            raise LaunchError(f"{tpu.name}: {if_lost}")
        if node is not None and node.state in PARKED:
            raise LaunchError(
                f"{tpu.name} is {node.state}; start it with gcloud compute tpus tpu-vm start, or "
                "delete it"
            )
        if node is not None and node.state in LOST:
            tpu.say(f"was {node.state.lower()}; deleting what is left of it")
            reason = delete_step(tpu)
        elif node is not None:
            reason = node.state
        elif wanted.queued:
            reason, refused = queue_step(tpu, wanted)
        else:
            reason = create_step(tpu, wanted)
            refused = bool(reason)
        if reason:
            waiter.pause(reason, refused)
        node = tpu.node()


def check_type(tpu: Tpu, node: Node, wanted: Wanted) -> None:
    """Raises LaunchError if the existing TPU VM has another type."""
    if node.accelerator_type not in ("", wanted.accelerator_type):
        raise LaunchError(
            f"{tpu.name} exists and is a {node.accelerator_type}, not a "
            f"{wanted.accelerator_type}; delete it, or choose another name"
        )


def create_step(tpu: Tpu, wanted: Wanted) -> str:
    """Tries once to create the TPU VM; returns why to wait, "" if it was created."""
    tpu.say(f"creating a {wanted.accelerator_type}{', spot' if wanted.spot else ''}")
    try:
        tpu.create(wanted.flags(), wanted.runtime_version, wanted.max_hours)
    except GcloudError as error:
        if error.kind in ("exists", "slow"):
            return "still being created"
        if error.kind in ("stock_out", "transient"):
            return str(error)
        raise
    return ""


def queue_step(tpu: Tpu, wanted: Wanted) -> tuple[str, bool]:
    """Creates or checks the queued resource; returns why to wait, and whether it was refused.

    Raises:
      LaunchError: the project's quota does not allow it.
    """
    request = tpu.request()
    if request is None:
        tpu.say(f"requesting a {wanted.accelerator_type}{', spot' if wanted.spot else ''}")
        tpu.enqueue(wanted.flags(), wanted.runtime_version, wanted.max_hours)
        return "", False
    state, reason = request
    if state not in ("FAILED", "SUSPENDED"):
        return f"the queued resource is {state}", False
    if kind_of(reason).name == "quota":
        raise LaunchError(f"{tpu.name}: the queued resource failed: {reason}; delete it")
    tpu.dequeue()
    because = f" ({reason})" if reason else ""
    return f"the queued resource was {state}{because}, requesting another", True


def delete_step(tpu: Tpu) -> str:
    """Deletes the TPU VM and its queued resource; returns what to wait for, "" for nothing."""
    request = tpu.request()
    if request is not None:
        if request[0] in ("SUSPENDING", "DELETING"):
            return f"the queued resource is {request[0]}"
        tpu.dequeue()
    node = tpu.node()
    if node is not None:
        if node.state == "DELETING":
            return node.state
        tpu.delete()
    return ""


def delete(tpu: Tpu, poll_seconds: float) -> None:
    """Deletes the TPU VM, if there is one, and waits until it is gone."""
    tpu.gcloud.step("Delete the TPU VM", "From now on it costs nothing. The bucket still does.")
    waiter = Waiter(tpu, poll_seconds, DELETE_SECONDS)
    while reason := delete_step(tpu):
        waiter.pause(reason)
    tpu.say("the TPU VM is deleted")
