"""The paper's tables next to our runs; tiny twins are in tables of their own.

The paper's numbers are those of Zelikman et al. 2022, arXiv:2203.14465.
"""

import csv
import dataclasses
import itertools
from collections.abc import Mapping, Sequence

from star_jax.reporting.runs import TINY, TWIN, Arm, RunReport, arms
from star_jax.reporting.tables import (
    ASSETS,
    TEXTS,
    Cells,
    Section,
    interval_text,
    right_of,
    table_of,
)
from star_jax.run.metrics import NOTHING, iteration_name, number, percent

NOT_RUN = "not run"
OURS = ("ours %", "95 % interval", "n", "seed", "iteration", "train %")
TWIN_NOTE = f"Each is a {TWIN}, not comparable with the paper's number. {TEXTS['paper']}"


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper."""

    table: str  # its title; some are what the paper's text says of a task
    row: str  # as in the row.json of our runs; "" if it is another model's
    method: str
    accuracy: str  # percent; "" where the paper gives no number
    train: str  # percent of the training questions that are trained on
    remark: str


_LINES = (ASSETS / "paper.tsv").read_text("utf-8").splitlines()
PAPER = [PaperRow(**row) for row in csv.DictReader(_LINES, delimiter="\t")]
# The figures are in no table.
KNOWN_ROWS = {"figure5", "figure6", *(paper.row for paper in PAPER if paper.row)}


def paper_sections(runs: Sequence[RunReport]) -> list[Section]:
    """Tables 1 and 2, arithmetic and ablations; none if no run says which row it is."""
    by_row = {arm.row: arm for arm in arms(runs) if arm.row}
    if not by_row:
        return []
    tables = itertools.groupby(PAPER, lambda paper: paper.table)
    sections = [_section(title, [*rows], by_row) for title, rows in tables]
    unknown = sorted(row for row, arm in by_row.items() if arm.paper_row not in KNOWN_ROWS)
    if unknown:
        known = ", ".join(sorted(KNOWN_ROWS))
        text = f"In none of the tables, since the paper has no such row: {', '.join(unknown)}."
        hint = f"The rows are {known}, each also with {TINY} at its end."
        sections.append(Section("Other rows", (text, hint)))
    return sections


def _section(title: str, rows: Sequence[PaperRow], by_row: Mapping[str, Arm]) -> Section:
    rows_here = {paper.row for paper in rows}
    shown = [arm for arm in by_row.values() if arm.paper_row in rows_here]
    remarks = any(paper.remark for paper in rows)
    cells = [["method", "paper %", "paper train %", *OURS, *(["the paper's remark"] * remarks)]]
    twins: Cells = [["method", *OURS]]
    for paper in rows:
        missing = NOT_RUN if paper.row else "another model"
        for name, line in _lines(paper.method, by_row.get(paper.row), missing):
            theirs = [paper.accuracy or NOTHING, paper.train] if name == paper.method else ["", ""]
            ends = [(paper.remark or NOTHING) if name == paper.method else ""] * remarks
            cells.append([name, *theirs, *line, *ends])
        if paper.row:
            method = " ".join(paper.method.replace("GPT-J", "").split())  # twins are other models
            lines = _lines(method, by_row.get(paper.row + TINY), NOT_RUN)
            twins += [[name, *line] for name, line in lines]
    tables = [table_of(cells, "The paper's task and model", TEXTS["paper"])]
    if any(arm.row.endswith(TINY) for arm in shown):
        tables.append(table_of(twins, TWIN.capitalize(), TWIN_NOTE))
    return Section(title, tables=tuple(tables))


def _lines(method: str, arm: Arm | None, missing: str) -> list[tuple[str, list[str]]]:
    """(name, cells of `OURS`): of the arm, and of each run if there are several."""
    if arm is None:
        return [(method, [missing, *[NOTHING] * (len(OURS) - 1)])]
    lasts = [run.last for run in arm.runs]
    each = [
        [
            percent(last.accuracy),
            interval_text(*right_of(last)),
            number(last.n_eval),
            str(last.seed),
            iteration_name(last.iteration),
            percent(last.train_fraction),
        ]
        for last in lasts
    ]
    if len(each) == 1:
        return [(method, each[0])]
    accuracies = [last.accuracy for last in lasts]
    together = [
        f"{percent(sum(accuracies) / len(accuracies))} (mean)",
        f"{percent(min(accuracies))} to {percent(max(accuracies))} (range)",
        " + ".join(number(last.n_eval) for last in lasts),
        ", ".join(str(last.seed) for last in lasts),
        ", ".join(map(iteration_name, sorted({last.iteration for last in lasts}))),
        percent(sum(last.train_fraction for last in lasts) / len(lasts)),
    ]
    names = [f"… {run.name}" for run in arm.runs]
    return [(method, together), *zip(names, each, strict=True)]
