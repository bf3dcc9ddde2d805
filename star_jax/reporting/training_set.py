"""What each outer iteration trained on: where its rationales came from, how long and how alike."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from star_jax.records import SOURCES
from star_jax.reporting import figures
from star_jax.reporting.document import Section, Table
from star_jax.reporting.runs import Arm, Run, arms
from star_jax.reporting.stages import DIVERSITY_SAMPLE
from star_jax.reporting.tables import command_note, number, percent, ratio, run_title

COLORS = dict(zip(SOURCES, ("#3b6fb6", "#e08a2e", "#5a9e4b"), strict=True))


def training_set_sections(runs: Sequence[Run]) -> list[Section]:
    """Composition, and length and diversity, of the runs that trained on rationales."""
    trained = [run for run in runs if any(kept(run, n, s) for n in _ns(run) for s in SOURCES)]
    if not trained:
        return []
    title = "Training set of each outer iteration"
    drawn = figures.picture("training_set.png", title, draw_composition(arms(trained)))
    composition = Section(title, (), tuple(map(_composition, trained)), (drawn,))
    written = [run for run in trained if any(digest.kept for digest in run.iterations)]
    return [composition, *([_rationales(written)] if written else [])]


def kept(run: Run, n: int, source: str) -> int:
    """How many rationales of a source outer iteration `n` trained on."""
    return run.rows[n].get(f"kept_{source}") or 0


def _ns(run: Run) -> range:
    return range(1, len(run.rows))


# Composition


def _composition(run: Run) -> Table:
    header = ("iteration", "asked", *SOURCES, "together", "train %")
    rows = []
    for n in _ns(run):
        row, counts = run.rows[n], [kept(run, n, source) for source in SOURCES]
        cells = [f"{count:,}" for count in [*counts, sum(counts)]]
        share = percent(row.get("train_fraction"))
        rows.append((str(n), number(row.get("n_sampled")), *cells, share))
    return Table(run_title(run), header, tuple(rows), command_note(run))


def draw_composition(shown: Sequence[Arm]) -> Figure:
    """Stacked bars of the sources, means over an arm's runs; one panel an arm."""
    figure, panels = figures.panels_for(len(shown), height=3.4)
    last = figures.last_iteration(shown)
    occurring = [
        s for s in SOURCES if any(kept(r, n, s) for a in shown for r in a.runs for n in _ns(r))
    ]
    for panel, arm in zip(panels, shown, strict=True):
        figures.style_panel(panel, figures.wrapped(arm), figures.sample_line(arm, "mean"), last)
        panel.set_xlim(0.3, last + 0.7)
        ns = range(1, max(len(run.rows) for run in arm.runs))
        floor = [0.0] * len(ns)
        for source in occurring:
            runs = [[run for run in arm.runs if n < len(run.rows)] for n in ns]
            means = [
                sum(kept(run, n, source) for run in there) / len(there)
                for n, there in zip(ns, runs, strict=True)
            ]
            panel.bar(ns, means, 0.8, bottom=floor, color=COLORS[source], label=source)
            floor = [a + b for a, b in zip(floor, means, strict=True)]
    panels[0].set_ylim(0, 1.05 * panels[0].get_ylim()[1])
    for line_start in panels[:: figures.MAX_COLUMNS]:
        line_start.set_ylabel("rationales kept")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    return figure


# Length and diversity


def _rationales(runs: Sequence[Run]) -> Section:
    text = (
        "Length is in tokens that the model wrote, answer and end included, on average over the "
        "kept rationales of a source. `different %` is how many different texts there are among "
        "them, of all. Distinct-2 is the share of word pairs that differ (Li et al. 2016, A "
        "Diversity-Promoting Objective Function for Neural Conversation Models), here of "
        f"{DIVERSITY_SAMPLE} of them or all if there are fewer, evenly spread, since the measure "
        "falls with the amount of text.",
    )
    alt = "Length and diversity of kept rationales over outer iterations"
    drawn = figures.picture("rationales.png", alt, draw_rationales(arms(runs)))
    return Section(
        "Kept rationales: length and diversity", text, tuple(map(_table, runs)), (drawn,)
    )


def tokens(run: Run, n: int, source: str | None = None) -> float | None:
    """Mean length of the kept rationales of a source or of all, None where it is not known."""
    found = run.iterations[n].kept or {}
    digests = [found[s] for s in SOURCES if s in found and source in (None, s)]
    if not digests or any(digest.n_tokens is None for digest in digests):
        return None
    return ratio(sum(d.n_tokens for d in digests), sum(d.n for d in digests))


def unique_share(run: Run, n: int) -> float | None:
    """Of the kept rationales, those that differ."""
    digest = run.iterations[n]
    return ratio(digest.n_unique, sum(d.n for d in (digest.kept or {}).values()))


def _table(run: Run) -> Table:
    header = ("iteration", "kept", *(f"tokens, {s}" for s in SOURCES), "tokens, all")
    rows = []
    for n in _ns(run):
        digest = run.iterations[n]
        count = sum(d.n for d in digest.kept.values()) if digest.kept else None
        lengths = [number(tokens(run, n, source), ".1f") for source in (*SOURCES, None)]
        diversity = [percent(unique_share(run, n)), number(digest.distinct_2, ".3f")]
        rows.append((str(n), number(count), *lengths, *diversity))
    return Table(
        run_title(run), (*header, "different %", "distinct-2"), tuple(rows), command_note(run)
    )


def draw_rationales(shown: Sequence[Arm]) -> Figure:
    """Three panels, a line for each arm in all of them."""
    panels = [
        ("Length", "tokens a rationale", tokens),
        ("Different rationales", "%", lambda run, n: _times(100, unique_share(run, n))),
        ("Distinct-2", "share of word pairs", lambda run, n: run.iterations[n].distinct_2),
    ]
    return figures.draw_arms(shown, panels)


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value
