"""What an opened checkpoint is, whatever its format: tensors by name, none of them read yet."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file; `read(index)` gives that part of it and leaves nothing in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[tuple[slice, ...]], np.ndarray]  # one slice an axis


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A checkpoint of any format, in Hugging Face's names, layouts and words.

    A linear layer's weight is [outputs, inputs] and called as in that family's safetensors,
    whatever the file had.
    """

    path: Path
    config: Mapping[str, Any] | None  # what config.json says, or what stands for it; None: nothing
    tensors: Mapping[str, Tensor]
