"""Rotary positions on interleaved pairs, as GPT-J has them (Su et al. 2021)."""

import jax
import jax.numpy as jnp


def rotary_angles(positions_BL: jax.Array, rotary_dim: int, base: float) -> jax.Array:
    """Angles [B, L, rotary_dim / 2] in radians: position / base^(2 i / rotary_dim)."""
    exponents = jnp.arange(0, rotary_dim, 2, dtype=jnp.float32) / rotary_dim
    return positions_BL[..., None].astype(jnp.float32) / base**exponents


def rotate(x_BLHK: jax.Array, angles_BLR: jax.Array) -> jax.Array:
    """Rotates the pairs (0, 1), (2, 3), ... of the leading 2R dims; the rest passes through.

    Works in float32 whatever the input, since positions beyond 256 do not fit bfloat16.
    """
    rotary_dim = 2 * angles_BLR.shape[-1]
    turning, rest = x_BLHK[..., :rotary_dim], x_BLHK[..., rotary_dim:]
    even, odd = turning[..., 0::2].astype(jnp.float32), turning[..., 1::2].astype(jnp.float32)
    cos, sin = jnp.cos(angles_BLR)[:, :, None, :], jnp.sin(angles_BLR)[:, :, None, :]
    turned = jnp.stack([even * cos - odd * sin, odd * cos + even * sin], axis=-1)
    return jnp.concatenate([turned.reshape(turning.shape).astype(x_BLHK.dtype), rest], axis=-1)
