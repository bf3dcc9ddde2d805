"""Tables as text: aligned columns, Markdown, and the table of a run's metrics."""

from collections.abc import Iterable, Sequence

from star_jax.run.metrics import IterationMetrics, group_order

NOTHING = "-"  # does not apply, or is not known


def aligned(
    cells: Sequence[Sequence[str]], *, left: Sequence[int] = (), widths: Sequence[int] = ()
) -> list[str]:
    """One line of text for each row of cells.

    Columns align right, those in `left` (from the end if negative) left. `widths` are the least.
    """
    least = widths or [0] * len(cells[0])
    columns = []
    for i, (column, width) in enumerate(zip(zip(*cells, strict=True), least, strict=True)):
        width = max(width, *map(len, column))
        is_left = i in left or i - len(least) in left
        columns.append([f"{cell:{'<' if is_left else '>'}{width}}" for cell in column])
    return ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]


def as_markdown(cells: Sequence[Sequence[str]]) -> str:
    """A Markdown table, aligned right; the first row is its header."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in cells]
    lines = [f"| {' | '.join(row)} |" for row in escaped]
    lines.insert(1, f"| {' | '.join(['---:'] * len(cells[0]))} |")
    return "\n".join(lines)


def iteration_name(n: int) -> str:
    """An outer iteration as tables, figures and the page name it: "base", "1", "2" ..."""
    return str(n) if n else "base"


def group_names(rows: Iterable[IterationMetrics]) -> tuple[str, ...]:
    """Groups that occur in any row, in `group_order`."""
    return tuple(sorted({name for row in rows for name in row.accuracy_by_group}, key=group_order))


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
        iteration_name(row.iteration),
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


def live_line(cells: Sequence[str], groups: Sequence[str]) -> str:
    """`header_cells(groups)`, or a row's cells below them, as a line of the live table."""
    # Widths come from the header alone, so a row can be printed before the next one is known.
    return aligned([cells], widths=[max(6, len(name)) for name in header_cells(groups)])[0]
