"""A report as Markdown; its pictures are files beside it."""

import textwrap
from collections.abc import Iterator, Sequence

from star_jax.reporting.document import Section, Table


def as_markdown(sections: Sequence[Section], command: str) -> str:
    """The whole report, with the command that made it."""
    parts = ["# STaR report", "Command:", textwrap.indent(command, "    ")]
    for section in sections:
        parts += _section(section)
    return "\n\n".join(parts) + "\n"


def _section(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield from section.text
    for picture in section.pictures:
        yield f"![{picture.alt}]({picture.name})"
    for table in section.tables:
        if table.title:
            yield f"### {table.title}"
        yield _table(table)
        if table.note:
            yield table.note


def _table(table: Table) -> str:
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"
        for row in (table.header, *table.rows)
    ]
    rule = "| " + " | ".join(["---:"] * len(table.header)) + " |"
    return "\n".join([lines[0], rule, *lines[1:]])
