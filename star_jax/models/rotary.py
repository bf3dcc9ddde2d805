"""Rotary positions (Su et al. 2021), on GPT-J's interleaved pairs or Llama's halves."""

import math

import jax
import jax.numpy as jnp

from star_jax.models.config import DecoderConfig, RopeScaling


def rotary_angles(positions_BL: jax.Array, config: DecoderConfig) -> jax.Array:
    """Angles [B, L, rotary_dim / 2] in radians: position / base^(2 i / rotary_dim), scaled."""
    exponents = jnp.arange(0, config.rotary_dim, 2, dtype=jnp.float32) / config.rotary_dim
    frequencies = 1.0 / config.rotary_base**exponents
    if config.rope_scaling is not None:
        frequencies = stretch(frequencies, config.rope_scaling)
    return positions_BL[..., None].astype(jnp.float32) * frequencies


def stretch(frequencies: jax.Array, scaling: RopeScaling) -> jax.Array:
    """Llama 3.x's frequencies: slow ones divided by `factor`, fast ones kept, a ramp between."""
    turns = scaling.original_context_length * frequencies / (2 * math.pi)
    ramp = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    keep = jnp.clip(ramp, 0.0, 1.0)
    return keep * frequencies + (1 - keep) * frequencies / scaling.factor


def rotate(x_BLHK: jax.Array, angles_BLR: jax.Array, pairs: str = "interleaved") -> jax.Array:
    """Rotates the pairs of the leading 2R dims by the angles; the other dims stay.

    Computed in float32 for any input dtype, since positions beyond 256 do not fit bfloat16.
    """
    n_pairs = angles_BLR.shape[-1]
    turning = x_BLHK[..., : 2 * n_pairs].astype(jnp.float32)
    if pairs == "interleaved":
        first, second = turning[..., 0::2], turning[..., 1::2]
    else:
        first, second = turning[..., :n_pairs], turning[..., n_pairs:]
    cos, sin = jnp.cos(angles_BLR)[:, :, None, :], jnp.sin(angles_BLR)[:, :, None, :]
    turned = first * cos - second * sin, second * cos + first * sin
    if pairs == "interleaved":
        joined = jnp.stack(turned, axis=-1).reshape(turning.shape)
    else:
        joined = jnp.concatenate(turned, axis=-1)
    rest = x_BLHK[..., 2 * n_pairs :]
    return jnp.concatenate([joined.astype(x_BLHK.dtype), rest], axis=-1)
