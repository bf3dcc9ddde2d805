"""Brings a TPU VM into being, waits for it, and deletes it; each step only if it is needed."""

from __future__ import annotations

import dataclasses
import re
import time

from star_launch.fetch.meter import human_time
from star_launch.tpu_vm.gcloud import GcloudError, LaunchError, Node, Tpu, kind_of

# https://cloud.google.com/tpu/docs/runtimes, for JAX
RUNTIME_VERSIONS = {
    "v2": "tpu-ubuntu2204-base",
    "v3": "tpu-ubuntu2204-base",
    "v4": "tpu-ubuntu2204-base",
    "v5litepod": "v2-alpha-tpuv5-lite",
    "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}
DELETE_SECONDS = 3600  # a deletion that takes longer does not come to an end
MAX_BACKOFF = 20  # times --poll_seconds, between tries that find no room

# What to do about a TPU VM that is there: READY is used, LOST is deleted and made anew, PARKED is
# the user's to decide on, and all other states pass by themselves.
LOST = ("PREEMPTED", "TERMINATED")
PARKED = ("STOPPED", "HIDDEN", "UNKNOWN")


@dataclasses.dataclass(frozen=True)
class Wish:
    """The TPU VM that is asked for."""

    accelerator_type: str  # v3-8, v5litepod-16, ...
    runtime_version: str
    spot: bool
    queued: bool
    service_account: str  # "" for the project's default
    poll_seconds: float  # between looks while it is waited for
    limit_seconds: float  # of waiting

    @property
    def min_workers(self) -> int:
        """1 for what one machine holds, in every generation up to 8, else at least 2."""
        return 1 if int(self.accelerator_type.rpartition("-")[2]) <= 8 else 2

    def flags(self) -> list[str]:
        """Returns gcloud's flags that both ways of asking share."""
        flags = [f"--accelerator-type={self.accelerator_type}"]
        if self.service_account:
            flags.append(f"--service-account={self.service_account}")
        return [*flags, "--spot"] if self.spot else flags


@dataclasses.dataclass
class Waiter:
    """Says what is waited for, and for how long by now; waits longer while there is no room."""

    tpu: Tpu
    poll_seconds: float
    limit_seconds: float
    refusals: int = 0
    began: float = dataclasses.field(default_factory=lambda: time.monotonic())

    def pause(self, reason: str, refused: bool = False) -> None:
        """Waits for the next look.

        Raises:
          LaunchError: it has been too long.
        """
        elapsed = time.monotonic() - self.began
        if elapsed > self.limit_seconds:
            raise LaunchError(
                f"{self.tpu.name}: {reason}, and {human_time(elapsed)} are over; try another "
                "--zone, --queued, or a longer --give_up_hours"
            )
        self.refusals = self.refusals + 1 if refused else 0
        delay = self.poll_seconds * min(2 ** max(0, self.refusals - 1), MAX_BACKOFF)
        self.tpu.say(f"{reason}; {human_time(elapsed)} so far, next in {human_time(delay)}")
        time.sleep(delay)


def full_type(accelerator_type: str) -> str:
    """Returns Google's name of an accelerator type: v5e-16 -> v5litepod-16.

    Raises:
      ValueError: it is none.
    """
    name = re.sub(r"^v5e-", "v5litepod-", accelerator_type)
    if not re.fullmatch(rf"({'|'.join(RUNTIME_VERSIONS)})-[1-9]\d{{0,4}}", name):
        raise ValueError(f"'{accelerator_type}' is no accelerator type such as v3-8 or v5e-16")
    return name


def runtime_version_of(accelerator_type: str) -> str:
    """Returns the image that JAX wants on an accelerator type."""
    return RUNTIME_VERSIONS[accelerator_type.partition("-")[0]]


def ensure_ready(tpu: Tpu, wish: Wish, if_lost: str = "") -> Node:
    """Returns the TPU VM when it is ready, having made it if there was none.

    Args:
      tpu: its name and place.
      wish: what it is to be.
      if_lost: why another one in its place would not do; "" if it would.

    Raises:
      LaunchError: it cannot be had.
    """
    waiter = Waiter(tpu, wish.poll_seconds, wish.limit_seconds)
    while True:
        node = tpu.node()
        refused = False
        if node is not None and node.state == "READY":
            check_type(tpu, node, wish)
            return node
        if if_lost and (node is None or node.state in LOST):
            raise LaunchError(f"{tpu.name}: {if_lost}")
        if node is not None and node.state in PARKED:
            raise LaunchError(
                f"{tpu.name} is {node.state}, which somebody chose; start it with gcloud compute "
                f"tpus tpu-vm start, or delete it"
            )
        if node is not None and node.state in LOST:
            tpu.say(f"was {node.state.lower()}; deleting what is left of it")
            reason = delete_step(tpu)
        elif node is not None:
            reason = node.state
        elif wish.queued:
            reason, refused = queue_step(tpu, wish)
        else:
            reason = create_step(tpu, wish)
            refused = bool(reason)
        if reason:
            waiter.pause(reason, refused)


def check_type(tpu: Tpu, node: Node, wish: Wish) -> None:
    """Raises LaunchError if the TPU VM that is there is not of the kind asked for."""
    if node.accelerator_type not in ("", wish.accelerator_type):
        raise LaunchError(
            f"{tpu.name} is there already and is a {node.accelerator_type}, not a "
            f"{wish.accelerator_type}; delete it, or choose another name"
        )


def create_step(tpu: Tpu, wish: Wish) -> str:
    """Asks for the TPU VM once; returns why it is to be waited for, "" if it is made."""
    tpu.say(f"creating a {wish.accelerator_type}{', spot' if wish.spot else ''}")
    try:
        tpu.create(wish.flags(), wish.runtime_version)
    except GcloudError as error:
        if error.kind in ("exists", "slow"):
            return "still being created"
        if error.kind in ("stock_out", "passing"):
            return str(error)
        raise
    return ""


def queue_step(tpu: Tpu, wish: Wish) -> tuple[str, bool]:
    """Looks after the queued resource; returns what is to be waited for, and if it was refused.

    Raises:
      LaunchError: the project's quota does not allow it.
    """
    request = tpu.request()
    if request is None:
        tpu.say(f"asking for a {wish.accelerator_type}{', spot' if wish.spot else ''}")
        tpu.enqueue(wish.flags(), wish.runtime_version)
        return "", False
    state, reason = request
    if state not in ("FAILED", "SUSPENDED"):
        return f"the queued resource is {state}", False
    if kind_of(reason) == "quota":
        raise LaunchError(f"{tpu.name}: the queued resource failed: {reason}; delete it")
    tpu.dequeue()
    return f"the queued resource was {state}{f' ({reason})' if reason else ''}, asking anew", True


def delete_step(tpu: Tpu) -> str:
    """Deletes the TPU VM and its queued resource; returns what is to be waited for, if anything."""
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
    """Deletes the TPU VM and waits until it is gone, if there is one."""
    waiter = Waiter(tpu, poll_seconds, DELETE_SECONDS)
    while reason := delete_step(tpu):
        waiter.pause(reason)
    tpu.say("there is none now")
