"""What raters preferred: shares, intervals, sign tests, and their agreement."""

import collections
import itertools
from collections.abc import Sequence
from typing import Any, TypeAlias

from star_jax.reporting.intervals import wilson_interval
from star_jax.tools.comparison.answers import AnswerKey, Answers

Scores: TypeAlias = dict[str, Any]  # a JSON object

TIE = "tie"


def score(answers: Sequence[Answers], key: AnswerKey) -> Scores:
    """All scores: of each pair of sources, the raters' agreement, each rater, and what is amiss.

    `ratings` counts every rating; those of one item depend on each other. `majority` counts each
    item once, by what most of its raters preferred, so its test is the one to quote. See `tally`
    and `fleiss_kappa` for the numbers.
    """
    pairs = []
    for two in itertools.combinations(key.sources, 2):
        if chosen := _chosen(answers, key, two):
            ratings = [x for item in chosen.values() for x in item]
            majorities = [majority(item) for item in chosen.values()]
            tallies = {"ratings": tally(ratings, two), "majority": tally(majorities, two)}
            pairs.append({"sources": list(two), **tallies})
    by_item = [
        [a.preferences[item] for a in answers if item in a.preferences] for item in key.sides
    ]
    return {
        "n_items": len(key.sides),
        "pairs": pairs,
        "agreement": fleiss_kappa(by_item),
        "raters": {a.rater: _rater(a, key) for a in answers},
        "missing": [line for a in answers for line in a.missing],
        "invalid": [line for a in answers for line in a.invalid],
    }


def tally(chosen: Sequence[str], two: tuple[str, str]) -> Scores:
    """How often each of two sources was preferred: n, preferred, ties, share, interval, p-value.

    `share` is that of the first source without ties, with its 95 % Wilson interval; `p_value` is
    the two-sided exact binomial one of the sign test, which ignores ties (Dixon and Mood 1946,
    JASA 41:557). All three are None where there are only ties.
    """
    from scipy import stats  # the import takes seconds, and only scoring needs it

    counts = collections.Counter(chosen)
    first, second = (counts[source] for source in two)
    n = first + second
    return {
        "n": len(chosen),
        "preferred": {two[0]: first, two[1]: second},
        "ties": counts[TIE],
        "share": first / n if n else None,
        "interval_95": list(wilson_interval(first, n)) if n else None,
        "p_value": float(stats.binomtest(first, n).pvalue) if n else None,
    }


def majority(chosen: Sequence[str]) -> str:
    """The source that most of an item's raters preferred; a tie if two have equal votes."""
    votes = collections.Counter(x for x in chosen if x != TIE).most_common()
    if not votes or (len(votes) > 1 and votes[0][1] == votes[1][1]):
        return TIE
    return votes[0][0]


def fleiss_kappa(by_item: Sequence[Sequence[str]]) -> Scores:
    """Agreement beyond chance on the items with two ratings or more (Fleiss 1971).

    With n_ij the ratings of item i in category j and n_i those of item i: the observed agreement
    is the mean of sum_j n_ij (n_ij - 1) / (n_i (n_i - 1)), that of chance is sum_j p_j^2 with p_j
    the mean of n_ij / n_i, and kappa = (observed - chance) / (1 - chance). Items may have
    different numbers of ratings. Categories are the sides that the raters saw (A, B, tie), which
    a shuffle has made equally likely, and not the sources, of which one may be preferred by all.

    Returns:
      n_items, observed, by_chance and fleiss_kappa; kappa is None where fewer than two raters rated
      an item, or all ratings are the same.
    """
    counted = [collections.Counter(ratings) for ratings in by_item if len(ratings) > 1]
    if not counted:
        return {"n_items": 0, "observed": None, "by_chance": None, "fleiss_kappa": None}
    agreeing = (
        sum(n * (n - 1) for n in counts.values()) / (counts.total() * (counts.total() - 1))
        for counts in counted
    )
    observed = sum(agreeing) / len(counted)
    categories = sorted(set().union(*counted))
    shares = [sum(x[name] / x.total() for x in counted) / len(counted) for name in categories]
    chance = sum(share**2 for share in shares)
    kappa = (observed - chance) / (1 - chance) if len(categories) > 1 else None
    return {
        "n_items": len(counted), "observed": observed, "by_chance": chance, "fleiss_kappa": kappa
    }  # fmt: skip


def _chosen(
    answers: Sequence[Answers], key: AnswerKey, two: tuple[str, str]
) -> dict[str, list[str]]:
    """Item -> the source that each of its raters preferred, or a tie, for the items of two."""
    chosen: dict[str, list[str]] = {}
    for given in answers:
        for item, preference in given.preferences.items():
            sides = key.sides[item]
            if set(sides.values()) == set(two):
                chosen.setdefault(item, []).append(sides.get(preference, TIE))
    return chosen


def _rater(given: Answers, key: AnswerKey) -> Scores:
    sources = collections.Counter(
        key.sides[item].get(preference, TIE) for item, preference in given.preferences.items()
    )
    return {
        "n": len(given.preferences),
        "preferred": {source: sources[source] for source in key.sources},
        "ties": sources[TIE],
        # Far from half of those without ties: this rater prefers one side.
        "left": list(given.preferences.values()).count("A"),
        "missing": len(given.missing),
        "invalid": len(given.invalid),
    }
