"""Packs documents of different length into fixed rows, with segments so that none sees another.

Padding is segment 0 and loss weight 0, never a token id: id 0 is "!" in GPT-2's vocabulary.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from star_jax.errors import UserError
from star_jax.packing import pack
from star_jax.records import PackedBatch, TokenizedExample


def epochs(examples: Sequence[TokenizedExample], seed: int) -> Iterator[TokenizedExample]:
    """The examples for ever, in a new order each epoch that depends on seed and epoch alone."""
    for epoch in itertools.count():
        for i in np.random.default_rng([seed, epoch]).permutation(len(examples)):
            yield examples[i]


def pack_rows(
    examples: Iterable[TokenizedExample], row_length: int
) -> Iterator[list[TokenizedExample]]:
    """Groups documents into rows of at most `row_length` tokens, nearly full ones first."""
    waiting: dict[int, TokenizedExample] = {}

    def sizes() -> Iterator[int]:
        for place, example in enumerate(examples):
            waiting[place] = example
            yield len(example.tokens)

    for places in pack(sizes(), row_length):
        yield [waiting.pop(place) for place in places]


def pack_batches(
    examples: Iterable[TokenizedExample], batch_size: int, row_length: int
) -> Iterator[PackedBatch]:
    """Batches of `batch_size` packed rows; a last batch that is not full gets empty rows."""
    rows = pack_rows(examples, row_length)
    while batch := list(itertools.islice(rows, batch_size)):
        yield fill_batch(batch, batch_size, row_length)


def fill_batch(
    rows: Sequence[Sequence[TokenizedExample]], batch_size: int, row_length: int
) -> PackedBatch:
    """Writes rows of documents into arrays, as drawn in `records.PackedBatch`."""
    shape = (batch_size, row_length)
    tokens, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
    weights = np.zeros(shape, np.float32)
    for r, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, start=1):
            span = slice(start, start + len(example.tokens))
            tokens[r, span] = example.tokens
            segments[r, span] = segment
            positions[r, span] = np.arange(len(example.tokens))
            weights[r, span] = example.loss_weights
            start = span.stop
    return PackedBatch(tokens, segments, positions, weights)


def check_lengths(examples: Sequence[TokenizedExample], row_length: int) -> None:
    """Raises UserError when there is no example, or one longer than a row."""
    if not examples:
        raise UserError("nothing to train on: there is no example")
    longest = max(len(example.tokens) for example in examples)
    if longest > row_length:
        n_longer = sum(len(example.tokens) > row_length for example in examples)
        raise UserError(
            f"{n_longer} of {len(examples)} training examples are longer than a row, the longest "
            f"has {longest} tokens; set TrainerConfig.row_length (now {row_length}) to {longest} "
            f"or more, or lower SamplerConfig.max_new_tokens"
        )


def packing_efficiency(batches: Iterable[PackedBatch]) -> float:
    """Share of the batches' places that hold a document's token."""
    used = total = 0
    for batch in batches:
        used += int(np.count_nonzero(batch.segment_ids))
        total += batch.segment_ids.size
    return used / max(1, total)
