"""The raters' table and page, and the key: written, and read again when raters have filled them in.

What is missing or invalid in a table is named by its line.
"""

import csv
import dataclasses
import html
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

from star_jax.errors import UserError
from star_jax.reporting.stage_files import malformed, readable
from star_jax.run.paths import bucket_errors, is_dir, path_of, read_if_there
from star_jax.tools.comparison.items import Item

PAGE = Path(__file__).with_name("raters.html").read_text(encoding="utf-8")
INSTRUCTIONS = Path(__file__).with_name("instructions.txt").read_text(encoding="utf-8")
COLUMNS = ("item", "question", "rationale_a", "rationale_b", "preference")
PREFERENCES = ("A", "B", "tie")
# Spreadsheets read cells that begin so as formulas; some read the wide forms so, too.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
MARK = "'"
DELIMITERS = (",", ";", "\t")  # spreadsheets of some countries write the second
MEANT = {preference.casefold(): preference for preference in PREFERENCES}


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


@dataclasses.dataclass(frozen=True)
class AnswerKey:
    """The source on each side of each item."""

    sources: tuple[str, ...]
    sides: dict[str, dict[str, str]]  # item -> "A" or "B" -> source


@dataclasses.dataclass(frozen=True)
class Answers:
    """One rater's table: its valid entries, and a line on each other one."""

    preferences: dict[str, str]  # item -> A, B or tie
    missing: tuple[str, ...]
    invalid: tuple[str, ...]


def read_key(path: str) -> AnswerKey:
    """The key that run mode compare wrote; raises UserError if there is none at `path`."""
    data = _read(path_of(path), "score_comparison.key")
    where = f"score_comparison.key: {path} is not the key of a comparison"
    with malformed(where, "name the key.json that --run_mode=compare wrote"):
        key = json.loads(data)
        sides = {name: {side: x[side] for side in "AB"} for name, x in key["items"].items()}
        for name, sources in sides.items():
            if not {*sources.values()} <= key["sources"].keys():
                raise ValueError(f"item {name} has another source")
        return AnswerKey(tuple(key["sources"]), sides)


def read_all_answers(paths: Sequence[str], key: AnswerKey) -> dict[str, Answers]:
    """By rater, the answers of each file, and of each *.csv of each folder; a file is a rater's.

    Raises UserError as `read_answers`, or if a file is named twice or there is none.
    """
    files = [file for path in paths for file in _files(path_of(path))]
    if not files:
        raise UserError(
            "score_comparison.answers names no CSV file; give the raters' files, or their folder"
        )
    stems = [file.stem for file in files]
    answers = {}
    for file in files:
        if files.count(file) > 1:
            raise UserError(f"score_comparison.answers names {file} twice; name each file once")
        rater = str(file) if stems.count(file.stem) > 1 else file.stem
        answers[rater] = read_answers(str(file), _read(file, "score_comparison.answers"), key)
    return answers


def read_answers(name: str, data: bytes, key: AnswerKey) -> Answers:
    """One rater's answers from the content of the CSV file `name`.

    It is UTF-8, separated by commas, semicolons or tabs. Raises UserError if it is not such a
    table, or is of another comparison.
    """
    preferences: dict[str, str] = {}
    missing, invalid, seen = [], [], set()
    for line, row in _rows(name, data):
        item, text = (as_written(row[column].strip()) for column in ("item", "preference"))
        place = f"{name}, line {line}"
        if item not in key.sides:
            invalid.append(f"{place}: the key has no item {item[:40]!r}")
        elif item in seen:
            invalid.append(f"{place}: item {item} occurs twice; the first counts")
        elif not text:
            missing.append(f"{place}: item {item} has no preference")
        elif text.casefold() not in MEANT:
            known = ", ".join(PREFERENCES)
            invalid.append(f"{place}: preference {text[:40]!r} is not one of {known}")
        else:
            preferences[item] = MEANT[text.casefold()]
        seen.add(item)
    if not seen & key.sides.keys():
        raise UserError(
            f"{name} has none of the key's items, such as {next(iter(key.sides), '')!r}; it is "
            f"the table of another comparison"
        )
    missing += [f"{name}: item {item} is missing" for item in key.sides if item not in seen]
    return Answers(preferences, tuple(missing), tuple(invalid))


def _rows(name: str, data: bytes) -> Iterator[tuple[int, dict[str, str]]]:
    """(line on which it begins, column -> cell) of each row below the header that is not empty."""
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 ({error}); save it as CSV in UTF-8") from error
    for delimiter in DELIMITERS:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        try:
            header = [cell.strip().casefold() for cell in next(reader, [])]
            if {"item", "preference"} <= {*header}:
                begins = reader.line_num + 1
                for cells in reader:
                    if any(cells):  # spreadsheets drop empty cells at the end
                        padded = [*cells, *[""] * len(header)]
                        yield begins, dict(zip(header, padded, strict=False))
                    begins = reader.line_num + 1
                return
        except csv.Error as error:
            raise UserError(f"{name}, line {reader.line_num}: not CSV ({error})") from error
    raise UserError(
        f"{name}, line 1: no columns named item and preference; give the table that "
        f"--run_mode=compare wrote, filled in and saved as CSV"
    )


def _files(path: Path) -> list[Path]:
    if not is_dir(path):
        return [path]
    with bucket_errors(path):
        return sorted(file for file in path.iterdir() if file.suffix.casefold() == ".csv")


def _read(path: Path, binding: str) -> bytes:
    with readable(path):
        data = read_if_there(path)
    if data is None:
        raise UserError(f"{binding}: {path} does not exist; check the path")
    return data
