"""Which Hugging Face tensor holds which parameter, and how the one is laid out as the other.

A linear layer is [outputs, inputs] there and [inputs, outputs] here, where heads have an axis of
their own; all else is stored alike. Layers are tensors of their own there, and here too or
stacked in one array.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import abstract_params
from star_jax.models.hf_config import family_of

GPTJ = {
    "embedding": "transformer.wte.weight",
    "norm": "transformer.h.{}.ln_1",
    "attention/query": "transformer.h.{}.attn.q_proj",
    "attention/key": "transformer.h.{}.attn.k_proj",
    "attention/value": "transformer.h.{}.attn.v_proj",
    "attention/out": "transformer.h.{}.attn.out_proj",
    "mlp/mlp_in": "transformer.h.{}.mlp.fc_in",
    "mlp/mlp_out": "transformer.h.{}.mlp.fc_out",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
}
LLAMA = {
    "embedding": "model.embed_tokens.weight",
    "norm": "model.layers.{}.input_layernorm",
    "attention/query": "model.layers.{}.self_attn.q_proj",
    "attention/key": "model.layers.{}.self_attn.k_proj",
    "attention/value": "model.layers.{}.self_attn.v_proj",
    "attention/out": "model.layers.{}.self_attn.o_proj",
    "attention/query_norm": "model.layers.{}.self_attn.q_norm",
    "attention/key_norm": "model.layers.{}.self_attn.k_norm",
    "mlp_norm": "model.layers.{}.post_attention_layernorm",
    "mlp/mlp_gate": "model.layers.{}.mlp.gate_proj",
    "mlp/mlp_in": "model.layers.{}.mlp.up_proj",
    "mlp/mlp_out": "model.layers.{}.mlp.down_proj",
    "final_norm": "model.norm",
    "head": "lm_head",
}
NAMES = {"gptj": GPTJ, "llama": LLAMA, "qwen2": LLAMA, "qwen3": LLAMA}

# Constants that some versions of transformers saved among the weights.
BUFFERS = re.compile(r"\.(attn\.(masked_)?bias|rotary_emb\.inv_freq|attn\.embed_positions)$")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one parameter, or each layer of a stacked one, is among a checkpoint's tensors."""

    names: tuple[str, ...]  # of the tensors: one, or one a layer
    stacked: bool
    shape: tuple[int, ...]  # of the parameter, without the axis of layers
    n_in: int  # leading axes that are a linear layer's inputs; 0 for what is no kernel

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of each tensor."""
        if self.n_in:
            return math.prod(self.shape[self.n_in :]), math.prod(self.shape[: self.n_in])
        return self.shape if self.is_embedding else (math.prod(self.shape),)

    @property
    def is_embedding(self) -> bool:
        """A table of rows, the only matrix that is stored as it is used."""
        return not self.n_in and self.names[0].endswith((".wte.weight", ".embed_tokens.weight"))


def places(config: DecoderConfig) -> Any:
    """A `Place` for every parameter: a tree shaped like the parameters."""
    table = NAMES[family_of(config)]

    def place(path: Any, leaf: jax.ShapeDtypeStruct) -> Place:
        *modules, last = (key.key for key in path)
        layers = [0]
        if modules and modules[0].startswith("layer"):
            stacked = modules.pop(0)
            number = stacked.removeprefix("layer_")
            layers = [int(number)] if number.isdigit() else list(range(config.n_layers))
        else:
            stacked = ""
        name = table["/".join(modules or [last])]
        if modules:
            name += ".bias" if last == "bias" else ".weight"
        shape = leaf.shape[1:] if stacked == "layers" else leaf.shape
        n_in = 0 if last != "kernel" else 2 if modules[-1] == "out" else 1
        return Place(tuple(name.format(i) for i in layers), stacked == "layers", shape, n_in)

    return jax.tree_util.tree_map_with_path(place, abstract_params(config))


def read_part(
    place: Place, read: Callable[[tuple[slice, ...]], np.ndarray], index: tuple[slice, ...]
) -> np.ndarray:
    """A part of a parameter (of one layer, if stacked), in our layout.

    Args:
      place: of the parameter.
      read: gives a part of the tensor, by one slice for each of the tensor's own axes.
      index: which part: a slice with bounds for each axis of `place.shape`.
    """
    if place.is_embedding:
        return read(index)
    n_in = place.n_in
    inputs, outputs = slice(0, n_in), slice(n_in, None)
    groups = [outputs, inputs] if n_in else [outputs]
    flat = read(tuple(_rows(place.shape[group], index[group]) for group in groups))
    if n_in:
        flat = flat.T
    # Each group's first axis is cut already, its other axes are whole.
    starts = {0, n_in}
    cut = [
        part.stop - part.start if axis in starts else size
        for axis, (size, part) in enumerate(zip(place.shape, index, strict=True))
    ]
    rest = tuple(slice(None) if axis in starts else part for axis, part in enumerate(index))
    return flat.reshape(cut)[rest]


def write_whole(place: Place, parameter: np.ndarray) -> np.ndarray:
    """One layer of a parameter, or an unstacked one, as Hugging Face lays it out."""
    if not place.n_in:
        return parameter.reshape(place.hf_shape)
    return parameter.reshape(place.hf_shape[::-1]).T


def _rows(shape: tuple[int, ...], index: tuple[slice, ...]) -> slice:
    """Where the slice of the first axis lies when all axes of `shape` are made one."""
    inner = math.prod(shape[1:])
    return slice(index[0].start * inner, index[0].stop * inner)
