"""A TPU VM: the gcloud commands about it, and what its workers answer."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from star_launch.command_line import say
from star_launch.tpu_vm import PROG
from star_launch.tpu_vm.gcloud import Gcloud, GcloudError
from star_launch.tpu_vm.worker import self_delete, tpu_worker

WORKER_SCRIPT = Path(tpu_worker.__file__)
# ssh fails fast enough for gcloud's own ten tries, and notices a dead connection.
SSH_OPTIONS = ("-oConnectTimeout=15", "-oServerAliveInterval=30")


@dataclasses.dataclass(frozen=True)
class Node:
    """A TPU VM as it is."""

    state: str  # READY, CREATING, PREEMPTED, ...
    accelerator_type: str  # "" in a dry run
    workers: int
    spot: bool

    def __str__(self) -> str:
        """READY, v3-8, spot, 1 worker."""
        workers = f"{self.workers} worker{'' if self.workers == 1 else 's'}"
        spot = "spot" if self.spot else ""
        return ", ".join(filter(None, (self.state, self.accelerator_type, spot, workers)))


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A TPU VM by its name, and the commands about it."""

    gcloud: Gcloud
    name: str
    zone: str
    project: str

    def say(self, message: str) -> None:
        """Reports progress; a dry run makes none."""
        if not self.gcloud.is_dry_run:
            say(PROG, f"{self.name}: {message}")

    @property
    def _place(self) -> tuple[str, str]:
        return f"--zone={self.zone}", f"--project={self.project}"

    def _call(self, group: str, verb: str, *arguments: str, what: str = "") -> str:
        command = ("compute", "tpus", group, verb, self.name)
        return self.gcloud.call(*command, *arguments, *self._place, what=what)

    def _describe(self, group: str) -> dict | None:
        try:
            text = self._call(group, "describe", "--format=json")
        except GcloudError as error:
            if error.kind == "missing":
                return None
            raise
        return json.loads(text)

    def node(self) -> Node | None:
        """Returns the TPU VM as it is, None if there is none."""
        found = self._describe("tpu-vm")
        if found is None:
            return None
        scheduling = found.get("schedulingConfig", {})
        return Node(
            found.get("state", "STATE_UNSPECIFIED"),
            found.get("acceleratorType", ""),
            len(found.get("networkEndpoints", ())),
            bool(scheduling.get("spot") or scheduling.get("preemptible")),
        )

    def request(self) -> tuple[str, str] | None:
        """Returns the queued resource's state and, if it failed, the reason; None without one."""
        found = self._describe("queued-resources")
        if found is None:
            return None
        state = found.get("state", {})
        reason = state.get("failedData", {}).get("error", {}).get("message", "")
        return state.get("state", "STATE_UNSPECIFIED"), reason

    def create(self, flags: Sequence[str], version: str, max_hours: float) -> None:
        """Creates the TPU VM and waits for it.

        Args:
          flags: what it shall be.
          version: the image.
          max_hours: after which it deletes itself.
        """
        every = (f"--version={version}", *flags, *self._end(max_hours))
        self._call("tpu-vm", "create", *every, what=f"{self.name}: creating")

    def enqueue(self, flags: Sequence[str], version: str, max_hours: float) -> None:
        """Requests a TPU VM that is created when there is capacity; arguments as in `create`."""
        every = (f"--runtime-version={version}", *flags, *self._end(max_hours))
        self._call("queued-resources", "create", f"--node-id={self.name}", *every)

    def _end(self, max_hours: float) -> tuple[str, str]:
        """Returns the flags that make the TPU VM delete itself."""
        node = f"projects/{self.project}/locations/{self.zone}/nodes/{self.name}"
        settings = f"{self_delete.HOURS}={max_hours:g},{self_delete.NODE}={node}"
        script = f"startup-script={self_delete.__file__}"
        return f"--metadata={settings}", f"--metadata-from-file={script}"

    def delete(self) -> None:
        """Deletes the TPU VM and waits until it is gone."""
        self._call("tpu-vm", "delete", what=f"{self.name}: deleting")

    def dequeue(self) -> None:
        """Deletes the queued resource, and its TPU VM with it."""
        self._call("queued-resources", "delete", "--force", what=f"{self.name}: deleting")

    def send(self, *files: Path) -> None:
        """Copies files into the home folder of every worker."""
        paths = (*map(str, files), f"{self.name}:")
        self._scp(*paths, "--worker=all", what=f"sending {files[0].name}")

    def bring(self, path: str, folder: str, worker: int = 0) -> None:
        """Copies a file or folder, relative to a worker's home folder, into a folder here."""
        paths = (f"{self.name}:{path}", folder)
        self._scp(*paths, "--recurse", f"--worker={worker}", what=f"fetching {path}")

    def _scp(self, *arguments: str, what: str) -> None:
        options = [f"--scp-flag={option}" for option in SSH_OPTIONS]
        command = ("compute", "tpus", "tpu-vm", "scp", *arguments)
        self.gcloud.call(*command, *options, *self._place, what=what)

    def ssh(self, command: Sequence[str], worker: str = "all") -> tuple[str, ...]:
        """Returns the gcloud arguments that run a command on workers."""
        options = [f"--ssh-flag={option}" for option in SSH_OPTIONS]
        target = ("compute", "tpus", "tpu-vm", "ssh", self.name, f"--worker={worker}")
        # gcloud passes this text to a shell on the worker, so every word is quoted.
        return (*target, f"--command={shlex.join(command)}", *options, *self._place)

    def ask(self, node: Node, verb: str, *arguments: str, what: str = "") -> list[dict]:
        """Runs a verb of tpu_worker.py on every worker; returns their answers in worker order.

        Raises:
          GcloudError: a worker did not answer ("unreachable") or failed ("worker").
        """
        command = ("python3", WORKER_SCRIPT.name, verb, *arguments)
        output = self.gcloud.call(*self.ssh(command), what=what)
        lines = [line for line in output.splitlines() if line.startswith('{"worker": ')]
        answers = sorted((json.loads(line) for line in lines), key=lambda a: index_of(a["worker"]))
        failed = [f"{label(answer)}: {answer['error']}" for answer in answers if "error" in answer]
        if failed:
            raise GcloudError(f"{self.name}, {verb}: {'; '.join(failed)}", "worker")
        if len(answers) != node.workers:
            raise GcloudError(
                f"{self.name}, {verb}: {len(answers)} of {node.workers} workers answered; "
                "run it again",
                "unreachable",
            )
        return answers


def index_of(hostname: str) -> int:
    """Returns the number of a worker: "t1v-n-0a1b2c3d-w-12" -> 12."""
    found = re.search(r"-w-(\d+)$", hostname)
    return int(found[1]) if found else 0


def label(answer: Mapping[str, str]) -> str:
    """Returns the name of the worker that gave an answer: "worker 12"."""
    return f"worker {index_of(answer['worker'])}"
