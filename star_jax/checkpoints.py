"""Weights and train states on disk, through Orbax; a checkpoint is complete or not there.

Base weights (Algorithm 1, line 1: M_0 = M) are read-only, belong to nobody's run and may come in
the formats of others; what an iteration makes is its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
import psutil

from star_jax import processes
from star_jax.errors import UserError, mismatch
from star_jax.models.config import DecoderConfig
from star_jax.models.formats import is_foreign, open_model
from star_jax.models.importing import check_config, check_tensors, import_params
from star_jax.models.tensors import StoredModel
from star_jax.paths import absolute, is_dir, is_remote, path_of, remove_tree, told
from star_jax.progress import progress

# Orbax's; a checkpoint without it is not complete. On a disk all of it appears by a rename; in a
# bucket it is written where it stays, and then the marker.
MARKER, MARKER_IN_A_BUCKET = "_CHECKPOINT_METADATA", "commit_success.txt"


def _free_memory() -> int:
    return psutil.virtual_memory().available


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


def load_base(path: Path, model: DecoderConfig, abstract: Any) -> Any:
    """The weights of the original model M from any format, in the places that `abstract` names.

    Args:
      path: an Orbax checkpoint, or anything that `models.formats` opens.
      model: the decoder they are for.
      abstract: as in `load`.

    Raises:
      UserError: as `check_base`.
    """
    stored = check_base(path, model, abstract)
    if stored is None:
        return load(path, abstract)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    with progress("load", n_parameters, "parameters") as advance:
        return import_params(stored, model, abstract, advance)


def check_base(path: Path, model: DecoderConfig, abstract: Any) -> StoredModel | None:
    """Raises UserError unless `path` holds weights for `model`; reads none of them.

    Returns the opened checkpoint of a foreign format, None for Orbax.
    """
    if not is_foreign(path):
        check(path, abstract)
        return None
    stored = open_model(path)
    check_config(stored, model)
    check_tensors(stored, model)
    return stored


class BaseWeights:
    """The weights of M, read once and kept on the host if its memory has room for them.

    Every outer iteration trains from them (Algorithm 1, line 7). Each process keeps the parts that
    its own devices hold; where there is no room for those, they are read again.
    """

    def __init__(self, read: Callable[[], Any], room: Callable[[], int] = _free_memory):
        """`read` gives the weights on the devices; `room` the bytes that are free on the host."""
        self._read, self._room = read, room
        self._parts: Any = None

    def __call__(self) -> Any:
        """The weights, laid out on the devices as `read` lays them out."""
        if self._parts is not None:
            return jax.tree.map(_to_devices, self._parts, is_leaf=lambda x: isinstance(x, _Parts))
        params = self._read()
        n_bytes = sum(_local_bytes(leaf) for leaf in jax.tree.leaves(params))
        # All processes alike: reading again is something that they do together.
        if processes.from_lead(lambda: 2 * n_bytes <= self._room()):
            self._parts = jax.tree.map(_to_host, params)
        return params


class _Parts(NamedTuple):
    """An array as this process holds it: its parts by the place they begin at."""

    shape: tuple[int, ...]
    sharding: jax.sharding.Sharding
    parts: dict[tuple[int, ...], np.ndarray]


def _to_host(leaf: jax.Array) -> _Parts:
    parts = {_place(shard.index): shard.data for shard in leaf.addressable_shards}
    return _Parts(leaf.shape, leaf.sharding, {at: np.array(x) for at, x in parts.items()})


def _to_devices(kept: _Parts) -> jax.Array:
    return jax.make_array_from_callback(
        kept.shape, kept.sharding, lambda index: kept.parts[_place(index)]
    )


def _place(index: tuple[slice, ...]) -> tuple[int, ...]:
    return tuple(part.start or 0 for part in index)


def _local_bytes(leaf: jax.Array) -> int:
    parts = {_place(shard.index): shard.data.nbytes for shard in leaf.addressable_shards}
    return sum(parts.values())


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
