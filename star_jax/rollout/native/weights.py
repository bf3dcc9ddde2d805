"""A model as sampling wants it: its weights laid out for decoding, and prefixes they computed."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from star_jax.rollout.native.slots import Prefix

KEPT_PREFIXES = 16  # plain and hinted examples of arithmetic's five digit counts, and some more


class DecodingModel:
    """Weights unrolled, in the dtype of computing, and the few-shot prefixes met so far.

    A prefix is computed once for these weights, whatever stages ask for it; the one that was used
    longest ago is given up when there are too many.
    """

    def __init__(self, params: Any):
        """`params` are as `Programs.place` lays them out."""
        self.params = params
        self._prefixes: OrderedDict[tuple[int, ...], Prefix] = OrderedDict()

    def knows(self, ids: tuple[int, ...]) -> bool:
        """Whether the prefix of these ids is computed."""
        return ids in self._prefixes

    def prefix(self, ids: tuple[int, ...], compute: Callable[[], Prefix]) -> Prefix | None:
        """The prefix of these ids, computed if need be; None for no ids."""
        if not ids:
            return None
        if ids not in self._prefixes:
            self._prefixes[ids] = compute()
            if len(self._prefixes) > KEPT_PREFIXES:
                self._prefixes.popitem(last=False)
        self._prefixes.move_to_end(ids)
        return self._prefixes[ids]
