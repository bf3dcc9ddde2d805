"""The raters' table and page, and the key, which they do not get."""

import csv
import html
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template

from star_jax.tools.comparison.items import Item

PAGE = Path(__file__).with_name("raters.html").read_text(encoding="utf-8")
INSTRUCTIONS = Path(__file__).with_name("instructions.txt").read_text(encoding="utf-8")
COLUMNS = ("item", "question", "rationale_a", "rationale_b", "preference")
PREFERENCES = ("A", "B", "tie")
# Spreadsheets read cells that begin so as formulas; some read the wide forms so, too.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
MARK = "'"


def harmless(cell: str) -> str:
    """The cell as no spreadsheet reads a formula; `as_written` undoes it."""
    return MARK + cell if cell.startswith((*FORMULA, MARK)) else cell


def as_written(cell: str) -> str:
    """The cell as it was before `harmless`."""
    return cell.removeprefix(MARK)


def as_csv(items: Sequence[Item]) -> bytes:
    """The raters' table, with a byte order mark, by which spreadsheets recognize UTF-8."""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    for item in items:
        cells = (item.name, item.question, item.rationale_a, item.rationale_b, "")
        writer.writerow([harmless(cell) for cell in cells])
    return out.getvalue().encode("utf-8-sig")


def as_html(items: Sequence[Item]) -> bytes:
    """The table as a page that works without network and saves the answers as CSV."""
    *paragraphs, _ = INSTRUCTIONS.split("\n\n")  # the last one is on the table
    page = Template(PAGE).substitute(
        instructions="\n".join(f"<p>{html.escape(text)}</p>" for text in paragraphs),
        items="\n".join(_section(i, item) for i, item in enumerate(items, start=1)),
        name=items[0].name.partition("-")[0],
    )
    return page.encode()


def _section(number: int, item: Item) -> str:
    name = html.escape(item.name)
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{choice}"> {choice}</label>'
        for choice in PREFERENCES
    )
    return (
        f'<section data-item="{name}"><h2>{number}</h2>'
        f'<div class="text">{html.escape(item.question)}</div><div class="sides">'
        f'<div><h3>A</h3><div class="text">{html.escape(item.rationale_a)}</div></div>'
        f'<div><h3>B</h3><div class="text">{html.escape(item.rationale_b)}</div></div></div>'
        f"<fieldset><legend>Better</legend>{choices}</fieldset></section>"
    )


def as_key(items: Sequence[Item], sources: Mapping[str, str], drawn: Mapping[str, object]) -> bytes:
    """Which side is which source; `sources` is name -> path, `drawn` how the items were drawn."""
    sides = {
        item.name: {
            **dict(zip(("question_id", "sample", "turn"), item.key, strict=True)),
            "A": item.source_a,
            "B": item.source_b,
        }
        for item in items
    }
    key = {"sources": dict(sources), **drawn, "items": sides}
    return (json.dumps(key, indent=1, ensure_ascii=False) + "\n").encode()
