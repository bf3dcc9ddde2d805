"""What raters preferred: shares, intervals, sign tests, and their agreement."""

import collections
import itertools
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from star_jax.reporting.tables import interval_text, wilson_interval
from star_jax.run.metrics import NOTHING
from star_jax.run.progress import aligned
from star_jax.tools.comparison.sheets import AnswerKey, Answers

Scores: TypeAlias = dict[str, Any]  # a JSON object

TIE = "tie"
SHOWN = 10  # missing and invalid entries on the screen; the JSON has all of them


def score(answers: Mapping[str, Answers], key: AnswerKey) -> Scores:
    """All scores: of each pair of sources, the raters' agreement, each rater, and what is amiss.

    `ratings` counts every rating; those of one item depend on each other. `majority` counts each
    item once, by what most of its raters preferred, so its test is the one to quote. See `tally`
    and `fleiss_kappa` for the numbers.
    """
    chosen: dict[str, list[str]] = {}  # item -> the source that each rater preferred, or a tie
    for given in answers.values():
        for item, source in _sources(given, key).items():
            chosen.setdefault(item, []).append(source)
    pairs = []
    for two in itertools.combinations(key.sources, 2):
        items = [of for item, of in chosen.items() if {*key.sides[item].values()} == {*two}]
        if items:
            ratings, majorities = [*itertools.chain(*items)], [*map(majority, items)]
            tallies = {"ratings": tally(ratings, two), "majority": tally(majorities, two)}
            pairs.append({"sources": list(two), **tallies})
    by_item = [
        [given.preferences[item] for given in answers.values() if item in given.preferences]
        for item in key.sides
    ]
    return {
        "n_items": len(key.sides),
        "pairs": pairs,
        "agreement": fleiss_kappa(by_item),
        "raters": {rater: _rater(given, key) for rater, given in answers.items()},
        "missing": [line for given in answers.values() for line in given.missing],
        "invalid": [line for given in answers.values() for line in given.invalid],
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


def _sources(given: Answers, key: AnswerKey) -> Mapping[str, str]:
    """Item -> the source that a rater preferred, or a tie."""
    return {item: key.sides[item].get(side, TIE) for item, side in given.preferences.items()}


def _rater(given: Answers, key: AnswerKey) -> Scores:
    counts = collections.Counter(_sources(given, key).values())
    return {
        "n": len(given.preferences),
        "preferred": {source: counts[source] for source in key.sources},
        "ties": counts[TIE],
        # Far from half of those without ties: this rater prefers one side.
        "left": list(given.preferences.values()).count("A"),
        "missing": len(given.missing),
        "invalid": len(given.invalid),
    }


def score_lines(scores: Scores) -> list[str]:
    """The scores as lines of text: per pair of sources, per rater, and the agreement."""
    sources = [*next(iter(scores["raters"].values()))["preferred"]]
    pairs = [["first", "second", "counted by", "n", "first", "second", "ties", "share of first",
              "95 % interval", "p"]]  # fmt: skip
    pairs += [
        [*pair["sources"], unit, *_tally_cells(pair[unit])]
        for pair in scores["pairs"]
        for unit in ("ratings", "majority")
    ]
    raters = [["rater", "n", *sources, "ties", "chose A", "missing", "invalid"]]
    for name, x in scores["raters"].items():
        cells = [x["n"], *x["preferred"].values(), x["ties"], x["left"], x["missing"], x["invalid"]]
        raters.append([name, *map(str, cells)])
    title = "Preferences (share without ties, 95 % Wilson interval, two-sided sign test)"
    agreement = _agreement(**scores["agreement"])
    lines = [title, *aligned(pairs), "", *aligned(raters), "", agreement]
    for kind in ("missing", "invalid"):
        found = scores[kind]
        lines += [f"{kind}: {line}" for line in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"{kind}: and {len(found) - SHOWN} more")
    return lines


def _tally_cells(tally: Scores) -> list[str]:
    first, second = tally["preferred"].values()
    counts = [str(x) for x in (tally["n"], first, second, tally["ties"])]
    if tally["share"] is None:
        return [*counts, NOTHING, NOTHING, NOTHING]
    interval = interval_text(first, first + second)
    return [*counts, f"{100 * tally['share']:.1f} %", interval, f"{tally['p_value']:.2g}"]


def _agreement(n_items: int, observed: float, by_chance: float, fleiss_kappa: float | None) -> str:
    if fleiss_kappa is None:
        return f"Agreement: not defined ({n_items} items with two ratings or more)"
    return (
        f"Agreement on {n_items} items with two ratings or more: Fleiss' kappa {fleiss_kappa:.2f} "
        f"({100 * observed:.1f} % of pairs agree, {100 * by_chance:.1f} % would by chance)"
    )
