"""Outer iteration by outer iteration: what was trained on, what it changed, whose steps are right.

Sections have a table of each run, and a figure of their arms.
"""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

from matplotlib.figure import Figure

from star_jax.reporting import figures
from star_jax.reporting.digests import DIVERSITY_SAMPLE
from star_jax.reporting.runs import STAGE_OF, Arm, RunReport, arms, runs_of
from star_jax.reporting.tables import TEXTS, Cells, Section, ratio, run_table, share_cells, times
from star_jax.run.metrics import number, percent

PALETTE = itertools.cycle(("#3b6fb6", "#e08a2e", "#5a9e4b", "#8a5fb0"))
COLORS = dict(zip(STAGE_OF, PALETTE, strict=False))  # of sources
Draw: TypeAlias = Callable[[Sequence[Arm]], Figure] | None
SOLVED = {  # -> field of the digest, percent of a question in the figure, colour
    "newly solved": ("newly_solved", 100, "#3b8f5a"),
    "newly lost": ("newly_lost", -100, "#b8453a"),
}


def _present(runs: Sequence[RunReport], count: Callable[[RunReport, int, str], float]) -> list[str]:
    """The sources of which some iteration of a run has any, in order."""
    return [s for s in STAGE_OF if any(count(run, n, s) for run in runs for n in run.trained)]


# What was trained on


def _kept(run: RunReport, n: int, source: str) -> float:
    """How many rationales of a source outer iteration `n` trained on."""
    return run.rows[n].kept.get(STAGE_OF[source], 0)


def _composition(run: RunReport) -> Cells:
    cells = [["iteration", "questions", *STAGE_OF, "all", "train %"]]
    for n in run.trained:
        counts = [_kept(run, n, source) for source in STAGE_OF]
        numbers = [number(x) for x in (run.rows[n].n_questions, *counts, sum(counts))]
        cells.append([str(n), *numbers, percent(run.rows[n].train_fraction)])
    return cells


def draw_composition(shown: Sequence[Arm]) -> Figure:
    """Stacked bars of the sources, means over an arm's runs; one panel per arm."""
    present = _present(runs_of(shown), _kept)
    series = [(source, COLORS[source], partial(_kept, source=source)) for source in present]
    return figures.draw_bars(shown, series, "rationales kept")


def _filters(run: RunReport) -> list[str]:
    return [*dict.fromkeys(name for row in run.rows for name in row.filtered)]


def _dropped(run: RunReport) -> Cells:
    names = _filters(run)
    cells = [["iteration", "stage", "attempts", *names, "kept"]]
    for n in run.trained:
        row = run.rows[n]
        for stage in dict.fromkeys(s for by_stage in row.filtered.values() for s in by_stage):
            dropped = [row.filtered.get(name, {}).get(stage) for name in names]
            counts = [row.counts.get(stage, {}).get("attempts"), *dropped, row.kept.get(stage)]
            cells.append([str(n), stage, *map(number, counts)])
    return cells


def _tokens(run: RunReport, n: int, source: str | None = None) -> float | None:
    """Mean length of the kept rationales of a source or of all, None where it is not known."""
    found = run.iterations[n].kept or {}
    digests = [found[s] for s in STAGE_OF if s in found and source in (None, s)]
    lengths = [digest.n_tokens for digest in digests if digest.n_tokens is not None]
    return ratio(sum(lengths), sum(d.n for d in digests)) if len(lengths) == len(digests) else None


def _n_kept(run: RunReport, n: int) -> int | None:
    """Number of kept rationales in the files of the run, None without any."""
    found = run.iterations[n].kept
    return sum(digest.n for digest in found.values()) if found else None


def _unique_share(run: RunReport, n: int) -> float | None:
    return ratio(run.iterations[n].n_unique, _n_kept(run, n))


def _lengths(run: RunReport) -> Cells:
    lengths = [f"tokens, {source}" for source in (*STAGE_OF, "all")]
    cells = [["iteration", "kept", *lengths, "distinct %", "distinct-2"]]
    for n in run.trained:
        means = [number(_tokens(run, n, source), ".1f") for source in (*STAGE_OF, None)]
        pairs = number(run.iterations[n].distinct_2, ".3f")
        unique = percent(_unique_share(run, n))
        cells.append([str(n), number(_n_kept(run, n)), *means, unique, pairs])
    return cells


def _draw_rationales(shown: Sequence[Arm]) -> Figure:
    panels = [
        ("Length", "tokens per rationale", _tokens),
        ("Distinct rationales", "%", lambda run, n: times(100, _unique_share(run, n))),
        ("Distinct-2", "share of word pairs", lambda run, n: run.iterations[n].distinct_2),
    ]
    return figures.draw_arms(shown, panels)


# Which held-out questions an iteration gained, and which it lost


def _changes(run: RunReport) -> Cells:
    cells = [["iteration", "accuracy %", "n", *SOLVED]]
    for n in run.trained:
        digest, row = run.iterations[n], run.rows[n]
        changes = [number(digest.newly_solved), number(digest.newly_lost)]
        cells.append([str(n), percent(row.accuracy), number(row.n_eval), *changes])
    return cells


def _change(run: RunReport, n: int, name: str, scale: float) -> float | None:
    return ratio(times(scale, getattr(run.iterations[n], name)), run.rows[n].n_eval)


def draw_changes(shown: Sequence[Arm]) -> Figure:
    """Bars up for solved and down for lost questions, means over an arm's runs."""
    series = [
        (label, color, partial(_change, name=name, scale=scale))
        for label, (name, scale, color) in SOLVED.items()
    ]
    return figures.draw_bars(shown, series, "% of held-out questions")


# Right for the wrong reasons: rationales whose steps are correct


def _checkable(run: RunReport, n: int, source: str) -> tuple[tuple[int, int], tuple[int, int]]:
    """(with correct steps, checkable) among the correct answers of a source, and the kept ones."""
    counts = run.rows[n].counts.get(STAGE_OF[source], {})
    kept = (run.iterations[n].kept or {}).get(source)
    right = counts.get("right_steps", 0), counts.get("checkable", 0)
    return right, (kept.n_steps_right, kept.n_steps_checked) if kept else (0, 0)


def _right_share(run: RunReport, n: int, source: str) -> float | None:
    """Percent with correct steps: among correct answers, or among the kept if those are unknown."""
    shares = (ratio(100 * k, total) for k, total in _checkable(run, n, source))
    return next((share for share in shares if share is not None), None)


def _n_checkable(run: RunReport, n: int, source: str) -> float:
    return sum(total for _, total in _checkable(run, n, source))


def draw_right_steps(shown: Sequence[Arm]) -> Figure:
    """A panel for each source that occurs, a line for each arm."""
    present = _present(runs_of(shown), _n_checkable)
    panels = [(s, "% with correct steps", partial(_right_share, source=s)) for s in present]
    return figures.draw_arms(shown, panels, ylim=(-2, 102))


def _right_steps(run: RunReport) -> Cells:
    sources = _present([run], _n_checkable)
    columns = ("checkable", "correct steps %", "95 %", "kept", "correct steps %")
    cells = [["iteration"]]
    for source in sources:
        cells[0] += [f"{source}: {columns[0]}", *columns[1:]]
    for n in run.trained:
        cells.append([str(n)])
        for source in sources:
            (k, total), (k_kept, n_kept) = _checkable(run, n, source)
            kept = [number(n_kept or None), share_cells(k_kept, n_kept)[0]]
            cells[-1] += [number(total or None), *share_cells(k, total), *kept]
    return cells


# Topic in TEXTS -> whether its section has a run, the run's table, and the figure of their arms
TOPICS: dict[str, tuple[Callable[[RunReport], object], Callable[[RunReport], Cells], Draw]] = {
    "training_set": (lambda run: _present([run], _kept), _composition, draw_composition),
    "filters": (_filters, _dropped, None),
    "rationales": (
        lambda run: _present([run], _kept) and any(digest.kept for digest in run.iterations),
        _lengths,
        _draw_rationales,
    ),
    "changes": (
        lambda run: any(digest.newly_solved is not None for digest in run.iterations),
        _changes,
        draw_changes,
    ),
    "right_steps": (lambda run: _present([run], _n_checkable), _right_steps, draw_right_steps),
}


def iteration_sections(runs: Sequence[RunReport]) -> list[Section]:
    """A section for each topic that concerns some of the runs, in order."""
    sections = []
    for name, (concerns, cells, draw) in TOPICS.items():
        if shown := [run for run in runs if concerns(run)]:
            topic = TEXTS["topics"][name]
            text = topic.get("text", "").format(sample=DIVERSITY_SAMPLE)
            tables = tuple(run_table(run, cells(run)) for run in shown)
            drawn = draw and figures.picture(topic["figure"], topic["alt"], draw(arms(shown)))
            pictures = (drawn,) if drawn else ()
            sections.append(Section(topic["title"], (text,) if text else (), tables, pictures))
    return sections
