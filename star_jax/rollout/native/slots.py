"""What decoding carries from program to program: slots, prefixes and chunks of prompts."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax

from star_jax.models.attention import KeyValues
from star_jax.models.config import DecoderConfig
from star_jax.records import Params
from star_jax.rollout.native.logits import SamplingParams

EMPTY = -1  # the prompt of a slot that holds none
KEPT_PREFIXES = 16  # plain and hinted examples of arithmetic's five digit counts, and some more


class Prefix(NamedTuple):
    """What every row shares: each layer's keys and values [G, P, K], of which `length` count."""

    key_values: tuple[KeyValues, ...]
    length: jax.Array  # int32 scalar


class DecodingModel:
    """Weights laid out for decoding, and the few-shot prefixes used last.

    A prefix is computed once for these weights, whatever stages use it: `prefix(ids)`.
    """

    def __init__(self, params: Params, compute: Callable[[Params, tuple[int, ...]], Prefix | None]):
        """`params` and `compute` are as `Programs.place` and `Programs.prefix` return them."""
        self.params = params
        self.prefix = functools.lru_cache(KEPT_PREFIXES)(functools.partial(compute, params))


class Slots(NamedTuple):
    """All that decoding carries; a row that is done keeps its contents until its slot is reused."""

    cache: tuple[KeyValues, ...]  # each layer's [B, G, C, K]
    newest: tuple[KeyValues, ...]  # each layer's [B, G, 1, K], not yet in the cache
    length: jax.Array  # int32[B], tokens of the prompt
    token: jax.Array  # int32[B], picked last and not yet in the cache
    prompt: jax.Array  # int32[B], the prompt's place among all, or EMPTY
    key: jax.Array  # uint32[B, 2], random key of the row
    limit: jax.Array  # int32[B], the most tokens the row may write
    tokens: jax.Array  # int32[B, max_new_tokens], sampled so far
    n_tokens: jax.Array  # int32[B], how many, EOS included
    log_prob: jax.Array  # float32[B], summed over picked tokens
    stop_state: jax.Array  # int32[B], of the automaton of stop texts; 0 without
    ended: jax.Array  # bool[B], the row ended with EOS or a stop text
    done: jax.Array  # bool[B], it ended, is at its limit or is empty: a free slot


class Chunk(NamedTuple):
    """Prompts that start together, R at most in each of D shards.

    tokens       [p p p q q q q r . .]
    segment_ids  [1 1 1 2 2 2 2 3 0 0]
    positions    [0 1 2 0 1 2 3 0 0 0]
    starts [0 3 7 0], lengths [3 4 1 0]
    """

    tokens: jax.Array  # int32[D, T]
    segment_ids: jax.Array  # int32[D, T]
    positions: jax.Array  # int32[D, T]
    starts: jax.Array  # int32[D, R]
    lengths: jax.Array  # int32[D, R]; 0 where there is no prompt
    prompt: jax.Array  # int32[D, R]
    key: jax.Array  # uint32[D, R, 2]
    limit: jax.Array  # int32[D, R]


class Finished(NamedTuple):
    """What the rows of some slots sampled; `prompt` is EMPTY where there was none."""

    prompt: jax.Array  # int32[N]
    tokens: jax.Array  # int32[N, max_new_tokens]
    n_tokens: jax.Array  # int32[N]
    log_prob: jax.Array  # float32[N]
    ended: jax.Array  # bool[N]


class Writer(NamedTuple):
    """What decides the next token, all of it static."""

    model: DecoderConfig  # layers unrolled
    sampling: SamplingParams
    n_ids: int  # that the vocabulary knows; 0 for all of the model's
    stop_ids: tuple[int, ...]  # tokens that end a row, EOS first
