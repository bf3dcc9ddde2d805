"""Weights of any known format onto the devices: tensor by tensor, each part where it belongs."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from star_jax.errors import UserError, mismatch
from star_jax.models.config import DecoderConfig
from star_jax.models.hf_config import ARCHITECTURE, decoder_config
from star_jax.models.hf_names import BUFFERS, Place, places, read_part
from star_jax.models.tensors import StoredModel, Tensor


def check_config(stored: StoredModel, config: DecoderConfig) -> None:
    """Raises UserError when the checkpoint's own configuration says other than `config`.

    What is ours to choose may differ: dtypes, remat, and a shorter context.
    """
    if stored.config is None:
        return
    theirs = decoder_config(stored.config, str(stored.path))
    differing = [
        f"{name} = {getattr(config, name)!r} (there {getattr(theirs, name)!r})"
        for name in ARCHITECTURE
        if getattr(config, name) != getattr(theirs, name)
    ]
    if config.context_length > theirs.context_length:
        differing.append(f"context_length = {config.context_length} > {theirs.context_length}")
    if differing:
        raise UserError(
            f"DecoderConfig is not that of {stored.path}: {', '.join(differing)}; include "
            f"models/pretrained.gin to take what the checkpoint says"
        )


def check_tensors(stored: StoredModel, config: DecoderConfig) -> None:
    """Raises UserError unless the tensors are those of `config`, no more, no less.

    The message lists what is missing, what is left over and what has another shape. Constants
    that old versions of transformers saved are not left over, nor is a tied head's own copy.
    """
    wanted = {
        name: place.hf_shape
        for place in jax.tree.leaves(places(config), is_leaf=_is_place)
        for name in place.names
    }
    unread = {"lm_head.weight"} if config.head == "tied" else set()
    found = {
        name: tensor.shape
        for name, tensor in stored.tensors.items()
        if name in wanted or (name not in unread and not BUFFERS.search(name))
    }
    problem = mismatch(found, wanted)
    if problem:
        raise UserError(
            f"{stored.path} holds another model: {problem}; give the DecoderConfig it was made "
            f"with, or another checkpoint"
        )


def import_params(
    stored: StoredModel,
    config: DecoderConfig,
    abstract: Any,
    on_progress: Callable[[int], None] = lambda n: None,
) -> Any:
    """The parameters, read straight into the places and dtypes that `abstract` names.

    Only the parts that this process' devices hold are read, and never more than one parameter
    lies in the host's memory besides what is on its devices; the largest come first, when there
    is still room.

    Args:
      stored: an opened checkpoint, of any format.
      config: of the decoder.
      abstract: tree of jax.ShapeDtypeStruct with shardings.
      on_progress: called with the number of parameters (scalars) that were just loaded.

    Raises:
      UserError: the tensors are not those of `config`.
    """
    check_tensors(stored, config)
    leaves, tree = jax.tree.flatten(abstract)
    where = jax.tree.leaves(places(config), is_leaf=_is_place)
    loaded: dict[int, jax.Array] = {}
    for i in sorted(range(len(leaves)), key=lambda i: -leaves[i].size):
        loaded[i] = _load(stored.tensors, where[i], leaves[i])
        on_progress(leaves[i].size)
    return jax.tree.unflatten(tree, [loaded[i] for i in range(len(leaves))])


def _load(tensors: Mapping[str, Tensor], place: Place, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    def part(index: tuple[slice, ...]) -> np.ndarray:
        index = tuple(slice(*i.indices(n)[:2]) for i, n in zip(index, leaf.shape, strict=True))
        if not place.stacked:
            return read_part(place, tensors[place.names[0]].read, index).astype(leaf.dtype)
        layers, index = index[0], index[1:]
        out = np.empty([i.stop - i.start for i in (layers, *index)], leaf.dtype)
        for row, name in enumerate(place.names[layers]):
            out[row] = read_part(place, tensors[name].read, index)
        return out

    array = jax.make_array_from_callback(leaf.shape, leaf.sharding, part)
    # The host's copy is freed only when the device has its own.
    return jax.block_until_ready(array)


def _is_place(leaf: Any) -> bool:
    return isinstance(leaf, Place)
