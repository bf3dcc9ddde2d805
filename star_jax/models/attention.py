"""Attention over several stores of keys and values at once, softmaxed together.

A query may look at the few-shot prefix (stored once, no batch axis), at its row's cache and at
the tokens that came with it. The stores are never concatenated, only their scores are: that is
what lets hundreds of rows share one prefix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class KeyValues(NamedTuple):
    """Keys and values of one layer: [B, G, S, K], or [G, S, K] when all rows share them.

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

    Query heads are taken in G groups of H / G neighbours; a group shares one head of keys and
    values. Scores are float32 whatever the query's dtype. A query that may see nothing (padding)
    gets the mean of what it may not see: finite, and never read.
    """
    n_rows, n_queries, n_heads, head_dim = query_BTHK.shape
    n_groups = stores[0].key_values.key.shape[-3]
    query_BTGRK = query_BTHK.reshape(n_rows, n_queries, n_groups, n_heads // n_groups, head_dim)
    scores = [_scores(query_BTGRK * head_dim**-0.5, store) for store in stores]
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(query_BTHK.dtype)
    out, start = jnp.zeros_like(query_BTGRK), 0
    for store in stores:
        value = store.key_values.value
        stop = start + value.shape[-2]
        spec = "bgrts,gsk->btgrk" if value.ndim == 3 else "bgrts,bgsk->btgrk"
        out += jnp.einsum(spec, weights[..., start:stop], value)
        start = stop
    return out.reshape(query_BTHK.shape)


def _scores(query_BTGRK: jax.Array, store: Store) -> jax.Array:
    """float32 [B, G, R, T, S], hardly any where the mask forbids."""
    key = store.key_values.key
    spec = "btgrk,gsk->bgrts" if key.ndim == 3 else "btgrk,bgsk->bgrts"
    scores = jnp.einsum(spec, query_BTGRK, key, preferred_element_type=jnp.float32)
    return jnp.where(store.mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
