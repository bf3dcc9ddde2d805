"""The metadata of a GGUF file in the words of Hugging Face's config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from star_jax.errors import UserError
from star_jax.models.tensors import Tensor

# Mistral and SmolLM2 say "llama" in their files, and are.
ARCHITECTURES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
# ... unless they have a window, of which only Mistral's config.json knows.
MISTRAL = {"architectures": ["MistralForCausalLM"], "model_type": "mistral"}
# By what Llama 3.1 and later divide each rotary frequency. Only these scalings were published.
LLAMA3_SCALINGS = [
    {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }
    for factor in (8.0, 32.0)
]


def architecture_of(file: Path, metadata: Mapping[str, Any]) -> str:
    """llama.cpp's name of the family; UserError for one that star_jax does not read."""
    architecture = metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UserError(
            f"{file} holds the architecture {architecture!r}; star_jax reads GGUF files of "
            f"{', '.join(ARCHITECTURES)}"
        )
    return architecture


def config_of(
    file: Path,
    metadata: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    rope_freqs: Tensor | None,
) -> dict[str, Any]:
    """What config.json would say.

    Args:
      file: for messages.
      metadata: of the file.
      tensors: by Hugging Face's names; which of them are there tells of biases and tying.
      rope_freqs: by what each rotary frequency is divided, if the file has it.

    Raises:
      UserError: a number is missing or differs between layers, or no known scaling makes
        `rope_freqs`.
    """
    architecture = architecture_of(file, metadata)
    sizes = _sizes(file, architecture, metadata)
    special = {"bos": "bos", "eos": "eos", "pad": "padding"}
    embedding = tensors.get("model.embed_tokens.weight")
    if embedding is None:
        raise UserError(f"{file} has no token_embd.weight; give a whole {architecture} model")
    return {
        "architectures": [ARCHITECTURES[architecture]],
        "model_type": architecture,
        "hidden_act": "silu",
        **sizes,
        **(MISTRAL if architecture == "llama" and "sliding_window" in sizes else {}),
        "vocab_size": embedding.shape[0],  # whatever the metadata say
        "rope_scaling": _rope_scaling(file, architecture, metadata, sizes, rope_freqs),
        "attention_bias": any(name.endswith("q_proj.bias") for name in tensors),
        "tie_word_embeddings": "lm_head.weight" not in tensors,
        **{
            f"{name}_token_id": metadata.get(f"tokenizer.ggml.{stored}_token_id")
            for name, stored in special.items()
        },
    }


def _sizes(file: Path, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    def number(key: str, otherwise: Any = None) -> Any:
        value = metadata.get(f"{architecture}.{key}", otherwise)
        values = set(value) if isinstance(value, list) else {value}
        if len(values) != 1 or value is None:
            raise UserError(
                f"{file} {'lacks' if value is None else 'has several values of'} "
                f"{architecture}.{key}; give a plain {architecture} model"
            )
        return values.pop()

    n_heads, d_model = number("attention.head_count"), number("embedding_length")
    head_dim = number("attention.key_length", d_model // n_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if number(key, head_dim) != head_dim:
            raise UserError(
                f"{file}: {architecture}.{key} = {number(key)} differs from the head's "
                f"{head_dim} dims; give a plain {architecture} model"
            )
    window = metadata.get(f"{architecture}.attention.sliding_window")
    return {
        "hidden_size": d_model,
        "num_hidden_layers": number("block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": number("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "intermediate_size": number("feed_forward_length"),
        "max_position_embeddings": number("context_length"),
        # Stored as float32: 9.999999747378752e-06 is 1e-05.
        "rms_norm_eps": float(str(np.float32(number("attention.layer_norm_rms_epsilon")))),
        "rope_theta": number("rope.freq_base", 10000.0),
        **({"sliding_window": window} if window else {}),
    }


def _rope_scaling(
    file: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    sizes: Mapping[str, Any],
    rope_freqs: Tensor | None,
) -> Mapping[str, Any] | None:
    if rope_freqs is None:
        prefix = f"{architecture}.rope.scaling"
        kind = metadata.get(f"{prefix}.type", "none")
        scaling = {
            "rope_type": kind,
            "factor": metadata.get(f"{prefix}.factor"),
            "original_max_position_embeddings": metadata.get(f"{prefix}.original_context_length"),
        }
        return None if kind == "none" else {k: v for k, v in scaling.items() if v is not None}
    stored = rope_freqs.read((slice(None),))
    for scaling in LLAMA3_SCALINGS:
        expected = _llama3_divisors(sizes["rope_theta"], sizes["head_dim"], scaling)
        if stored.shape == expected.shape and np.allclose(stored, expected, rtol=1e-4):
            return scaling
    raise UserError(
        f"{file}: rope_freqs.weight is not what Llama 3.1 (factor 8) or 3.2 (factor 32) has; give "
        f"the model's safetensors, whose config.json tells its rope_scaling"
    )


def _llama3_divisors(theta: float, head_dim: int, scaling: Mapping[str, Any]) -> np.ndarray:
    """By what Llama 3.1 divides each of the head_dim / 2 rotary frequencies.

    Waves shorter than the original context / high_freq_factor stay; those longer than it /
    low_freq_factor are stretched by `factor`; between the two, the frequency is interpolated.
    """
    wavelengths = 2 * np.pi * theta ** (np.arange(0, head_dim, 2) / head_dim)
    turns = scaling["original_max_position_embeddings"] / wavelengths
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / ((1 - kept) / scaling["factor"] + kept)
