"""Right for the wrong reasons: how many rationales have correct steps, by source and iteration."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from star_jax.reporting import figures
from star_jax.reporting.document import Section
from star_jax.reporting.runs import STAGE_OF, Arm, RunReport, arms, runs_of
from star_jax.reporting.tables import number, run_table, share_cells


def right_steps_section(runs: Sequence[RunReport]) -> list[Section]:
    """The shares, of the runs whose rationales could be checked step by step."""
    checked = [run for run in runs if _sources(run)]
    if not checked:
        return []
    text = (
        "The share of rationales in which all steps are correct: among those with a correct "
        "answer, and among those of them that were kept. The two differ where only rationales "
        "with correct steps are kept. Rationales whose steps cannot be checked are not counted. "
        "Intervals are Wilson's.",
    )
    alt = "Share of rationales with correct answers in which all steps are correct, by source"
    drawn = figures.picture("right_steps.png", alt, draw_right_steps(arms(checked)))
    tables = tuple(run_table(run, _cells(run)) for run in checked)
    return [Section("Correct answers with correct steps", text, tables, (drawn,))]


def right_answers(run: RunReport, n: int, source: str) -> tuple[int, int] | None:
    """Of outer iteration `n`: (with correct steps, checkable) among correct answers of a source."""
    counts = run.rows[n].counts.get(STAGE_OF[source], {})
    return (counts["right_steps"], counts["checkable"]) if counts.get("checkable") else None


def kept(run: RunReport, n: int, source: str) -> tuple[int, int] | None:
    """The same among the kept rationales."""
    digest = (run.iterations[n].kept or {}).get(source)
    if not digest or not digest.n_steps_checked:
        return None
    return digest.n_steps_right, digest.n_steps_checked


def share(run: RunReport, n: int, source: str) -> float | None:
    """Percent with correct steps: among correct answers, or among the kept if those are unknown."""
    counts = right_answers(run, n, source) or kept(run, n, source)
    return 100 * counts[0] / counts[1] if counts else None


def draw_right_steps(shown: Sequence[Arm]) -> Figure:
    """A panel for each source that occurs, a line for each arm."""
    present = {source for run in runs_of(shown) for source in _sources(run)}
    panels = [
        (source, "% with correct steps", lambda run, n, source=source: share(run, n, source))
        for source in STAGE_OF
        if source in present
    ]
    return figures.draw_arms(shown, panels, ylim=(-2, 102))


def _sources(run: RunReport) -> list[str]:
    return [s for s in STAGE_OF if any(share(run, n, s) is not None for n in run.trained)]


def _cells(run: RunReport) -> list[list[str]]:
    present = _sources(run)
    header = ["iteration"]
    for source in present:
        header += [f"{source}: checkable", "correct steps %", "95 %", "kept", "correct steps %"]
    return [header, *([str(n), *_row(run, n, present)] for n in run.trained)]


def _row(run: RunReport, n: int, sources: Sequence[str]) -> list[str]:
    cells: list[str] = []
    for source in sources:
        k, total = right_answers(run, n, source) or (0, 0)
        cells += [number(total or None), *share_cells(k, total)]
        k, total = kept(run, n, source) or (0, 0)
        cells += [number(total or None), share_cells(k, total)[0]]
    return cells
