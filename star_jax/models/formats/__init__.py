"""Weights in the formats in which they are published, read a slice at a time.

| found | read by |
| --- | --- |
| `model.safetensors`, or `model.safetensors.index.json` and its shards | `safetensors_files` |
| `flax_model.msgpack`, or `flax_model.msgpack.index.json` and its shards | `flax_msgpack` |
| `shard_0/`, `shard_1/`, ... of npz files (mesh-transformer-jax, slim) | `mesh_transformer` |
| one `.gguf` file | `gguf_file` |
"""

import dataclasses
import functools
import importlib
from pathlib import Path

from star_jax.errors import UserError
from star_jax.models.families import FAMILIES
from star_jax.models.tensors import StoredModel, identical
from star_jax.run.paths import bucket_errors, check_local, path_of
from star_jax.run.progress import log

ACCEPTED = (
    "model.safetensors (or its index and shards), flax_model.msgpack, the shard_* directories of "
    "a slim mesh-transformer-jax checkpoint, or one .gguf file"
)
# Pickles run code when they are opened; .h5 is TensorFlow's.
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5")
log_once = functools.cache(log)  # a model is opened several times


def is_foreign(path: Path) -> bool:
    """Whether `path` looks like weights of another program, which `open_model` opens or refuses."""
    path = path_of(path)
    with bucket_errors(path):
        return path.exists() and (_format_of(path) is not None or bool(_refused(path)))


def open_model(path: Path) -> StoredModel:
    """Opens the weights in `path`, a directory or a file, without reading any.

    Raises:
      UserError: it is missing, in a bucket, of no known format, a pickle, quantized in a way that
        is not read, incomplete or damaged.
    """
    path = path_of(path)
    check_local(path, "a model that is not an Orbax checkpoint")
    if not path.exists():
        raise UserError(f"model {path} does not exist; check the path")
    if module := _format_of(path):
        # Imported when needed, so that reading one format does not require the packages of all.
        return _with_its_head(importlib.import_module(f"{__name__}.{module}").open_weights(path))
    if refused := _refused(path):
        raise UserError(
            f"{refused[0]} is not read: pickles run code, and star_jax does not include torch or "
            f"TensorFlow's weights; where torch is installed, convert it with transformers' "
            f"model.save_pretrained(DIRECTORY, safe_serialization=True), or use the safetensors "
            f"that Hugging Face's convert space makes of it"
        )
    raise UserError(f"{path} holds no weights that star_jax reads; give {ACCEPTED}")


def _with_its_head(stored: StoredModel) -> StoredModel:
    """The model with the head that its file has, even if config.json says that it is tied.

    As transformers does it; a head that equals the embedding is a copy of it.
    """
    config = stored.config or {}
    family = FAMILIES.get(str(config.get("model_type")))
    if family is None or config.get("tie_word_embeddings") is not True:
        return stored
    names = [f"{family.names[module]}.weight" for module in ("head", "embedding")]
    head, embedding = map(stored.tensors.get, names)
    if head is None or embedding is None or identical(head, embedding):
        return stored
    log_once(
        f"{stored.path}: config.json has tie_word_embeddings = true, but {names[0]} is not "
        f"{names[1]}; the stored head is used"
    )
    return dataclasses.replace(stored, config={**config, "tie_word_embeddings": False})


def _format_of(path: Path) -> str | None:
    """The module of this package that reads `path`."""
    names = _names(path)
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return "safetensors_files"
    if any(name.endswith((".msgpack", ".msgpack.index.json")) for name in names):
        return "flax_msgpack"
    if any((path / parent / "shard_0").is_dir() for parent in (".", *names) if path.is_dir()):
        return "mesh_transformer"
    return "gguf_file" if any(name.endswith(".gguf") for name in names) else None


def _refused(path: Path) -> list[Path]:
    parent = path if path.is_dir() else path.parent
    return [parent / name for name in _names(path) if Path(name).suffix in REFUSED]


def _names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir()) if path.is_dir() else [path.name]
