"""Which files a path to a tokenizer stands for."""

import re
from pathlib import Path

from star_jax.errors import UserError
from star_jax.tokenizers.files.byte_level import from_vocab_and_merges
from star_jax.tokenizers.files.configs import (
    CONFIG,
    MERGES,
    SAVED,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    VOCAB,
    Configs,
    Files,
)
from star_jax.tokenizers.files.gguf import from_gguf

_SHARD = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")


def find_files(path: Path) -> tuple[Path, Files]:
    """Where the tokenizer at `path` is, and its files with tokenizer.json or tokenizer.model.

    Raises:
      UserError: there is none, or it is damaged.
    """
    if not path.exists():
        raise UserError(f"tokenizer {path} is not there; check the path")
    if path.suffix == ".gguf":
        return path, from_gguf(path)
    directory = path if path.is_dir() else path.parent
    names = [name for name in (*SAVED, CONFIG) if (directory / name).is_file()]
    files = {name: (directory / name).read_bytes() for name in names}
    if path.name == TOKENIZER_MODEL:
        files.pop(TOKENIZER_JSON, None)
    if TOKENIZER_JSON in files or TOKENIZER_MODEL in files:
        return directory, files
    if {VOCAB, MERGES} <= files.keys():
        made = from_vocab_and_merges(Configs(str(directory), files))
        return directory, {**files, TOKENIZER_JSON: made}
    gguf = _only_gguf(directory)
    return gguf, from_gguf(gguf)


def _only_gguf(directory: Path) -> Path:
    """The GGUF file in a directory, the first part if it is in several."""
    parts = [(file, _SHARD.search(file.name)) for file in sorted(directory.glob("*.gguf"))]
    heads = [file for file, part in parts if part is None or int(part[1]) == 1]
    if not heads:
        raise UserError(
            f"{directory} holds no tokenizer: neither {TOKENIZER_JSON} nor {TOKENIZER_MODEL} nor "
            f"{VOCAB} with {MERGES} nor a .gguf file; copy the model's tokenizer files there"
        )
    if len(heads) > 1:
        names = ", ".join(file.name for file in heads)
        raise UserError(f"{directory} holds {len(heads)} GGUF files; name one of them: {names}")
    return heads[0]
