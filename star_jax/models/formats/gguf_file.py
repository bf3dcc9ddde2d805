"""GGUF, llama.cpp's one file of weights, sizes and tokenizer: Llama's kin, Qwen 2 and Qwen 3.

Quantized weights become float32, which is what their numbers mean; F32, F16 and BF16 stay.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import ml_dtypes
import numpy as np
from gguf import GGMLQuantizationType

from star_jax.errors import UserError
from star_jax.models.formats.files import check_contents, damaged, file_tensor, some
from star_jax.models.formats.gguf_config import architecture_of, config_of
from star_jax.models.formats.views import bounds, in_blocks
from star_jax.models.tensors import StoredModel, Tensor

PERMUTED = ("llama",)  # llama.cpp's converter turns the rows of these models' queries and keys

NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}

UNQUANTIZED = {
    GGMLQuantizationType.F32: np.dtype(np.float32),
    GGMLQuantizationType.F16: np.dtype(np.float16),
    GGMLQuantizationType.BF16: np.dtype(ml_dtypes.bfloat16),
}
DEQUANTIZED_ROWS = 1024  # at a time, since dequantizing takes several times the rows' own memory


def open_gguf(path: Path) -> StoredModel:
    """Opens a .gguf file, or the directory of one; its metadata stand for config.json.

    Raises:
      UserError: damaged, split over files, of an architecture or number type that is not read.
    """
    file = path if path.is_file() else _only_file(path)
    check_contents(file)
    metadata, stored = _read(file)
    architecture = architecture_of(file, metadata)
    rope_freqs = stored.pop("rope_freqs.weight", None)
    tensors = _as_hugging_face(file, architecture, stored)
    config = config_of(file, metadata, tensors, rope_freqs)
    if architecture in PERMUTED:
        for name, tensor in tensors.items():
            if re.search(r"\.(q|k)_proj\.", name):
                tensors[name] = _in_halves(file, tensor, config["head_dim"])
    return StoredModel(path, config, tensors)


def _only_file(directory: Path) -> Path:
    files = sorted(directory.glob("*.gguf"))
    if len(files) > 1:
        raise UserError(
            f"{directory} holds {len(files)} .gguf files ({some(file.name for file in files)}); "
            f"give one of them"
        )
    return files[0]


def _read(file: Path) -> tuple[Mapping[str, Any], dict[str, Tensor]]:
    """The metadata but for long lists, and the tensors by llama.cpp's names."""
    try:
        reader = gguf.GGUFReader(file)
        metadata = {
            name: field.contents() for name, field in reader.fields.items() if len(field.data) < 999
        }
        stored = [
            (tensor.name, tensor.tensor_type, tensor.shape.tolist()[::-1], int(tensor.data_offset))
            for tensor in reader.tensors
        ]
        is_swapped = reader.byte_order != "I"
    except (ValueError, LookupError, TypeError, OverflowError, OSError) as error:
        raise damaged(file, "GGUF", error) from error
    if is_swapped:
        raise UserError(
            f"{file} is big-endian; convert it with the gguf package's gguf-convert-endian"
        )
    if metadata.get("split.count", 0) > 1:
        raise UserError(
            f"{file} is one part of a split model; join them with llama.cpp's "
            f"`llama-gguf-split --merge`"
        )
    _check_kinds(file, {name: kind for name, kind, _, _ in stored})
    return metadata, {
        name: _tensor(file, kind, tuple(shape), offset) for name, kind, shape, offset in stored
    }


def _check_kinds(file: Path, kinds: Mapping[str, GGMLQuantizationType]) -> None:
    """Raises UserError for numbers that the gguf package cannot turn into float32."""
    examples = {kind: name for name, kind in kinds.items()}
    for kind in examples.keys() - UNQUANTIZED.keys():
        _, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        try:
            gguf.dequantize(np.zeros((1, block_bytes), np.uint8), kind)
        except RuntimeError as error:  # "not yet implemented"
            raise UserError(
                f"{file} holds {kind.name} numbers ({examples[kind]}), which the gguf package "
                f"does not read; give the same model in another quantization, e.g. Q8_0"
            ) from error


def _tensor(file: Path, kind: GGMLQuantizationType, shape: tuple[int, ...], offset: int) -> Tensor:
    if kind in UNQUANTIZED:
        return file_tensor(file, offset, UNQUANTIZED[kind], shape)
    if len(shape) != 2:
        raise damaged(file, "GGUF", f"{kind.name} numbers in the shape {shape}")
    byte_shape = gguf.quant_shape_to_byte_shape(shape, kind)
    stored = file_tensor(file, offset, np.dtype(np.uint8), byte_shape)

    def read(index: tuple[slice, ...]) -> np.ndarray:
        return gguf.dequantize(stored.read((index[0], slice(None))), kind)[:, index[1]]

    return in_blocks(Tensor(shape, np.dtype(np.float32), read), DEQUANTIZED_ROWS)


def _as_hugging_face(
    file: Path, architecture: str, stored: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    named = {name: _hugging_face_name(name) for name in stored}
    if unknown := [name for name, known in named.items() if known is None]:
        raise UserError(
            f"{file} holds tensors that a {architecture} model does not have: {some(unknown)}; "
            f"mixtures of experts and adapters are not read"
        )
    return {named[name]: tensor for name, tensor in stored.items()}


def _hugging_face_name(name: str) -> str | None:
    """blk.0.attn_q.weight -> model.layers.0.self_attn.q_proj.weight; None: not known."""
    module, _, leaf = name.rpartition(".")
    layer = re.fullmatch(r"blk\.(\d+)\.(\w+)", module)
    known = LAYER_NAMES.get(layer[2]) if layer else NAMES.get(module)
    if known is None or leaf not in ("weight", "bias"):
        return None
    return f"model.layers.{layer[1]}.{known}.{leaf}" if layer else f"{known}.{leaf}"


def _in_halves(file: Path, tensor: Tensor, head_dim: int) -> Tensor:
    """Each head's rows in Hugging Face's order.

    A rotary pair is rows (i, i + head_dim / 2) of a head there, and rows (2 i, 2 i + 1) here.
    """
    if head_dim % 2 or tensor.shape[0] % head_dim:
        raise damaged(file, "GGUF", f"{tensor.shape} is not in heads of {head_dim} dims")

    def read(index: tuple[slice, ...]) -> np.ndarray:
        start, stop = bounds(index[0], tensor.shape[0])
        low, high = start // head_dim * head_dim, math.ceil(stop / head_dim) * head_dim
        heads = tensor.read((slice(low, high), *index[1:]))
        pairs = heads.reshape(-1, head_dim // 2, 2, *heads.shape[1:])
        return pairs.swapaxes(1, 2).reshape(heads.shape)[start - low : stop - low]

    return Tensor(tensor.shape, tensor.dtype, read)
