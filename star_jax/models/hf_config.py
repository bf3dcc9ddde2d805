"""Hugging Face's `config.json` and `DecoderConfig`, either way.

Source: the `config.json` files that the models' publishers ship, and transformers' defaults for
the fields they leave out.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from star_jax.errors import UserError
from star_jax.models.config import DecoderConfig, RopeScaling

Config = Mapping[str, Any]

# The fields that a checkpoint decides; the others are ours to choose.
ARCHITECTURE = (
    *("vocab_size", "n_layers", "d_model", "n_heads", "kv_heads", "head_dim", "d_ff"),
    *("block", "norm", "mlp", "qkv_bias", "qk_norm", "head", "norm_epsilon"),
    *("rotary_dim", "rotary_base", "rotary_pairs", "rope_scaling"),
)
PLAIN_ROPE = ("default", None)
LLAMA_BIASES = ("attention_bias", "mlp_bias")


def decoder_config(config: Config, where: str, **numerics: Any) -> DecoderConfig:
    """The decoder that a `config.json` describes; the family is its `model_type`.

    Args:
      config: the file's contents.
      where: the file's name, for messages.
      **numerics: fields of DecoderConfig that are ours to choose: dtype, remat, ...

    Raises:
      UserError: an unknown family, a missing field, or a part that this decoder does not have.
    """
    config = _checked(config, where)
    family = config.get("model_type")
    if not isinstance(family, str) or family not in READERS:
        raise UserError(
            f"{where}: model_type {family!r} is no family of star_jax; it knows "
            f"{', '.join(READERS)}"
        )
    try:
        fields = READERS[family](config)
    except KeyError as missing:
        raise UserError(f"{where}: the field {missing} is missing") from None
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return DecoderConfig(**{**fields, **numerics})


def hf_config(config: DecoderConfig) -> dict[str, Any]:
    """The `config.json` that transformers reads as this decoder.

    Raises:
      UserError: no family of Hugging Face's has these parts together.
    """
    family = family_of(config)
    if family == "gptj":
        return {
            "architectures": ["GPTJForCausalLM"],
            "model_type": "gptj",
            "vocab_size": config.vocab_size,
            "n_positions": config.context_length,
            "n_embd": config.d_model,
            "n_layer": config.n_layers,
            "n_head": config.n_heads,
            "n_inner": config.d_ff,
            "rotary_dim": config.rotary_dim,
            "activation_function": "gelu_new",
            "layer_norm_epsilon": config.norm_epsilon,
            "tie_word_embeddings": False,
        }
    architecture = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[family]
    return {
        "architectures": [f"{architecture}ForCausalLM"],
        "model_type": family,
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
        "rope_scaling": _rope_words(config.rope_scaling),
        "tie_word_embeddings": config.head == "tied",
        "attention_bias": False,
    }


def family_of(config: DecoderConfig) -> str:
    """`gptj`, `llama` (Mistral and SmolLM2 too), `qwen2` or `qwen3`; UserError for none of them."""
    for family, parts in PARTS.items():
        if all(getattr(config, name) in values for name, values in parts.items()):
            if family == "gptj" and config.d_model != config.n_heads * config.head_dim:
                continue
            if family != "gptj" and config.rotary_dim != config.head_dim:
                continue
            return family
    raise UserError(
        "this DecoderConfig is of no family that Hugging Face's format knows (GPT-J, Llama, "
        "Qwen2, Qwen3); its parts are "
        + ", ".join(f"{name} = {getattr(config, name)!r}" for name in PARTS["gptj"])
    )


MODERN = {
    "block": ("sequential",),
    "norm": ("rms",),
    "mlp": ("swiglu",),
    "head": ("plain", "tied"),
    "rotary_pairs": ("halves",),
}
PARTS: dict[str, dict[str, tuple[Any, ...]]] = {
    "gptj": {
        "block": ("parallel",),
        "norm": ("layer",),
        "mlp": ("gelu",),
        "head": ("biased",),
        "rotary_pairs": ("interleaved",),
        "qkv_bias": (False,),
        "qk_norm": (False,),
        "rope_scaling": (None,),
        "rotary_base": (10000.0,),
        "n_kv_heads": (0,),
    },
    "llama": {**MODERN, "qkv_bias": (False,), "qk_norm": (False,)},
    "qwen2": {**MODERN, "qkv_bias": (True,), "qk_norm": (False,)},
    "qwen3": {**MODERN, "qkv_bias": (False,), "qk_norm": (True,)},
}


def _read_gptj(config: Config) -> dict[str, Any]:
    _must_be(config, "activation_function", "gelu_new", default="gelu_new")
    _must_be(config, "tie_word_embeddings", False, default=False)
    n_heads, d_model = config["n_head"], config["n_embd"]
    head_dim = d_model // n_heads
    return {
        "vocab_size": config["vocab_size"],
        "n_layers": config["n_layer"],
        "d_model": d_model,
        "n_heads": n_heads,
        "head_dim": head_dim,
        "d_ff": config.get("n_inner") or 4 * d_model,
        "rotary_dim": config.get("rotary_dim") or head_dim,
        "context_length": config.get("n_positions", 2048),
        "norm_epsilon": config.get("layer_norm_epsilon", 1e-5),
    }


def _read_llama(config: Config) -> dict[str, Any]:
    for name in LLAMA_BIASES:
        _must_be(config, name, False, default=False)
    return _read_modern(config, epsilon=1e-6)


def _read_mistral(config: Config) -> dict[str, Any]:
    fields = _read_modern(config, epsilon=1e-6)
    window = config.get("sliding_window", 4096)
    if window:  # within the window, attention is the same with it and without
        fields["context_length"] = min(fields["context_length"], window)
    return fields


def _read_qwen2(config: Config) -> dict[str, Any]:
    _must_be(config, "use_sliding_window", False, default=False)
    return {**_read_modern(config, epsilon=1e-6), "qkv_bias": True}


def _read_qwen3(config: Config) -> dict[str, Any]:
    _must_be(config, "use_sliding_window", False, default=False)
    _must_be(config, "attention_bias", False, default=False)
    return {**_read_modern(config, epsilon=1e-6, head_dim=128), "qk_norm": True}


READERS: dict[str, Callable[[Config], dict[str, Any]]] = {
    "gptj": _read_gptj,
    "llama": _read_llama,
    "mistral": _read_mistral,
    "qwen2": _read_qwen2,
    "qwen3": _read_qwen3,
}


def _read_modern(config: Config, epsilon: float, head_dim: int = 0) -> dict[str, Any]:
    """What Llama and its kin share."""
    _must_be(config, "hidden_act", "silu", default="silu")
    n_heads, d_model = config["num_attention_heads"], config["hidden_size"]
    head_dim = config.get("head_dim") or head_dim or d_model // n_heads
    kv_heads = config.get("num_key_value_heads") or n_heads
    rope = config.get("rope_parameters") or {}  # transformers 5; before, two fields of their own
    scaling = config.get("rope_scaling") or rope
    return {
        "vocab_size": config["vocab_size"],
        "n_layers": config["num_hidden_layers"],
        "d_model": d_model,
        "n_heads": n_heads,
        "n_kv_heads": 0 if kv_heads == n_heads else kv_heads,
        "head_dim": head_dim,
        "d_ff": config["intermediate_size"],
        "block": "sequential",
        "norm": "rms",
        "mlp": "swiglu",
        "head": "tied" if config.get("tie_word_embeddings", False) else "plain",
        "rotary_dim": head_dim,
        "rotary_base": float(rope.get("rope_theta") or config.get("rope_theta", 10000.0)),
        "rotary_pairs": "halves",
        "rope_scaling": _read_rope(scaling),
        "context_length": config["max_position_embeddings"],
        "norm_epsilon": config.get("rms_norm_eps", epsilon),
    }


def _read_rope(words: Config) -> RopeScaling | None:
    kind = words.get("rope_type") or words.get("type")
    if kind in PLAIN_ROPE:
        return None
    if kind != "llama3":
        raise ValueError(f"rope_scaling of type {kind!r} is not supported, only 'llama3'")
    return RopeScaling(
        factor=words["factor"],
        low_freq_factor=words["low_freq_factor"],
        high_freq_factor=words["high_freq_factor"],
        original_context_length=words["original_max_position_embeddings"],
    )


def _rope_words(scaling: RopeScaling | None) -> dict[str, Any] | None:
    if scaling is None:
        return None
    words = dataclasses.asdict(scaling)
    words["original_max_position_embeddings"] = words.pop("original_context_length")
    return {"rope_type": "llama3", **words}


WHOLE = (
    *("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "n_inner", "rotary_dim"),
    *("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "max_position_embeddings", "sliding_window"),
    "original_max_position_embeddings",
)
POSITIVE = (
    *("layer_norm_epsilon", "rms_norm_eps", "rope_theta"),
    *("factor", "low_freq_factor", "high_freq_factor"),
)


def _checked(config: Config, where: str) -> dict[str, Any]:
    """The fields that say something, after a look at the types of those that are read here."""
    for name, value in config.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        wanted = ""
        if value is None:
            continue
        if name in WHOLE and not (is_number and isinstance(value, int)):
            wanted = "a whole number above 0"
        elif name in POSITIVE and not is_number:
            wanted = "a number above 0"
        elif name == "tie_word_embeddings" and not isinstance(value, bool):
            wanted = "true or false"
        elif name in ("rope_parameters", "rope_scaling"):
            wanted = "" if isinstance(value, dict) else "an object"
            _checked(value if isinstance(value, dict) else {}, where)
        if wanted:
            raise UserError(f"{where}: {name} is {str(value)[:60]!r}, which is not {wanted}")
    # Null says nothing, except of a window: there it says that there is none.
    return {k: v for k, v in config.items() if v is not None or k == "sliding_window"}


def _must_be(config: Config, name: str, value: Any, default: Any) -> None:
    if config.get(name, default) != value:
        raise ValueError(f"{name} = {config[name]!r} is not supported, only {value!r}")
