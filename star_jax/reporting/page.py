"""The report in Markdown, and as one HTML page that needs no network, other file or server.

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

import jinja2
from markupsafe import Markup, escape

from star_jax.reporting.attempts import CHOICES, MOST_CHARACTERS, AttemptsData
from star_jax.reporting.tables import ASSETS, Section, Table
from star_jax.run.metrics import iteration_name

TEMPLATES = jinja2.Environment(  # .html files escape what they insert
    loader=jinja2.FileSystemLoader(ASSETS),
    autoescape=jinja2.select_autoescape(),
    keep_trailing_newline=True,
)
SCRIPTS = ("tables.js", "store.js", "browser.js")
MOST_BYTES = 19_000_000  # of the whole page
LEAST_BYTES = 1_000_000  # of the attempts, however long the rest is
PIXEL_DENSITY = 1.5  # of the figures, which are finer than a screen
NUMBER = re.compile(r"[-+\u2212±]?[\d.,]+( ?%)?(( to |[-\u2013]| ± )[\d.,]+( ?%)?)?")
CODE = re.compile(r"`([^`]+)`")
ABSENT = ("", "-", "\u2013", "\u2014", "not run")

FILTERS = ("run", "iteration", *CHOICES, "group", "sample", "turn")  # columns of indices of values
TEXTS = ("id", "question", "rationale", "answer", "expected")  # columns of indices of texts
COUNTS = ("tokens", "ended")  # columns of the numbers themselves


def render_page(command: str, sections: Sequence[Section], attempts: AttemptsData) -> str:
    """The whole page, encodable as UTF-8; with fewer attempts if it would exceed 20 MB.

    It has the command that made the report, the sections, and the browser of attempts.
    """
    body = Markup(TEMPLATES.get_template("sections.html").render(sections=sections))
    room = max(LEAST_BYTES, MOST_BYTES - len(body.encode("utf-8", "replace")))
    packed, shown = pack(attempts, room)
    page = TEMPLATES.get_template("page.html").render(
        command=command,
        sections=sections,
        body=body,
        sampling=_sampling(shown),
        style=_asset("page.css"),
        script=Markup("\n").join(map(_asset, SCRIPTS)),
        attempts=packed,
    )
    return page.encode("utf-8", "replace").decode()  # a run's name can have half a character


def render_markdown(command: str, sections: Sequence[Section]) -> str:
    """The whole report, with the command that made it; its pictures are files next to it."""
    return TEMPLATES.get_template("report.md").render(command=command, sections=sections)


def _asset(name: str) -> Markup:
    return Markup((ASSETS / name).read_text(encoding="utf-8"))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _sha256(text: str) -> Markup:
    return Markup(_base64(hashlib.sha256(text.encode()).digest()))


def _prose(text: str) -> Markup:
    """Plain text, with text between backticks as code."""
    return Markup(CODE.sub(r"<code>\1</code>", str(escape(text))))


def _numeric(table: Table) -> list[bool]:
    """Of each column, whether its cells are numbers, percentages or intervals, or absent."""
    return [
        all(row[i] in ABSENT or NUMBER.fullmatch(row[i]) for row in table.rows)
        for i in range(len(table.header))
    ]


def _size(png: bytes) -> Markup:
    # The header of a PNG has its size at byte 16.
    width, height = (round(n / PIXEL_DENSITY) for n in struct.unpack(">II", png[16:24]))
    return Markup(f'width="{width}" height="{height}"')


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
        text = _base64(zlib.compress(as_json(attempts)))
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


TEMPLATES.filters |= {f.__name__[1:]: f for f in (_base64, _prose, _sha256, _numeric, _size)}
TEMPLATES.globals["ABSENT"] = ABSENT
