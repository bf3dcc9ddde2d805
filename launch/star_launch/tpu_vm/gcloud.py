"""gcloud as tpu_vm.py calls it: argument lists in, answers or errors of a known kind out."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from star_launch.fetch.meter import human_time

HEARTBEAT_SECONDS = 30  # a command that takes longer says how long it has taken
MAX_TEXT = 400  # characters of gcloud's own words that an error quotes
# ssh gives up soon enough for gcloud's own ten tries, and notices a connection that is dead.
SSH_OPTIONS = ("-oConnectTimeout=15", "-oServerAliveInterval=30")


class LaunchError(Exception):
    """What ends the program, told in one line that names the way out."""


class GcloudError(LaunchError):
    """A gcloud command that failed; `kind` is a key of KINDS, "worker", or "other"."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


# The first that matches counts: some messages about sign-in and quota have words of later kinds.
KINDS: Mapping[str, str] = {
    "disabled": r"has not been used in project|SERVICE_DISABLED|API .*is disabled",
    "sign_in": r"active account|gcloud auth login|reauth|invalid_grant",
    "ssh_key": r"not present in the SSH agent",
    "quota": r"quota",
    "stock_out": r"no more capacity|not enough resources|insufficient .*capacity|"
    r"RESOURCE_EXHAUSTED|RESOURCE_POOL_EXHAUSTED|stock.?out",
    "exists": r"ALREADY_EXISTS|already exists",
    "not_set_up": r"can't open file .*tpu_worker\.py",
    "missing": r"NOT_FOUND|was not found|matched no objects|No such file or directory",
    "slow": r"has not finished in",
    "lost": r"This TPU has (terminal )?state",
    "offline": r"Unable to find the server|failed to resolve|Name or service not known|"
    r"Network is unreachable|Max retries exceeded|refreshing your current auth tokens",
    "unreachable": r"exited with return code \[255\]|Connection (refused|reset|closed|timed out)",
    "passing": r"UNAVAILABLE|INTERNAL|ABORTED|DEADLINE_EXCEEDED|HTTPError 5\d\d|try again later",
}
WAYS_OUT: Mapping[str, str] = {
    "disabled": "turn the Cloud TPU API on: gcloud services enable tpu.googleapis.com",
    "sign_in": "sign in: gcloud auth login",
    "quota": "ask for more at https://console.cloud.google.com/iam-admin/quotas (Cloud TPU API), "
    "or choose another --zone or --accelerator_type, or --spot, which has a quota of its own",
    "not_set_up": "set it up first: launch/tpu_vm.py setup",
    "missing": "create it first, or look at --zone and --project",
    "offline": "look whether this machine is online",
    "unreachable": "look whether the network lets ssh through: gcloud compute firewall-rules list",
}


def kind_of(words: str) -> str:
    """Returns which of KINDS gcloud's error output tells of."""
    for kind, pattern in KINDS.items():
        if re.search(pattern, words, re.IGNORECASE | re.DOTALL):
            return kind
    return "other"


def error_line(words: str) -> str:
    """Returns what gcloud's error output says, in one line.

    'ERROR: (gcloud.x.y) {"code": 8, "message": "no more capacity"}' -> 'no more capacity'
    """
    _, _, tail = words.rpartition("ERROR: ")
    tail = re.sub(r"^\(gcloud[\w.-]*\) ", "", tail or words)
    message = re.search(r'"message": "((?:[^"\\]|\\.)*)"', tail)
    if message:
        tail = message[1].replace('\\"', '"')
    return " ".join(tail.split())[:MAX_TEXT] or "it gave no reason"


def say(message: str) -> None:
    """Tells what is being done; stdout is for what was asked for."""
    print(f"tpu_vm: {message}", file=sys.stderr, flush=True)


class Gcloud:
    """Runs gcloud."""

    is_rehearsal = False

    def call(self, *arguments: str, what: str = "") -> str:
        """Runs one command and returns its output.

        Args:
          arguments: what follows the word gcloud; --quiet is added.
          what: said with the time it has taken, again and again while the command runs.

        Raises:
          GcloudError: it failed, or there is no gcloud.
        """
        process = self._start(arguments, subprocess.PIPE)
        began = time.monotonic()
        while True:
            try:
                output, words = process.communicate(timeout=HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                say(f"{what or shlex.join(arguments[:4])}: {human_time(time.monotonic() - began)}")
        if process.returncode:
            raise self._error(arguments, words)
        return output

    def stream(self, *arguments: str) -> None:
        """Runs one command whose output goes to the screen as it comes."""
        process = self._start(arguments, None)
        _, words = process.communicate()
        if process.returncode:
            raise self._error(arguments, words)

    def _start(self, arguments: Sequence[str], stdout: int | None) -> subprocess.Popen:
        try:
            return subprocess.Popen(
                ["gcloud", *arguments, "--quiet"],
                stdin=subprocess.DEVNULL,  # nothing may wait for an answer
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except FileNotFoundError as error:
            raise LaunchError(
                "gcloud is not installed; get it from https://cloud.google.com/sdk/docs/install"
            ) from error

    def _error(self, arguments: Sequence[str], words: str) -> GcloudError:
        kind = kind_of(words)
        way_out = f"; {WAYS_OUT[kind]}" if kind in WAYS_OUT else ""
        return GcloudError(f"{' '.join(arguments[:5])}: {error_line(words)}{way_out}", kind)


class Rehearsal(Gcloud):
    """Prints each command in place of running it, and answers as if all went well."""

    is_rehearsal = True

    def __init__(self, exists: bool):
        """`exists` is whether there is a TPU VM before the first command."""
        self._exists, self._queued, self._state = exists, False, "none"

    def call(self, *arguments: str, what: str = "") -> str:
        """Prints the command and returns what gcloud would."""
        self.stream(*arguments)
        group, verb = (arguments[2], arguments[3]) if arguments[1] == "tpus" else arguments[:2]
        if verb == "create":
            self._exists, self._queued = True, group == "queued-resources"
        elif verb == "describe":
            return self._describe(group)
        elif verb == "delete":
            self._exists = self._queued = False
        elif verb == "ssh":
            return self._worker(next(a for a in arguments if a.startswith("--command=")))
        return ""

    def stream(self, *arguments: str) -> None:
        """Prints the command."""
        print(shlex.join(["gcloud", *arguments, "--quiet"]), flush=True)

    def _describe(self, group: str) -> str:
        if not (self._queued if group == "queued-resources" else self._exists):
            raise GcloudError("NOT_FOUND", "missing")
        state = {"state": "ACTIVE"} if group == "queued-resources" else "READY"
        return json.dumps({"state": state, "networkEndpoints": [{}]})

    def _worker(self, command: str) -> str:
        """Answers for worker 0; a run that is started has ended well when next looked at."""
        if command.split()[2] == "start":
            self._state = "exited"
        answer = {"worker": "w-0", "state": self._state, "exit_code": 0, "digest": "x"}
        return json.dumps(answer) + "\n"


@dataclasses.dataclass(frozen=True)
class Node:
    """A TPU VM as it is."""

    state: str  # READY, CREATING, PREEMPTED, ...
    accelerator_type: str  # "" in a rehearsal
    workers: int
    spot: bool


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A TPU VM by its name, and the commands about it."""

    gcloud: Gcloud
    name: str
    zone: str
    project: str

    def say(self, message: str) -> None:
        """Tells what is being done about the TPU VM; a rehearsal does nothing."""
        if not self.gcloud.is_rehearsal:
            say(f"{self.name}: {message}")

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
        """Returns state and, if it failed, reason of the queued resource; None if there is none."""
        found = self._describe("queued-resources")
        if found is None:
            return None
        state = found.get("state", {})
        reason = state.get("failedData", {}).get("error", {}).get("message", "")
        return state.get("state", "STATE_UNSPECIFIED"), reason

    def create(self, flags: Sequence[str], version: str) -> None:
        """Asks for a TPU VM and waits for it."""
        what = f"{self.name}: being created"
        self._call("tpu-vm", "create", f"--version={version}", *flags, what=what)

    def enqueue(self, flags: Sequence[str], version: str) -> None:
        """Asks for a TPU VM that comes when there is room for it."""
        version_flag = f"--runtime-version={version}"
        self._call("queued-resources", "create", f"--node-id={self.name}", version_flag, *flags)

    def delete(self) -> None:
        """Deletes the TPU VM and waits until it is gone."""
        self._call("tpu-vm", "delete", what=f"{self.name}: being deleted")

    def dequeue(self) -> None:
        """Deletes the queued resource, and its TPU VM with it."""
        self._call("queued-resources", "delete", "--force", what=f"{self.name}: being deleted")

    def send(self, *paths: str) -> None:
        """Copies files into the home folder of every worker."""
        options = [f"--scp-flag={option}" for option in SSH_OPTIONS]
        command = ("compute", "tpus", "tpu-vm", "scp", *paths, f"{self.name}:", "--worker=all")
        self.gcloud.call(*command, *options, *self._place, what="sending the code")

    def bring(self, path: str, folder: str) -> None:
        """Copies a file or folder, named from the home folder of worker 0, into a folder here."""
        options = [f"--scp-flag={option}" for option in SSH_OPTIONS]
        command = ("compute", "tpus", "tpu-vm", "scp", f"{self.name}:{path}", folder, "--recurse")
        self.gcloud.call(*command, "--worker=0", *options, *self._place, what=f"bringing {path}")

    def ssh(self, command: Sequence[str], worker: str = "all") -> tuple[str, ...]:
        """Returns the gcloud arguments that run a command on workers."""
        options = [f"--ssh-flag={option}" for option in SSH_OPTIONS]
        target = ("compute", "tpus", "tpu-vm", "ssh", self.name, f"--worker={worker}")
        # gcloud hands this text to a shell at the other end, so every word is quoted.
        return (*target, f"--command={shlex.join(command)}", *options, *self._place)

    def ask(self, node: Node, verb: str, *arguments: str, what: str = "") -> list[dict]:
        """Has every worker run a verb of tpu_worker.py; returns their answers by worker.

        Raises:
          GcloudError: a worker did not answer ("unreachable") or could not do it ("worker").
        """
        command = ("python3", "tpu_worker.py", verb, *arguments)
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
    """Returns how messages call the worker that gave an answer."""
    return f"worker {index_of(answer['worker'])}"
