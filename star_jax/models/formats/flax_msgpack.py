"""Flax msgpack as Hugging Face's Flax models have it, e.g. EleutherAI's GPT-J (24 GB in one file).

The file is a map of maps with arrays for leaves. One pass notes where each array's bytes begin and
skips them, so that each array is read only when it is needed.
"""

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import ml_dtypes
import msgpack
import numpy as np
from flax.traverse_util import flatten_dict

from star_jax.models.formats.files import check_contents, damaged, file_tensor, open_files
from star_jax.models.tensors import StoredModel, Tensor, concatenated, shaped, transposed

Value: TypeAlias = Any  # a map of values by name, a Tensor, or another value of msgpack's
Lengths: TypeAlias = Mapping[int, int | str]

# Flax's own marks: an array is the extension type 1 around (shape, dtype, bytes), a NumPy scalar
# is type 3 around the same, and an array of more than 1 GiB is a map of its pieces.
ARRAY_TYPES = (1, 3)
CHUNKED = "__msgpack_chunked_array__"

# By msgpack's tags of extensions and of bytes: how long they are, or the format of their length.
EXTENSIONS: Lengths = {
    **{0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16},
    **{0xC7: ">B", 0xC8: ">H", 0xC9: ">I"},
}
BYTES: Lengths = {0xC4: ">B", 0xC5: ">H", 0xC6: ">I"}

# What reading nonsense raises: errors of msgpack, of struct, and of bad shapes and names.
DAMAGE = (msgpack.UnpackException, struct.error, ValueError, TypeError, LookupError, AttributeError)
WINDOW = 4096  # bytes; no name, shape or header is longer
DEEPEST = 32  # maps within maps


def open_weights(path: Path) -> StoredModel:
    """Opens a Flax msgpack file, or the directory of one or of an index and its shards."""
    stored = open_files(path, "flax_model.msgpack", _tensors)
    tensors = dict(_as_hugging_face(name, tensor) for name, tensor in stored.tensors.items())
    return StoredModel(path, stored.config, tensors)


def _as_hugging_face(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """transformer/h/0/attn/q_proj/kernel [in, out] -> transformer.h.0.attn.q_proj.weight."""
    *module, leaf = name.split("/")
    if leaf == "kernel":
        tensor = transposed(tensor)
    leaf = "weight" if leaf in ("kernel", "embedding", "scale") else leaf
    return ".".join([*module, leaf]), tensor


def _tensors(path: Path) -> dict[str, Tensor]:
    """Every array by its path, e.g. transformer/ln_f/scale, with or without `params` above it."""
    check_contents(path)
    try:
        with path.open("rb") as file:
            tree = _Scanner(path, file).value()
        params = tree.get("params", tree) if isinstance(tree, dict) else None
        if not isinstance(params, dict):
            raise ValueError("its top is not a map")
        leaves = flatten_dict(params, sep="/")
        return {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor)}
    except DAMAGE as error:
        raise damaged(path, "Flax msgpack", f"{type(error).__name__} {error}".strip()) from error


class _Scanner:
    """Reads a msgpack value with a Tensor for each array; raises the errors of DAMAGE."""

    def __init__(self, path: Path, file: BinaryIO):
        self._path, self._file = path, file
        self._size = path.stat().st_size
        self._position = 0

    def value(self, depth: int = 0) -> Value:
        """The value at the position, which moves to its end."""
        tag = self._window()[0]
        if 0x80 <= tag <= 0x8F or tag in (0xDE, 0xDF):
            return self._map(depth)
        if tag in EXTENSIONS:
            return self._array()
        return self._unpacked("unpack")

    def _map(self, depth: int) -> Value:
        if depth == DEEPEST:
            raise ValueError(f"maps in maps, {DEEPEST} deep")
        tree = {}
        for _ in range(self._unpacked("read_map_header")):
            name = self._unpacked("unpack")
            if name in tree:
                raise ValueError(f"{name} is there twice")
            tree[name] = self.value(depth + 1)
        return _unchunked(tree) if CHUNKED in tree else tree

    def _array(self) -> Tensor:
        """An array: an extension around its shape, dtype and bytes."""
        length = self._length(EXTENSIONS)
        kind, end = self._window()[0], self._position + 1 + length
        self._check_fits(end)
        if kind not in ARRAY_TYPES:
            raise ValueError(f"extension type {kind}, no array")
        self._position += 1
        if self._unpacked("read_array_header") != 3:
            raise ValueError("an array without shape, dtype and bytes")
        shape, name = tuple(self._unpacked("unpack")), self._unpacked("unpack")
        dtype = np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
        n_bytes = self._length(BYTES)
        n_values = math.prod(shape) if min(shape, default=0) >= 0 else -1
        if dtype.hasobject or n_values * dtype.itemsize != n_bytes:
            raise ValueError(f"{n_bytes} bytes for an array of {shape} {dtype}")
        tensor = file_tensor(self._path, self._position, dtype, shape)
        self._position += n_bytes
        if self._position != end:
            raise ValueError(f"an array of {shape} {name} does not have {length} bytes")
        return tensor

    def _length(self, formats: Lengths) -> int:
        """The length by the tag at the position, which moves past both."""
        window = self._window()
        length, n_bytes = formats[window[0]], 1
        if isinstance(length, str):
            n_bytes += struct.calcsize(length)
            (length,) = struct.unpack(length, window[1:n_bytes])
        self._position += n_bytes
        return int(length)

    def _unpacked(self, method: str) -> Value:
        """The next small piece by a method of msgpack's Unpacker: "unpack", "read_map_header"..."""
        unpacker = msgpack.Unpacker()
        unpacker.feed(self._window())
        value = getattr(unpacker, method)()
        self._position += unpacker.tell()
        return value

    def _window(self) -> bytes:
        self._check_fits(self._position + 1)
        self._file.seek(self._position)
        return self._file.read(WINDOW)

    def _check_fits(self, end: int) -> None:
        if end > self._size:
            raise ValueError(f"it ends at {self._size:,} bytes, before {end:,}")


def _unchunked(tree: Mapping[str, Value]) -> Tensor:
    """The array that Flax divided: its shape and its pieces are maps from "0", "1", ..."""
    shape = tuple(tree["shape"][str(i)] for i in range(len(tree["shape"])))
    chunks = [tree["chunks"][str(i)] for i in range(len(tree["chunks"]))]
    one_axis = all(len(chunk.shape) == 1 and chunk.dtype == chunks[0].dtype for chunk in chunks)
    if not one_axis or sum(chunk.shape[0] for chunk in chunks) != math.prod(shape):
        raise ValueError(f"the pieces of an array of {shape} do not fill it")
    return shaped(concatenated(chunks, axis=0), shape)
