"""--dry_run: prints the gcloud commands, step by step and ready for a shell, and runs none."""

from __future__ import annotations

import json
import textwrap

from star_launch.text import WIDTH, command_text
from star_launch.tpu_vm.gcloud import Gcloud, GcloudError
from star_launch.tpu_vm.worker import tpu_worker


class DryRun(Gcloud):
    """Prints each command, and answers as if all went well."""

    is_dry_run = True

    def __init__(self, exists: bool, rate: str):
        """`exists` is whether there is a TPU VM before the first command, `rate` what it costs."""
        self._exists, self._queued, self._state = exists, False, tpu_worker.NONE
        self._steps, self._rate = 0, rate

    def step(self, title: str, *lines: str) -> None:
        """Prints a heading and what is to be known about the step, as comments."""
        self._steps += 1
        cost = f" ({self._rate})" if self._rate and self._exists else ""
        print(f"\n# {self._steps}. {title}{cost}")
        for line in lines:
            print(comment(line))

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
        print(command_text(["gcloud", *arguments, "--quiet"]), flush=True)

    def _describe(self, group: str) -> str:
        if not (self._queued if group == "queued-resources" else self._exists):
            raise GcloudError("NOT_FOUND", "missing")
        state = {"state": "ACTIVE"} if group == "queued-resources" else "READY"
        return json.dumps({"state": state, "networkEndpoints": [{}]})

    def _worker(self, command: str) -> str:
        """Answers for worker 0; a run that was started has ended well at the next report."""
        if command.split()[2] == "start":
            self._state = tpu_worker.EXITED
        answer = {"worker": "w-0", "state": self._state, "exit_code": 0, "digest": "x"}
        return json.dumps(answer) + "\n"


def comment(line: str) -> str:
    """Returns a line as a comment of the shell, wrapped unless it is indented."""
    if line.startswith(" "):
        return f"#    {line}"
    whole = {"break_long_words": False, "break_on_hyphens": False}
    return textwrap.fill(line, WIDTH, initial_indent="#    ", subsequent_indent="#    ", **whole)
