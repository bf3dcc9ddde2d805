"""The sizes, parts and numerics of a decoder; each model family is a value of it."""

import dataclasses

import jax.numpy as jnp
from jax.typing import DTypeLike

from star_jax.errors import UserError, check_one_of

CHOICES = {
    "block": ("parallel", "sequential"),
    "norm": ("layer", "rms"),
    "mlp": ("gelu", "swiglu"),
    "rotary_pairs": ("interleaved", "halves"),
    "head": ("biased", "plain", "tied"),
    "attention": ("einsum", "splash"),
    "remat": ("none", "dots", "full"),
}


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Llama 3.x's scaling of slow rotary frequencies, for contexts beyond the original one.

    Source: the published configurations of Llama 3.1 and 3.2 ("rope_type": "llama3").
    """

    factor: float = 8.0  # slow frequencies are divided by this; Llama 3.2 has 32
    low_freq_factor: float = 1.0  # slow: fewer turns than this in the original context
    high_freq_factor: float = 4.0  # fast: more turns than this; they are not scaled
    original_context_length: int = 8192

    def __post_init__(self):
        """Raises UserError for bounds in the wrong order."""
        if not 0 < self.low_freq_factor < self.high_freq_factor or self.factor <= 0:
            raise UserError(
                f"RopeScaling: 0 < low_freq_factor = {self.low_freq_factor} < high_freq_factor = "
                f"{self.high_freq_factor} and factor = {self.factor} > 0 must hold"
            )


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes, parts and numerics of a decoder; the defaults are GPT-J 6B's.

    Source: the published configuration of GPT-J 6B (mesh-transformer-jax, 6B_roto_256).
    """

    vocab_size: int = 50400  # rows of embedding and head; the tokenizer may use fewer
    n_layers: int = 28
    d_model: int = 4096
    n_heads: int = 16
    n_kv_heads: int = 0  # heads of keys and values, each shared by query heads; 0: n_heads
    head_dim: int = 256
    d_ff: int = 16384
    block: str = "parallel"  # attention and MLP in parallel, or "sequential"
    norm: str = "layer"  # "layer" (scale and bias) or "rms" (scale)
    mlp: str = "gelu"  # "gelu" (tanh form, biases) or "swiglu" (gated, none)
    qkv_bias: bool = False  # of queries, keys and values (Qwen2)
    qk_norm: bool = False  # RMS norm of each head's query and key (Qwen3)
    head: str = "biased"  # output head "biased", "plain" or "tied" to the embedding
    rotary_dim: int = 64  # leading dims of each head that rotate
    rotary_base: float = 10000.0
    rotary_pairs: str = "interleaved"  # (0, 1), (2, 3) ... or "halves": (0, R), (1, R + 1) ...
    rope_scaling: RopeScaling | None = None
    context_length: int = 2048  # longest document, few-shot prefix included
    norm_epsilon: float = 1e-5
    dtype: DTypeLike = jnp.float32  # of activations and matrix products
    param_dtype: DTypeLike = jnp.float32  # of stored parameters
    scan_layers: bool = True  # one compiled block for all layers, parameters stacked
    attention: str = "einsum"  # or "splash": a kernel for training and prefixes, TPU v4 and newer
    remat: str = "none"  # "none", "dots" (keep matrix products) or "full" (keep block inputs)
    embedding_init: float = 0.02  # standard deviation of fresh embeddings
    init_scale: float = 1.0  # variance of fresh kernels is init_scale / fan_in

    def __post_init__(self):
        """Raises UserError for unknown parts and impossible sizes."""
        for name, choices in CHOICES.items():
            check_one_of(f"DecoderConfig.{name}", getattr(self, name), choices)
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise UserError(
                f"DecoderConfig.rotary_dim = {self.rotary_dim} must be even and at most head_dim = "
                f"{self.head_dim}"
            )
        if self.n_kv_heads < 0 or self.n_heads % self.kv_heads:
            raise UserError(
                f"DecoderConfig.n_kv_heads = {self.n_kv_heads} must divide n_heads = {self.n_heads}"
            )

    @property
    def kv_heads(self) -> int:
        """The number of heads of keys and values."""
        return self.n_kv_heads or self.n_heads
