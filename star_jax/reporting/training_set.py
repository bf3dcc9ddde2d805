"""What each outer iteration trained on: the sources of its rationales, filters, lengths."""

import itertools
from collections.abc import Sequence

from matplotlib.figure import Figure

from star_jax.reporting import figures
from star_jax.reporting.digests import DIVERSITY_SAMPLE
from star_jax.reporting.document import Section
from star_jax.reporting.runs import STAGE_OF, Arm, RunReport, arms
from star_jax.reporting.tables import number, percent, ratio, run_table, times

COLORS = ("#3b6fb6", "#e08a2e", "#5a9e4b", "#8a5fb0")


def training_set_sections(runs: Sequence[RunReport]) -> list[Section]:
    """Composition, and length and diversity, of the runs that trained on rationales."""
    trained = [run for run in runs if _sources(run)]
    if not trained:
        return []
    title = "Training set of each outer iteration"
    drawn = figures.picture("training_set.png", title, draw_composition(arms(trained)))
    tables = tuple(run_table(run, _composition(run)) for run in trained)
    composition = Section(title, (), tables, (drawn,))
    written = [run for run in trained if any(digest.kept for digest in run.iterations)]
    return [composition, *_filters(runs), *([_rationales(written)] if written else [])]


def _sources(run: RunReport) -> list[str]:
    return [s for s in STAGE_OF if any(kept(run, n, s) for n in run.trained)]


def kept(run: RunReport, n: int, source: str) -> float:
    """How many rationales of a source outer iteration `n` trained on."""
    return run.rows[n].kept.get(STAGE_OF[source], 0)


# Composition


def _composition(run: RunReport) -> list[list[str]]:
    cells = [["iteration", "questions", *STAGE_OF, "all", "train %"]]
    for n in run.trained:
        counts = [kept(run, n, source) for source in STAGE_OF]
        numbers = [number(x) for x in (run.rows[n].n_questions, *counts, sum(counts))]
        cells.append([str(n), *numbers, percent(run.rows[n].train_fraction)])
    return cells


def draw_composition(shown: Sequence[Arm]) -> Figure:
    """Stacked bars of the sources, means over an arm's runs; one panel per arm."""
    occurring = [s for s in STAGE_OF if any(s in _sources(r) for arm in shown for r in arm.runs)]
    series = [
        (source, color, lambda run, n, source=source: kept(run, n, source))
        for source, color in zip(STAGE_OF, itertools.cycle(COLORS), strict=False)
        if source in occurring
    ]
    return figures.draw_bars(shown, series, "rationales kept")


# Filters


def _filters(runs: Sequence[RunReport]) -> list[Section]:
    filtered = [run for run in runs if _filter_names(run)]
    text = (
        "Attempts of each stage, how many of them each filter dropped, and how many were kept to "
        "train on. The filters run in the order of the columns; each one sees the attempts that "
        'those before it kept. "-" where it was not recorded.',
    )
    tables = tuple(run_table(run, _dropped(run)) for run in filtered)
    return [Section("What the filters dropped", text, tables)] if filtered else []


def _filter_names(run: RunReport) -> list[str]:
    return [*dict.fromkeys(name for row in run.rows for name in row.filtered)]


def _dropped(run: RunReport) -> list[list[str]]:
    names = _filter_names(run)
    cells = [["iteration", "stage", "attempts", *names, "kept"]]
    for n in run.trained:
        row = run.rows[n]
        for stage in dict.fromkeys(s for by_stage in row.filtered.values() for s in by_stage):
            dropped = [row.filtered.get(name, {}).get(stage) for name in names]
            counts = [row.counts.get(stage, {}).get("attempts"), *dropped, row.kept.get(stage)]
            cells.append([str(n), stage, *map(number, counts)])
    return cells


# Length and diversity


def _rationales(runs: Sequence[RunReport]) -> Section:
    text = (
        "Length is the mean number of tokens that the model generated for the kept rationales of "
        "a source, answer included. `distinct %` is the share of distinct rationales. Distinct-2 "
        "is the share of distinct word pairs (Li et al. 2016, A Diversity-Promoting Objective "
        "Function for Neural Conversation Models), here of "
        f"{DIVERSITY_SAMPLE} rationales, evenly spread, or of all if there are fewer, since the "
        "measure falls with the amount of text.",
    )
    alt = "Length and diversity of kept rationales over outer iterations"
    drawn = figures.picture("rationales.png", alt, draw_rationales(arms(runs)))
    tables = tuple(run_table(run, _lengths(run)) for run in runs)
    return Section("Kept rationales: length and diversity", text, tables, (drawn,))


def tokens(run: RunReport, n: int, source: str | None = None) -> float | None:
    """Mean length of the kept rationales of a source or of all, None where it is not known."""
    found = run.iterations[n].kept or {}
    digests = [found[s] for s in STAGE_OF if s in found and source in (None, s)]
    lengths = [digest.n_tokens for digest in digests if digest.n_tokens is not None]
    return ratio(sum(lengths), sum(d.n for d in digests)) if len(lengths) == len(digests) else None


def n_kept(run: RunReport, n: int) -> int | None:
    """Number of kept rationales in the files of the run, None without any."""
    found = run.iterations[n].kept
    return sum(digest.n for digest in found.values()) if found else None


def unique_share(run: RunReport, n: int) -> float | None:
    """Share of distinct rationales among the kept ones."""
    return ratio(run.iterations[n].n_unique, n_kept(run, n))


def _lengths(run: RunReport) -> list[list[str]]:
    lengths = [f"tokens, {source}" for source in (*STAGE_OF, "all")]
    cells = [["iteration", "kept", *lengths, "distinct %", "distinct-2"]]
    for n in run.trained:
        means = [number(tokens(run, n, source), ".1f") for source in (*STAGE_OF, None)]
        pairs = number(run.iterations[n].distinct_2, ".3f")
        cells.append([str(n), number(n_kept(run, n)), *means, percent(unique_share(run, n)), pairs])
    return cells


def draw_rationales(shown: Sequence[Arm]) -> Figure:
    """Three panels, a line for each arm in all of them."""
    panels = [
        ("Length", "tokens per rationale", tokens),
        ("Distinct rationales", "%", lambda run, n: times(100, unique_share(run, n))),
        ("Distinct-2", "share of word pairs", lambda run, n: run.iterations[n].distinct_2),
    ]
    return figures.draw_arms(shown, panels)
