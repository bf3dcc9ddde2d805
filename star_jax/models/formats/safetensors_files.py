"""Hugging Face safetensors: one file, or shards that an index lists."""

import json
from pathlib import Path

import ml_dtypes  # noqa: F401  adds bfloat16 to NumPy
import numpy as np
from safetensors import SafetensorError, safe_open

from star_jax.errors import UserError, some
from star_jax.models.formats.files import check_contents, damaged, file_tensor, open_files
from star_jax.models.tensors import StoredModel, Tensor

# All that NumPy has; other types belong to quantized models.
DTYPES = {
    **{"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "BOOL": "bool"},
    **{"I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8"},
}


def open_weights(path: Path) -> StoredModel:
    """Opens a safetensors file, or the directory of one or of an index and its shards."""
    return open_files(path, "model.safetensors", _tensors)


def _tensors(path: Path) -> dict[str, Tensor]:
    check_contents(path)
    try:
        with safe_open(path, framework="numpy"):  # checks the header and the file's length
            pass
    except (SafetensorError, OSError) as error:
        raise damaged(path, "safetensors", error) from error
    with path.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        start = file.tell()
    header.pop("__metadata__", None)
    if unknown := sorted(name for name in header if header[name]["dtype"] not in DTYPES):
        raise UserError(
            f"{path} holds {header[unknown[0]]['dtype']} numbers ({some(unknown)}), a quantized "
            f"model; give the same model in BF16, F16 or F32"
        )
    tensors = {}
    for name, info in header.items():
        offset, dtype = start + info["data_offsets"][0], np.dtype(DTYPES[info["dtype"]])
        tensors[name] = file_tensor(path, offset, dtype, tuple(info["shape"]))
    return tensors
