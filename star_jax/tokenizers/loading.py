"""The tokenizer at a path: which files it has, and which vocabulary reads them."""

import re
from pathlib import Path

from star_jax.errors import UserError
from star_jax.run.paths import bucket_errors, path_of
from star_jax.tokenizers.byte_level import from_vocab_and_merges
from star_jax.tokenizers.configs import SAVED, Configs, Files
from star_jax.tokenizers.gguf_files import from_gguf
from star_jax.tokenizers.hugging_face import HuggingFaceVocabulary
from star_jax.tokenizers.pretrained_vocabulary import PretrainedVocabulary
from star_jax.tokenizers.sentence_piece import SentencePieceVocabulary

SHARD = re.compile(r"-(\d{5})-of-\d{5}\.gguf$")


def load_vocabulary(path: str | Path) -> PretrainedVocabulary:
    """The tokenizer at `path`, with BOS and EOS by the files in the same directory.

    `path` is a directory with tokenizer.json, tokenizer.model, vocab.json and merges.txt, or one
    GGUF file (the first of these that exists is used), or one of these files itself.

    Raises:
      UserError: there is none of these, it is damaged or of an unknown kind, or it does not say
        which token is EOS.
    """
    with bucket_errors(path):
        source, files = _find_files(path_of(path))
    kind = HuggingFaceVocabulary if "tokenizer.json" in files else SentencePieceVocabulary
    return kind(str(source), files)


def _find_files(path: Path) -> tuple[Path, Files]:
    """Where the tokenizer is, and its files with tokenizer.json or tokenizer.model."""
    if not path.exists():
        raise UserError(f"tokenizer {path} does not exist; check the path")
    if path.suffix == ".gguf":
        return path, from_gguf(path)
    directory = path if path.is_dir() else path.parent
    paths = [directory / name for name in (*SAVED, "config.json")]
    files = {file.name: file.read_bytes() for file in paths if file.is_file()}
    if path.name == "tokenizer.model":
        files.pop("tokenizer.json", None)
    if "tokenizer.json" in files or "tokenizer.model" in files:
        return directory, files
    if {"vocab.json", "merges.txt"} <= files.keys():
        made = from_vocab_and_merges(Configs(str(directory), files))
        return directory, {**files, "tokenizer.json": made}
    gguf = _only_gguf(directory)
    return gguf, from_gguf(gguf)


def _only_gguf(directory: Path) -> Path:
    """The GGUF file in a directory, the first part if it is split."""
    parts = [(file, SHARD.search(file.name)) for file in sorted(directory.glob("*.gguf"))]
    heads = [file for file, part in parts if part is None or int(part[1]) == 1]
    if not heads:
        raise UserError(
            f"{directory} holds no tokenizer: neither tokenizer.json nor tokenizer.model nor "
            f"vocab.json with merges.txt nor a .gguf file; copy the model's tokenizer files there"
        )
    if len(heads) > 1:
        names = ", ".join(file.name for file in heads)
        raise UserError(f"{directory} holds {len(heads)} GGUF files; give one of them: {names}")
    return heads[0]
