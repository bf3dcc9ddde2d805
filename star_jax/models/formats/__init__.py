"""Weights in the formats that people have them in, read a slice at a time.

| found | read by |
| --- | --- |
| `model.safetensors`, or `model.safetensors.index.json` and its shards | `safetensors_files` |
| `flax_model.msgpack`, or `flax_model.msgpack.index.json` and its shards | `flax_msgpack` |
| `shard_0/`, `shard_1/`, ... of npz files (mesh-transformer-jax, slim) | `mesh_transformer` |
| one `.gguf` file | `gguf_file` |
"""

from pathlib import Path

from star_jax.errors import UserError
from star_jax.models.tensors import StoredModel
from star_jax.run.paths import check_local, path_of, told

ACCEPTED = (
    "model.safetensors (or its index and shards), flax_model.msgpack, the shard_* directories of "
    "a slim mesh-transformer-jax checkpoint, or one .gguf file"
)
# Pickles run code when they are opened; .h5 is TensorFlow's.
REFUSED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".h5")


def is_foreign(path: Path) -> bool:
    """Whether `path` looks like weights of another program: of `open_model` or of its refusals."""
    path = path_of(path)
    with told(path):
        return path.exists() and (_format_of(path) is not None or bool(_refused(path)))


def open_model(path: Path) -> StoredModel:
    """Opens the weights in `path`, a directory or a file, without reading any.

    Raises:
      UserError: it is not there, in a bucket, of no known format, a pickle, incomplete or damaged.
    """
    path = path_of(path)
    check_local(path, "a model that is no Orbax checkpoint")
    if not path.exists():
        raise UserError(f"model {path} is not there; check the path")
    # Imported when needed, so that reading one format does not take the packages of all.
    match _format_of(path):
        case "safetensors":
            from star_jax.models.formats.safetensors_files import open_safetensors

            return open_safetensors(path)
        case "flax":
            from star_jax.models.formats.flax_msgpack import open_flax

            return open_flax(path)
        case "mesh-transformer":
            from star_jax.models.formats.mesh_transformer import open_mesh_transformer

            return open_mesh_transformer(path)
        case "gguf":
            from star_jax.models.formats.gguf_file import open_gguf

            return open_gguf(path)
    if refused := _refused(path):
        raise UserError(
            f"{refused[0]} is not read: pickles run code, and star_jax comes without torch and "
            f"TensorFlow's weights; where torch is installed, convert it with transformers' "
            f"model.save_pretrained(DIRECTORY, safe_serialization=True), or take the "
            f"safetensors that Hugging Face's convert space makes of it"
        )
    raise UserError(f"{path} holds no weights that star_jax reads; give {ACCEPTED}")


def _format_of(path: Path) -> str | None:
    names = _names(path)
    if any(name.endswith((".safetensors", ".safetensors.index.json")) for name in names):
        return "safetensors"
    if any(name.endswith((".msgpack", ".msgpack.index.json")) for name in names):
        return "flax"
    if any((path / parent / "shard_0").is_dir() for parent in (".", *names) if path.is_dir()):
        return "mesh-transformer"
    return "gguf" if any(name.endswith(".gguf") for name in names) else None


def _refused(path: Path) -> list[Path]:
    parent = path if path.is_dir() else path.parent
    return [parent / name for name in _names(path) if Path(name).suffix in REFUSED]


def _names(path: Path) -> list[str]:
    return sorted(child.name for child in path.iterdir()) if path.is_dir() else [path.name]
