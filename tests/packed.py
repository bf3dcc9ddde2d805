"""Examples as whole batches, and how full those are: for tests and benchmarks of training."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from star_jax.records import PackedBatch, TokenizedExample
from star_jax.training.packing import fill_batch, pack_rows


def pack_batches(
    examples: Iterable[TokenizedExample], batch_size: int, row_length: int, loss_share: float = 1.0
) -> Iterator[PackedBatch]:
    """Batches of `batch_size` packed rows; a last batch that is not full gets empty rows."""
    packed = pack_rows(examples, row_length, loss_share)
    while rows := list(itertools.islice(packed, batch_size)):
        yield fill_batch(rows, batch_size, row_length)


def packing_efficiency(batches: Iterable[PackedBatch]) -> float:
    """Share of the batches' positions that hold a document's token."""
    used = total = 0
    for batch in batches:
        used += int(np.count_nonzero(batch.segment_ids))
        total += batch.segment_ids.size
    return used / max(1, total)
