"""Weights as a Hugging Face directory, which transformers and vLLM load."""

import json
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import SafetensorError
from safetensors.numpy import save_file

from star_jax.errors import UserError
from star_jax.models.tensors import Tensor

UNFINISHED = ".unfinished"  # ends the name of the directory that an export is written in


def export_model(
    directory: Path,
    tensors: Mapping[str, Tensor],
    config: Mapping[str, object],
    *,
    dtype: np.dtype,
    files: Mapping[str, bytes] | None = None,
    max_shard_bytes: int = 5 * 2**30,
    on_progress: Callable[[int], None] = lambda n_bytes: None,
) -> None:
    """Writes safetensors, config.json and further files; all of them or none.

    A hidden directory with the same parent, `.export-*.unfinished`, is filled and then renamed.
    Memory holds at most one shard.

    Args:
      directory: to write; it must not exist yet, or be empty.
      tensors: by Hugging Face's names; each is read when it is needed.
      config: for config.json; the dtype is added.
      dtype: of the written numbers.
      files: further files by name, e.g. the tokenizer's and generation_config.json.
      max_shard_bytes: a further file is begun where this one would become larger.
      on_progress: called with the bytes of each tensor after it was fetched.

    Raises:
      UserError: the directory is in use, or cannot be written.
    """
    directory, dtype = directory.absolute(), np.dtype(dtype)
    check_target(directory)
    # A new name: nothing else in the parent may be removed.
    unfinished = directory.parent / f".export-{uuid.uuid4().hex}{UNFINISHED}"
    try:
        unfinished.mkdir()
        # torch_dtype is the name that all versions of transformers read.
        rest = {name: value for name, value in config.items() if name != "dtype"}
        _write_json(unfinished / "config.json", {**rest, "torch_dtype": dtype.name})
        for name, content in (files or {}).items():
            (unfinished / name).write_bytes(content)
        _write_weights(unfinished, tensors, dtype, max_shard_bytes, on_progress)
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


def _write_weights(
    directory: Path,
    tensors: Mapping[str, Tensor],
    dtype: np.dtype,
    max_shard_bytes: int,
    on_progress: Callable[[int], None],
) -> None:
    """Writes model.safetensors, or several shards and their index."""

    def read(name: str) -> np.ndarray:
        # save_file writes memory in its order, so the rows must be contiguous.
        tensor = np.asarray(tensors[name].whole()).astype(dtype, order="C", copy=False)
        on_progress(tensor.nbytes)
        return tensor

    shards = split_state_dict_into_shards_factory(
        dict(tensors),
        get_storage_size=lambda tensor: math.prod(tensor.shape) * dtype.itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=max_shard_bytes,
    )
    for file, names in shards.filename_to_tensors.items():
        save_file({name: read(name) for name in names}, directory / file, metadata={"format": "pt"})
        # safetensors makes its files private; these are as public as config.json.
        shutil.copymode(directory / "config.json", directory / file)
    if shards.is_sharded:
        weight_map = dict(sorted(shards.tensor_to_filename.items()))
        index = {"metadata": shards.metadata, "weight_map": weight_map}
        _write_json(directory / "model.safetensors.index.json", index)


def _write_json(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
