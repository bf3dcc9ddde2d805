"""Weights of any known format onto the devices: tensor by tensor, each part to its device."""

import re
from collections.abc import Callable, Mapping

import jax
import numpy as np

from star_jax.errors import UserError, mismatch
from star_jax.models.config import DecoderConfig
from star_jax.models.families import decoder_config, differences, family_of
from star_jax.models.places import Place, places
from star_jax.models.tensors import Index, StoredModel, Tensor
from star_jax.records import Params


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


def check_tensors(stored: StoredModel, config: DecoderConfig) -> None:
    """Raises UserError unless the tensors are exactly those of `config`.

    The message lists what is missing, what is left over and what has another shape. The family's
    constants are not left over, nor is a tied head's own copy.
    """
    _checked_places(stored, config)


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
    where = _checked_places(stored, config)
    loaded: dict[int, jax.Array] = {}
    for i in sorted(range(len(leaves)), key=lambda i: -leaves[i].size):
        loaded[i] = _load(stored.tensors, where[i], leaves[i])
        on_progress(leaves[i].size)
    return jax.tree.unflatten(tree, [loaded[i] for i in range(len(leaves))])


def _checked_places(stored: StoredModel, config: DecoderConfig) -> list[Place]:
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


def _load(tensors: Mapping[str, Tensor], place: Place, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    def part(index: Index | None) -> np.ndarray:
        assert index is not None
        index = tuple(slice(*i.indices(n)[:2]) for i, n in zip(index, leaf.shape, strict=True))
        if not place.stacked:
            return place.read(tensors[place.names[0]].read, index).astype(leaf.dtype)
        layers, index = index[0], index[1:]
        out = np.empty([i.stop - i.start for i in (layers, *index)], leaf.dtype)
        for row, name in enumerate(place.names[layers]):
            out[row] = place.read(tensors[name].read, index)
        return out

    array = jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
    # The host's copy is freed only when the device has its own.
    return jax.block_until_ready(array)
