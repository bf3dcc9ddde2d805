"""The jitted half of sampling: a few-shot prefix once, then slots that are refilled as rows finish.

A slot's cache has a window for its prompt and a ring for what its row samples. At any time all
rows write into the same column of their rings: one slice of the cache, which is updated in place,
where a column of its own for each row would be a scatter. A row knows its own columns by how many
it has sampled, which are never more than the ring holds.

                          prompt's window  ring of max_new_tokens   now
    shared prefix [P]   | slot 0: [q q q q | r r . . r r]           (2)   4 written
    (no batch axis)     | slot 1: [q q . . | r r . . . .]           (2)   2 written

The slots lie in `D` shards, one for each part of the batch on the mesh; what happens in one shard
never moves data in another. New prompts come in chunks: in each shard some prompts end to end in
one row, without padding between them, one for each of the first free slots.
"""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp

from star_jax.models.attention import KeyValues, Store
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder
from star_jax.records import Params
from star_jax.rollout.native.logits import pick_tokens
from star_jax.rollout.native.shapes import Shapes
from star_jax.rollout.native.slots import EMPTY, Chunk, Finished, Prefix, Slots, Writer

Tree = TypeVar("Tree")


def empty_slots(model: DecoderConfig, n_slots: int, shapes: Shapes) -> Slots:
    """Free slots, `n_slots` of each shard."""
    n_slots, max_new_tokens = n_slots * shapes.n_shards, shapes.max_new_tokens
    columns = shapes.window + max_new_tokens
    kv = jnp.zeros((n_slots, model.kv_heads, columns, model.head_dim), model.dtype)
    number, flag = jnp.zeros(n_slots, jnp.int32), jnp.zeros(n_slots, bool)
    return Slots(
        cache=(KeyValues(kv, kv),) * model.n_layers,
        newest=(KeyValues(kv[:, :, :1], kv[:, :, :1]),) * model.n_layers,
        length=number,
        token=number,
        prompt=number + EMPTY,
        key=jnp.zeros((n_slots, 2), jnp.uint32),
        limit=number,
        tokens=jnp.zeros((n_slots, max_new_tokens), jnp.int32),
        n_tokens=number,
        log_prob=jnp.zeros(n_slots, jnp.float32),
        stop_state=number,
        ended=flag,
        done=~flag,
    )


def prefill_prefix(
    model: DecoderConfig, params: Params, tokens_P: jax.Array, length: jax.Array
) -> Prefix:
    """Runs the model over the prefix, once for all rows.

    Args:
      model: its layers unrolled.
      params: its weights.
      tokens_P: int32[P].
      length: int32 scalar; the tokens beyond it are padding.
    """
    positions_P = jnp.arange(tokens_P.shape[0])
    segment_ids = (positions_P < length).astype(jnp.int32)[None]
    _, key_values = Decoder(model).apply(
        {"params": params},
        tokens_P[None],
        positions_P[None],
        segment_ids,
        read_at_BR=jnp.zeros((1, 1), jnp.int32),
        return_key_values=True,
    )
    return Prefix(jax.tree.map(lambda leaf: leaf[0], key_values), length)


def refill(
    writer: Writer,
    window: int,
    params: Params,
    prefix: Prefix | None,
    slots: Slots,
    chunk: Chunk,
    stop: jax.Array | None = None,
) -> tuple[Slots, Finished]:
    """Puts a chunk's prompts into free slots and picks their first tokens.

    Args:
      writer: model and how it picks.
      window: columns that hold the longest prompt; static.
      params: the model's, layers unrolled.
      prefix: shared by all rows; None for none.
      slots: with a free one, in each shard, for each of the chunk's prompts there.
      chunk: the prompts, at most as many as slots.
      stop: [S, V], the automaton of the stop texts; None for none.

    Returns:
      The slots, and what the rows that were replaced had sampled [D * R].
    """
    n_shards, n_new = chunk.lengths.shape
    last_DR = jnp.maximum(chunk.starts + chunk.lengths - 1, 0)
    logits_DRV, key_values = Decoder(writer.model).apply(
        {"params": params},
        chunk.tokens,
        chunk.positions + prefix_length(prefix),
        chunk.segment_ids,
        context=contexts(writer.model, prefix),
        read_at_BR=last_DR,
        return_key_values=True,
    )
    slots = _in_shards(slots, n_shards)
    slot_DR = _free_first(slots.done)[:, :n_new]
    left = jax.vmap(written)(slots, slot_DR)
    left = left._replace(prompt=jnp.where(chunk.lengths > 0, left.prompt, EMPTY))
    columns_DRW = chunk.starts[:, :, None] + jnp.arange(window)
    rows = jax.vmap(lambda kv, at: jax.tree.map(lambda leaf: _rows(leaf, at), kv))
    new = _first_token(writer, chunk, logits_DRV, rows(key_values, columns_DRW), stop)
    # A place beyond the last slot is dropped: there is no prompt for it.
    to_DR = jnp.where(chunk.lengths > 0, slot_DR, slots.done.shape[1])
    slots = jax.vmap(lambda old, now, at: jax.tree.map(lambda o, n: _put(o, at, n), old, now))(
        slots, new, to_DR
    )
    return _flat(slots), _flat(left)


def decode(
    writer: Writer,
    n_shards: int,
    params: Params,
    prefix: Prefix | None,
    slots: Slots,
    time: jax.Array,
    n_free: jax.Array,
    stop: jax.Array | None = None,
) -> tuple[Slots, jax.Array]:
    """Samples a token in every live row until each shard has `n_free` free slots.

    Args:
      writer: model and how it picks; static.
      n_shards: static.
      params: the model's weights.
      prefix: shared by all rows; None for none.
      slots: given up.
      time: int32, steps since the slots were empty.
      n_free: int32.
      stop: [S, V], the automaton of the stop texts; None for none.

    Returns:
      The slots and the time after the last step.
    """
    n_rows, max_new_tokens = slots.tokens.shape
    window, rows = slots.cache[0].key.shape[2] - max_new_tokens, jnp.arange(n_rows)

    def too_full(carry: tuple[Slots, jax.Array]) -> jax.Array:
        return jnp.min(jnp.sum(carry[0].done.reshape(n_shards, -1), axis=1)) < n_free

    def one_token(carry: tuple[Slots, jax.Array]) -> tuple[Slots, jax.Array]:
        slots, time = carry
        last = (time - 1) % max_new_tokens
        # Before the cache is read: after that it would have to be copied.
        cache = jax.tree.map(
            lambda old, new: jax.lax.dynamic_update_slice_in_dim(old, new, window + last, axis=2),
            slots.cache,
            slots.newest,
        )
        n_cached = slots.n_tokens - 1  # the token picked last comes now
        seen = _seen(slots.length, window, n_cached, last, max_new_tokens)[:, None]
        logits_B1V, newest = Decoder(writer.model).apply(
            {"params": params},
            slots.token[:, None],
            (slots.length + n_cached)[:, None] + prefix_length(prefix),
            jnp.ones((n_rows, 1, 1), bool),
            context=contexts(writer.model, prefix, [Store(kv, seen) for kv in cache]),
            return_key_values=True,
        )
        live = ~slots.done
        token, log_prob = _pick(writer, logits_B1V[:, 0], slots.key, slots.n_tokens)
        to = jnp.where(live, slots.n_tokens, max_new_tokens)  # done rows are dropped
        stop_state, ends = _ends(writer, stop, slots.stop_state, token)
        ended = live & ends
        slots = slots._replace(
            cache=cache,
            newest=newest,
            token=jnp.where(live, token, slots.token),
            tokens=slots.tokens.at[rows, to].set(token, mode="drop"),
            n_tokens=slots.n_tokens + live,
            log_prob=slots.log_prob + jnp.where(live, log_prob, 0.0),
            stop_state=stop_state,
            ended=slots.ended | ended,
            done=slots.done | ended | (slots.n_tokens + 1 >= slots.limit),
        )
        return slots, time + 1

    return jax.lax.while_loop(too_full, one_token, (slots, time))


def shrink(n_shards: int, slots: Slots) -> tuple[Slots, Finished]:
    """Half as many slots, once at least half of each shard's are free; and what the others held."""
    slots = _in_shards(slots, n_shards)
    order_DS = _free_first(slots.done)
    half = order_DS.shape[1] // 2
    left = jax.vmap(written)(slots, order_DS[:, :half])
    take = jax.vmap(lambda leaves, at: jax.tree.map(lambda leaf: leaf[at], leaves))
    return _flat(take(slots, order_DS[:, half:])), _flat(left)


def written(slots: Slots, at: jax.Array | slice = slice(None)) -> Finished:
    """What the rows of some slots, or of all, sampled."""
    return Finished(*(getattr(slots, name)[at] for name in Finished._fields))


def prefix_length(prefix: Prefix | None) -> jax.Array | int:
    """Tokens of the shared prefix; 0 without one."""
    return 0 if prefix is None else prefix.length


def contexts(
    config: DecoderConfig, prefix: Prefix | None, own: Sequence[Store] = ()
) -> tuple[tuple[Store, ...], ...]:
    """For each layer the stores a new token may see: [shared prefix | the layer's of `own`]."""
    stores: list[Sequence[Store]] = [own] if own else []
    if prefix is not None:
        size = prefix.key_values[0].key.shape[1]
        mask = (jnp.arange(size) < prefix.length)[None, None]
        stores.insert(0, [Store(kv, mask) for kv in prefix.key_values])
    return tuple(zip(*stores, strict=True)) if stores else ((),) * config.n_layers


def _seen(
    length_B: jax.Array, window: int, n_written_B: jax.Array, last: jax.Array, ring: int
) -> jax.Array:
    """Bool [B, C]: the row's prompt and its sampled tokens, the last one in column `last`."""
    in_window_BW = jnp.arange(window) < length_B[:, None]
    age = (last - jnp.arange(ring)) % ring  # of the ring's columns
    return jnp.concatenate([in_window_BW, age < n_written_B[:, None]], axis=1)


def _first_token(
    writer: Writer,
    chunk: Chunk,
    logits_DRV: jax.Array,
    cache: tuple[KeyValues, ...],
    stop: jax.Array | None,
) -> Slots:
    """The rows [D, R] of new prompts; their caches hold no more columns than the window."""
    pick = jax.vmap(lambda logits, key, step: _pick(writer, logits, key, step))
    token, log_prob = pick(logits_DRV, chunk.key, jnp.zeros_like(chunk.lengths))
    stop_state, ended = _ends(writer, stop, jnp.zeros_like(token), token)
    return Slots(
        cache=cache,
        newest=jax.tree.map(lambda leaf: jnp.zeros_like(leaf[..., :1, :]), cache),
        length=chunk.lengths,
        token=token,
        prompt=chunk.prompt,
        key=chunk.key,
        limit=chunk.limit,
        tokens=token[..., None],
        n_tokens=jnp.ones_like(token),
        log_prob=log_prob,
        stop_state=stop_state,
        ended=ended,
        done=ended | (chunk.limit <= 1),
    )


def _pick(
    writer: Writer, logits_BV: jax.Array, key_B: jax.Array, step_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Each row's next token and its log-probability; draws depend on row key and step alone."""
    keys = jax.vmap(jax.random.fold_in)(jax.random.wrap_key_data(key_B), step_B)
    return pick_tokens(logits_BV, keys, writer.sampling, writer.n_ids)


def _ends(
    writer: Writer, stop: jax.Array | None, state: jax.Array, token: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The automaton's states after each row's token, and whether that ends the row."""
    is_eos = jnp.isin(token, jnp.array(writer.stop_ids))
    if stop is None:
        return state, is_eos
    state = stop.at[state, token].get(mode="clip").astype(jnp.int32)  # done rows: any state
    return state, is_eos | (state == len(stop))


def _free_first(done_DS: jax.Array) -> jax.Array:
    """Each shard's slots, the free ones in front."""
    return jnp.argsort(~done_DS, axis=1, stable=True)


def _rows(leaf_GTK: jax.Array, columns_RW: jax.Array) -> jax.Array:
    """[R, G, W, K]: windows of one shard's packed keys or values; after a prompt, anything."""
    return jnp.take(leaf_GTK, columns_RW, axis=1, mode="clip").swapaxes(0, 1)


def _put(old: jax.Array, at: jax.Array, new: jax.Array) -> jax.Array:
    """Rows of `old` replaced; of a wider row the first columns only (a cache's, axis 2)."""
    if old.shape[1:] == new.shape[1:]:
        return old.at[at].set(new, mode="drop")
    if old.ndim == 2:
        return old.at[at, : new.shape[1]].set(new, mode="drop")
    return old.at[at, :, : new.shape[2]].set(new, mode="drop")


def _in_shards(slots: Slots, n_shards: int) -> Slots:
    return jax.tree.map(lambda leaf: leaf.reshape(n_shards, -1, *leaf.shape[1:]), slots)


def _flat(leaves: Tree) -> Tree:
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), leaves)
