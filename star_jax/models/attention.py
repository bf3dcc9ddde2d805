"""Attention over several stores of keys and values, with one softmax over all of them.

A query may see the few-shot prefix (stored once, no batch axis), its row's KV cache and the tokens
of the same call. The stores are not concatenated; only their outputs are added, so that hundreds of
rows can share one prefix.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp


class KeyValues(NamedTuple):
    """Keys and values of one layer: [B, G, S, K], or [G, S, K] when all rows share them.

    Heads come before the tokens: each head's keys are then contiguous, which makes a decoding
    step's products over the KV cache about five times faster on the CPU.
    """

    key: jax.Array
    value: jax.Array


class Store(NamedTuple):
    """Keys and values, and which queries may see them: mask bool, broadcastable to [B, T, S]."""

    key_values: KeyValues
    mask: jax.Array


def causal_mask(segment_ids_BL: jax.Array) -> jax.Array:
    """Bool [B, L, L]: a token sees itself and the earlier tokens of its segment.

    Segment 0 is padding: real tokens do not see it, and its output is ignored.
    """
    length = segment_ids_BL.shape[1]
    same_BTS = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    return same_BTS & jnp.tril(jnp.ones((length, length), bool))[None]


def attend(query_BTHK: jax.Array, stores: tuple[Store, ...]) -> jax.Array:
    """Softmax attention over all stores together; returns [B, T, H, K].

    Query heads form G groups of H / G neighbours; a group shares one head of keys and values.
    Scores are float32 for any dtype of the query. A query that may see nothing (padding) gets the
    mean of the masked values: finite, and never read.

    Each store's values are weighted by the exponentials of its own scores less one common maximum;
    at the end the sum over the stores is divided by the sum of all weights. A shared store keeps
    heads before rows, in the order of its products: transposing costs as much as the products.
    """
    n_rows, n_queries, n_heads, head_dim = query_BTHK.shape
    n_groups = stores[0].key_values.key.shape[-3]
    grouped = n_rows, n_queries, n_groups, n_heads // n_groups, head_dim
    # A group's T x R queries are contiguous: plain products, whose gradients take half the time on
    # the CPU.
    query_BGQK = (query_BTHK * head_dim**-0.5).reshape(grouped).swapaxes(1, 2)
    query_BGQK = query_BGQK.reshape(n_rows, n_groups, -1, head_dim)
    scores = [_scores(query_BGQK, store, n_queries) for store in stores]
    highest = [
        _rows_first(jnp.max(part, axis=-1), store)
        for part, store in zip(scores, stores, strict=True)
    ]
    top_BGQ = jax.lax.stop_gradient(functools.reduce(jnp.maximum, highest))
    total_BGQ, out_BGQK = jnp.float32(0), jnp.float32(0)
    for part, store in zip(scores, stores, strict=True):
        weights = jnp.exp(part - _rows_first(top_BGQ, store)[..., None])
        total_BGQ += _rows_first(jnp.sum(weights, axis=-1), store)
        value = store.key_values.value
        spec = "gbqs,gsk->gbqk" if _is_shared(store) else "bgqs,bgsk->bgqk"
        mixed = jnp.einsum(
            spec, weights.astype(value.dtype), value, preferred_element_type=jnp.float32
        )
        out_BGQK += _rows_first(mixed, store)
    out_BGQK = (out_BGQK / total_BGQ[..., None]).astype(query_BTHK.dtype)
    out_BGTRK = out_BGQK.reshape(n_rows, n_groups, n_queries, *grouped[3:])
    return out_BGTRK.swapaxes(1, 2).reshape(query_BTHK.shape)


def _scores(query_BGQK: jax.Array, store: Store, n_queries: int) -> jax.Array:
    """float32 [B, G, T x R, S], or [G, B, T x R, S] if shared; the lowest number where masked."""
    spec = "bgqk,gsk->gbqs" if _is_shared(store) else "bgqk,bgsk->bgqs"
    scores = jnp.einsum(spec, query_BGQK, store.key_values.key, preferred_element_type=jnp.float32)
    n_repeats = query_BGQK.shape[2] // n_queries
    mask_BTS = jnp.broadcast_to(store.mask, (len(store.mask), n_queries, scores.shape[-1]))
    mask_BQS = jnp.repeat(mask_BTS, n_repeats, axis=1)
    mask = mask_BQS[None] if _is_shared(store) else mask_BQS[:, None]
    return jnp.where(mask, scores, jnp.finfo(jnp.float32).min)


def _is_shared(store: Store) -> bool:
    return store.key_values.key.ndim == 3


def _rows_first(leaf: jax.Array, store: Store) -> jax.Array:
    """[G, B, ...] of a shared store to [B, G, ...] and back; others unchanged."""
    return leaf.swapaxes(0, 1) if _is_shared(store) else leaf
