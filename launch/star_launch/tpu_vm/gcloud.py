"""Calls gcloud: arguments in, output or an error of a known kind out."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Sequence
from typing import NamedTuple

from star_launch.command_line import say
from star_launch.text import human_time
from star_launch.tpu_vm import PROG

HEARTBEAT_SECONDS = 30  # a command that takes longer reports its time
MAX_TEXT = 400  # characters that an error quotes of gcloud's message


class LaunchError(Exception):
    """Ends the program; the message is one line and says what to do."""


class RunFailed(LaunchError):
    """The run failed; `worker` is the number of the worker whose log shows why, if there is one."""

    def __init__(self, message: str, worker: int | None = None):
        super().__init__(message)
        self.worker = worker


class GcloudError(LaunchError):
    """A gcloud command that failed; `kind` is the name of one of KINDS, "worker", or "other"."""

    def __init__(self, message: str, kind: str):
        super().__init__(message)
        self.kind = kind


class Kind(NamedTuple):
    """A kind of error."""

    name: str
    pattern: str  # of gcloud's message
    way_out: str = ""  # what the user can do


# The first match counts: some messages about sign-in and quota contain words of later kinds.
KINDS = (
    Kind(
        "disabled",
        r"has not been used in project|SERVICE_DISABLED|API .*is disabled",
        "turn the Cloud TPU API on: gcloud services enable tpu.googleapis.com",
    ),
    Kind(
        "sign_in",
        r"active account|gcloud auth login|reauth|invalid_grant",
        "sign in: gcloud auth login",
    ),
    Kind("ssh_key", r"not present in the SSH agent", "run: ssh-add ~/.ssh/google_compute_engine"),
    Kind(
        "quota",
        r"quota",
        "request more at https://console.cloud.google.com/iam-admin/quotas (Cloud TPU API), or "
        "choose another --zone or --accelerator_type, or --spot, which has its own quota",
    ),
    Kind(
        "stock_out",
        r"no more capacity|not enough resources|insufficient .*capacity|"
        r"RESOURCE_EXHAUSTED|RESOURCE_POOL_EXHAUSTED|stock.?out",
    ),
    Kind("exists", r"ALREADY_EXISTS|already exists"),
    Kind("not_set_up", r"can't open file .*tpu_worker\.py", "first run launch/tpu_vm.py setup"),
    Kind(
        "missing",
        r"NOT_FOUND|was not found|matched no objects|No such file or directory",
        "create it first, or check --zone and --project",
    ),
    Kind("slow", r"has not finished in"),
    Kind("lost", r"This TPU has (terminal )?state"),
    Kind(
        "offline",
        r"Unable to find the server|failed to resolve|Name or service not known|"
        r"Network is unreachable|Max retries exceeded|refreshing your current auth tokens",
        "check whether this machine is online",
    ),
    Kind(
        "unreachable",
        r"exited with return code \[255\]|Connection (refused|reset|closed|timed out)",
        "check whether the firewall allows SSH: gcloud compute firewall-rules list",
    ),
    Kind(
        "transient",
        r"UNAVAILABLE|INTERNAL|ABORTED|DEADLINE_EXCEEDED|HTTPError 5\d\d|try again later",
    ),
)
OTHER = Kind("other", "")


def kind_of(message: str) -> Kind:
    """Returns the kind of an error, from gcloud's error output."""
    flags = re.IGNORECASE | re.DOTALL
    return next((kind for kind in KINDS if re.search(kind.pattern, message, flags)), OTHER)


def error_line(message: str) -> str:
    """Returns the message of gcloud's error output in one line.

    'ERROR: (gcloud.x.y) {"code": 8, "message": "no more capacity"}' -> 'no more capacity'
    """
    _, _, tail = message.rpartition("ERROR: ")
    tail = re.sub(r"^\(gcloud[\w.-]*\) ", "", tail or message)
    quoted = re.search(r'"message": "((?:[^"\\]|\\.)*)"', tail)
    if quoted:
        tail = quoted[1].replace('\\"', '"')
    return " ".join(tail.split())[:MAX_TEXT] or "no reason given"


class Gcloud:
    """Runs gcloud."""

    is_dry_run = False

    def step(self, title: str, *lines: str) -> None:
        """Begins a step with a title and lines about it; only a dry run shows them."""

    def call(self, *arguments: str, what: str = "") -> str:
        """Runs one command and returns its output.

        Args:
          arguments: what follows the word gcloud; --quiet is added.
          what: reported with the elapsed time, again and again while the command runs.

        Raises:
          GcloudError: it failed, or gcloud is not installed.
        """
        process = self._start(arguments, subprocess.PIPE)
        began = time.monotonic()
        while True:
            try:
                output, errors = process.communicate(timeout=HEARTBEAT_SECONDS)
                break
            except subprocess.TimeoutExpired:
                elapsed = human_time(time.monotonic() - began)
                say(PROG, f"{what or shlex.join(arguments[:4])}: {elapsed}")
        if process.returncode:
            raise self._error(arguments, errors)
        return output

    def stream(self, *arguments: str) -> None:
        """Runs one command and shows its output as it comes."""
        process = self._start(arguments, None)
        _, errors = process.communicate()
        if process.returncode:
            raise self._error(arguments, errors)

    def _start(self, arguments: Sequence[str], stdout: int | None) -> subprocess.Popen[str]:
        try:
            return subprocess.Popen(
                ["gcloud", *arguments, "--quiet"],
                stdin=subprocess.DEVNULL,  # no command may wait for an answer
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
            )
        except FileNotFoundError as error:
            raise LaunchError(
                "gcloud is not installed; get it from https://cloud.google.com/sdk/docs/install"
            ) from error

    def _error(self, arguments: Sequence[str], errors: str) -> GcloudError:
        kind = kind_of(errors)
        way_out = f"; {kind.way_out}" if kind.way_out else ""
        return GcloudError(f"{' '.join(arguments[:5])}: {error_line(errors)}{way_out}", kind.name)
