"""What makes one decoder differ from another."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from star_jax.errors import UserError

REMAT_POLICIES = ("none", "dots", "full")


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """Sizes and numerics of a GPT-J decoder; the defaults are GPT-J 6B's.

    Source: the published configuration of GPT-J 6B (mesh-transformer-jax, 6B_roto_256).
    """

    vocab_size: int = 50400  # rows of embedding and head; the tokenizer may use fewer
    n_layers: int = 28
    d_model: int = 4096
    n_heads: int = 16
    head_dim: int = 256
    d_ff: int = 16384
    rotary_dim: int = 64  # leading dims of each head that rotate
    rotary_base: float = 10000.0
    context_length: int = 2048  # longest document, few-shot prefix included
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32  # of activations and matrix products
    param_dtype: Any = jnp.float32  # of stored parameters
    scan_layers: bool = True  # one compiled block for all layers, parameters stacked
    remat: str = "none"  # "none", "dots" (keep matrix products) or "full" (keep block inputs)
    embedding_init: float = 0.02  # standard deviation of fresh embeddings
    init_scale: float = 1.0  # variance of fresh kernels is init_scale / fan_in

    def __post_init__(self):
        """Raises UserError for sizes that make no decoder."""
        if self.rotary_dim % 2 or not 0 < self.rotary_dim <= self.head_dim:
            raise UserError(
                f"DecoderConfig.rotary_dim = {self.rotary_dim} must be even and at most head_dim = "
                f"{self.head_dim}"
            )
        if self.remat not in REMAT_POLICIES:
            raise UserError(f"DecoderConfig.remat = {self.remat!r} is none of {REMAT_POLICIES}")
