"""Rows of published data, from JSON Lines files or from prepared TFDS folders, as plain dicts."""

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import read_only_builder

from star_jax.errors import UserError
from star_jax.run.paths import copy_tree, is_remote, open_text, path_of

EXAMPLES = Path(__file__).parent / "examples"


class BadRow(ValueError):
    """A row that makes no question; the text says why."""


def read_json_lines(file: str) -> Iterator[tuple[int, Any]]:
    """Yields (line number from 1, value) of every line that is not blank.

    Raises:
      UserError: the file cannot be read, or a line is not JSON.
    """
    for number, line in read_lines(file):
        try:
            yield number, parse_json(line)
        except BadRow as reason:
            raise UserError(f"{file}, line {number}: {reason}; mend the line") from reason


def read_lines(file: str) -> Iterator[tuple[int, str]]:
    """Yields (line number from 1, text) of every line that is not blank; see `located`.

    Raises:
      UserError: the file cannot be read.
    """
    try:
        with open_text(located(file)) as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the data file {file}: {error}") from error


def located(path: str) -> str:
    """A file where the user stands, or else one of star_jax's own examples of this name."""
    own = EXAMPLES / path
    return str(own) if path and not Path(path).exists() and own.is_file() else path


def parse_json(line: str) -> Any:
    """The value of a line; raises BadRow if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise BadRow(f"not JSON ({error})") from error


# TFDS has no builder of its own for these.
PREPARE = {
    "commonsense_qa": "star_jax.tasks.builders.commonsense_qa.prepare_commonsense_qa(data_dir)"
}


def read_tfds(builder: str, data_dir: str, split: str, otherwise: str) -> list[dict[str, Any]]:
    """The rows of a prepared TFDS data set, texts as str; nothing is downloaded.

    Args:
      builder: name of the builder, whose latest prepared version is read.
      data_dir: where TFDS keeps its data sets; "" for its own default.
      split: of the builder.
      otherwise: how else the user can get at these data, for the error.

    Raises:
      UserError: the data set is not prepared there, or has no such split.
    """
    if is_remote(data_dir):  # small, and TensorFlow would reach the bucket in a way of its own
        with tempfile.TemporaryDirectory() as copied:
            copy_tree(path_of(data_dir) / builder, Path(copied, builder))
            return _read_tfds(builder, copied, split, otherwise, where=repr(data_dir))
    where = repr(data_dir) if data_dir else "TFDS's default folder (see TFDS_DATA_DIR)"
    return _read_tfds(builder, data_dir, split, otherwise, where)


def _read_tfds(
    builder: str, data_dir: str, split: str, otherwise: str, where: str
) -> list[dict[str, Any]]:
    try:
        prepared = read_only_builder.builder_from_files(builder, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"TFDS has no prepared data set '{builder}' in {where}; {otherwise} (launch/fetch.py "
            f"downloads them), or prepare it: {PREPARE.get(builder, f'tfds build {builder}')}"
        ) from error
    except ValueError as error:  # prepared in several folders at once
        raise UserError(f"TFDS data set '{builder}': {' '.join(str(error).split())}") from error
    if split not in prepared.info.splits:
        raise UserError(
            f"the TFDS data set '{builder}' in {where} has no split '{split}', only "
            f"{sorted(prepared.info.splits)}; remove it there and prepare it anew"
        )
    return [_plain(row) for row in tfds.as_numpy(prepared.as_dataset(split=split))]


def text_of(row: Any, *path: str) -> str:
    """The text at `path` in nested dicts, on one line; raises BadRow if there is none."""
    for name in path:
        if not isinstance(row, dict) or name not in row:
            raise BadRow(f"has no field {'.'.join(path)!r}")
        row = row[name]
    if not isinstance(row, str) or not row.strip():
        raise BadRow(f"field {'.'.join(path)!r} is {json.dumps(row)[:60]}, which is no text")
    try:
        row.encode()
    except UnicodeEncodeError as error:
        raise BadRow(f"field {'.'.join(path)!r} has half a character: {error.reason}") from error
    return row


def one_line(text: str) -> str:
    """The text without line breaks and without space around it; inner spaces stay."""
    return " ".join(filter(None, map(str.strip, re.split(r"[\r\n]+", text))))


def _plain(value: Any) -> Any:
    """NumPy's arrays and bytes as lists and str."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value.decode() if isinstance(value, bytes) else value
