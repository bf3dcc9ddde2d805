"""What a report contains, in whatever format: sections of text, tables and pictures."""

import dataclasses
import textwrap
from collections.abc import Sequence

from star_jax.run import tables


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text; every row is as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # needed to read it: units, n, what "not run" means


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that is already drawn."""

    name: str  # of its file, e.g. "figure4.png"
    png: bytes
    alt: str  # a description for those who cannot see it


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the report with a title."""

    title: str
    text: tuple[str, ...] = ()  # paragraphs, plain text
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()


def as_markdown(sections: Sequence[Section], command: str) -> str:
    """The whole report, with the command that made it; its pictures are files next to it."""
    parts = ["# STaR report", "Command:", textwrap.indent(command, "    ")]
    for section in sections:
        pictures = (f"![{picture.alt}]({picture.name})" for picture in section.pictures)
        parts += [f"## {section.title}", *section.text, *pictures]
        for table in section.tables:
            cells = tables.as_markdown([table.header, *table.rows])
            parts += filter(None, [table.title and f"### {table.title}", cells, table.note])
    return "\n\n".join(parts) + "\n"
