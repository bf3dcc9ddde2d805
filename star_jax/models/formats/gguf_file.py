"""GGUF, llama.cpp's one file of weights, sizes and tokenizer.

Quantized weights become float32, which holds their values exactly; F32, F16 and BF16 stay.
"""

import math
import re
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType

from star_jax.errors import UserError, some
from star_jax.models.families import FAMILIES, Family
from star_jax.models.families.family import Gguf, GgufFile
from star_jax.models.formats.files import check_contents, damaged, file_tensor
from star_jax.models.tensors import Index, StoredModel, Tensor, bounds, in_blocks

UNQUANTIZED = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
DEQUANTIZED_ROWS = 1024  # at a time, since dequantizing takes several times the rows' own memory
INTERLEAVED = ("attention/query", "attention/key")


def open_weights(path: Path) -> StoredModel:
    """Opens a .gguf file, or the directory of one; its metadata replace config.json."""
    files = sorted(path.glob("*.gguf")) if path.is_dir() else [path]
    if len(files) > 1:
        raise UserError(
            f"{path} holds {len(files)} .gguf files ({some(file.name for file in files)}); "
            f"give one of them"
        )
    file = _read(files[0])
    known = {f.gguf.architecture: (f, f.gguf) for f in FAMILIES.values() if f.gguf}
    architecture = file.metadata.get("general.architecture")
    if architecture not in known:
        raise UserError(
            f"{file.path} holds the architecture {architecture!r}; star_jax reads GGUF files of "
            f"{', '.join(known)}"
        )
    family, layout = known[architecture]
    names = _hugging_face_names(file, family, layout)
    config = layout.config(file)
    tensors = {}
    for name, (module, renamed) in names.items():
        tensors[renamed] = file.tensors[name]
        if layout.interleaves and module in INTERLEAVED:
            tensors[renamed] = _in_halves(file.path, tensors[renamed], config["head_dim"])
    return StoredModel(path, config, tensors)


def _read(path: Path) -> GgufFile:
    """The metadata without long lists, and the tensors."""
    check_contents(path)
    try:
        reader = gguf.GGUFReader(path)
        fields = reader.fields.items()
        metadata = {name: field.contents() for name, field in fields if len(field.data) < 999}
        tensors = {tensor.name: _tensor(path, tensor) for tensor in reader.tensors}
    except (ValueError, LookupError, TypeError, OverflowError, OSError) as error:
        raise damaged(path, "GGUF", error) from error
    if reader.byte_order != "I":
        raise UserError(
            f"{path} is big-endian; convert it with the gguf package's gguf-convert-endian"
        )
    if metadata.get("split.count", 0) > 1:
        raise UserError(
            f"{path} is one part of a split model; join them with llama.cpp's "
            f"`llama-gguf-split --merge`"
        )
    return GgufFile(path, metadata, tensors)


def _tensor(path: Path, stored: gguf.ReaderTensor) -> Tensor:
    kind, offset = stored.tensor_type, int(stored.data_offset)
    shape = tuple(stored.shape.tolist()[::-1])
    if kind in UNQUANTIZED:
        return file_tensor(path, offset, UNQUANTIZED[kind], shape)
    try:
        gguf.dequantize(np.zeros((1, gguf.GGML_QUANT_SIZES[kind][1]), np.uint8), kind)
    except RuntimeError as error:  # "not yet implemented"
        raise UserError(
            f"{path} holds {kind.name} numbers ({stored.name}), which the gguf package does not "
            f"read; give the same model in another quantization, e.g. Q8_0"
        ) from error
    if len(shape) != 2:
        raise damaged(path, "GGUF", f"{kind.name} numbers in the shape {shape}")
    rows = file_tensor(
        path, offset, np.dtype(np.uint8), gguf.quant_shape_to_byte_shape(shape, kind)
    )

    def read(index: Index) -> np.ndarray:
        return gguf.dequantize(rows.read((index[0], slice(None))), kind)[:, index[1]]

    return in_blocks(Tensor(shape, np.dtype(np.float32), read), DEQUANTIZED_ROWS)


def _hugging_face_names(file: GgufFile, family: Family, layout: Gguf) -> dict[str, tuple[str, str]]:
    """blk.0.attn_q.weight: (attention/query, model.layers.0.self_attn.q_proj.weight) ..."""
    modules = {theirs: ours for ours, theirs in layout.names.items()}
    names, unknown = {}, []
    for name in file.tensors:
        stem, _, leaf = name.rpartition(".")
        pattern, n_layers = re.subn(r"(?<=\.)\d+(?=\.)", "{}", stem, count=1)
        module = modules.get(pattern)
        if module and leaf in ("weight", "bias") and pattern.count("{}") == n_layers:
            layer = re.findall(r"(?<=\.)\d+(?=\.)", stem)
            names[name] = module, f"{family.names[module].format(*layer)}.{leaf}"
        elif name != "rope_freqs.weight":  # of `layout.config`
            unknown.append(name)
    if unknown:
        raise UserError(
            f"{file.path} holds tensors that a {layout.architecture} model does not have: "
            f"{some(unknown)}; mixtures of experts and adapters are not read"
        )
    return names


def _in_halves(path: Path, tensor: Tensor, head_dim: int) -> Tensor:
    """Each head's rows in Hugging Face's order.

    A rotary pair is rows (i, i + head_dim / 2) of a head there, and rows (2 i, 2 i + 1) here.
    """
    if head_dim % 2 or tensor.shape[0] % head_dim:
        raise damaged(path, "GGUF", f"{tensor.shape} is not in heads of {head_dim} dims")

    def read(index: Index) -> np.ndarray:
        start, stop = bounds(index[0], tensor.shape[0])
        low, high = start // head_dim * head_dim, math.ceil(stop / head_dim) * head_dim
        heads = tensor.read((slice(low, high), *index[1:]))
        pairs = heads.reshape(-1, head_dim // 2, 2, *heads.shape[1:])
        return pairs.swapaxes(1, 2).reshape(heads.shape)[start - low : stop - low]

    return Tensor(tensor.shape, tensor.dtype, read)
