"""What all formats share: arrays in files, config.json, shards and their index, damaged files."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from star_jax.errors import UserError, some
from star_jax.models.tensors import Index, StoredModel, Tensor, in_blocks, shaped

BLOCK_BYTES = 2**25  # in memory at once besides the values, while part of a tensor is read


def file_tensor(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Tensor:
    """A row-major array in a file.

    Args:
      path: of the file.
      offset: its first byte in the file.
      dtype: of its numbers.
      shape: of the array.
    """

    def read(index: Index) -> np.ndarray:
        start, stop, _ = index[0].indices(size)
        first = offset + start * dtype.itemsize
        return np.fromfile(path, dtype, max(0, stop - start), offset=first)

    size = math.prod(shape)
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    whole = shaped(Tensor((size,), dtype, read), shape)
    return in_blocks(whole, BLOCK_BYTES // max(1, row_bytes))


def open_files(
    path: Path, single: str, tensors_of: Callable[[Path], Mapping[str, Tensor]]
) -> StoredModel:
    """Opens a file, or a directory with `single` or with shards that `single`.index.json lists.

    Raises:
      UserError: files are missing, two of them share a name, or the index lists what none has.
    """
    directory = path if path.is_dir() else path.parent
    index = directory / f"{single}.index.json"
    weight_map = _weight_map(index) if path.is_dir() and index.is_file() else {}
    if weight_map and (directory / single).is_file() and single not in weight_map.values():
        raise UserError(
            f"{directory} has {single} and also {index.name}, which lists other files; give the "
            f"one file, or remove what does not belong to the model"
        )
    if path.is_file():
        files = [path]
    elif weight_map:
        files = [directory / shard for shard in sorted(set(weight_map.values()))]
    else:
        files = [_only_file(directory, single)]
    tensors: dict[str, Tensor] = {}
    owners: dict[str, Path] = {}
    for file in files:
        for name, tensor in tensors_of(file).items():
            if name in tensors:
                raise UserError(
                    f"{path} has the tensor {name} twice, in {owners[name].name} and {file.name}; "
                    f"fetch all files of one revision"
                )
            tensors[name], owners[name] = tensor, file
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise UserError(
            f"{index} lists tensors that its files do not have: {some(missing)}; fetch all files "
            f"of one revision"
        )
    return StoredModel(path, read_config(directory), tensors)


def check_contents(path: Path) -> None:
    """Raises UserError for a file that cannot be read or that a failed download left."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; fetch it again") from error
    if not head:
        raise UserError(f"{path} is empty; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        way_out = "run `git lfs pull` in its repository"
        raise UserError(f"{path} is a Git LFS pointer, not the file itself; {way_out}")
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        way_out = "download it by its raw address"
        raise UserError(f"{path} is a web page, not the file itself; {way_out}")


def damaged(path: Path, kind: str, why: object) -> UserError:
    """The error of a file that is not what it should be, or not all of it."""
    return UserError(f"{path} is no {kind} file, or is damaged or truncated: {why}; fetch it again")


def read_config(directory: Path) -> Mapping[str, object] | None:
    """The contents of config.json in `directory`, None without one; UserError if damaged."""
    path = directory / "config.json"
    return _read_json_object(path) if path.is_file() else None


def _weight_map(index: Path) -> Mapping[str, str]:
    """The name of each tensor's file; all of them exist in the directory of the index."""
    weight_map = _read_json_object(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(s, str) and Path(s).name == s for s in weight_map.values())
    ):
        raise UserError(
            f"{index} has no weight_map from tensors to files in its directory; fetch it again"
        )
    shards = sorted(set(weight_map.values()))
    if missing := [shard for shard in shards if not (index.parent / shard).is_file()]:
        raise UserError(f"{index} lists files that are not there: {some(missing)}; fetch them too")
    return weight_map


def _only_file(directory: Path, single: str) -> Path:
    files = sorted(directory.glob(f"*{Path(single).suffix}"))
    if directory / single in files:
        return directory / single
    if len(files) > 1:
        raise UserError(
            f"{directory} has {len(files)} files of weights ({some(f.name for f in files)}) and no "
            f"{single}.index.json that says which belong together; fetch it too, or give one file"
        )
    return files[0]


def _read_json_object(path: Path) -> Mapping[str, object]:
    check_contents(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # including bad UTF-8
        raise damaged(path, "JSON", error) from error
    if not isinstance(value, dict):
        raise damaged(path, "JSON", "it is not an object")
    return value
