"""What a report says, whatever it is written in: sections of text, tables and pictures."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Table:
    """Cells as text; every row is as long as the header."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # what the reader must know to read it: units, n, what "not run" means


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure that is drawn already."""

    name: str  # of its file, e.g. "figure4.png"
    png: bytes
    alt: str  # what it shows, for those who do not see it


@dataclasses.dataclass(frozen=True)
class Section:
    """A headed part of the report."""

    title: str
    text: tuple[str, ...] = ()  # paragraphs, plain text
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
