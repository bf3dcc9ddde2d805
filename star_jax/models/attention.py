"""Attention over several stores of keys and values at once, softmaxed together.

A query may look at the few-shot prefix (stored once, no batch axis), at its row's cache and at
the tokens that came with it. The stores are never concatenated, only their scores are: that is
what lets hundreds of rows share one prefix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KeyValues(NamedTuple):
    """Keys and values of one layer: [B, H, S, K], or [H, S, K] when all rows share them.

    Heads come before the tokens: each head's keys then lie together, which makes a decoding
    step's products over the cache about five times faster on the CPU.
    """

    key: jax.Array
    value: jax.Array


class Store(NamedTuple):
    """Keys and values with who may see them: mask bool, broadcastable to [B, T, S]."""

    key_values: KeyValues
    mask: jax.Array


def causal_mask(segment_ids_BL: jax.Array) -> jax.Array:
    """Bool [B, L, L]: a token sees itself and what came before it in its own segment.

    Segment 0 is padding: nobody sees it, and what it sees does not matter.
    """
    length = segment_ids_BL.shape[1]
    same_BTS = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    return same_BTS & jnp.tril(jnp.ones((length, length), bool))[None]


def attend(query_BTHK: jax.Array, stores: tuple[Store, ...]) -> jax.Array:
    """Softmax attention over all stores together; returns [B, T, H, K].

    Scores are float32 whatever the query's dtype. A query that may see nothing (padding) gets
    the mean of what it may not see: finite, and never read.
    """
    scale = query_BTHK.shape[-1] ** -0.5
    scores = [_scores(query_BTHK * scale, store) for store in stores]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query_BTHK.dtype)
    out, start = jnp.zeros_like(query_BTHK), 0
    for store in stores:
        value = store.key_values.value
        stop = start + value.shape[-2]
        spec = "bhts,hsk->bthk" if value.ndim == 3 else "bhts,bhsk->bthk"
        out += jnp.einsum(spec, weights[..., start:stop], value)
        start = stop
    return out


def _scores(query_BTHK: jax.Array, store: Store) -> jax.Array:
    """float32 [B, H, T, S], hardly any where the mask forbids."""
    key = store.key_values.key
    spec = "bthk,hsk->bhts" if key.ndim == 3 else "bthk,bhsk->bhts"
    scores = jnp.einsum(spec, query_BTHK, key, preferred_element_type=jnp.float32)
    return jnp.where(store.mask[:, None], scores, jnp.finfo(jnp.float32).min)
