"""The paper's tables next to our runs; tiny twins are in tables of their own."""

from collections.abc import Mapping, Sequence

from star_jax.reporting.document import Section, Table
from star_jax.reporting.intervals import interval_text
from star_jax.reporting.paper_numbers import KNOWN_ROWS, TABLES, PaperRow
from star_jax.reporting.runs import TINY, TWIN, Arm, RunReport, arms
from star_jax.reporting.tables import number, percent, right_of, table_of
from star_jax.run.tables import NOTHING

NOT_RUN = "not run"
OURS = ("ours %", "95 % interval", "n", "seed", "iteration", "train %")
NOTE = (
    "Accuracy over all n held-out questions after the last iteration. The interval of one run is "
    "Wilson's; for several runs `ours` is the mean, with their range. `train %` is the share of "
    "the sampled training questions that were trained on."
)
TWIN_NOTE = f"Each is a {TWIN}, not comparable with the paper's number. {NOTE}"


def paper_sections(runs: Sequence[RunReport]) -> list[Section]:
    """Tables 1 and 2, arithmetic and ablations; none if no run says which row it is."""
    by_row = {arm.row: arm for arm in arms(runs) if arm.row}
    if not by_row:
        return []
    sections = [_section(title, rows, by_row) for title, rows in TABLES.items()]
    unknown = sorted(row for row, arm in by_row.items() if arm.paper_row not in KNOWN_ROWS)
    if unknown:
        known = ", ".join(sorted(KNOWN_ROWS))
        text = f"In none of the tables, since the paper has no such row: {', '.join(unknown)}."
        hint = f"The rows are {known}, each also with {TINY} at its end."
        sections.append(Section("Other rows", (text, hint)))
    return sections


def _section(title: str, rows: Sequence[PaperRow], by_row: Mapping[str, Arm]) -> Section:
    theirs = {paper.row for paper in rows}
    shown = [arm for arm in by_row.values() if arm.paper_row in theirs]
    commands = [f"{arm.row}, seed {run.seed}: {run.command}" for arm in shown for run in arm.runs]
    tables = [_table(rows, by_row)]
    if any(arm.row.endswith(TINY) for arm in shown):
        tables.append(_twins(rows, by_row))
    return Section(title, tuple(commands), tuple(tables))


def _table(rows: Sequence[PaperRow], by_row: Mapping[str, Arm]) -> Table:
    remarks = any(paper.remark for paper in rows)
    cells = [["method", "paper %", "paper train %", *OURS, *(["the paper's remark"] * remarks)]]
    for paper in rows:
        missing = NOT_RUN if paper.row else "another model"
        for name, line in _lines(paper.method, by_row.get(paper.row), missing):
            theirs = [paper.accuracy or NOTHING, paper.train] if name == paper.method else ["", ""]
            ends = [(paper.remark or NOTHING) if name == paper.method else ""] * remarks
            cells.append([name, *theirs, *line, *ends])
    return table_of(cells, "The paper's task and model", NOTE)


def _twins(rows: Sequence[PaperRow], by_row: Mapping[str, Arm]) -> Table:
    cells = [["method", *OURS]]
    for paper in rows:
        method = " ".join(paper.method.replace("GPT-J", "").split())  # twins are other models
        if paper.row:
            lines = _lines(method, by_row.get(paper.row + TINY), NOT_RUN)
            cells += [[name, *line] for name, line in lines]
    return table_of(cells, TWIN.capitalize(), TWIN_NOTE)


def _lines(method: str, arm: Arm | None, missing: str) -> list[tuple[str, list[str]]]:
    """(name, cells of `OURS`): of the arm, and of each run if there are several."""
    if arm is None:
        return [(method, [missing, *[NOTHING] * (len(OURS) - 1)])]
    each = [_cells(run) for run in arm.runs]
    if len(each) == 1:
        return [(method, each[0])]
    lasts = [run.last for run in arm.runs]
    accuracies = [last.accuracy for last in lasts]
    together = [
        f"{percent(sum(accuracies) / len(accuracies))} (mean)",
        f"{percent(min(accuracies))} to {percent(max(accuracies))} (range)",
        " + ".join(number(last.n_eval) for last in lasts),
        ", ".join(str(run.seed) for run in arm.runs),
        ", ".join(map(str, sorted({last.iteration for last in lasts}))),
        percent(sum(last.train_fraction for last in lasts) / len(lasts)),
    ]
    names = [f"… {run.name}" for run in arm.runs]
    return [(method, together), *zip(names, each, strict=True)]


def _cells(run: RunReport) -> list[str]:
    return [
        percent(run.last.accuracy),
        interval_text(*right_of(run.last)),
        number(run.last.n_eval),
        str(run.seed),
        str(run.last.iteration),
        percent(run.last.train_fraction),
    ]
