r"""Stop texts as an automaton over token ids, so that the devices end a completion at once.

Its state is the longest end of the text that begins a stop text, in bytes, so that a stop text is
found wherever the borders of tokens lie. A token adds other bytes at the start of a line than after
a word where its vocabulary puts spaces between words; then there are two sets of states.

    stop text "\n\nQ:"    state  0 ""  1 "\n"  2 "\n\n"  3 "\n\nQ"  4: complete
    token "\nQ": from state 0 to 0, from 1 and 2 to 3; then the token ": " completes it
"""

import functools
from collections.abc import Sequence

import numpy as np
import seqio

from star_jax.errors import UserError
from star_jax.tokenizers.vocabularies import added_bytes


@functools.lru_cache(maxsize=16)
def automaton(vocabulary: seqio.Vocabulary, stop: tuple[str, ...]) -> np.ndarray:
    """uint[S, V]: each state's next one after each token; S once a stop text is complete.

    State 0 is that of no text. The stop texts are not empty.
    """
    by_byte = byte_moves([text.encode() for text in stop])
    n_states, (at_start, inside) = len(by_byte), added_bytes(vocabulary)
    tables = [_token_moves(by_byte, at_start)]
    if inside != at_start:
        # States 0 to n - 1 are at the start of a line, n to 2 n - 1 inside one.
        tables.append(_token_moves(by_byte, inside))
        for here, added in enumerate((at_start, inside)):
            then = np.array([here if not x else int(not x.endswith(b"\n")) for x in added])
            complete = tables[here] == n_states
            tables[here] = np.where(complete, 2 * n_states, tables[here] + then * n_states)
    moves = np.concatenate(tables)
    return moves.astype(np.min_scalar_type(len(moves)))


def ids_before_stop(vocabulary: seqio.Vocabulary, ids: Sequence[int], before: str) -> Sequence[int]:
    """The ids of the text `before` a stop text: as sampled unless a token has parts of both.

    Then they are its own encoding; none if the vocabulary cannot encode it.
    """
    for n in range(len(ids), -1, -1):
        text = vocabulary.decode(ids[:n])
        if text == before:
            return ids[:n]
        if len(text) < len(before):
            break
    try:
        return vocabulary.encode(before)
    except UserError:
        return []


def byte_moves(stop: Sequence[bytes]) -> np.ndarray:
    """int[S, 256]: each state's next one after a byte; S once a stop text is complete."""
    states = sorted({text[:n] for text in stop for n in range(len(text))})  # b"" is the first
    number = {state: i for i, state in enumerate(states)}
    moves = np.zeros((len(states), 256), int)
    for state in states:
        for byte in set(b"".join(stop)):
            text = state + bytes([byte])
            ends = (text[i:] for i in range(len(text) + 1))
            complete = any(map(text.endswith, stop))
            moves[number[state], byte] = (
                len(states) if complete else next(number[end] for end in ends if end in number)
            )
    return moves


def _token_moves(by_byte: np.ndarray, added: Sequence[bytes]) -> np.ndarray:
    """int[S, V]: each state's next one after all bytes of a token."""
    n_states = len(by_byte)
    by_byte = np.concatenate([by_byte, np.full((1, 256), n_states)])  # complete: nothing more
    lengths = np.array([len(each) for each in added])
    starts, flat = np.cumsum(lengths) - lengths, np.frombuffer(b"".join(added), np.uint8)
    states = np.repeat(np.arange(n_states)[:, None], len(added), axis=1)
    for i in range(lengths.max()):
        longer = np.flatnonzero(lengths > i)
        states[:, longer] = by_byte[states[:, longer], flat[starts[longer] + i]]
    return states
