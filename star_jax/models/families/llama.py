"""Llama (SmolLM2 too), and what the later families share with it.

Source: the published config.json files, transformers' defaults, and llama.cpp's converter.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from star_jax.errors import UserError, some
from star_jax.models.config import DecoderConfig, RopeScaling
from star_jax.models.families.family import ConfigJson, Family, Gguf, GgufFile
from star_jax.models.rotary import stretch

TENSORS = {  # our modules: Hugging Face's and llama.cpp's
    "embedding": ("model.embed_tokens", "token_embd"),
    "norm": ("model.layers.{}.input_layernorm", "blk.{}.attn_norm"),
    "attention/query": ("model.layers.{}.self_attn.q_proj", "blk.{}.attn_q"),
    "attention/key": ("model.layers.{}.self_attn.k_proj", "blk.{}.attn_k"),
    "attention/value": ("model.layers.{}.self_attn.v_proj", "blk.{}.attn_v"),
    "attention/out": ("model.layers.{}.self_attn.o_proj", "blk.{}.attn_output"),
    "attention/query_norm": ("model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm"),
    "attention/key_norm": ("model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm"),
    "mlp_norm": ("model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm"),
    "mlp/mlp_gate": ("model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate"),
    "mlp/mlp_in": ("model.layers.{}.mlp.up_proj", "blk.{}.ffn_up"),
    "mlp/mlp_out": ("model.layers.{}.mlp.down_proj", "blk.{}.ffn_down"),
    "final_norm": ("model.norm", "output_norm"),
    "head": ("lm_head", "output"),
}
NAMES = {ours: theirs for ours, (theirs, _) in TENSORS.items()}
GGUF_NAMES = {ours: theirs for ours, (_, theirs) in TENSORS.items()}
CONSTANTS = r"\.rotary_emb\.inv_freq$"
LLAMA3_FACTORS = (8.0, 32.0)  # of Llama 3.1 and 3.2: the published values


def read_modern(config: ConfigJson, head_dim: int = 0) -> DecoderConfig:
    """The decoder that the config.json of Llama and its relatives describes.

    `head_dim` is for files without it; 0 divides the width by the heads.
    """
    config.only("hidden_act", "silu")
    n_heads, d_model = config.whole("num_attention_heads"), config.whole("hidden_size")
    head_dim = config.whole("head_dim", head_dim or d_model // n_heads)
    kv_heads = config.whole("num_key_value_heads", n_heads)
    rotary_base, rope_scaling = _read_rope(config)
    return DecoderConfig(
        vocab_size=config.whole("vocab_size"),
        n_layers=config.whole("num_hidden_layers"),
        d_model=d_model,
        n_heads=n_heads,
        n_kv_heads=0 if kv_heads == n_heads else kv_heads,
        head_dim=head_dim,
        d_ff=config.whole("intermediate_size"),
        block="sequential",
        norm="rms",
        mlp="swiglu",
        head="tied" if config.flag("tie_word_embeddings") else "plain",
        rotary_dim=head_dim,
        rotary_base=rotary_base,
        rotary_pairs="halves",
        rope_scaling=rope_scaling,
        context_length=config.whole("max_position_embeddings"),
        norm_epsilon=config.number("rms_norm_eps", 1e-6),
    )


def write_modern(model_type: str, config: DecoderConfig) -> dict[str, object]:
    """The config.json of Llama and its relatives."""
    return {
        "architectures": [f"{model_type.title()}ForCausalLM"],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context_length,
        "hidden_size": config.d_model,
        "intermediate_size": config.d_ff,
        "num_hidden_layers": config.n_layers,
        "num_attention_heads": config.n_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rotary_base,
        "rope_scaling": _write_rope(config.rope_scaling),
        "tie_word_embeddings": config.head == "tied",
        "attention_bias": False,
    }


def modern_gguf_config(gguf: GgufFile) -> dict[str, Any]:
    """What config.json would say of a GGUF file of Llama and its relatives.

    Raises:
      UserError: a number is missing or differs between layers, or the rotary frequencies are of no
        known scaling.
    """
    embedding = gguf.tensors.get("token_embd.weight")
    architecture = str(gguf.metadata["general.architecture"])
    if embedding is None:
        raise UserError(f"{gguf.path} has no token_embd.weight; give a whole {architecture} model")
    prefix = f"{architecture}."
    fields = {key.removeprefix(prefix): _one(value) for key, value in gguf.metadata.items()}
    metadata = ConfigJson(fields, f"{gguf.path}: {architecture}")
    sizes = _gguf_sizes(metadata)
    model_type = architecture
    if architecture == "llama" and "sliding_window" in sizes:
        model_type = "mistral"  # its files say "llama" too, but only Mistral has a window
    return {
        "model_type": model_type,
        "hidden_act": "silu",
        **sizes,
        "vocab_size": embedding.shape[0],  # whatever the metadata say
        "rope_scaling": _gguf_rope(gguf, metadata, sizes),
        "attention_bias": any(name.endswith("attn_q.bias") for name in gguf.tensors),
        "tie_word_embeddings": "output.weight" not in gguf.tensors,
    }


def _read_llama(config: ConfigJson) -> DecoderConfig:
    config.only("attention_bias", False)
    config.only("mlp_bias", False)
    return read_modern(config)


def _read_rope(config: ConfigJson) -> tuple[float, RopeScaling | None]:
    """Rotary base and scaling; of the places that each may be in, transformers' choice."""
    rope = config.part("rope_scaling" if config.fields.get("rope_scaling") else "rope_parameters")
    kind = rope.fields.get("rope_type") or rope.fields.get("type") or "default"
    rope = ConfigJson(rope.fields, f"{rope.where} of type {kind!r}")
    if kind not in ("default", "llama3"):
        raise UserError(f"{rope.where} is not supported, only 'llama3'")
    factors = ("factor", "low_freq_factor", "high_freq_factor") if kind == "llama3" else ()
    length = "original_max_position_embeddings"
    rope.known("rope_type", "type", "rope_theta", *factors, *([length] if factors else ()))
    base = float(rope.number("rope_theta", config.number("rope_theta", 10000.0)))
    if not factors:
        return base, None
    context = rope.whole(length, config.whole("max_position_embeddings"))
    factor, low, high = map(rope.number, factors)
    return base, RopeScaling(factor, low, high, config.whole(length, context))


def _write_rope(scaling: RopeScaling | None) -> dict[str, object] | None:
    if scaling is None:
        return None
    fields = dataclasses.asdict(scaling)
    fields["original_max_position_embeddings"] = fields.pop("original_context_length")
    return {"rope_type": "llama3", **fields}


def _one(value: Any) -> Any:
    """The value of every layer, where a list has the same one for each."""
    is_one = isinstance(value, list) and value and value == value[:1] * len(value)
    return value[0] if is_one else value


def _gguf_sizes(metadata: ConfigJson) -> dict[str, float]:
    n_heads, d_model = metadata.whole("attention.head_count"), metadata.whole("embedding_length")
    head_dim = metadata.whole("attention.key_length", d_model // n_heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        metadata.only(key, head_dim)
    epsilon, window = (
        metadata.number("attention.layer_norm_rms_epsilon"),
        "attention.sliding_window",
    )
    return {
        "hidden_size": d_model,
        "num_hidden_layers": metadata.whole("block_count"),
        "num_attention_heads": n_heads,
        "num_key_value_heads": metadata.whole("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "intermediate_size": metadata.whole("feed_forward_length"),
        "max_position_embeddings": metadata.whole("context_length"),
        "rms_norm_eps": float(
            str(np.float32(epsilon))
        ),  # stored so: 9.999999747378752e-06 is 1e-05
        "rope_theta": metadata.number("rope.freq_base", 10000.0),
        **({"sliding_window": metadata.whole(window)} if metadata.fields.get(window) else {}),
    }


def _gguf_rope(
    gguf: GgufFile, metadata: ConfigJson, sizes: Mapping[str, float]
) -> dict[str, object] | None:
    """Scaling by what the file divides each rotary frequency; UserError for any other."""
    prefix, fields = "rope.scaling.", metadata.fields
    found = {k.removeprefix(prefix): v for k, v in fields.items() if k.startswith(prefix)}
    # As in llama.cpp: without a type it is linear, old files have another name, 0 is no factor.
    kind = found.setdefault("type", "linear")
    factor = found.setdefault("factor", fields.get("rope.scale_linear"))
    plain = kind == "none" or (kind == "linear" and factor in (None, 0, 1))
    if not plain or found.keys() - {"type", "factor", "original_context_length", "finetuned"}:
        raise UserError(
            f"{metadata.where}: rope.scaling with {some(f'{k} {v}' for k, v in found.items())} is "
            f"not supported (llama.cpp takes a missing type as linear); give another model"
        )
    if (divisors := gguf.tensors.get("rope_freqs.weight")) is None:
        return None
    stored = divisors.whole()
    head_dim = sizes["head_dim"]
    frequencies = jnp.asarray(sizes["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim))
    for scaling in map(RopeScaling, LLAMA3_FACTORS):
        expected = frequencies / np.asarray(stretch(frequencies, scaling))
        if stored.shape == expected.shape and np.allclose(stored, expected, rtol=1e-4):
            return _write_rope(scaling)
    raise UserError(
        f"{gguf.path}: rope_freqs.weight is not what Llama 3.1 (factor 8) or 3.2 (factor 32) has; "
        f"give the model's safetensors, whose config.json has its rope_scaling"
    )


def relative(
    model_type: str, read_config: Callable[[ConfigJson], DecoderConfig], interleaves: bool = False
) -> Family:
    """A family with Llama's names and fields; `interleaves` as in `Gguf`."""
    write_config = functools.partial(write_modern, model_type)
    gguf = Gguf(model_type, GGUF_NAMES, modern_gguf_config, interleaves)
    return Family(model_type, NAMES, read_config, write_config, gguf, CONSTANTS)


LLAMA = relative("llama", _read_llama, interleaves=True)
