"""Slim checkpoints of mesh-transformer-jax: the GPT-J weights that the STaR paper started from.

`shard_<k>/` has what core k held: its part of every parameter, in the order of the sorted Haiku
names, dealt in equal runs over `0.npz` ... `15.npz`. The files contain no names: the order and the
shapes identify the parameters (`families.gptj`). bfloat16 is stored as two raw bytes.
"""

import math
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path

import ml_dtypes
import numpy as np

from star_jax.errors import UserError, some
from star_jax.models.families import gptj
from star_jax.models.formats.files import check_contents, damaged, file_tensor, read_config
from star_jax.models.tensors import Index, StoredModel, Tensor, concatenated, transposed

PIECES = 16  # files per shard
# What zipfile and numpy raise for other or damaged files.
DAMAGE = (zipfile.BadZipFile, struct.error, ValueError, RuntimeError, EOFError, OSError)
EMBEDDING = "transformer.wte"


def open_weights(path: Path) -> StoredModel:
    """Opens the directory of `shard_0` ..., or one with a single such directory (`step_*`) in it.

    The configuration is that of a config.json in the directory of the shards or in its parent;
    without one it is None, except for the sizes of GPT-J 6B.
    """
    directory = _directory_of_shards(path)
    shards = _shards(directory)
    n_layers = _n_layers(directory, {len(leaves) for leaves in shards})
    (d_model, *_), (vocab, *_) = ((*leaf.shape, 0) for leaf in shards[0][:2])
    width, rest = divmod(d_model, len(shards))
    if rest:
        raise UserError(
            f"{directory} has {len(shards)} shards, which d_model {d_model} is not divisible by; "
            f"fetch all shards"
        )
    sizes = {"D": d_model, "A": width, "F": 4 * width, "V": vocab}
    # Haiku's names are sorted as text: layer 10 comes before layer 2.
    layers = [
        (f"transformer.h.{i}.{name}", divided, dims)
        for i in sorted(range(n_layers), key=str)
        for name, divided, dims in gptj.MESH_LAYER
    ]
    rules = [*gptj.MESH_EMBEDDING, *layers, *gptj.MESH_HEAD]
    tensors = {}
    # Without `strict`: after the parameters there may be the step, which a model does not need.
    for (name, divided, dims), parts in zip(rules, zip(*shards, strict=True), strict=False):
        _check_parts(directory, name, parts, tuple(sizes[letter] for letter in dims))
        tensors[name] = _joined(name, divided, parts)
    # An embedding with a bias is the same as one with the bias added to every row.
    weight, bias = tensors[f"{EMBEDDING}.weight"], tensors.pop(f"{EMBEDDING}.bias")
    rows = Tensor(weight.shape, bias.dtype, lambda index: bias.read(index[1:]))
    tensors[f"{EMBEDDING}.weight"] = _summed([weight, rows])
    config = read_config(directory) or read_config(directory.parent)
    known = gptj.mesh_config(len(shards) * vocab, d_model, n_layers)
    return StoredModel(path, config or known, tensors)


def _directory_of_shards(path: Path) -> Path:
    if (path / "shard_0").is_dir():
        return path
    found = sorted(child for child in path.iterdir() if (child / "shard_0").is_dir())
    if len(found) > 1:
        raise UserError(
            f"{path} holds several checkpoints ({some(child.name for child in found)}); give one"
        )
    return found[0]


def _shards(directory: Path) -> list[list[Tensor]]:
    """The arrays of each shard."""
    there = {child.name for child in directory.glob("shard_*")}
    shards = [f"shard_{i}" for i in range(len(there))]
    if missing := [shard for shard in shards if shard not in there]:
        raise UserError(f"{directory} lacks {some(missing)}; fetch all shards")
    return [_leaves(directory / shard) for shard in shards]


def _leaves(shard: Path) -> list[Tensor]:
    """The arrays of its npz files, which are zips of npy files, in their order."""
    files = [shard / f"{i}.npz" for i in range(PIECES)]
    if missing := [file.name for file in files if not file.is_file()]:
        raise UserError(
            f"{shard} lacks {some(missing)}; a shard of mesh-transformer-jax has {PIECES} files"
        )
    leaves: list[Tensor] = []
    for file in files:
        check_contents(file)
        try:
            with zipfile.ZipFile(file) as archive:
                leaves += [_member(file, archive, member) for member in archive.infolist()]
        except DAMAGE as error:
            raise damaged(file, "npz", error) from error
    return leaves


def _member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Tensor:
    if member.compress_type != zipfile.ZIP_STORED:
        raise ValueError("it is compressed")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read_header = getattr(np.lib.format, f"read_array_header_{min(version[0], 2)}_0")
        shape, is_fortran, dtype = read_header(file)
        header_bytes = file.tell()
    if dtype.hasobject:
        raise ValueError(f"{member.filename} is a pickle")
    dtype = np.dtype(ml_dtypes.bfloat16) if dtype.kind == "V" else dtype
    if member.file_size - header_bytes != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{member.filename} is not {shape} {dtype}")
    # A member that is not compressed is in the file unchanged, after a local header of 30 bytes, a
    # name and extras; so parts of it can be read.
    with path.open("rb") as file:
        file.seek(member.header_offset + 26)
        name_bytes, extra_bytes = struct.unpack("<HH", file.read(4))
    offset = member.header_offset + 30 + name_bytes + extra_bytes + header_bytes
    if is_fortran:
        return transposed(file_tensor(path, offset, dtype, shape[::-1]))
    return file_tensor(path, offset, dtype, shape)


def _n_layers(directory: Path, n_leaves: set[int]) -> int:
    n_others = len(gptj.MESH_EMBEDDING) + len(gptj.MESH_HEAD)
    n_layers, rest = divmod(min(n_leaves) - n_others, len(gptj.MESH_LAYER))
    if len(n_leaves) > 1 or n_layers < 1 or rest > 1:
        raise UserError(
            f"{directory} has {some(sorted(map(str, n_leaves)))} arrays in a shard; a slim "
            f"GPT-J of N layers has 10 N + 7 in each: fetch all files, and remove an optimizer "
            f"state with mesh-transformer-jax's slim_model.py"
        )
    return n_layers


def _check_parts(
    directory: Path, name: str, parts: Sequence[Tensor], expected: tuple[int, ...]
) -> None:
    for part in parts:
        if part.shape != expected or part.dtype != parts[0].dtype:
            raise UserError(
                f"{directory}: where {name} should be, one of {len(parts)} shards has {part.shape} "
                f"{part.dtype} instead of {expected} {parts[0].dtype}; fetch all shards of a slim "
                f"GPT-J checkpoint of mesh-transformer-jax"
            )


def _joined(name: str, divided: str, parts: Sequence[Tensor]) -> Tensor:
    if divided == gptj.COPIES:
        return parts[0]
    if divided == gptj.SUM:
        return _summed(parts)
    axis = len(parts[0].shape) - 1 if divided == gptj.OUTPUTS else 0
    whole = concatenated(parts, axis)
    return whole if name == f"{EMBEDDING}.weight" else transposed(whole)


def _summed(parts: Sequence[Tensor]) -> Tensor:
    """The sum in float32, since bfloat16's eight bits would lose some of it."""

    def read(index: Index) -> np.ndarray:
        return np.asarray(sum(part.read(index).astype(np.float32) for part in parts))

    return Tensor(parts[0].shape, np.dtype(np.float32), read)
