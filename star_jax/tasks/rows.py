"""Rows of published data, from JSON Lines files or from prepared TFDS folders, as plain dicts."""

import contextlib
import gzip
import hashlib
import io
import json
import re
import tempfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.run.paths import copy_tree, is_remote, path_of, read_bytes

EXAMPLES = Path(__file__).parent / "examples"
Json: TypeAlias = Any  # a JSON value
Row: TypeAlias = dict[str, Json]
GZIP = b"\x1f\x8b"  # begins its files
# TFDS has no builder of its own for these.
PREPARE = {
    "commonsense_qa": "star_jax.tasks.builders.commonsense_qa.prepare_commonsense_qa(data_dir)"
}


class Written(float):
    """A JSON number that is no integer; its str is what was written, whatever its precision."""

    def __init__(self, text: str):
        self.text = text

    def __str__(self) -> str:
        return self.text


class BadRow(ValueError):
    """A row that is not a question; the text gives the reason."""


def read_text(file: str | Path, what: str, encoding: str = "utf-8") -> str:
    """The text of a file or, if there is no such file, of star_jax's own example of this name.

    It may be compressed by gzip. If it cannot be read, a UserError calls it `what`.
    """
    own = EXAMPLES / file
    try:
        data = read_bytes(own if not Path(file).exists() and own.is_file() else file)
        data = gzip.decompress(data) if data.startswith(GZIP) else data
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"cannot read the {what} {file}: line {line} is not {encoding} ({error.reason}); "
            f"convert it to UTF-8, or bind a JsonlTask.encoding, such as 'latin-1'"
        ) from error
    except (OSError, EOFError, zlib.error, LookupError) as error:
        raise UserError(f"cannot read the {what} {file}: {error}") from error
    return io.StringIO(text, newline=None).read()  # with "\n" for other ends of lines


def read_lines(file: str, encoding: str = "utf-8") -> list[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank; see `read_text`."""
    lines = enumerate(read_text(file, "data file", encoding).split("\n"), start=1)
    return [(number, line) for number, line in lines if line.strip()]


def read_folder(folder: str) -> list[tuple[str, str]]:
    """(name, text) of every .json file in a folder and its folders, as `algebra_12`, in order."""
    root = path_of(folder)
    names = [file.relative_to(root).with_suffix("") for file in root.rglob("*.json")]
    names.sort(key=lambda name: [(len(part), part) for part in name.parts])
    files = [(name, root / f"{name}.json") for name in names]
    return [("_".join(name.parts), read_text(file, "data file")) for name, file in files]


def questions_of(
    numbered: Iterable[tuple[int | str, str | Row]],
    question_of: Callable[[str, Json], Question],
    prefix: str,
) -> tuple[list[Question], list[str]]:
    """The questions of numbered rows, with distinct ids, and why the other rows are none.

    The second list has texts such as "12: has no field 'answer'". A row may be a line of JSON; its
    id for `question_of` is `<prefix>_00012`; a name may be there instead of the number.
    """
    found: dict[str, Question] = {}
    malformed = []
    for number, row in numbered:
        try:
            value = _parse_json(row) if isinstance(row, str) else row
            place = number if isinstance(number, str) else f"{number:05d}"
            question = question_of(f"{prefix}_{place}", value)
            if question.id in found:
                raise BadRow(f"its id {question.id!r} is not unique")
            found[question.id] = question
        except BadRow as reason:
            malformed.append(f"{number}: {reason}")
    return list(found.values()), malformed


def read_tfds(builder: str, data_dir: str, split: str, otherwise: str) -> list[Row]:
    """The rows of a prepared TFDS data set, texts as str; nothing is downloaded.

    Args:
      builder: name of the builder; its latest prepared version is read.
      data_dir: where TFDS keeps its data sets; "" for its own default.
      split: of the builder.
      otherwise: another way to get these data, for the error message.

    Raises:
      UserError: the data set is not prepared there, or has no such split.
    """
    where = repr(data_dir) if data_dir else "TFDS's default folder (see TFDS_DATA_DIR)"
    with contextlib.ExitStack() as stack:
        if is_remote(data_dir):  # small; TensorFlow would not use our way to reach a bucket
            copied = stack.enter_context(tempfile.TemporaryDirectory())
            copy_tree(path_of(data_dir) / builder, Path(copied, builder))
            data_dir = copied
        try:
            prepared = read_only_builder.builder_from_files(builder, data_dir=data_dir or None)
        except tfds.core.DatasetNotFoundError as error:
            raise UserError(
                f"TFDS has no prepared data set '{builder}' in {where}; {otherwise} "
                f"(launch/fetch.py downloads them), or prepare it: "
                f"{PREPARE.get(builder, f'tfds build {builder}')}"
            ) from error
        except ValueError as error:  # prepared in several folders at once
            raise UserError(f"TFDS data set '{builder}': {' '.join(str(error).split())}") from error
        if split not in prepared.info.splits:
            raise UserError(
                f"the TFDS data set '{builder}' in {where} has no split '{split}', only "
                f"{sorted(prepared.info.splits)}; remove it there and prepare it again"
            )
        return [_plain(row) for row in tfds.as_numpy(prepared.as_dataset(split=split))]


def text_of(row: Json, *path: str, or_number: bool = False) -> str:
    """The text (or the number as written) at `path` in nested dicts; BadRow if there is none."""
    name = ".".join(path)
    for key in path:
        if not isinstance(row, dict) or key not in row:
            raise BadRow(f"has no field {name!r}")
        row = row[key]
    if or_number and isinstance(row, int | float) and not isinstance(row, bool):
        return str(row)
    if not isinstance(row, str) or not row.strip():
        raise BadRow(f"field {name!r} is {json.dumps(row)[:60]}, which is not a text")
    try:
        row.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"field {name!r} has half a character: {error.reason}") from error
    return row


def one_line(text: str) -> str:
    """The text without line breaks and without space around it; inner spaces stay."""
    return " ".join(filter(None, map(str.strip, re.split(r"[\r\n]+", text))))


def hashed_share(text: str) -> float:
    """A number from 0 to 1 by the hash of a text, to split questions by."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest(), "big") / 2**48


def _parse_json(line: str) -> Json:
    try:
        return json.loads(line, parse_float=Written, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON ({error})") from error


def _refuse(constant: str) -> Json:
    raise ValueError(f"{constant} is no value of it")


def _plain(value: Json) -> Json:
    """NumPy's arrays and bytes as lists and str."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.decode() if isinstance(value, bytes) else value
