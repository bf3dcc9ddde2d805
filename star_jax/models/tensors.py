"""What an opened checkpoint is, whatever its format: tensors by name, none of them read yet."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

Index: TypeAlias = tuple[slice, ...]  # one slice per axis, without a step


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file; `read(index)` gives that part of it and leaves nothing in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A checkpoint of any format, in the names and layouts of its family's safetensors.

    A linear layer's weight is [outputs, inputs].
    """

    path: Path
    config: Mapping[str, object] | None  # of config.json or its equivalent; None: there is none
    tensors: Mapping[str, Tensor]
