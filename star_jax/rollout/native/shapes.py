"""The static sizes of sampling, and how prompts are cut into the chunks that refill slots."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from star_jax.packing import pack
from star_jax.rollout.native.logits import SamplerConfig
from star_jax.rollout.native.slots import EMPTY, Chunk

COLUMNS = 16  # prompts and caches are padded to a multiple of this many columns
PREFIX_COLUMNS = 64  # the same for few-shot prefixes
FEWEST_SLOTS = 8  # of a shard; slots are halved down to about this many when prompts run out


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Sizes that programs are compiled for. D shards, B = D x n_slots rows in all."""

    n_shards: int
    n_slots: int  # of a shard
    window: int  # columns that hold the longest prompt
    max_new_tokens: int
    chunk_tokens: int  # T, of new prompts run together in a shard
    chunk_prompts: int  # R, the most of them
    wave: int  # prompts of a shard that enter at a time

    def slots_for(self, n_prompts: int) -> int:
        """Slots of a shard that so few prompts need; one of the sizes in `halves`.

        They are never fewer than the places of a chunk, empty ones included.
        """
        sizes = [self.n_slots, *self.halves(self.n_slots)]
        wanted = max(n_prompts, self.chunk_prompts * self.n_shards)
        return next((n for n in reversed(sizes) if n * self.n_shards >= wanted), self.n_slots)

    def halves(self, n_slots: int) -> list[int]:
        """What `n_slots` of a shard become when no prompts are left: half, a quarter and so on."""
        halves = []
        while n_slots % 2 == 0 and n_slots > FEWEST_SLOTS:
            n_slots //= 2
            halves.append(n_slots)
        return halves


def shapes_for(mean: float, longest: int, n_shards: int, config: SamplerConfig) -> Shapes:
    """Sizes that suit prompts of such lengths (tokens).

    A chunk is large enough for the longest prompt, and for about as many prompts as enter at
    a time unless they have more than `prefill_tokens`.

    Args:
      mean: of the prompts' lengths.
      longest: of them.
      n_shards: parts in which the mesh splits a batch.
      config: of sampling.
    """
    n_slots = config.batch_size // n_shards
    wave = max(1, round(config.refill_share * n_slots))
    entering = min(math.ceil(1.05 * wave * mean), config.prefill_tokens)
    tokens = up_to(max(longest, entering), COLUMNS)
    return Shapes(
        n_shards,
        n_slots,
        window=up_to(longest, COLUMNS),
        max_new_tokens=config.max_new_tokens,
        chunk_tokens=tokens,
        chunk_prompts=min(wave, math.ceil(1.5 * tokens / mean)),
        wave=wave,
    )


def up_to(size: int, unit: int) -> int:
    """The next multiple of `unit`."""
    return -(-size // unit) * unit


def waves(lengths: Sequence[int], shapes: Shapes, n_slots: int) -> Iterator[list[list[list[int]]]]:
    """Prompts in the order in which they enter: waves of chunks of a bin for each shard.

    A wave brings each shard at most `shapes.wave` prompts, and at most `n_slots`; a bin, the
    places of prompts that lie end to end in one row, holds at most `shapes.chunk_tokens` tokens.
    """
    most = min(shapes.wave, n_slots)
    bins = pack(lengths, shapes.chunk_tokens, most=min(most, shapes.chunk_prompts))
    wave: list[list[list[int]]] = []
    counts = np.zeros(shapes.n_shards, int)
    while chunk := list(itertools.islice(bins, shapes.n_shards)):
        new = np.array([len(places) for places in chunk] + [0] * (shapes.n_shards - len(chunk)))
        if wave and max(counts + new) > most:
            yield wave
            wave, counts = [], np.zeros(shapes.n_shards, int)
        wave.append(chunk)
        counts += new
    if wave:
        yield wave


def most_in_a_shard(wave: Sequence[Sequence[Sequence[int]]]) -> int:
    """Free slots that each shard needs for the whole wave."""
    shards = itertools.zip_longest(*wave, fillvalue=())  # each one's bins of all chunks
    return max(sum(map(len, bins)) for bins in shards)


def fill_chunk(
    bins: Sequence[Sequence[int]],
    n_bins: int,
    shapes: Shapes,
    encoded: Sequence[Sequence[int]],
    prompt: Sequence[int],
    keys: Sequence[np.ndarray],
    limits: Sequence[int],
) -> Chunk:
    """Writes bins of prompts into arrays, as drawn in `decode.Chunk`.

    Args:
      bins: for each shard the places of its new prompts; shards may be missing at the end.
      n_bins: shards, the missing ones included.
      shapes: static sizes.
      encoded: of each place, the prompt's ids.
      prompt: of each place, its number.
      keys: of each place, the random key.
      limits: of each place, the most tokens to write.
    """
    row, column = (n_bins, shapes.chunk_tokens), (n_bins, shapes.chunk_prompts)
    tokens, segments, positions = (np.zeros(row, np.int32) for _ in range(3))
    starts, lengths, limit = (np.zeros(column, np.int32) for _ in range(3))
    names, key = np.full(column, EMPTY, np.int32), np.zeros((*column, 2), np.uint32)
    for shard, places in enumerate(bins):
        start = 0
        for i, place in enumerate(places):
            ids = encoded[place]
            span = slice(start, start + len(ids))
            tokens[shard, span] = ids
            segments[shard, span] = i + 1
            positions[shard, span] = np.arange(len(ids))
            starts[shard, i], lengths[shard, i] = start, len(ids)
            names[shard, i], key[shard, i] = prompt[place], keys[place]
            limit[shard, i] = limits[place]
            start = span.stop
    return Chunk._make((tokens, segments, positions, starts, lengths, names, key, limit))
