"""Where each parameter is among a checkpoint's tensors, and how the two layouts differ.

In a checkpoint a linear layer is [outputs, inputs]; here it is [inputs, outputs], and heads have an
axis of their own. All else is stored alike. Each layer has its own tensors there; here the layers
may be stacked in one array.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import numpy as np

from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import abstract_params
from star_jax.models.families.family import Family
from star_jax.models.tensors import Index


@dataclasses.dataclass(frozen=True)
class Place:
    """Where one parameter, or each layer of a stacked one, is among a checkpoint's tensors."""

    names: tuple[str, ...]  # of the tensors: one, or one per layer
    stacked: bool
    shape: tuple[int, ...]  # of the parameter, without the axis of layers
    n_in: int  # leading axes that are a linear layer's inputs; 0 if it is not a kernel
    is_embedding: bool  # a table of rows, the only matrix that is stored as it is used

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of each tensor."""
        if self.n_in:
            return math.prod(self.shape[self.n_in :]), math.prod(self.shape[: self.n_in])
        return self.shape if self.is_embedding else (math.prod(self.shape),)

    def read(self, read: Callable[[Index], np.ndarray], index: Index) -> np.ndarray:
        """A part of a parameter (of one layer, if stacked), in our layout.

        `read` gives a part of the tensor, by one slice for each of the tensor's own axes; `index`
        says which part of the parameter: a slice with bounds for each axis of `shape`.
        """
        if self.is_embedding:
            return read(index)
        inputs, outputs = slice(0, self.n_in), slice(self.n_in, None)
        groups = [outputs, inputs] if self.n_in else [outputs]
        flat = read(tuple(_rows(self.shape[group], index[group]) for group in groups))
        # The first axis of each group is a part now; its other axes are whole.
        shape, rest = list(self.shape), list(index)
        for axis in {0, self.n_in}:
            shape[axis] = index[axis].stop - index[axis].start
            rest[axis] = slice(None)
        return (flat.T if self.n_in else flat).reshape(shape)[tuple(rest)]

    def tensor(self, parameter: np.ndarray) -> np.ndarray:
        """One layer of a parameter, or an unstacked one, as a checkpoint stores it."""
        if not self.n_in:
            return parameter.reshape(self.hf_shape)
        return parameter.reshape(self.hf_shape[::-1]).T


def places(config: DecoderConfig, family: Family) -> list[Place]:
    """A `Place` for every parameter, in the order of the leaves of the parameters."""

    def place(path: tuple[jax.tree_util.DictKey, ...], leaf: jax.ShapeDtypeStruct) -> Place:
        *modules, last = (key.key for key in path)
        layers, stacked = [0], False
        if modules and modules[0].startswith("layer"):
            number = modules.pop(0).removeprefix("layer_")
            stacked = not number.isdigit()
            layers = list(range(config.n_layers)) if stacked else [int(number)]
        name = family.names["/".join(modules or [last])]
        name += ".bias" if last == "bias" else ".weight"
        return Place(
            names=tuple(name.format(i) for i in layers),
            stacked=stacked,
            shape=leaf.shape[1:] if stacked else leaf.shape,
            n_in=0 if last != "kernel" else 2 if modules[-1] == "out" else 1,
            is_embedding=not modules,
        )

    leaves = jax.tree_util.tree_leaves_with_path(abstract_params(config))
    return [place(path, leaf) for path, leaf in leaves]


def _rows(shape: tuple[int, ...], index: Index) -> slice:
    """The rows that a slice of the first axis takes when all axes of `shape` are made one."""
    inner = math.prod(shape[1:])
    return slice(index[0].start * inner, index[0].stop * inner)
