"""Algorithm 1, line 1: M_0 = M, the base weights: from any format, only ever read.

Weights of other programs are read onto the devices tensor by tensor, each part to its device.
"""

import dataclasses
import re
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import psutil

from star_jax.errors import UserError, mismatch, some
from star_jax.models.config import DecoderConfig
from star_jax.models.families import decoder_config, differences, family_of
from star_jax.models.formats import is_foreign, open_model
from star_jax.models.places import Place, places
from star_jax.models.tensors import Index, StoredModel, all_finite
from star_jax.parallel import processes
from star_jax.records import Params
from star_jax.run import checkpoints
from star_jax.run.paths import path_of
from star_jax.run.progress import progress


@dataclasses.dataclass(frozen=True)
class Base:
    """The original model M: where its weights are, in any format, and where they are to be."""

    path: str  # of an Orbax checkpoint, or anything that `models.formats` opens
    model: DecoderConfig
    abstract: Params  # tree of jax.ShapeDtypeStruct with shardings

    def check(self) -> StoredModel | None:
        """Raises UserError unless the weights are there and of this model; reads none of them.

        Returns the opened checkpoint of a foreign format, None for Orbax.
        """
        path = path_of(self.path)
        if not is_foreign(path):
            checkpoints.check(path, self.abstract)
            return None
        stored = open_model(path)
        check_config(stored, self.model)
        check_tensors(stored, self.model)
        return stored

    def load(self) -> Params:
        """Reads the weights into their places; raises UserError as `check`."""
        stored = self.check()
        if stored is None:
            params = checkpoints.load(path_of(self.path), self.abstract)
            bad = [name for name, ok in jax.tree.leaves_with_path(_finite_leaves(params)) if not ok]
            if bad:
                names = some(jax.tree_util.keystr(name, simple=True, separator="/") for name in bad)
                raise UserError(f"{self.path} has NaN or infinite numbers in {names}; give another")
            return params
        n_parameters = sum(leaf.size for leaf in jax.tree.leaves(self.abstract))
        with progress("load", n_parameters, "parameters") as advance:
            return import_params(stored, self.model, self.abstract, advance)


@jax.jit
def _finite_leaves(params: Params) -> Params:
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), params)


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


def check_config(stored: StoredModel, config: DecoderConfig) -> None:
    """Raises UserError when the checkpoint's own configuration differs from `config`.

    Fields that the user chooses may differ: dtypes, remat, and a shorter context.
    """
    if stored.config is None:
        return
    theirs = decoder_config(stored.config, str(stored.path))
    differing = [
        f"{name} = {getattr(config, name)!r} (there {getattr(theirs, name)!r})"
        for name in differences(config, theirs)
    ]
    if config.context_length > theirs.context_length:
        differing.append(f"context_length = {config.context_length} > {theirs.context_length}")
    if differing:
        raise UserError(
            f"DecoderConfig differs from that of {stored.path}: {', '.join(differing)}; include "
            f"models/pretrained.gin to use the checkpoint's"
        )


def import_params(
    stored: StoredModel,
    config: DecoderConfig,
    abstract: Params,
    on_progress: Callable[[int], None] = lambda n: None,
) -> Params:
    """The parameters, read straight onto the devices and into the dtypes that `abstract` names.

    Only the parts that this process's devices hold are read. The host's memory holds at most one
    parameter besides what is on its devices; the largest are read first, while there is most room.

    Args:
      stored: an opened checkpoint, of any format.
      config: of the decoder.
      abstract: tree of jax.ShapeDtypeStruct with shardings.
      on_progress: called with the number of parameters (scalars) that were just loaded.

    Raises:
      UserError: the tensors are not those of `config`.
    """
    leaves, tree = jax.tree.flatten(abstract)
    where = check_tensors(stored, config)
    loaded: dict[int, jax.Array] = {}
    for i in sorted(range(len(leaves)), key=lambda i: -leaves[i].size):
        loaded[i] = _load(stored, where[i], leaves[i])
        on_progress(leaves[i].size)
    return jax.tree.unflatten(tree, [loaded[i] for i in range(len(leaves))])


def check_tensors(stored: StoredModel, config: DecoderConfig) -> list[Place]:
    """Raises UserError unless the tensors are exactly those of `config`; returns their places.

    The message lists what is missing, what is left over and what has another shape. The family's
    constants are not left over, nor is a tied head's own copy.
    """
    family = family_of(config, stored.config)
    where = places(config, family)
    wanted = {name: place.hf_shape for place in where for name in place.names}
    unread = f"{family.names['head']}.weight" if config.head == "tied" else None
    found = {
        name: tensor.shape
        for name, tensor in stored.tensors.items()
        if name in wanted or (name != unread and not re.search(family.constants, name))
    }
    if problem := mismatch(found, wanted):
        raise UserError(
            f"{stored.path} holds another model: {problem}; give the DecoderConfig it was made "
            f"with, or another checkpoint"
        )
    return where


def _load(stored: StoredModel, place: Place, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    def part(index: Index | None) -> np.ndarray:
        assert index is not None
        index = tuple(slice(*i.indices(n)[:2]) for i, n in zip(index, leaf.shape, strict=True))
        layers, index = (index[0], index[1:]) if place.stacked else (slice(1), index)
        names = place.names[layers]
        out = np.empty([len(names), *(i.stop - i.start for i in index)], leaf.dtype)
        for row, name in enumerate(names):
            out[row] = place.read(stored.tensors[name].read, index)
            if not all_finite(out[row]):
                raise UserError(
                    f"{stored.path}: {name} has NaN, or numbers that are infinite in {leaf.dtype}; "
                    f"fetch it again, or give another model"
                )
        return out if place.stacked else out[0]

    array = jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
    # The host's copy is freed only when the device has its own.
    return jax.block_until_ready(array)


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
