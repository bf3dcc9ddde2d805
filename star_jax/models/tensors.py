"""What an opened checkpoint is, whatever its format: tensors by name, none of them read yet.

And tensors made of other tensors, still unread: joined, turned or reshaped as they are read.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

Index: TypeAlias = tuple[slice, ...]  # one slice per axis, without a step
COMPARED_ROWS = 4096  # at a time
CHECKED_NUMBERS = 2**16  # at a time


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor in a file; `read(index)` gives that part of it and leaves nothing in memory."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[Index], np.ndarray]

    def whole(self) -> np.ndarray:
        """All of it."""
        return self.read((slice(None),) * len(self.shape))


@dataclasses.dataclass(frozen=True)
class StoredModel:
    """A checkpoint of any format, in the names and layouts of its family's safetensors.

    A linear layer's weight is [outputs, inputs].
    """

    path: Path
    config: Mapping[str, object] | None  # of config.json or its equivalent; None: there is none
    tensors: Mapping[str, Tensor]


def bounds(part: slice, size: int) -> tuple[int, int]:
    """The first place that the slice takes of an axis of `size`, and the one after its last."""
    start, stop, step = part.indices(size)
    assert step == 1, part
    return start, max(start, stop)


def in_blocks(tensor: Tensor, rows: int) -> Tensor:
    """The tensor, read at most `rows` rows at a time (at least one), which bounds the memory."""
    rows = max(1, rows)

    def read(index: Index) -> np.ndarray:
        ends = [bounds(part, size) for part, size in zip(index, tensor.shape, strict=True)]
        if not ends or ends[0][1] - ends[0][0] <= rows:
            return tensor.read(index)
        values = np.empty([stop - start for start, stop in ends], tensor.dtype)
        start, stop = ends[0]
        for low in range(start, stop, rows):
            high = min(low + rows, stop)
            values[low - start : high - start] = tensor.read((slice(low, high), *index[1:]))
        return values

    return Tensor(tensor.shape, tensor.dtype, read)


def identical(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors have the same bits; reads no more than it needs to see a difference."""
    if not one.shape or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    rest = [slice(None)] * (len(one.shape) - 1)
    starts = range(0, one.shape[0], COMPARED_ROWS)
    parts = ((slice(start, start + COMPARED_ROWS), *rest) for start in starts)
    return all(one.read(part).tobytes() == other.read(part).tobytes() for part in parts)


def all_finite(values: np.ndarray) -> bool:
    """Whether no float is infinite or NaN, which have the bits of infinity and maybe more.

    Compares bits in blocks that fit the processor's cache: bfloat16 has no fast functions.
    """
    bits = np.dtype(f"u{values.itemsize}")
    infinity = np.array(np.inf, values.dtype).view(bits)
    flat = values.ravel("K").view(bits)
    blocks = (flat[i : i + CHECKED_NUMBERS] for i in range(0, flat.size, CHECKED_NUMBERS))
    return all((block & infinity).max() < infinity for block in blocks)


def transposed(tensor: Tensor) -> Tensor:
    """The tensor with its axes reversed."""
    return Tensor(tensor.shape[::-1], tensor.dtype, lambda index: tensor.read(index[::-1]).T)


def concatenated(parts: Sequence[Tensor], axis: int) -> Tensor:
    """The parts joined along `axis`; only those that a slice touches are read."""
    sizes = [part.shape[axis] for part in parts]
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    before, after = parts[0].shape[:axis], parts[0].shape[axis + 1 :]
    assert all(part.shape == (*before, part.shape[axis], *after) for part in parts)
    assert len({part.dtype for part in parts}) == 1

    def read(index: Index) -> np.ndarray:
        start, stop = bounds(index[axis], sum(sizes))
        pieces: list[np.ndarray] = []
        for part, size, offset in zip(parts, sizes, starts, strict=True):
            low, high = (min(max(place - offset, 0), size) for place in (start, stop))
            # The first part also serves an empty slice.
            if low < high or (start == stop and not pieces):
                pieces.append(part.read((*index[:axis], slice(low, high), *index[axis + 1 :])))
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis)

    return Tensor((*before, sum(sizes), *after), parts[0].dtype, read)


def shaped(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The values of a tensor of one axis, in row-major order, as a tensor of `shape`."""
    row = math.prod(shape[1:])
    assert flat.shape == (math.prod(shape),)

    def read(index: Index) -> np.ndarray:
        if not shape:
            return flat.read((slice(0, 1),)).reshape(())
        start, stop = bounds(index[0], shape[0])
        rows = flat.read((slice(start * row, stop * row),)).reshape(stop - start, *shape[1:])
        return rows[(slice(None), *index[1:])]

    return Tensor(shape, flat.dtype, read)
