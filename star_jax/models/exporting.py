"""Weights as a Hugging Face directory, which transformers and vLLM load."""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from star_jax.errors import UserError

NamedTensors: TypeAlias = Iterable[tuple[str, Callable[[], np.ndarray]]]  # read when needed
UNFINISHED = ".unfinished"  # ends the name of the directory that an export is written in


def export_model(
    directory: Path,
    tensors: NamedTensors,
    config: Mapping[str, object],
    *,
    dtype: np.dtype,
    generation_config: Mapping[str, object] | None = None,
    files: Iterable[Path] = (),
    max_shard_bytes: int = 5 * 2**30,
    on_progress: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Writes safetensors, config.json and further files; all of them or none.

    A hidden directory with the same parent, `.export-*.unfinished`, is filled and then renamed.
    Memory holds at most one shard, and the tensor that no longer fitted in it.

    Args:
      directory: to write; it must not exist yet, or be empty.
      tensors: Hugging Face's names, each with a function that gives the tensor when it is needed.
      config: for config.json; the dtype is added.
      dtype: of the written numbers.
      generation_config: for generation_config.json.
      files: to be copied into the directory, e.g. the tokenizer's.
      max_shard_bytes: a further file is begun where this one would become larger.
      on_progress: called with the bytes of each tensor after it was fetched.

    Raises:
      UserError: the directory is in use, or cannot be written.
    """
    directory = directory.absolute()
    check_target(directory)
    # A new name: nothing else in the parent may be removed.
    unfinished = directory.parent / f".export-{uuid.uuid4().hex}{UNFINISHED}"
    try:
        unfinished.mkdir()
        # torch_dtype is the name that all versions of transformers read.
        rest = {name: value for name, value in config.items() if name != "dtype"}
        _write_json(unfinished / "config.json", {**rest, "torch_dtype": np.dtype(dtype).name})
        if generation_config is not None:
            _write_json(unfinished / "generation_config.json", generation_config)
        for file in files:
            shutil.copyfile(file, unfinished / file.name)
        _write_weights(unfinished, _shards(tensors, np.dtype(dtype), max_shard_bytes, on_progress))
        os.replace(unfinished, directory)
    except (OSError, SafetensorError) as error:
        raise UserError(
            f"cannot write the export {directory}: {error}; give another directory, or make room"
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def check_target(directory: Path) -> None:
    """Raises UserError when an export to `directory` would overwrite something or cannot be made.

    Makes the parent directory, so that a wrong path is reported before any work is done.
    """
    directory = directory.absolute()
    try:
        empty = directory.is_dir() and not directory.is_symlink() and not any(directory.iterdir())
        if not empty and (directory.exists() or directory.is_symlink()):
            raise UserError(
                f"{directory} exists already; give a new or empty directory for the export"
            )
        directory.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory.parent).close()
    except (OSError, ValueError) as error:
        raise UserError(f"cannot write to {str(directory)[:200]!r}: {error}") from error


def _shards(
    tensors: NamedTensors, dtype: np.dtype, max_bytes: int, on_progress: Callable[[int], None]
) -> Iterator[dict[str, np.ndarray]]:
    """The tensors in groups of at most `max_bytes`; a larger tensor is a group of its own."""
    shard: dict[str, np.ndarray] = {}
    for name, read in tensors:
        # save_file writes memory in its order, so the rows must be contiguous.
        tensor = np.asarray(read()).astype(dtype, order="C", copy=False)
        on_progress(tensor.nbytes)
        if shard and _n_bytes(shard) + tensor.nbytes > max_bytes:
            yield shard
            shard.clear()  # not replaced: the caller would keep it while the next is read
        shard[name] = tensor
    yield shard


def _n_bytes(shard: Mapping[str, np.ndarray]) -> int:
    return sum(tensor.nbytes for tensor in shard.values())


def _write_weights(directory: Path, shards: Iterable[dict[str, np.ndarray]]) -> None:
    """Writes model.safetensors, or several shards and their index."""
    owners: dict[str, int] = {}  # the number of each tensor's shard
    size = number = 0
    for number, shard in enumerate(shards):
        # The number of shards is not known before the last.
        path = directory / f"{number}.safetensors"
        save_file(shard, path, metadata={"format": "pt"})
        # safetensors makes its files private; these are as public as config.json.
        shutil.copymode(directory / "config.json", path)
        size += _n_bytes(shard)
        owners |= dict.fromkeys(shard, number)
    files = [f"model-{i + 1:05}-of-{number + 1:05}.safetensors" for i in range(number + 1)]
    if number == 0:
        files = ["model.safetensors"]
    for i, file in enumerate(files):
        (directory / f"{i}.safetensors").rename(directory / file)
    if len(files) > 1:
        weight_map = {name: files[i] for name, i in sorted(owners.items())}
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
