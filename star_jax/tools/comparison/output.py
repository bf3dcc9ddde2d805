"""What the run modes `compare` and `score_comparison` print, and how they write their files."""

import os
from collections.abc import Mapping
from pathlib import Path

from star_jax.errors import UserError
from star_jax.reporting.intervals import interval_text
from star_jax.run.files import write_together
from star_jax.run.tables import NOTHING, aligned
from star_jax.tools.comparison.scores import Scores

SHOWN = 10  # missing and invalid entries on the screen; the JSON has all of them


def write_files(directory: Path, contents: Mapping[str, bytes], binding: str) -> None:
    """Writes all files or, with a UserError that names the binding of the directory, none."""
    try:
        write_together(directory, contents)
    except OSError as error:
        raise UserError(
            f"{binding}: cannot write to {directory} ({os.strerror(error.errno or 0)}); give "
            f"another one"
        ) from error


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
    lines = [
        "Preferences (share without ties, 95 % Wilson interval, two-sided sign test)",
        *aligned(pairs),
        "",
        *aligned(raters),
        "",
        _agreement(scores["agreement"]),
    ]
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


def _agreement(agreement: Scores) -> str:
    n = agreement["n_items"]
    if agreement["fleiss_kappa"] is None:
        return f"Agreement: not defined ({n} items with two ratings or more)"
    return (
        f"Agreement on {n} items with two ratings or more: Fleiss' kappa "
        f"{agreement['fleiss_kappa']:.2f} ({100 * agreement['observed']:.1f} % of pairs agree, "
        f"{100 * agreement['by_chance']:.1f} % would by chance)"
    )
