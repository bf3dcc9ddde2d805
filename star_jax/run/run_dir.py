"""A run on disk: stages, their markers, and the order of resuming.

    MODEL_DIR/config.gin, row.json, metrics.jsonl
    MODEL_DIR/iter_001/<stage>.jsonl, <stage>.done, checkpoint/, metrics.json, sampling.json

A stage is finished when its marker exists. The marker is written last and atomically, with the
count and the hash of what the stage wrote. A stage without its marker is done again from its
start, overwriting. Resuming is therefore nothing but running again.
"""

import dataclasses
import hashlib
import itertools
import json
import os
import re
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from star_jax.errors import UserError
from star_jax.parallel import processes
from star_jax.records import from_json, to_json
from star_jax.run.metrics import IterationMetrics
from star_jax.run.paths import is_remote, read_if_there, told
from star_jax.run.progress import log

# What may change between a run and its continuation, since finished stages do not depend on it.
FREE_BINDINGS = re.compile(
    r"(MODEL_DIR|ITERATIONS|ROW|.*\.(model_dir|iterations|checkpoint_every|row)|"
    r"(MeshConfig|compilation_cache|track)\..*)$"
)


@dataclasses.dataclass(frozen=True)
class StageResult:
    """What a stage made, and how long it took when it was made (seconds)."""

    value: Any
    seconds: float


class Lazy:
    """A value that is made when first asked for, and again after it was dropped."""

    def __init__(self, make: Callable[[], Any], *made: Any):
        """`made` is the value itself, if it is there already."""
        self._make, self._made = make, list(made)

    def __call__(self) -> Any:
        """The value."""
        if not self._made:
            self._made.append(self._make())
        return self._made[0]

    def drop(self) -> None:
        """Gives up the value, and with it its memory if nobody else holds it."""
        self._made.clear()


@dataclasses.dataclass(frozen=True)
class StageDir:
    """A directory of stages: one outer iteration (0 evaluates the base), or a base model."""

    path: Path

    def records(
        self, stage: str, record_type: type, compute: Callable[[], Sequence[Any]]
    ) -> StageResult:
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
        self._finish(stage, len(records), _sha256(data), seconds)
        return StageResult(records, seconds)

    def weights(
        self,
        stage: str,
        compute: Callable[[], tuple[Any, dict[str, Any]]],
        save: Callable[[Path, Any], None],
        load: Callable[[Path], Any],
    ) -> tuple[StageResult, Lazy]:
        """The stage's notes, and its weights.

        Weights that were just made stay in memory until they are dropped; those of a finished
        stage are read when first asked for, which is never if all that follows is finished too.

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
        trained_on = processes.from_lead(lambda: _sha256_of(train_file))
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
        self._finish(stage, notes.get("train_steps", 0), trained_on, seconds, notes)
        return StageResult(notes, seconds), Lazy(lambda: load(directory), weights)

    def write_stats(self, stage: str, summary: dict[str, float]) -> None:
        """Notes in sampling.json what sampling the stage cost, beside what other stages did."""
        if not processes.is_lead():
            return
        text = json.dumps({**self.read_stats(), stage: summary}, indent=1) + "\n"
        write_atomically(self.path / "sampling.json", text.encode())

    def read_stats(self) -> dict[str, dict[str, float]]:
        """What sampling cost, by stage, as far as it is noted."""
        return json.loads(read_if_there(self.path / "sampling.json") or "{}")

    def write_losses(self, first_step: int, losses: Sequence[float]) -> None:
        """Notes in training_loss.json the loss of each optimizer step from `first_step` on.

        Training that was interrupted notes those since it went on.
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
        notes: dict[str, Any] | None = None,
    ) -> None:
        marker = {"count": count, "sha256": sha256, "seconds": seconds, "notes": notes}
        write_atomically(self.path / f"{stage}.done", json.dumps(marker).encode())

    def _verified(self, file: Path, marker: dict[str, Any]) -> bytes:
        data = read_if_there(file) or b""
        if _sha256(data) != marker["sha256"]:
            raise UserError(
                f"{file} is not what was written when its stage finished ({marker['count']} "
                f"records); restore it, or remove {file.with_suffix('.done').name} and all that "
                f"came after it to do the stage again"
            )
        return data


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What row.json says of a run: which row of the paper it is, its command, its devices."""

    row: str = ""
    command: str = ""  # that was given last, if the run was gone on with
    device: str = ""  # as JAX names its kind, e.g. "TPU v3"
    n_devices: int = 0


@dataclasses.dataclass(frozen=True)
class RunDir:
    """MODEL_DIR."""

    path: Path

    def claim(self, config: str) -> None:
        """Makes the directory this run's, or raises UserError if it is another run's.

        A configuration that led to no result, since it was mistaken, may be replaced.

        Args:
          config: the operative gin configuration as text.
        """
        processes.from_lead(lambda: self._claim(config))
        if read_if_there(self.path / "config.gin") is None:
            raise UserError(
                f"MODEL_DIR {self.path} is another directory for process {processes.index()} than "
                f"for process 0; give one that all of them see"
            )

    def _claim(self, config: str) -> None:
        file = self.path / "config.gin"
        ours = read_if_there(file)
        if ours is not None:
            differing = differing_bindings(ours.decode(), config)
            if differing and self._has_results():
                more = f" and {len(differing) - 4} more" if len(differing) > 4 else ""
                raise UserError(
                    f"MODEL_DIR {self.path} belongs to a run with another configuration: "
                    f"{'; '.join(differing[:4])}{more}; give another MODEL_DIR, or the "
                    f"configuration of {file}"
                )
            log(f"{self.path}: going on where the run stopped")
        elif self._any("iter_*"):
            raise UserError(
                f"MODEL_DIR {self.path} has iterations but no config.gin, so nobody knows whose "
                f"they are; give another MODEL_DIR"
            )
        try:
            write_atomically(file, config.encode())
        except OSError as error:
            raise UserError(
                f"MODEL_DIR {self.path} is no directory that can be written to ({error.strerror}); "
                f"give another MODEL_DIR"
            ) from error

    def _has_results(self) -> bool:
        """Whether a stage is finished, or one that can be gone on with is begun."""
        patterns = ("*.done", "training/step_*")
        return any(
            self._any(f"{place}{pattern}") for place in ("", "iter_*/") for pattern in patterns
        )

    def _any(self, pattern: str) -> bool:
        with told(self.path):
            return self.path.is_dir() and any(self.path.glob(pattern))

    def write_row(self, row: str) -> None:
        """Notes in row.json what the report says of the run beside its numbers.

        Args:
          row: of the paper's tables and figures, e.g. "table1/few_shot_cot"; "" for none.

        Raises:
          UserError: `row` is no text.
        """
        if not isinstance(row, str):
            raise UserError(f"ROW = {row!r} names no row; give a text such as 'figure5'")
        device = jax.devices()[0].device_kind
        what = RunFacts(row, shlex.join(sys.orig_argv), device, jax.device_count())
        write_atomically(self.path / "row.json", (json.dumps(to_json(what)) + "\n").encode())

    def iteration(self, n: int) -> StageDir:
        """The directory of outer iteration `n`."""
        return StageDir(self.path / f"iter_{n:03d}")

    def write_metrics_lines(self) -> None:
        """Rewrites metrics.jsonl from the iterations that have metrics, 0, 1, ... to the first gap.

        So a run that is resumed keeps the lines of what it had finished before.
        """
        if not processes.is_lead():
            return
        finished = itertools.takewhile(
            lambda metrics: metrics is not None,
            (self.iteration(n).read_metrics() for n in itertools.count()),
        )
        lines = "".join(json.dumps(to_json(metrics)) + "\n" for metrics in finished)
        write_atomically(self.path / "metrics.jsonl", lines.encode())


def differing_bindings(ours: str, theirs: str) -> list[str]:
    """What two gin texts bind differently, as sentences; FREE_BINDINGS do not count."""
    old, new = gin_bindings(ours), gin_bindings(theirs)
    return [
        f"{name} is {old.get(name, 'not bound')} there and {new.get(name, 'not bound')} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not FREE_BINDINGS.match(name)
    ]


def check_writable(file: Path) -> None:
    """Raises UserError unless `file` can be written, before the work that is to go into it."""
    if is_remote(file):
        with told(file):
            probe = file.with_name(f".{file.name}.probe")
            probe.write_bytes(b"")
            probe.unlink(missing_ok=True)
        return
    try:
        if file.is_dir():
            raise UserError(f"{file} is a directory; name a file to write")
        file.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=file.parent).close()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write {str(file)[:200]!r}: {error}") from error


def write_atomically(file: Path, data: bytes) -> None:
    """Writes beside the file, syncs, and renames: a reader sees all of it or none.

    In a bucket an object that is written in one go is so by itself. Of several processes only the
    lead writes.
    """
    if not processes.is_lead():
        return
    if is_remote(file):
        with told(file):
            file.write_bytes(data)
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.tmp")
    with open(temporary, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, file)


def write_together(directory: Path, contents: Mapping[str, bytes]) -> None:
    """Puts each file in place whole, in this order; on a disk none before all are written."""
    if is_remote(directory):
        for name, content in contents.items():
            write_atomically(directory / name, content)
        return
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory, prefix=".unfinished-") as tmp:
        for name, content in contents.items():
            Path(tmp, name).write_bytes(content)
        for name in contents:
            os.replace(Path(tmp, name), directory / name)


def gin_bindings(text: str) -> dict[str, str]:
    """What gin text binds, as text: {"MODEL/DecoderConfig.d_model": "128", ...}."""
    joined = re.sub(r"\\\n\s*", "", text)
    logical = re.sub(r"\n(?=[ \t)\]}])\s*", " ", joined)  # gin wraps long values
    pairs = (line.partition("=") for line in logical.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}


def _sha256_of(file: Path) -> str:
    """The hash of what is in the file, "" if it is not there."""
    data = read_if_there(file)
    return "" if data is None else _sha256(data)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
