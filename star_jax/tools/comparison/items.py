"""Draws the pairs that raters compare, and decides which rationale is A and which is B.

The draw does not depend on the sources: pairs are sorted by their texts, and one seed shuffles them
and flips their sides. So the raters' sheet is byte for byte the same if two sources change places,
and only the rationales themselves can distinguish them.
"""

import dataclasses
import hashlib
import itertools
import json
import re
import unicodedata
from collections.abc import Mapping
from typing import TypeAlias

import numpy as np

from star_jax.errors import UserError
from star_jax.records import Key

# source -> (question id, sample, turn) -> rationale, normalized
Rationales: TypeAlias = Mapping[str, Mapping[Key, str]]

INVISIBLE = ("Cc", "Cf", "Cs", "Co")  # categories of Unicode
CONSONANTS = "bcdfghjkmnpqrstvwxz"  # make no word, number or month, which spreadsheets convert


@dataclasses.dataclass(frozen=True)
class Item:
    """One comparison; the sources are for the key alone."""

    name: str  # such as "kxbf-07": of this comparison and no other
    key: Key  # of the two attempts
    question: str
    rationale_a: str
    rationale_b: str
    source_a: str
    source_b: str


def normalized(text: str) -> str:
    r"""The text without invisible characters, extra spaces and blank lines.

    "  2 +  2\r\n\n\n= 4 " -> "2 + 2\n\n= 4"
    """
    lines = []
    for line in re.split(r"\r\n|[\r\n]", text):
        seen = (x for x in line if x.isspace() or unicodedata.category(x) not in INVISIBLE)
        lines.append(" ".join(unicodedata.normalize("NFC", "".join(seen)).split()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def draw_items(
    rationales: Rationales, questions: Mapping[str, str], n: int, seed: int
) -> list[Item]:
    """Up to `n` pairs of every two sources, shuffled, with the sides shuffled too.

    A pair has the same question, sample and turn. Equal rationales are no pair.

    Args:
      rationales: of each source.
      questions: question id -> text.
      n: items for each two sources.
      seed: of all draws.

    Raises:
      UserError: two sources share no question.
    """
    every_two = itertools.combinations(rationales, 2)
    pairs = [pair for two in every_two for pair in _pairs_of(two, rationales, n, seed)]
    # By the texts alone, so that nothing after this line depends on the sources.
    pairs.sort(key=lambda pair: (questions[pair[0][0]], pair[0], pair[1][0][0], pair[1][1][0]))
    draws = np.random.default_rng([seed, 9])
    order = draws.permutation(len(pairs))
    flipped = draws.integers(2, size=len(pairs))
    sided = []
    for (key, two), flip in zip([pairs[i] for i in order], flipped, strict=True):
        (a, source_a), (b, source_b) = two[::-1] if flip else two
        sided.append((key, questions[key[0]], a, b, source_a, source_b))
    # Names depend on all texts, so they distinguish this comparison's items from any other's.
    digest = hashlib.sha256(json.dumps([texts[1:4] for texts in sided]).encode()).digest()
    word = "".join(CONSONANTS[byte % len(CONSONANTS)] for byte in digest[:4])
    width = len(str(len(sided)))
    return [Item(f"{word}-{i:0{width}d}", *fields) for i, fields in enumerate(sided, start=1)]


def _pairs_of(
    two: tuple[str, str], rationales: Rationales, n: int, seed: int
) -> list[tuple[Key, list[tuple[str, str]]]]:
    """(key, the two (rationale, source) in the order of their texts) of drawn attempts."""
    first, second = (rationales[source] for source in two)
    both = sorted(first.keys() & second.keys())
    shared = [key for key in both if first[key] != second[key]]
    if not shared:
        raise UserError(
            f"compare.sources: {two[0]!r} has {len(first)} rationales to compare, {two[1]!r} "
            f"{len(second)}, and {len(both)} are for the same question, none of them with two "
            f"different rationales; name other sources, or set compare.only_right = False"
        )
    # All pairs of sources draw with the same seed, so they draw the same questions if they can.
    drawn = np.random.default_rng([seed, 8]).permutation(len(shared))[:n]
    return [
        (key, sorted((rationales[source][key], source) for source in two))
        for key in (shared[i] for i in drawn)
    ]
