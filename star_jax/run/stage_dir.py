"""A directory of stages, each finished or not.

    MODEL_DIR/iter_001/<stage>.jsonl, <stage>.done, checkpoint/, metrics.json, sampling.json

A stage is finished when its marker exists. The marker is written last and atomically, with the
count and the hash of what the stage wrote. A stage without its marker is done again and overwrites
what is there, so to resume is to run again.
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
from star_jax.run import checkpoints
from star_jax.run.checkpoints import TrainingCheckpoint
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import read_if_there, sha256, sha256_of, write_atomically

T = TypeVar("T")
Notes = dict[str, float | int | None]  # `training` of IterationMetrics


@dataclasses.dataclass(frozen=True)
class StageResult(Generic[T]):
    """What a stage made, and how long it took when it was made (seconds)."""

    value: T
    seconds: float


class Lazy(Generic[T]):
    """A value that is made when it is first used, and again after it was dropped.

    `made` is the value itself, if it is there already.
    """

    def __init__(self, make: Callable[[], T], *made: T):
        self._make, self._made = make, list(made)

    def __call__(self) -> T:
        """The value."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def drop(self) -> None:
        """Forgets the value, so that its memory can be freed."""
        self._made.clear()


@dataclasses.dataclass(frozen=True)
class StageDir:
    """A directory of stages: one outer iteration (0 evaluates the base), or a base model."""

    path: Path

    def records(
        self, stage: str, record_type: type[Record], compute: Callable[[], Sequence[Record]]
    ) -> StageResult[list[Record]]:
        """The stage's records: read if its marker exists, else computed and written.

        Raises UserError if the stage is finished but its file is not what was written.
        """
        file, marker = self.path / f"{stage}.jsonl", self._marker(stage)
        if marker is not None:

            def read() -> str:
                data = read_if_there(file) or b""
                if sha256(data) != marker["sha256"]:
                    raise UserError(
                        f"{file} is not what was written when its stage finished "
                        f"({marker['count']} records); restore it, or remove {stage}.done and all "
                        f"that came after it to do the stage again"
                    )
                return data.decode()

            lines = processes.from_lead(read).splitlines()
            records = [from_json(record_type, json.loads(line)) for line in lines]
            return StageResult(records, marker["seconds"])
        start = time.monotonic()
        records = list(compute())
        data = "".join(json.dumps(to_json(record)) + "\n" for record in records).encode()
        write_atomically(file, data)
        seconds = self._finish(stage, start, len(records), sha256(data), None)
        return StageResult(records, seconds)

    def weights(
        self,
        stage: str,
        train: Callable[[TrainingCheckpoint], tuple[Params, Notes]],
        abstract: Callable[[], Params],
    ) -> tuple[StageResult[Notes], Lazy[Params]]:
        """The stage's notes (of its training), and its weights, laid out as `abstract` says.

        Weights that were just made stay in memory until they are dropped; those of a finished
        stage are read when they are first used. `train` is given the place for its state inside
        training, to resume from. Raises UserError if train.jsonl is not what they were trained on.
        """
        directory, marker = self.path / stage, self._marker(stage)
        train_file, inside = self.path / "train.jsonl", TrainingCheckpoint(self.path / "training")
        trained_on = processes.from_lead(lambda: sha256_of(train_file))

        def load() -> Params:
            return checkpoints.load(directory, abstract())

        if marker is not None:
            if marker["sha256"] != trained_on:
                raise UserError(
                    f"{directory} was not trained on {train_file} as it is now; restore that file, "
                    f"or remove {stage}.done and all that came after it to train again"
                )
            inside.clear()
            return StageResult(marker["notes"], marker["seconds"]), Lazy(load)
        start = time.monotonic()
        weights, notes = train(inside)
        if processes.is_lead():
            self.path.mkdir(parents=True, exist_ok=True)
        checkpoints.save(directory, weights)
        seconds = self._finish(stage, start, notes.get("steps") or 0, trained_on, notes)
        inside.clear()
        return StageResult(notes, seconds), Lazy(load, weights)

    def write_stats(self, stage: str, summary: Mapping[str, float]) -> None:
        """Adds to sampling.json what sampling the stage cost."""
        if processes.is_lead():
            self._write_json("sampling.json", {**self.read_stats(), stage: summary}, indent=1)

    def read_stats(self) -> dict[str, dict[str, float]]:
        """What sampling cost, by stage, as far as it was measured."""
        return self._read_json("sampling.json") or {}

    def write_losses(self, first_step: int, losses: Sequence[float]) -> None:
        """Writes the loss of each step from `first_step`, since it was resumed, on."""
        rounded = [float(f"{x:.6g}") for x in losses]
        self._write_json("training_loss.json", {"first_step": first_step, "losses": rounded})

    def read_losses(self) -> tuple[int, list[float]]:
        """The first step whose loss is known, and the losses from there on; (1, []) for none."""
        stored = self._read_json("training_loss.json") or {"first_step": 1, "losses": []}
        return stored["first_step"], stored["losses"]

    def write_metrics(self, metrics: IterationMetrics) -> None:
        """Writes metrics.json, the iteration's line of metrics.jsonl."""
        self._write_json("metrics.json", to_json(metrics), indent=1)

    def read_metrics(self) -> IterationMetrics | None:
        """The iteration's metrics, or None while it is not finished."""
        stored = self._read_json("metrics.json")
        return stored and from_json(IterationMetrics, stored)

    def _read_json(self, name: str) -> Any:
        return json.loads(read_if_there(self.path / name) or "null")

    def _write_json(self, name: str, value: object, indent: int | None = None) -> None:
        end = "\n" if indent else ""
        write_atomically(self.path / name, f"{json.dumps(value, indent=indent)}{end}".encode())

    def _marker(self, stage: str) -> dict[str, Any] | None:
        return processes.from_lead(lambda: self._read_json(f"{stage}.done"))

    def _finish(self, stage: str, start: float, count: object, sha256: str, notes: object) -> float:
        seconds = round(time.monotonic() - start, 3)
        marker = {"count": count, "sha256": sha256, "seconds": seconds, "notes": notes}
        self._write_json(f"{stage}.done", marker)
        return seconds
