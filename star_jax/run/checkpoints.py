"""Weights and train states on disk, through Orbax; a checkpoint is complete or not there."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from star_jax.errors import UserError, mismatch
from star_jax.parallel import processes
from star_jax.run.paths import absolute, is_dir, is_remote, path_of, remove_tree, told

# Orbax's; a checkpoint without it is not complete. On a disk all of it appears by a rename; in a
# bucket it is written where it stays, and then the marker.
MARKER, MARKER_IN_A_BUCKET = "_CHECKPOINT_METADATA", "commit_success.txt"


def save(directory: Path, tree: Any) -> None:
    """Writes a tree of arrays to `directory`, replacing what was there; commits by a rename.

    In a bucket, where nothing can be renamed, it commits by a marker that is written last.
    """
    directory = absolute(directory)
    if is_remote(directory):
        # Orbax would remove what was there in any order, and its marker maybe last.
        processes.from_lead(lambda: _remove(directory))
    with told(directory), ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(directory, tree, force=True)


def load(directory: Path, abstract: Any) -> Any:
    """Reads a tree straight into the places that `abstract` names.

    Args:
      directory: written by `save`.
      abstract: tree of jax.ShapeDtypeStruct with shardings, as `Trainer.abstract_params`.

    Raises:
      UserError: the directory is not there, is no checkpoint, is damaged or holds another model.
    """
    directory = check(directory, abstract)
    try:
        with told(directory), ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(directory, abstract)
    except Exception as error:
        # TensorStore's, of bytes it cannot decode; Orbax wraps it in a bare Exception.
        cause = error.__cause__ or error
        if not isinstance(cause, ValueError):
            raise
        raise UserError(_damaged(directory, " ".join(str(cause).split())[:300])) from error


def check(directory: Path, abstract: Any) -> Path:
    """Raises what `load` would raise, without reading arrays; returns the checkpoint's own path.

    A base's or an iteration's directory stands for the `checkpoint` in it.
    """
    directory = absolute(directory)
    if is_dir(directory / "checkpoint"):
        directory /= "checkpoint"
    problem = mismatch(_stored_shapes(directory), _shapes(abstract))
    if problem:
        raise UserError(
            f"checkpoint {directory} holds another model: {problem}; give the "
            f"DecoderConfig it was made with, or another checkpoint"
        )
    return directory


class TrainingCheckpoint:
    """The latest state inside one fine-tuning, for going on after a preemption.

    The directory holds `step_<k>` checkpoints; the newest complete one counts. Removing one takes
    its marker first, so that what is half removed is not taken for complete.
    """

    def __init__(self, directory: Path):
        """`directory` need not exist; unfinished leftovers in it are ignored."""
        self._directory = path_of(directory)

    def restore(self, abstract: Any) -> Any | None:
        """The newest complete state, or None when there is none."""
        last = processes.from_lead(lambda: max(self._steps(), default=None))
        return None if last is None else load(self._directory / f"step_{last}", abstract)

    def save(self, step: int, state: Any) -> None:
        """Writes the state of optimizer step `step`, then drops older and unfinished ones."""
        save(self._directory / f"step_{step}", state)
        self._remove_all_but(f"step_{step}")

    def clear(self) -> None:
        """Removes everything; the finished weights are elsewhere by now."""
        self._remove_all_but("")
        if processes.is_lead():
            remove_tree(self._directory)

    def _steps(self) -> list[int]:
        pattern = f"step_*/{_marker(self._directory)}"
        with told(self._directory):
            paths = [marker.parent for marker in self._directory.glob(pattern)]
        numbers = [path.name.removeprefix("step_") for path in paths]
        return [int(number) for number in numbers if number.isdigit()]

    def _remove_all_but(self, kept: str) -> None:
        if not processes.is_lead():
            return
        with told(self._directory):
            for path in self._directory.glob("*"):
                if path.name != kept and path.is_dir():
                    _remove(path)


def _marker(directory: Path) -> str:
    return MARKER_IN_A_BUCKET if is_remote(directory) else MARKER


def _remove(directory: Path) -> None:
    with told(directory):
        (directory / _marker(directory)).unlink(missing_ok=True)
    remove_tree(directory)


def _stored_shapes(directory: Path) -> dict[str, tuple[int, ...]]:
    if not is_dir(directory):
        raise UserError(f"checkpoint {directory} is not there; check the path, or make it first")
    if not (directory / _marker(directory)).exists():
        if (directory / MARKER).exists():
            raise UserError(
                f"checkpoint {directory} has no {MARKER_IN_A_BUCKET}, so it was cut off while it "
                f"was written, or copied from a disk; in the second case put an empty file of that "
                f"name there"
            )
        raise UserError(
            f"{directory} is not a checkpoint (no {MARKER} in it); give the directory "
            f"that pretraining or an iteration wrote, e.g. base/checkpoint or iter_003/checkpoint"
        )
    try:
        with told(directory), ocp.StandardCheckpointer() as checkpointer:
            metadata = checkpointer.metadata(directory)
    except (ValueError, FileNotFoundError, KeyError) as error:
        raise UserError(f"checkpoint {directory} cannot be read: {error}") from error
    shapes = _shapes(getattr(metadata, "item_metadata", metadata))
    if not shapes:  # Orbax only warns of what it cannot read
        raise UserError(_damaged(directory, "it names no arrays"))
    return shapes


def _damaged(directory: Path, reason: str) -> str:
    return (
        f"checkpoint {directory} is damaged: {reason}; copy it anew, or remove it and run what "
        f"made it again"
    )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
