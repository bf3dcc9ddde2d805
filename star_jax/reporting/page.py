"""The report as one HTML page that needs nothing else: no network, no other file, no server.

The text that models write is hostile. The page contains it as base64 only, and the script inserts
it as text and never as HTML; a Content-Security-Policy allows only this page's own script and
style, known by their hashes, and pictures within the page.
"""

import base64
import hashlib
import html
import re
import struct
from collections.abc import Sequence
from pathlib import Path
from string import Template

from star_jax.reporting.attempts import MOST_CHARACTERS, AttemptsData
from star_jax.reporting.document import Picture, Section, Table
from star_jax.reporting.page_data import pack

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("tables.js", "store.js", "browser.js")
MOST_BYTES = 19_000_000  # of the whole page
LEAST_BYTES = 1_000_000  # of the attempts, however long the rest is
PIXEL_DENSITY = 1.5  # of the figures, which are finer than a screen
NUMBER = re.compile(r"[-+\u2212±]?[\d.,]+( ?%)?(( to |[-\u2013]| ± )[\d.,]+( ?%)?)?")
CODE = re.compile(r"`([^`]+)`")
ABSENT = ("", "-", "\u2013", "\u2014", "not run")


def render_page(
    title: str, command: str, sections: Sequence[Section], attempts: AttemptsData
) -> str:
    """The whole page, encodable as UTF-8; with fewer attempts if it would exceed 20 MB.

    Args:
      title: of the page, plain text like everything else.
      command: that made the report.
      sections: tables, figures and paragraphs, in this order.
      attempts: for the browser of attempts, which comes last.
    """
    script = "\n".join(_asset(name) for name in SCRIPTS)
    style = _asset("page.css")
    body = "\n".join(_section(f"part-{i}", part) for i, part in enumerate(sections, start=1))
    room = max(LEAST_BYTES, MOST_BYTES - len(body.encode("utf-8", "replace")))
    packed, shown = pack(attempts, room)
    page = Template(_asset("page.html")).substitute(
        script_sha256=_sha256(script),
        style_sha256=_sha256(style),
        title=_text(title),
        command=_text(command),
        contents="\n".join(
            f'<li><a href="#part-{i}">{_text(part.title)}</a></li>'
            for i, part in enumerate(sections, start=1)
        ),
        sections=body,
        sampling=_text(_sampling(shown)),
        style=style,
        script=script,
        attempts=packed,
    )
    return page.encode("utf-8", "replace").decode()  # a run's name can have half a character


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: str) -> str:
    return html.escape(text, quote=True)


def _prose(text: str) -> str:
    """Plain text, with text between backticks as code."""
    return CODE.sub(r"<code>\1</code>", _text(text))


def _section(name: str, part: Section) -> str:
    return "\n".join(
        [
            f'<section id="{name}" aria-labelledby="{name}-title">',
            f'<h2 id="{name}-title">{_text(part.title)}</h2>',
            *(f"<p>{_prose(paragraph)}</p>" for paragraph in part.text),
            *map(_picture, part.pictures),
            *map(_table, part.tables),
            "</section>",
        ]
    )


def _table(table: Table) -> str:
    numeric = [_is_numeric([row[i] for row in table.rows]) for i in range(len(table.header))]

    def cells(kind: str, row: Sequence[str]) -> str:
        return "".join(
            f"<{kind}{_class(number, cell)}>{_text(cell)}</{kind}>"
            for number, cell in zip(numeric, row, strict=True)
        )

    head = cells("th", table.header).replace("<th", '<th scope="col"')
    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    note = f'<p class="note">{_prose(table.note)}</p>' if table.note else ""
    caption = f"<caption>{_text(table.title)}</caption>" if table.title else ""
    return (
        f'<div class="table"><table>{caption}\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{note}"
    )


def _class(number: bool, cell: str) -> str:
    names = ["number"] * number + ["absent"] * (cell in ABSENT)
    return f' class="{" ".join(names)}"' if names else ""


def _is_numeric(column: Sequence[str]) -> bool:
    """Whether all cells that are not absent are numbers, percentages or intervals."""
    return all(cell in ABSENT or NUMBER.fullmatch(cell) for cell in column)


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    # The header of a PNG has its size at byte 16.
    width, height = (round(n / PIXEL_DENSITY) for n in struct.unpack(">II", picture.png[16:24]))
    size = f'width="{width}" height="{height}"'
    alt = _text(picture.alt)
    return f'<figure><img src="data:image/png;base64,{data}" {size} alt="{alt}"></figure>'


def _sampling(attempts: AttemptsData) -> str:
    """How the attempts on the page were chosen."""
    most = max((len(sample.attempts) for sample in attempts.samples), default=0)
    if attempts.n_shown == attempts.n_total:
        return "All attempts of these runs are shown."
    return (
        f"{attempts.n_shown:,} of the {attempts.n_total:,} attempts of these runs are shown: at "
        f"most {most:,} per run, iteration and stage. Their questions come first in one fixed "
        "random order, so every iteration shows the same questions. "
        f"Texts are truncated after {MOST_CHARACTERS:,} characters."
    )
