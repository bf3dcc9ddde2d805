"""Algorithm 1, line 1: M_0 = M, the base weights: from any format, only ever read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import psutil

from star_jax.models.config import DecoderConfig
from star_jax.models.formats import is_foreign, open_model
from star_jax.models.importing import check_config, check_tensors, import_params
from star_jax.models.tensors import Index, StoredModel
from star_jax.parallel import processes
from star_jax.records import Params
from star_jax.run import checkpoints
from star_jax.run.paths import path_of
from star_jax.run.progress import progress


def load_base(path: Path, model: DecoderConfig, abstract: Params) -> Params:
    """The weights of the original model M from any format, placed as `abstract` says.

    Args:
      path: an Orbax checkpoint, or anything that `models.formats` opens.
      model: the decoder they are for.
      abstract: tree of jax.ShapeDtypeStruct with shardings.

    Raises:
      UserError: as `check_base`.
    """
    stored = check_base(path, model, abstract)
    if stored is None:
        return checkpoints.load(path, abstract)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    with progress("load", n_parameters, "parameters") as advance:
        return import_params(stored, model, abstract, advance)


def check_base(path: Path, model: DecoderConfig, abstract: Params) -> StoredModel | None:
    """Raises UserError unless `path` holds weights for `model`; reads none of them.

    Returns the opened checkpoint of a foreign format, None for Orbax.
    """
    if not is_foreign(path):
        checkpoints.check(path, abstract)
        return None
    stored = open_model(path)
    check_config(stored, model)
    check_tensors(stored, model)
    return stored


@dataclasses.dataclass(frozen=True)
class Base:
    """The original model M: where its weights are, and where they go."""

    path: str
    model: DecoderConfig
    abstract: Params  # tree of jax.ShapeDtypeStruct with shardings

    def check(self) -> None:
        """Raises UserError unless the weights are there and of this model; reads none of them."""
        check_base(path_of(self.path), self.model, self.abstract)

    def load(self) -> Params:
        """Reads the weights into their places; raises UserError as `check`."""
        return load_base(path_of(self.path), self.model, self.abstract)


class BaseWeights:
    """The weights of M, read once and kept on the host if its memory has room for them.

    Every outer iteration trains from them (Algorithm 1, line 7). Each process keeps the parts that
    its own devices hold; where there is no room for those, they are read again.
    """

    def __init__(
        self,
        read: Callable[[], Params],
        room: Callable[[], int] = lambda: psutil.virtual_memory().available,
    ):
        """`read` gives the weights on the devices; `room` the bytes that are free on the host."""
        self._read, self._room = read, room
        self._kept: Params = None  # a function for each leaf, which gives it on the devices

    def __call__(self) -> Params:
        """The weights, laid out on the devices as `read` lays them out."""
        if self._kept is not None:
            return jax.tree.map(lambda restore: restore(), self._kept)
        params = self._read()
        n_bytes = sum(
            part.nbytes for leaf in jax.tree.leaves(params) for part in _parts(leaf).values()
        )
        # All processes decide alike, since they can only read again together.
        if processes.from_lead(lambda: 2 * n_bytes <= self._room()):
            self._kept = jax.tree.map(_keep, params)
        return params


def _keep(leaf: jax.Array) -> Callable[[], jax.Array]:
    """Copies the parts to the host; the function puts them back onto the devices."""
    parts = {place: np.array(part) for place, part in _parts(leaf).items()}
    shape, sharding = leaf.shape, leaf.sharding
    return lambda: jax.make_array_from_callback(shape, sharding, lambda at: parts[_place(at)])


def _parts(leaf: jax.Array) -> dict[tuple[int, ...], jax.Array]:
    """The parts of an array that this process holds, by the index at which they begin."""
    return {_place(shard.index): shard.data for shard in leaf.addressable_shards}


def _place(index: Index | None) -> tuple[int, ...]:
    return tuple(part.start or 0 for part in index or ())
