"""Weights and train states on disk, written by Orbax; a checkpoint is complete or absent.

Orbax's CheckpointManager is not used inside training: on a disk it takes a checkpoint that is half
removed for complete, and in a bucket it removes the commit marker in no fixed order.
"""

import math
import time
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from etils import epath

from star_jax.errors import UserError, mismatch
from star_jax.parallel import processes
from star_jax.records import Params
from star_jax.run.paths import absolute, bucket_errors, is_dir, is_remote, path_of

# Orbax's files. A checkpoint on a disk appears whole, by a rename; in a bucket, where there is
# none, its marker is written last.
MARKER, MARKER_IN_A_BUCKET = "_CHECKPOINT_METADATA", "commit_success.txt"

# When to save by default: the time between checkpoints that loses least if a run is interrupted
# every 6 hours (Young, 1974).
INTERRUPTION_SECONDS = 6 * 3600.0
FIRST_SAVE_SECONDS = 1.0  # assumed until a save was measured
CHECK_EVERY = 20  # steps between looks at the clock, which all processes share


def save(directory: Path, tree: Params) -> None:
    """Writes a tree of arrays to `directory`, replacing what was there."""
    directory = absolute(directory)
    if is_remote(directory):
        # Orbax would remove the previous one in any order, and maybe its marker last.
        processes.from_lead(lambda: _remove(directory))
    with bucket_errors(directory), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, tree, force=True)


def load(directory: Path, abstract: Params) -> Params:
    """Reads a tree that `save` wrote into the shardings of `abstract`; raises as `check`."""
    directory = check(directory, abstract)
    try:
        with bucket_errors(directory), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(directory, abstract)
    except Exception as error:
        # TensorStore's ValueError for bytes that do not decode; Orbax wraps it in an Exception.
        cause = error.__cause__ or error
        if not isinstance(cause, ValueError):
            raise
        raise _damaged(directory, " ".join(str(cause).split())[:300]) from error


def check(directory: Path, abstract: Params) -> Path:
    """The checkpoint at `directory`, or the one named `checkpoint` in it.

    Raises UserError if it is absent, damaged or holds another model; arrays are not read.
    """
    directory = absolute(directory)
    if is_dir(directory / "checkpoint"):
        directory /= "checkpoint"
    if problem := mismatch(_stored_shapes(directory), _shapes(abstract)):
        raise UserError(
            f"checkpoint {directory} holds another model: {problem}; give the "
            f"DecoderConfig it was made with, or another checkpoint"
        )
    return directory


class TrainingCheckpoint:
    """The latest state inside one fine-tuning, to resume from after a preemption.

    The newest complete `step_<k>` in the directory counts. A checkpoint is removed marker first, so
    that what is half removed does not count as complete.
    """

    def __init__(self, directory: Path):
        self._directory = path_of(directory)
        self._saved_at, self._save_seconds = time.monotonic(), FIRST_SAVE_SECONDS

    def is_due(self, step: int, every: int) -> bool:
        """Whether to save after `step`: all processes call it at the same steps.

        `every` is TrainerConfig.checkpoint_every.
        """
        if every >= 0:
            return every > 0 and step % every == 0
        return step % CHECK_EVERY == 0 and processes.from_lead(self._pays)

    def _pays(self) -> bool:
        best = math.sqrt(2 * self._save_seconds * INTERRUPTION_SECONDS)
        return time.monotonic() - self._saved_at >= best

    def restore(self, abstract: Params) -> Params | None:
        """The newest complete state, or None when there is none."""
        last = processes.from_lead(self._newest)
        return None if last is None else load(self._directory / f"step_{last}", abstract)

    def save(self, step: int, state: Params) -> None:
        """Writes the state of optimizer step `step`, then removes older and unfinished ones."""
        start = time.monotonic()
        save(self._directory / f"step_{step}", state)
        self._remove_all_but(f"step_{step}")
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - start

    def clear(self) -> None:
        """Removes everything; the finished weights are elsewhere by now."""
        self._remove_all_but("")
        if processes.is_lead():
            _remove(self._directory)

    def _newest(self) -> int | None:
        with bucket_errors(self._directory):
            markers = list(self._directory.glob(f"step_*/{_marker(self._directory)}"))
        numbers = [marker.parent.name.removeprefix("step_") for marker in markers]
        return max((int(number) for number in numbers if number.isdigit()), default=None)

    def _remove_all_but(self, kept: str) -> None:
        if processes.is_lead():
            with bucket_errors(self._directory):
                for path in self._directory.glob("*"):
                    if path.name != kept and path.is_dir():
                        _remove(path)


def _marker(directory: Path) -> str:
    return MARKER_IN_A_BUCKET if is_remote(directory) else MARKER


def _remove(directory: Path) -> None:
    with bucket_errors(directory):
        (directory / _marker(directory)).unlink(missing_ok=True)
        epath.Path(directory).rmtree(missing_ok=True)


def _stored_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    if not is_dir(directory):
        raise UserError(f"checkpoint {directory} is not there; check the path, or make it first")
    if not (directory / _marker(directory)).exists():
        if (directory / MARKER).exists():
            raise UserError(
                f"checkpoint {directory} has no {MARKER_IN_A_BUCKET}, so writing it was cut off, "
                f"or it was copied from a disk; in the second case put an empty file of that "
                f"name there"
            )
        raise UserError(
            f"{directory} is not a checkpoint (no {MARKER} in it); give the directory "
            f"that pretraining or an iteration wrote, e.g. base/checkpoint or iter_003/checkpoint"
        )
    try:
        with bucket_errors(directory), ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(directory)
    except (ValueError, FileNotFoundError, KeyError) as error:
        raise UserError(f"checkpoint {directory} cannot be read: {error}") from error
    shapes = _shapes(getattr(metadata, "item_metadata", metadata))
    if not shapes:  # Orbax only warns about what it cannot read
        raise _damaged(directory, "it names no arrays")
    return shapes


def _damaged(directory: Path, reason: str) -> UserError:
    return UserError(
        f"checkpoint {directory} is damaged: {reason}; copy it again, or remove it and repeat the "
        f"run that wrote it"
    )


def _shapes(tree: Params) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
