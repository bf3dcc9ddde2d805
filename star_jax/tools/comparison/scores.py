"""What raters preferred: shares, intervals, sign tests, and how far they agree."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.tools.comparison.answers import Answers, Key

TIE = "tie"


def score(answers: Sequence[Answers], key: Key) -> dict[str, Any]:
    """All of it, JSON-ready; see `tally` and `fleiss_kappa` for the numbers.

    `ratings` counts every rating by itself; those of one item hang together. `majority` counts
    each item once, by what most of its raters preferred, so its test is the one to quote.
    """
    pairs = []
    for two in itertools.combinations(key.sources, 2):
        chosen = _chosen(answers, key, two)
        if chosen:
            pairs.append(
                {
                    "sources": list(two),
                    "ratings": tally([x for item in chosen.values() for x in item], two),
                    "majority": tally([majority(item) for item in chosen.values()], two),
                }
            )
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


def tally(chosen: Sequence[str], two: tuple[str, str]) -> dict[str, Any]:
    """How often each of two sources was preferred.

    `share` is the first one's among those that are no ties, with its 95 % Wilson interval;
    `p_value` is the two-sided exact binomial one of the sign test, which leaves ties out (Dixon
    and Mood 1946, JASA 41:557). All three are None where there are only ties.
    """
    from scipy import stats  # takes seconds, and only scoring wants it

    counts = collections.Counter(chosen)
    first, second = (counts[source] for source in two)
    test = stats.binomtest(first, first + second) if first + second else None
    interval = test and test.proportion_ci(0.95, method="wilson")
    return {
        "n": len(chosen),
        "preferred": {two[0]: first, two[1]: second},
        "ties": counts[TIE],
        "share": test and float(test.statistic),
        "interval_95": interval and [float(interval.low), float(interval.high)],
        "p_value": test and float(test.pvalue),
    }


def majority(chosen: Sequence[str]) -> str:
    """The source that most of an item's raters preferred; a tie if none leads the other."""
    votes = collections.Counter(x for x in chosen if x != TIE).most_common()
    if not votes or (len(votes) > 1 and votes[0][1] == votes[1][1]):
        return TIE
    return votes[0][0]


def fleiss_kappa(by_item: Sequence[Sequence[str]]) -> dict[str, Any]:
    """Agreement beyond chance on the items with two ratings or more (Fleiss 1971).

    With n_ij the ratings of item i in category j and n_i those of item i: the observed agreement
    is the mean of sum_j n_ij (n_ij - 1) / (n_i (n_i - 1)), that of chance is sum_j p_j^2 with p_j
    the mean of n_ij / n_i, and kappa = (observed - chance) / (1 - chance). Items may have
    different numbers of ratings. Categories are the sides as the raters saw them (A, B, tie), which
    a shuffle has made equally likely, and not the sources, of which one may be preferred by all.

    kappa is None where fewer than two raters rated an item, or all ratings are the same.
    """
    counted = [collections.Counter(ratings) for ratings in by_item if len(ratings) > 1]
    if not counted:
        return {"n_items": 0, "observed": None, "by_chance": None, "fleiss_kappa": None}
    totals = [counts.total() for counts in counted]
    observed = sum(
        sum(n * (n - 1) for n in counts.values()) / (total * (total - 1))
        for counts, total in zip(counted, totals, strict=True)
    ) / len(counted)
    categories = sorted(set().union(*counted))
    shares = [
        sum(counts[c] / total for counts, total in zip(counted, totals, strict=True)) / len(counted)
        for c in categories
    ]
    chance = sum(share**2 for share in shares)
    kappa = (observed - chance) / (1 - chance) if len(categories) > 1 else None
    return {
        "n_items": len(counted),
        "observed": observed,
        "by_chance": chance,
        "fleiss_kappa": kappa,
    }


def _chosen(answers: Sequence[Answers], key: Key, two: tuple[str, str]) -> dict[str, list[str]]:
    """Item -> what each of its raters preferred (a source, or a tie), of the items of two."""
    chosen: dict[str, list[str]] = {}
    for given in answers:
        for item, preference in given.preferences.items():
            sides = key.sides[item]
            if set(sides.values()) == set(two):
                chosen.setdefault(item, []).append(sides.get(preference, TIE))
    return chosen


def _rater(given: Answers, key: Key) -> dict[str, Any]:
    sources = collections.Counter(
        key.sides[item].get(preference, TIE) for item, preference in given.preferences.items()
    )
    sides: Mapping[str, int] = collections.Counter(given.preferences.values())
    return {
        "n": len(given.preferences),
        "preferred": {source: sources[source] for source in key.sources},
        "ties": sources[TIE],
        "left": sides["A"],  # far from half of what is no tie: this rater reads one side first
        "missing": len(given.missing),
        "invalid": len(given.invalid),
    }
