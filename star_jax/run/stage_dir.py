"""A directory of stages, each finished or not.

    MODEL_DIR/iter_001/<stage>.jsonl, <stage>.done, checkpoint/, metrics.json, sampling.json

A stage is finished when its marker exists. The marker is written last and atomically, with the
count and the hash of what the stage wrote. A stage without its marker is done again from its
start, overwriting. Resuming is therefore nothing but running again.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from star_jax.errors import UserError
from star_jax.parallel import processes
from star_jax.records import Params, Record, from_json, to_json
from star_jax.run.files import sha256, sha256_of, write_atomically
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import read_if_there

T = TypeVar("T")
Notes = dict[str, float | int | None]  # `training` of IterationMetrics


@dataclasses.dataclass(frozen=True)
class StageResult(Generic[T]):
    """What a stage made, and how long it took when it was made (seconds)."""

    value: T
    seconds: float


class Lazy(Generic[T]):
    """A value that is made when it is first used, and again after it was dropped."""

    def __init__(self, make: Callable[[], T], *made: T):
        """`made` is the value itself, if it is there already."""
        self._make, self._made = make, list(made)

    def __call__(self) -> T:
        """The value."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def drop(self) -> None:
        """Gives up the value, and with it its memory unless someone else holds it."""
        self._made.clear()


@dataclasses.dataclass(frozen=True)
class StageDir:
    """A directory of stages: one outer iteration (0 evaluates the base), or a base model."""

    path: Path

    def records(
        self, stage: str, record_type: type[Record], compute: Callable[[], Sequence[Record]]
    ) -> StageResult[list[Record]]:
        """The stage's records: read if its marker exists, else computed and written.

        Raises:
          UserError: the stage is marked as finished but its file is not what was written.
        """
        file, marker = self.path / f"{stage}.jsonl", self._marker(stage)
        if marker is not None:
            text = processes.from_lead(lambda: self._verified(file, marker).decode())
            records = [from_json(record_type, json.loads(line)) for line in text.splitlines()]
            return StageResult(records, marker["seconds"])
        start = time.monotonic()
        records = list(compute())
        data = "".join(json.dumps(to_json(record)) + "\n" for record in records).encode()
        seconds = round(time.monotonic() - start, 3)
        write_atomically(file, data)
        self._finish(stage, len(records), sha256(data), seconds)
        return StageResult(records, seconds)

    def weights(
        self,
        stage: str,
        compute: Callable[[], tuple[Params, Notes]],
        save: Callable[[Path, Params], None],
        load: Callable[[Path], Params],
    ) -> tuple[StageResult[Notes], Lazy[Params]]:
        """The stage's notes (of its training), and its weights.

        Weights that were just made stay in memory until they are dropped; those of a finished
        stage are read when they are first used, which is never if all that follows is finished too.

        Args:
          stage: its name; the weights go to a directory of that name.
          compute: returns the weights and notes about them (JSON-ready).
          save: writes weights to a directory, complete or not at all.
          load: reads them.

        Raises:
          UserError: train.jsonl is not what the finished weights were trained on.
        """
        directory, marker = self.path / stage, self._marker(stage)
        train_file = self.path / "train.jsonl"
        trained_on = processes.from_lead(lambda: sha256_of(train_file))
        if marker is not None:
            if marker["sha256"] != trained_on:
                raise UserError(
                    f"{directory} was not trained on {train_file} as it is now; restore that file, "
                    f"or remove {stage}.done and all that came after it to train again"
                )
            return StageResult(marker["notes"], marker["seconds"]), Lazy(lambda: load(directory))
        start = time.monotonic()
        weights, notes = compute()
        if processes.is_lead():
            self.path.mkdir(parents=True, exist_ok=True)
        save(directory, weights)
        seconds = round(time.monotonic() - start, 3)
        self._finish(stage, int(notes.get("steps") or 0), trained_on, seconds, notes)
        return StageResult(notes, seconds), Lazy(lambda: load(directory), weights)

    def write_stats(self, stage: str, summary: Mapping[str, float]) -> None:
        """Adds to sampling.json what sampling the stage cost."""
        if not processes.is_lead():
            return
        text = json.dumps({**self.read_stats(), stage: summary}, indent=1) + "\n"
        write_atomically(self.path / "sampling.json", text.encode())

    def read_stats(self) -> dict[str, dict[str, float]]:
        """What sampling cost, by stage, as far as it is noted."""
        return json.loads(read_if_there(self.path / "sampling.json") or "{}")

    def write_losses(self, first_step: int, losses: Sequence[float]) -> None:
        """Writes the loss of each optimizer step from `first_step` on into training_loss.json.

        Training that was interrupted writes those since it was resumed.
        """
        noted = {"first_step": first_step, "losses": [float(f"{x:.6g}") for x in losses]}
        write_atomically(self.path / "training_loss.json", json.dumps(noted).encode())

    def read_losses(self) -> tuple[int, list[float]]:
        """The first step whose loss is noted, and the losses from there on; 1 and none if none."""
        noted = json.loads(read_if_there(self.path / "training_loss.json") or "{}")
        return noted.get("first_step", 1), noted.get("losses", [])

    def write_metrics(self, metrics: IterationMetrics) -> None:
        """Writes metrics.json, the iteration's line of metrics.jsonl."""
        data = json.dumps(to_json(metrics), indent=1) + "\n"
        write_atomically(self.path / "metrics.json", data.encode())

    def read_metrics(self) -> IterationMetrics | None:
        """The iteration's metrics, or None while it is not finished."""
        data = read_if_there(self.path / "metrics.json")
        return None if data is None else from_json(IterationMetrics, json.loads(data))

    def _marker(self, stage: str) -> dict[str, Any] | None:
        file = self.path / f"{stage}.done"
        return processes.from_lead(lambda: json.loads(read_if_there(file) or "null"))

    def _finish(
        self,
        stage: str,
        count: int,
        sha256: str,
        seconds: float,
        notes: Notes | None = None,
    ) -> None:
        marker = {"count": count, "sha256": sha256, "seconds": seconds, "notes": notes}
        write_atomically(self.path / f"{stage}.done", json.dumps(marker).encode())

    def _verified(self, file: Path, marker: dict[str, Any]) -> bytes:
        data = read_if_there(file) or b""
        if sha256(data) != marker["sha256"]:
            raise UserError(
                f"{file} is not what was written when its stage finished ({marker['count']} "
                f"records); restore it, or remove {file.with_suffix('.done').name} and all that "
                f"came after it to do the stage again"
            )
        return data
