"""What all formats share: raw arrays in files, config.json, shards and their index, wrong files."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.errors import UserError
from star_jax.models.formats.views import bounds, in_blocks, is_whole, rows_of
from star_jax.models.tensors import StoredModel, Tensor

MAPPED_BYTES = 2**25  # of a file, in memory at once while part of a tensor is read


def file_tensor(path: Path, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> Tensor:
    """A row-major array that lies in a file from byte `offset` on."""
    dtype = np.dtype(dtype)

    def read_mapped(index: tuple[slice, ...]) -> np.ndarray:
        return np.memmap(path, dtype, "r", offset, shape)[index]

    mapped = Tensor(shape, dtype, read_mapped)
    scattered = in_blocks(mapped, rows_of(MAPPED_BYTES, mapped))

    def read(index: tuple[slice, ...]) -> np.ndarray:
        if not is_whole(index[1:], shape[1:]):
            return scattered.read(index)
        start, stop = bounds(index[0], shape[0]) if shape else (0, 1)
        row = math.prod(shape[1:])
        values = np.fromfile(
            path, dtype, (stop - start) * row, offset=offset + start * row * dtype.itemsize
        )
        return values.reshape((stop - start, *shape[1:]) if shape else ())

    return Tensor(shape, dtype, read)


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
    if path.is_file():
        files = [path]
    elif weight_map:
        files = [directory / shard for shard in sorted(set(weight_map.values()))]
    else:
        files = [_only_file(directory, single)]
    tensors = _gathered(path, ((file, tensors_of(file)) for file in files))
    if missing := sorted(weight_map.keys() - tensors.keys()):
        raise UserError(
            f"{index} lists tensors that its files do not have: {some(missing)}; fetch all files "
            f"of one revision"
        )
    return StoredModel(path, read_config(directory), tensors)


def check_contents(path: Path) -> None:
    """Raises UserError for a file that holds what a failed download leaves for weights."""
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; fetch it again") from error
    if not head:
        raise UserError(f"{path} is empty; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise UserError(
            f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its "
            f"repository"
        )
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise UserError(
            f"{path} is a web page, not the file itself; download it by its raw address"
        )


def damaged(path: Path, kind: str, why: object) -> UserError:
    """The error of a file that is not what it should be, or not all of it."""
    return UserError(f"{path} is no {kind} file, or is damaged or cut short: {why}; fetch it again")


def read_config(directory: Path) -> Mapping[str, Any] | None:
    """What config.json in `directory` says, or None when there is none; UserError if damaged."""
    path = directory / "config.json"
    return _read_json_object(path) if path.is_file() else None


def some(names: Iterable[str], most: int = 4) -> str:
    """The first few names, e.g. "a, b, c, d and 3 more"."""
    # What a damaged file has for names may break lines.
    names = [name if name.isprintable() else repr(name) for name in names]
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def _weight_map(index: Path) -> Mapping[str, str]:
    """The name of each tensor's file; all of them are there, beside the index."""
    weight_map = _read_json_object(index).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(s, str) and Path(s).name == s for s in weight_map.values())
    ):
        raise UserError(
            f"{index} has no weight_map from tensors to files beside it; fetch it again"
        )
    shards = sorted(set(weight_map.values()))
    missing = [shard for shard in shards if not (index.parent / shard).is_file()]
    if missing:
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


def _gathered(
    path: Path, files: Iterable[tuple[Path, Mapping[str, Tensor]]]
) -> Mapping[str, Tensor]:
    gathered, owners = {}, {}
    for file, tensors in files:
        for name, tensor in tensors.items():
            if name in gathered:
                raise UserError(
                    f"{path} has the tensor {name} twice, in {owners[name].name} and {file.name}; "
                    f"fetch all files of one revision"
                )
            gathered[name], owners[name] = tensor, file
    return gathered


def _read_json_object(path: Path) -> Mapping[str, Any]:
    check_contents(path)
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # bad UTF-8, too
        raise damaged(path, "JSON", error) from error
    if not isinstance(value, dict):
        raise damaged(path, "JSON", "it is not an object")
    return value
