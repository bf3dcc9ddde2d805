"""What the paper reports, to compare with: Zelikman et al. 2022, arXiv:2203.14465."""

import csv
import dataclasses
import itertools
from pathlib import Path

NUMBERS = Path(__file__).parent / "assets/paper.tsv"
FIGURES = ("figure5", "figure6")  # rows that are in no table


@dataclasses.dataclass(frozen=True)
class PaperRow:
    """A row of a table of the paper."""

    table: str  # its title; some are what the paper's text says of a task
    row: str  # as in the row.json of our runs; "" if it is another model's
    method: str
    accuracy: str  # percent; "" where the paper gives no number
    train: str  # percent of the training questions that are trained on
    remark: str


def _tables() -> dict[str, list[PaperRow]]:
    with NUMBERS.open(encoding="utf-8", newline="") as file:
        rows = [PaperRow(**row) for row in csv.DictReader(file, delimiter="\t")]
    return {table: list(group) for table, group in itertools.groupby(rows, lambda row: row.table)}


TABLES = _tables()  # title -> rows
KNOWN_ROWS = {row.row for rows in TABLES.values() for row in rows if row.row} | {*FIGURES}
