"""Hugging Face safetensors: one file, or shards that an index lists."""

from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from star_jax.errors import UserError
from star_jax.models.formats.files import (
    MAPPED_BYTES,
    check_contents,
    damaged,
    open_files,
    some,
)
from star_jax.models.formats.views import in_blocks, is_whole, rows_of
from star_jax.models.tensors import StoredModel, Tensor

# All that safetensors gives as NumPy arrays; what is not here belongs to quantized models.
DTYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}


def open_safetensors(path: Path) -> StoredModel:
    """Opens a safetensors file, or the directory of one or of an index and its shards.

    Raises:
      UserError: files are missing, damaged or quantized, or do not fit together.
    """
    return open_files(path, "model.safetensors", _tensors)


def _tensors(path: Path) -> dict[str, Tensor]:
    check_contents(path)
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            stored = {name: file.get_slice(name) for name in names}
            shapes = {name: tuple(part.get_shape()) for name, part in stored.items()}
            dtypes = {name: part.get_dtype() for name, part in stored.items()}
    except (SafetensorError, OSError) as error:
        raise damaged(path, "safetensors", error) from error
    if unknown := sorted(name for name in names if dtypes[name] not in DTYPES):
        raise UserError(
            f"{path} holds {dtypes[unknown[0]]} numbers ({some(unknown)}), a quantized model; "
            f"give the same model in BF16, F16 or F32"
        )
    return {name: _tensor(path, name, shapes[name], DTYPES[dtypes[name]]) for name in names}


def _tensor(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> Tensor:
    def read_mapped(index: tuple[slice, ...]) -> np.ndarray:
        with safe_open(path, framework="numpy", backend="mmap") as file:
            return file.get_slice(name)[index]

    mapped = Tensor(shape, dtype, read_mapped)
    part = in_blocks(mapped, rows_of(MAPPED_BYTES, mapped))

    def read(index: tuple[slice, ...]) -> np.ndarray:
        # pread needs no mapped pages beside the tensor, but of a part, too, it reads the whole.
        if not is_whole(index, shape):
            return part.read(index)
        with safe_open(path, framework="numpy", backend="pread") as file:
            return file.get_tensor(name)

    return Tensor(shape, dtype, read)
