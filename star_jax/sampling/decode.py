"""The jitted half of sampling: the prefix once, the prompts once, then token by token.

A row's cache is dense: column c holds the row's token c (after the shared prefix), so rows of
different lengths need no gaps and a row's next token always goes to column `length`.

    shared prefix [P]   | row 0: [q q q q r r r . . .]   length 7
    (no batch axis)     | row 1: [q q r r r . . . . .]   length 5
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from star_jax.models.attention import KeyValues, Store, causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder
from star_jax.sampling.logits import PickConfig, pick_tokens


class Prefix(NamedTuple):
    """What every row shares: each layer's keys and values [H, P, K], of which `length` count."""

    key_values: tuple[KeyValues, ...]
    length: jax.Array  # int32 scalar


class DecodeState(NamedTuple):
    """Everything the decode loop carries; rows that are done keep their contents."""

    cache: tuple[KeyValues, ...]  # each layer's [B, H, C, K]
    length: jax.Array  # int32[B], filled columns of the cache
    token: jax.Array  # int32[B], picked last and not yet in the cache
    step: jax.Array  # int32 scalar, tokens picked so far
    tokens: jax.Array  # int32[B, max_new_tokens]
    n_tokens: jax.Array  # int32[B], tokens picked by the row, EOS included
    log_prob: jax.Array  # float32[B], summed over picked tokens
    done: jax.Array  # bool[B], the row wrote EOS (or is a dummy)


@functools.partial(jax.jit, static_argnames="config")
def prefill_prefix(
    config: DecoderConfig, params: Any, tokens_P: jax.Array, length: jax.Array
) -> Prefix:
    """Runs the model over the prefix (int32[P], of which `length` count), once for all rows."""
    positions_P = jnp.arange(tokens_P.shape[0])
    segment_ids = (positions_P < length).astype(jnp.int32)[None]
    _, key_values = Decoder(config).apply(
        {"params": params},
        tokens_P[None],
        positions_P[None],
        causal_mask(segment_ids),
        read_at_B=jnp.zeros(1, jnp.int32),
        return_key_values=True,
    )
    return Prefix(jax.tree.map(lambda leaf: leaf[0], key_values), length)


@functools.partial(
    jax.jit, static_argnames=("config", "pick", "capacity", "max_new_tokens", "stop_ids")
)
def prefill(
    config: DecoderConfig,
    pick: PickConfig,
    params: Any,
    prefix: Prefix | None,
    tokens_BL: jax.Array,
    lengths_B: jax.Array,
    keys_B: jax.Array,
    done_B: jax.Array,
    *,
    capacity: int,
    max_new_tokens: int,
    stop_ids: tuple[int, ...],
) -> DecodeState:
    """Runs the model over the prompts (right-padded) and picks each row's first token.

    Args:
      config: of the model, layers unrolled.
      pick: how tokens are picked.
      params: the model's, layers unrolled.
      prefix: shared by all rows; None for none.
      tokens_BL: prompts, padded on the right; padding is known by `lengths_B`.
      lengths_B: tokens in each prompt, at least 1.
      keys_B: a random key for each row.
      done_B: True for dummy rows, which are not decoded.
      capacity: columns of the cache, at least L.
      max_new_tokens: columns of the result.
      stop_ids: tokens that end a row, EOS first.
    """
    n_rows, length = tokens_BL.shape
    columns = jnp.arange(length)
    segment_ids = (columns < lengths_B[:, None]).astype(jnp.int32)
    logits_BV, key_values = Decoder(config).apply(
        {"params": params},
        tokens_BL,
        jnp.broadcast_to(columns, tokens_BL.shape) + prefix_length(prefix),
        causal_mask(segment_ids),
        context=contexts(config, prefix, None, None),
        read_at_B=lengths_B - 1,
        return_key_values=True,
    )
    state = DecodeState(
        cache=_widen(key_values, capacity),
        length=lengths_B,
        token=jnp.zeros(n_rows, jnp.int32),
        step=jnp.int32(0),
        tokens=jnp.zeros((n_rows, max_new_tokens), jnp.int32),
        n_tokens=jnp.zeros(n_rows, jnp.int32),
        log_prob=jnp.zeros(n_rows, jnp.float32),
        done=done_B,
    )
    return _write_token(state, logits_BV, keys_B, pick, stop_ids)


@functools.partial(jax.jit, static_argnames=("config", "pick", "stop_ids"), donate_argnames="state")
def decode(
    config: DecoderConfig,
    pick: PickConfig,
    params: Any,
    prefix: Prefix | None,
    state: DecodeState,
    keys_B: jax.Array,
    *,
    stop_ids: tuple[int, ...],
) -> DecodeState:
    """Decodes until every row is done, the result is full or the cache is."""
    max_new_tokens, capacity = state.tokens.shape[1], state.cache[0].key.shape[2]
    rows = jnp.arange(state.token.shape[0])

    def unfinished(state: DecodeState) -> jax.Array:
        room = jnp.max(jnp.where(state.done, 0, state.length)) < capacity
        return room & (state.step < max_new_tokens) & ~jnp.all(state.done)

    def one_token(state: DecodeState) -> DecodeState:
        logits_B1V, new = Decoder(config).apply(
            {"params": params},
            state.token[:, None],
            state.length[:, None] + prefix_length(prefix),
            jnp.ones((rows.size, 1, 1), bool),
            context=contexts(config, prefix, state.cache, state.length),
            return_key_values=True,
        )
        # A done row writes over its last column, which nobody reads again.
        column = jnp.minimum(state.length, capacity - 1)
        cache = jax.tree.map(
            lambda old, now: old.at[rows, :, column].set(now[:, :, 0]), state.cache, new
        )
        length = jnp.where(state.done, state.length, state.length + 1)
        state = state._replace(cache=cache, length=length)
        return _write_token(state, logits_B1V[:, 0], keys_B, pick, stop_ids)

    return jax.lax.while_loop(unfinished, one_token, state)


@functools.partial(jax.jit, static_argnames="capacity")
def grow_cache(state: DecodeState, capacity: int) -> DecodeState:
    """The same state with room for `capacity` columns a row."""
    return state._replace(cache=_widen(state.cache, capacity))


def _write_token(
    state: DecodeState,
    logits_BV: jax.Array,
    keys_B: jax.Array,
    pick: PickConfig,
    stop_ids: tuple[int, ...],
) -> DecodeState:
    """Picks each live row's next token and notes it; draws depend on row key and step alone."""
    step_keys_B = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys_B, state.step)
    token, log_prob = pick_tokens(logits_BV, step_keys_B, pick)
    live = ~state.done
    column = jax.lax.dynamic_slice_in_dim(state.tokens, state.step, 1, axis=1)[:, 0]
    tokens = jax.lax.dynamic_update_slice_in_dim(
        state.tokens, jnp.where(live, token, column)[:, None], state.step, axis=1
    )
    return state._replace(
        token=jnp.where(live, token, state.token),
        step=state.step + 1,
        tokens=tokens,
        n_tokens=state.n_tokens + live,
        log_prob=state.log_prob + jnp.where(live, log_prob, 0.0),
        done=state.done | jnp.isin(token, jnp.array(stop_ids)),
    )


def _widen(cache: tuple[KeyValues, ...], capacity: int) -> tuple[KeyValues, ...]:
    """Room for `capacity` columns a row."""
    n_new = capacity - cache[0].key.shape[2]
    return jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 0), (0, n_new), (0, 0))), cache)


def prefix_length(prefix: Prefix | None) -> jax.Array | int:
    """Tokens of the shared prefix; 0 without one."""
    return 0 if prefix is None else prefix.length


def contexts(
    config: DecoderConfig,
    prefix: Prefix | None,
    cache: tuple[KeyValues, ...] | None,
    length_B: jax.Array | None,
) -> tuple[tuple[Store, ...], ...]:
    """For each layer the stores a new token may see: [shared prefix | own cache]."""
    layers: list[tuple[Store, ...]] = [()] * config.n_layers
    if prefix is not None:
        size = prefix.key_values[0].key.shape[1]
        mask = (jnp.arange(size) < prefix.length)[None, None]
        layers = [(Store(kv, mask),) for kv in prefix.key_values]
    if cache is not None:
        mask = (jnp.arange(cache[0].key.shape[2]) < length_B[:, None])[:, None]
        layers = [(*stores, Store(kv, mask)) for stores, kv in zip(layers, cache, strict=True)]
    return tuple(layers)
