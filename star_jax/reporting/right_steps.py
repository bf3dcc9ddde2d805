"""Right for the wrong reasons: how many rationales have right steps, by source and iteration."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from star_jax.records import SOURCES
from star_jax.reporting import figures
from star_jax.reporting.document import Section, Table
from star_jax.reporting.runs import Arm, Run, arms
from star_jax.reporting.tables import NOTHING, command_note, interval_text, percent, run_title


def right_steps_section(runs: Sequence[Run]) -> list[Section]:
    """The shares, of the runs whose rationales could be checked step by step."""
    checked = [run for run in runs if _sources(run)]
    if not checked:
        return []
    text = (
        "Of the rationales that reached the right answer, and of those of them that were kept, the "
        "share whose every step is right. The two differ where only rationales with right steps "
        "are kept. Rationales whose steps cannot be checked do not count. Intervals are Wilson's.",
    )
    alt = "Share of rationales with right answers whose every step is right, by source"
    drawn = figures.picture("right_steps.png", alt, draw_right_steps(arms(checked)))
    title = "Right answers from right steps"
    return [Section(title, text, tuple(map(_table, checked)), (drawn,))]


def right_answers(run: Run, n: int, source: str) -> tuple[int, int] | None:
    """Of outer iteration `n`: how many have right steps of the right answers to be checked."""
    row = run.rows[n]
    steps, checkable = row.get("right_steps") or {}, row.get("checkable") or {}
    return (steps[source], checkable[source]) if checkable.get(source) else None


def kept(run: Run, n: int, source: str) -> tuple[int, int] | None:
    """The same of the kept rationales whose steps could be checked."""
    digest = (run.iterations[n].kept or {}).get(source)
    return (
        (digest.n_steps_right, digest.n_steps_checked)
        if digest and digest.n_steps_checked
        else None
    )


def share(run: Run, n: int, source: str) -> float | None:
    """Percent with right steps: of right answers, or of what was kept if no more is known."""
    counts = right_answers(run, n, source) or kept(run, n, source)
    return 100 * counts[0] / counts[1] if counts else None


def draw_right_steps(shown: Sequence[Arm]) -> Figure:
    """A panel for each source that occurs, a line for each arm."""
    present = {source for arm in shown for run in arm.runs for source in _sources(run)}
    panels = [
        (source, "% with right steps", lambda run, n, source=source: share(run, n, source))
        for source in SOURCES
        if source in present
    ]
    return figures.draw_arms(shown, panels, ylim=(-2, 102))


def _sources(run: Run) -> list[str]:
    ns = range(1, len(run.rows))
    return [s for s in SOURCES if any(share(run, n, s) is not None for n in ns)]


def _table(run: Run) -> Table:
    present = _sources(run)
    header = ["iteration"]
    for source in present:
        header += [f"{source}: right answers", "right steps %", "95 %", "kept", "right steps %"]
    rows = []
    for n in range(1, len(run.rows)):
        cells = [cell for source in present for cell in _cells(run, n, source)]
        rows.append((str(n), *cells))
    return Table(run_title(run), tuple(header), tuple(rows), command_note(run))


def _cells(run: Run, n: int, source: str) -> list[str]:
    answers, ours = right_answers(run, n, source), kept(run, n, source)
    of_answers = [NOTHING] * 3
    if answers:
        k, total = answers
        of_answers = [f"{total:,}", percent(k / total), interval_text(k, total)]
    of_kept = [f"{ours[1]:,}", percent(ours[0] / ours[1])] if ours else [NOTHING] * 2
    return [*of_answers, *of_kept]
