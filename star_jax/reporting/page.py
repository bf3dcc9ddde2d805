"""The report as one HTML page that needs nothing else: no network, no other file, no server.

The text that models write is hostile. The page contains it as base64 only, and the script inserts
it as text and never as HTML; a Content-Security-Policy allows only this page's own script and
style, known by their hashes, and pictures within the page.

Attempts are columns of numbers and one list of texts, deflated, as base64. The page unpacks them
with the browser's own DecompressionStream (Chrome 80, Firefox 113, Safari 16.4 and later). There is
no second copy for older browsers, which would make the page four times as long: they show the
tables and figures, and say why the attempts are missing.
"""

import base64
import hashlib
import json
import re
import struct
import zlib
from collections.abc import Sequence
from html import escape
from pathlib import Path
from string import Template

from star_jax.reporting.attempts import CHOICES, MOST_CHARACTERS, AttemptsData
from star_jax.reporting.document import Picture, Section, Table
from star_jax.run.tables import iteration_name

ASSETS = Path(__file__).parent / "assets"
SCRIPTS = ("tables.js", "store.js", "browser.js")
MOST_BYTES = 19_000_000  # of the whole page
LEAST_BYTES = 1_000_000  # of the attempts, however long the rest is
PIXEL_DENSITY = 1.5  # of the figures, which are finer than a screen
NUMBER = re.compile(r"[-+\u2212±]?[\d.,]+( ?%)?(( to |[-\u2013]| ± )[\d.,]+( ?%)?)?")
CODE = re.compile(r"`([^`]+)`")
ABSENT = ("", "-", "\u2013", "\u2014", "not run")

FILTERS = ("run", "iteration", *CHOICES, "group", "sample", "turn")  # columns of indices of values
TEXTS = ("id", "question", "rationale", "answer", "expected")  # of indices of the list of texts
COUNTS = ("tokens", "ended")  # columns of the numbers themselves


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
        title=escape(title),
        command=escape(command),
        contents="\n".join(
            f'<li><a href="#part-{i}">{escape(part.title)}</a></li>'
            for i, part in enumerate(sections, start=1)
        ),
        sections=body,
        sampling=escape(_sampling(shown)),
        style=style,
        script=script,
        attempts=packed,
    )
    return page.encode("utf-8", "replace").decode()  # a run's name can have half a character


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _prose(text: str) -> str:
    """Plain text, with text between backticks as code."""
    return CODE.sub(r"<code>\1</code>", escape(text))


def _section(name: str, part: Section) -> str:
    return "\n".join(
        [
            f'<section id="{name}" aria-labelledby="{name}-title">',
            f'<h2 id="{name}-title">{escape(part.title)}</h2>',
            *(f"<p>{_prose(paragraph)}</p>" for paragraph in part.text),
            *map(_picture, part.pictures),
            *map(_table, part.tables),
            "</section>",
        ]
    )


def _table(table: Table) -> str:
    numeric = [  # columns whose cells are numbers, percentages or intervals, or absent
        all(row[i] in ABSENT or NUMBER.fullmatch(row[i]) for row in table.rows)
        for i in range(len(table.header))
    ]

    def cells(tag: str, row: Sequence[str]) -> str:
        found = []
        for number, cell in zip(numeric, row, strict=True):
            names = " ".join(["number"] * number + ["absent"] * (cell in ABSENT))
            kind = f' class="{names}"' if names else ""
            found.append(f"<{tag}{kind}>{escape(cell)}</{tag}>")
        return "".join(found)

    head = cells("th", table.header).replace("<th", '<th scope="col"')
    rows = "\n".join(f"<tr>{cells('td', row)}</tr>" for row in table.rows)
    note = f'<p class="note">{_prose(table.note)}</p>' if table.note else ""
    caption = f"<caption>{escape(table.title)}</caption>" if table.title else ""
    return (
        f'<div class="table"><table>{caption}\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{note}"
    )


def _picture(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode()
    # The header of a PNG has its size at byte 16.
    width, height = (round(n / PIXEL_DENSITY) for n in struct.unpack(">II", picture.png[16:24]))
    size = f'width="{width}" height="{height}"'
    alt = escape(picture.alt)
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


def pack(attempts: AttemptsData, most_bytes: int) -> tuple[str, AttemptsData]:
    """(the attempts as base64 text of at most `most_bytes`, those that are in it).

    Where they do not fit, the last attempts of every stage are dropped; one at least stays.
    """
    longest = max((len(sample.attempts) for sample in attempts.samples), default=0)
    while True:
        text = base64.b64encode(zlib.compress(as_json(attempts))).decode()
        if len(text) <= most_bytes or longest <= 1:
            return text, attempts
        longest = max(1, int(longest * min(0.9, most_bytes / len(text))))
        attempts = attempts.at_most(longest)


def as_json(attempts: AttemptsData) -> bytes:
    """The attempts as JSON, a number for every attempt and column.

    `columns` has indices of `values` of the same name, of `texts` (-1: there is none), or the
    numbers of tokens and whether EOS was written (0, 1). `samples` has run, iteration and stage as
    indices of `values`, then the number of attempts here, and of those on disk.
    """
    rows = [
        {"run": s.run, "iteration": iteration_name(s.iteration), "stage": s.stage, **vars(attempt)}
        for s in attempts.samples
        for attempt in s.attempts
    ]
    values: dict[str, list[str]] = {name: list(CHOICES.get(name, ())) for name in FILTERS}
    values["run"] = list(dict.fromkeys(sample.run for sample in attempts.samples))
    values["iteration"] = [*map(iteration_name, sorted({s.iteration for s in attempts.samples}))]
    for name in ("group", "sample", "turn"):
        values[name] = sorted({row[name] for row in rows}, key=_natural)
    index = {name: {value: i for i, value in enumerate(of)} for name, of in values.items()}
    texts: dict[str | int | None, int] = {None: -1}
    columns = {
        **{name: [index[name][row[name]] for row in rows] for name in FILTERS},
        **{name: [texts.setdefault(row[name], len(texts) - 1) for row in rows] for name in TEXTS},
        **{name: [row[name] for row in rows] for name in COUNTS},
    }
    counts = []
    for s in attempts.samples:
        iteration = index["iteration"][iteration_name(s.iteration)]
        place = index["run"][s.run], iteration, index["stage"][s.stage]
        counts.append([*place, len(s.attempts), s.total])
    content = {"values": values, "samples": counts, "columns": columns, "texts": [*texts][1:]}
    return json.dumps(content, separators=(",", ":")).encode()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts "2" before "10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(p), "") if i % 2 else (0, 0, p) for i, p in enumerate(parts)]
