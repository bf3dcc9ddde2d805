"""Puts items of different size into bins of one size, as they come."""

from collections.abc import Iterable, Iterator, Sequence


def pack(
    sizes: Iterable[int], capacity: int, *, most: int | None = None, ahead: int = 16
) -> Iterator[list[int]]:
    """Groups items into bins of at most `capacity` units; yields the places of a bin's items.

    Each bin takes the item that has waited longest and those waiting ones that fill it best, in
    their order: `pack([3, 2, 4, 1], 4)` gives `[0, 3], [1], [2]`. So no item waits for more bins
    than there were items before it.

    Args:
      sizes: of the items, each from 1 to `capacity`; may be endless.
      capacity: units that a bin holds.
      most: items that a bin holds; None for any number.
      ahead: bins' worth of items to choose among; more waste less and wait longer.
    """
    waiting: list[tuple[int, int]] = []  # place and size, the oldest first

    def next_bin() -> list[int]:
        chosen = fullest([size for _, size in waiting], capacity, most)
        return [waiting.pop(i)[0] for i in reversed(chosen)][::-1]

    for place, size in enumerate(sizes):
        assert 0 < size <= capacity, "the caller refuses what fits nowhere"
        waiting.append((place, size))
        units = sum(size for _, size in waiting)
        if units >= ahead * capacity or (most and len(waiting) >= ahead * most):
            yield next_bin()
    while waiting:
        yield next_bin()


def fullest(sizes: Sequence[int], capacity: int, most: int | None = None) -> list[int]:
    """Places of the first item and of those that fill a bin best with it, in order.

    Early items are preferred. Arguments are as in `pack`.
    """
    # Bit n * stride + t of a number says that some n of the items have t units together. Sums that
    # are too large fall into the upper half of a stride. Without a limit, items are not counted.
    stride, counts = (2 * capacity, range(1, most + 1)) if most else (0, range(1))
    level = (2 << capacity) - 1  # the totals 0 to capacity
    allowed = sum(level << n * stride for n in counts)
    full = sum(1 << n * stride + capacity for n in counts)
    reached = [1 << stride + sizes[0]]  # by the first item and some of the i next ones
    for size in sizes[1:]:
        if reached[-1] & full:
            break
        reached.append(reached[-1] | reached[-1] << stride + size & allowed)
    total, n = max(((reached[-1] >> n * stride & level).bit_length() - 1, -n) for n in counts)
    at, chosen = total - n * stride, []
    for i in range(len(reached) - 1, 0, -1):
        if not reached[i - 1] >> at & 1:
            chosen.append(i)
            at -= stride + sizes[i]
    return [0, *reversed(chosen)]
