"""Packs documents of different lengths into rows, as segments that do not see each other.

Padding is segment 0 and loss weight 0, never a token id: id 0 is "!" in GPT-2's vocabulary.
"""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from star_jax.errors import UserError
from star_jax.packing import pack
from star_jax.records import PackedBatch, TokenizedExample


def epochs(examples: Sequence[TokenizedExample], seed: int) -> Iterator[TokenizedExample]:
    """The examples forever, each epoch in an order that depends on seed and epoch alone."""
    for epoch in itertools.count():
        for i in np.random.default_rng([seed, epoch]).permutation(len(examples)):
            yield examples[i]


def room(example: TokenizedExample, loss_share: float) -> int:
    """Tokens of a row that a document takes: its own, or more if over `loss_share` have loss."""
    n_loss = np.count_nonzero(example.loss_weights[1:])
    return max(len(example.tokens), math.ceil(n_loss / loss_share))


def most_with_loss(row_length: int, loss_share: float) -> int:
    """The most tokens with loss in a row, if each document takes its `room`."""
    return math.floor(loss_share * row_length + 1e-6)


def pack_rows(
    examples: Iterable[TokenizedExample], row_length: int, loss_share: float = 1.0
) -> Iterator[list[TokenizedExample]]:
    """Groups documents into rows of at most `row_length` tokens, `loss_share` of them with loss."""
    waiting: dict[int, TokenizedExample] = {}

    def sizes() -> Iterator[int]:
        for place, example in enumerate(examples):
            waiting[place] = example
            yield room(example, loss_share)

    for places in pack(sizes(), row_length):
        yield [waiting.pop(place) for place in places]


def fill_batch(
    rows: Sequence[Sequence[TokenizedExample]], batch_size: int, row_length: int
) -> PackedBatch:
    """Rows of documents as arrays, drawn in `records.PackedBatch`; missing rows are padding."""
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


def check_lengths(
    examples: Sequence[TokenizedExample], row_length: int, loss_share: float = 1.0
) -> None:
    """Raises UserError if there is no example, or one longer than a row or with too much loss."""
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
    if max(room(example, loss_share) for example in examples) > row_length:
        most = max(np.count_nonzero(example.loss_weights[1:]) for example in examples)
        allowed = most_with_loss(row_length, loss_share)
        raise UserError(
            f"a training example has {most} tokens with loss, and TrainerConfig.loss_share = "
            f"{loss_share} allows {allowed} of a row's {row_length}; raise it"
        )
