"""Tables as text: aligned columns, Markdown, and the table of a run's metrics."""

from collections.abc import Iterable, Sequence

from star_jax.run.metrics import IterationMetrics

NOTHING = "-"  # does not apply, or is not known


def aligned(
    cells: Sequence[Sequence[str]], *, left: Sequence[int] = (), widths: Sequence[int] = ()
) -> list[str]:
    """Lines of text, one for each row of cells, with columns of equal width.

    Args:
      cells: rows of equal length.
      left: columns that are aligned left, counted from the end if negative; others align right.
      widths: least width of each column; () for as wide as its longest cell.
    """
    found = [max(map(len, column)) for column in zip(*cells, strict=True)]
    found = [max(pair) for pair in zip(found, widths or found, strict=True)]
    to_left = {column % len(found) for column in left}
    return [
        "  ".join(
            cell.ljust(width) if i in to_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, found, strict=True))
        ).rstrip()
        for row in cells
    ]


def as_markdown(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned right; the first row is its header."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    lines.insert(1, f"| {' | '.join(['---:'] * len(cells[0]))} |")
    return "\n".join(lines)


def group_names(rows: Iterable[IterationMetrics]) -> tuple[str, ...]:
    """Groups that occur in any row: digit counts by size ("2" before "10"), then others by name."""
    names = {name for row in rows for name in row.accuracy_by_group}
    return tuple(
        sorted(names, key=lambda name: (0, int(name), "") if name.isdecimal() else (1, 0, name))
    )


def header_cells(groups: Sequence[str]) -> list[str]:
    """Column names of the metrics table."""
    by_group = [f"{name} dig" if name.isdecimal() else name for name in groups]
    trained = ["kept gen", "kept rat", "train %", "unparsed", "steps", "loss", "seconds"]
    return ["iter", "acc %", *by_group, *trained]


def row_cells(row: IterationMetrics, groups: Sequence[str]) -> list[str]:
    """One outer iteration as text, "-" for what does not apply; accuracies in percent."""

    def cell(value: float | None, form: str, scale: float = 1) -> str:
        return NOTHING if value is None else format(value * scale, form)

    trained = row.iteration > 0
    return [
        str(row.iteration) if trained else "base",
        cell(row.accuracy, ".1f", 100),
        *(cell(row.accuracy_by_group.get(name), ".1f", 100) for name in groups),
        cell(row.kept.get("generate"), ".0f"),
        cell(row.kept.get("rationalize"), ".0f"),
        cell(row.train_fraction if trained else None, ".1f", 100),
        cell(row.unparsable, ".0f"),
        cell(row.training.get("steps") if trained else None, ".0f"),
        cell(row.training.get("loss"), ".4f"),
        cell(sum(row.seconds.values()), ".1f"),
    ]


def format_header(groups: Sequence[str]) -> str:
    """The header line of the live table."""
    return _live(header_cells(groups), groups)


def format_row(row: IterationMetrics, groups: Sequence[str]) -> str:
    """The live table's line for one outer iteration, to print below `format_header(groups)`."""
    return _live(row_cells(row, groups), groups)


def _live(cells: Sequence[str], groups: Sequence[str]) -> str:
    # Widths come from the header alone, so a row can be printed before the next one is known.
    return aligned([cells], widths=[max(6, len(name)) for name in header_cells(groups)])[0]
