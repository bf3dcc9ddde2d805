"""Algorithm 1, line 1: M_0 = M, the base weights: from any format, only ever read."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from star_jax.models.config import DecoderConfig
from star_jax.models.formats import is_foreign, open_model
from star_jax.models.importing import check_config, check_tensors, import_params
from star_jax.models.tensors import StoredModel
from star_jax.parallel import processes
from star_jax.records import Params
from star_jax.run import checkpoints
from star_jax.run.paths import path_of
from star_jax.run.progress import progress


def _free_memory() -> int:
    return psutil.virtual_memory().available


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
        return checkpoints.load(path, abstract)
    n_parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract))
    with progress("load", n_parameters, "parameters") as advance:
        return import_params(stored, model, abstract, advance)


def check_base(path: Path, model: DecoderConfig, abstract: Any) -> StoredModel | None:
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
