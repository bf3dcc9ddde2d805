"""Draws the pairs that raters compare, and decides which rationale is A and which is B.

The draw never sees whose a rationale is: pairs are put in the order of their texts, and one seed
shuffles them and flips their sides. So the raters' sheet is byte for byte the same if two sources
change places, and nothing in it but the rationales themselves can tell them apart.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence

import numpy as np

from star_jax.errors import UserError

CONSONANTS = "bcdfghjkmnpqrstvwxz"  # no word, number or month for a spreadsheet to read


@dataclasses.dataclass(frozen=True)
class Item:
    """One comparison; the sources are for the key alone."""

    name: str  # such as "kxbf-07": of this comparison and no other
    question_id: str
    question: str
    rationale_a: str
    rationale_b: str
    source_a: str
    source_b: str


def normalized(text: str) -> str:
    r"""The text without invisible characters, extra spaces and blank lines.

    "  2 +  2\r\n\n\n= 4 " -> "2 + 2\n\n= 4"
    """
    lines = re.split(r"\r\n|[\r\n]", text)
    spaced = (" ".join(_visible(line).split()) for line in lines)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(spaced)).strip()


def _visible(line: str) -> str:
    seen = (
        character
        for character in line
        if character.isspace() or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Co")
    )
    return unicodedata.normalize("NFC", "".join(seen))


def draw_items(
    rationales: Mapping[str, Mapping[str, str]], questions: Mapping[str, str], n: int, seed: int
) -> list[Item]:
    """Up to `n` questions of every two sources, shuffled, with the sides shuffled too.

    Equal rationales are no pair: nobody could prefer one.

    Args:
      rationales: source -> question id -> rationale, normalized.
      questions: question id -> text.
      n: items for each two sources.
      seed: of all draws.

    Raises:
      UserError: two sources share no question.
    """
    pairs = [
        pair for two in itertools.combinations(rationales, 2)
        for pair in _pairs_of(two, rationales, n, seed)
    ]  # fmt: skip
    # In an order that is the texts' own; from here on the sources only come along.
    pairs.sort(key=lambda pair: (questions[pair[0]], pair[0], pair[1][0][0], pair[1][1][0]))
    draws = np.random.default_rng([seed, 9])
    order = draws.permutation(len(pairs))
    flipped = draws.integers(2, size=len(pairs))
    sided = [
        (id_, two[::-1] if flip else two)
        for (id_, two), flip in zip([pairs[i] for i in order], flipped, strict=True)
    ]
    texts = [(questions[id_], a, b) for id_, ((a, _), (b, _)) in sided]
    names = item_names(texts)
    return [
        Item(name, id_, questions[id_], a, b, source_a, source_b)
        for name, (id_, ((a, source_a), (b, source_b))) in zip(names, sided, strict=True)
    ]


def item_names(texts: Sequence[tuple[str, str, str]]) -> list[str]:
    """Names that tell this comparison's items from any other's: they hang on all its texts."""
    digest = hashlib.sha256(json.dumps(texts).encode()).digest()
    word = "".join(CONSONANTS[byte % len(CONSONANTS)] for byte in digest[:4])
    width = len(str(len(texts)))
    return [f"{word}-{i:0{width}d}" for i in range(1, len(texts) + 1)]


def _pairs_of(
    two: tuple[str, str], rationales: Mapping[str, Mapping[str, str]], n: int, seed: int
) -> list[tuple[str, list[tuple[str, str]]]]:
    """(question id, the two (rationale, source) in the order of their texts) of drawn questions."""
    first, second = (rationales[source] for source in two)
    both = sorted(first.keys() & second.keys())
    shared = [id_ for id_ in both if first[id_] != second[id_]]
    if not shared:
        raise UserError(
            f"compare.sources: {two[0]!r} has {len(first)} rationales to compare, {two[1]!r} "
            f"{len(second)}, and {len(both)} questions are in both, none of them with two "
            f"different rationales; name other sources, or set compare.only_right = False"
        )
    # Every two sources draw with the same seed: where they share questions, the same ones.
    drawn = np.random.default_rng([seed, 8]).permutation(len(shared))[:n]
    return [
        (id_, sorted((rationales[source][id_], source) for source in two))
        for id_ in (shared[i] for i in drawn)
    ]
