"""Tokenizers of pretrained models as `seqio.Vocabulary`, with the BOS and EOS of their model."""

import abc
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import seqio
import tensorflow as tf
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from star_jax.errors import UserError
from star_jax.run.paths import path_of, told
from star_jax.tokenizers.files.byte_level import byte_symbols
from star_jax.tokenizers.files.configs import (
    ADDED_TOKENS,
    GENERATION_CONFIG,
    SAVED,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    TOKENIZER_MODEL,
    Configs,
    Files,
    Roles,
    import_needed,
    read_roles,
    to_json,
)
from star_jax.tokenizers.files.finding import find_files
from star_jax.tokenizers.files.lossless import add_pieces, kinds_of, lossless


class PretrainedVocabulary(seqio.Vocabulary):
    """What the tokenizers of pretrained models have in common.

    `encode` adds nothing to the text: no special tokens, and none of the spaces that some
    tokenizers put in front, so that texts encoded apart and joined read as one text. The text
    of a special token, such as "<|endoftext|>" in a question, is encoded as plain text.

    `decode` gives the text up to the first of `stop_ids`, without control tokens.
    """

    _transformers_class: str | None  # for tokenizer_config.json where there was none
    _n_ids: int
    _special: set[int]  # ids that stand for no text
    _roles: Roles

    def __init__(self, source: str, files: Files):
        """Reads `files`, contents by name, that came from `source`; UserError if they are bad."""
        super().__init__()
        self._configs = Configs(source, files)
        model_start, model_eos = self._load()
        self._roles = read_roles(self._configs, self._id_of, self._n_ids, model_start, model_eos)
        self._special |= self._roles.all_ids
        spellings = map(self._spelling, sorted({*self._special, self.unk_id} - {None}))
        # Matches between the first and the second character of a special token's spelling.
        places = [f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in spellings if s[1:]]
        self._inside_special = re.compile("|".join(places) or "(?!)")  # or nowhere

    @abc.abstractmethod
    def _load(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Opens the tokenizer; returns what it puts in front of texts, and its EOS."""

    @abc.abstractmethod
    def _to_ids(self, text: str) -> list[int]:
        """The tokenizer's own ids, among which there may still be special ones."""

    @abc.abstractmethod
    def _to_text(self, ids: list[int]) -> str:
        """The tokenizer's own text of ids in its range."""

    @abc.abstractmethod
    def _id_of(self, token: str) -> int | None:
        """The id of a token by its spelling."""

    @abc.abstractmethod
    def _spelling(self, id_: int) -> str:
        """The spelling of a token."""

    @property
    def document_start_ids(self) -> tuple[int, ...]:
        """The ids the model wants in front of every document: BOS, or nothing."""
        return self._roles.document_start_ids

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """All ids that end what the model writes, `eos_id` first."""
        return self._roles.stop_ids

    @property
    def eos_id(self) -> int:
        """The id to end training documents with."""
        return self._roles.eos_id

    @property
    def bos_id(self) -> int | None:
        """The id of BOS, if there is one; whether to use it is told by `document_start_ids`."""
        return self._roles.bos_id

    @property
    def _base_vocab_size(self) -> int:
        return self._n_ids

    def save(self, directory: str | Path) -> None:
        """Writes the tokenizer's files so that `transformers.AutoTokenizer` loads them.

        The model's config.json, which tells `eos_id` too, is not among them.
        """
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        tokens = {role: self._spelling(id_) for role, id_ in ids.items() if id_ is not None}
        config = {"tokenizer_class": self._transformers_class} if self._transformers_class else {}
        config |= tokens
        if TOKENIZER_JSON not in self._configs.files:  # which says itself what comes first
            config["add_bos_token"] = bool(self.document_start_ids)
        generation = {"bos_token_id": self.bos_id, "eos_token_id": self.stop_ids}
        made = {TOKENIZER_CONFIG: to_json(config), GENERATION_CONFIG: to_json(generation)}
        files = {**made, **self._configs.files}
        Path(directory).mkdir(parents=True, exist_ok=True)
        for name in files.keys() & set(SAVED):
            Path(directory, name).write_bytes(files[name])

    def _encode(self, s: str) -> list[int]:
        try:
            s.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text {s[:60]!r} has half a character (a surrogate) at place {error.start}; "
                f"repair it where it came from"
            ) from error
        ids = self._to_ids(s)
        if self._special.isdisjoint(ids) and self.unk_id not in ids:
            return ids
        return [id_ for part in self._inside_special.split(s) for id_ in self._to_ids(part)]

    def _decode(self, ids: Iterable[int]) -> str:
        ids = [int(id_) for id_ in ids]
        end = next((i for i, id_ in enumerate(ids) if id_ in self.stop_ids), len(ids))
        return self._to_text(
            [id_ for id_ in ids[:end] if 0 <= id_ < self._n_ids and id_ not in self._special]
        )

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: tf.Tensor) -> np.ndarray:
            return np.array(self.encode(text.numpy().decode()), np.int32)

        return tf.ensure_shape(tf.py_function(encode, [s], tf.int32), [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(batch: tf.Tensor) -> np.ndarray:
            *rows, length = batch.shape
            texts = map(self._decode, batch.numpy().reshape(math.prod(rows), length))
            return np.array(list(texts), dtype=object).reshape(rows)

        return tf.ensure_shape(tf.py_function(decode, [ids], tf.string), ids.shape[:-1])

    @functools.cached_property
    def _identity(self) -> tuple[object, ...]:
        """All that ids and texts depend on."""
        files = self._configs.files
        model = files[TOKENIZER_JSON if TOKENIZER_JSON in files else TOKENIZER_MODEL]
        special = frozenset(self._special)
        return type(self), hashlib.sha256(model).digest(), self._n_ids, special, self._roles

    def __eq__(self, other: object) -> bool:
        """Equal when they encode, begin and end texts alike, wherever they came from."""
        return isinstance(other, PretrainedVocabulary) and self._identity == other._identity

    def __hash__(self) -> int:
        """Hash of the contents, so that seqio may key caches by vocabulary."""
        return hash(self._identity)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Copies read the files again: the libraries' own copies lose settings."""
        return type(self), (self._configs.source, self._configs.files)


class HuggingFaceVocabulary(PretrainedVocabulary):
    """tokenizer.json through the `tokenizers` library.

    Byte-level tokenizers give any text back as it was, except for what their own normalizer
    composes (Qwen's NFC).
    """

    _transformers_class = "PreTrainedTokenizerFast"

    def _load(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        library = import_needed("tokenizers", TOKENIZER_JSON)
        spec = self._configs.read(TOKENIZER_JSON)
        try:
            self._tokenizer = library.Tokenizer.from_str(json.dumps(lossless(spec)))
        except Exception as error:  # the library raises nothing narrower
            raise self._configs.damaged(TOKENIZER_JSON, error) from error
        self._tokenizer.encode_special_tokens = True  # as plain text
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self._n_ids = max(vocabulary.values(), default=-1) + 1
        model = spec["model"]
        self._unk_id = vocabulary.get(model.get("unk_token"), model.get("unk_id"))
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {id_ for id_, token in added.items() if token.special} - {self._unk_id}
        symbols = byte_symbols() if "ByteLevel" in kinds_of(spec.get("pre_tokenizer")) else ()
        self._missing_bytes = {b for b, symbol in enumerate(symbols) if symbol not in vocabulary}
        encoded = self._tokenizer.encode("a", add_special_tokens=True)
        n_start = [*encoded.special_tokens_mask, 0].index(0)
        return tuple(encoded.ids[:n_start]), ()

    @property
    def unk_id(self) -> int | None:
        """The id of what the tokenizer cannot express; None for byte-level tokenizers."""
        return self._unk_id

    def _to_ids(self, text: str) -> list[int]:
        if self._missing_bytes and not self._missing_bytes.isdisjoint(text.encode()):
            lost = next(c for c in text if not self._missing_bytes.isdisjoint(c.encode()))
            raise UserError(
                f"{self._configs.source}: the tokenizer has no token for the character "
                f"U+{ord(lost):04X} of the text {text[:60]!r}; take it out of the text"
            )
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _to_text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def _spelling(self, id_: int) -> str:
        return self._tokenizer.id_to_token(id_) or ""


class SentencePieceVocabulary(PretrainedVocabulary):
    """tokenizer.model through the `sentencepiece` library.

    seqio's own takes id 0 for padding and puts a space in front of every text. Here no text gets
    one, not even the first of a document. Texts come back as they were where the model has byte
    pieces and no normalization of its own, as Llama's and Mistral's; only "▁" becomes a space.
    """

    def _load(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        added = self._added_tokens()
        try:
            model = sentencepiece_model_pb2.ModelProto.FromString(
                self._configs.files[TOKENIZER_MODEL]
            )
            model.normalizer_spec.add_dummy_prefix = False
            model.normalizer_spec.remove_extra_whitespaces = False
            add_pieces(model, added)
            processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        except (DecodeError, RuntimeError) as error:
            raise self._configs.damaged(TOKENIZER_MODEL, error) from error
        self._processor, self._n_ids = processor, processor.get_piece_size()
        is_bpe = model.trainer_spec.model_type == model.trainer_spec.BPE
        self._transformers_class = "LlamaTokenizer" if is_bpe else None
        special = {id_ for id_, (_, is_special) in added.items() if is_special}
        self._special = {*special, *filter(processor.is_control, range(self._n_ids))}
        self._special.discard(processor.unk_id())
        bos, eos = processor.bos_id(), processor.eos_id()  # negative for none
        return (bos,) if bos >= 0 else (), (eos,) if eos >= 0 else ()

    def _added_tokens(self) -> dict[int, tuple[str, bool]]:
        """The tokens that were added beside the model: text and whether it is special, by id."""
        config = self._configs.read(TOKENIZER_CONFIG)
        added = {id_: (text, False) for text, id_ in self._configs.read(ADDED_TOKENS).items()}
        try:
            for id_, token in config.get("added_tokens_decoder", {}).items():
                added[int(id_)] = (token["content"], bool(token.get("special")))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self._configs.damaged(TOKENIZER_CONFIG, error) from error
        return added

    @property
    def unk_id(self) -> int:
        """The id of what the model cannot express."""
        return self._processor.unk_id()

    def _to_ids(self, text: str) -> list[int]:
        return self._processor.encode(text, out_type=int)

    def _to_text(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def _id_of(self, token: str) -> int | None:
        id_ = self._processor.piece_to_id(token)
        return id_ if self._spelling(id_) == token else None

    def _spelling(self, id_: int) -> str:
        return self._processor.id_to_piece(id_)


def load_vocabulary(path: str | Path) -> PretrainedVocabulary:
    """The tokenizer at `path` with what the files beside it say about BOS and EOS.

    Args:
      path: a directory with tokenizer.json, tokenizer.model, vocab.json and merges.txt, or one
        GGUF file (the first of these that is there counts), or one of these files itself.

    Raises:
      UserError: nothing of this is there, it is damaged, or it says of no token that it is EOS.
    """
    with told(path):
        source, files = find_files(path_of(path))
    kind = HuggingFaceVocabulary if TOKENIZER_JSON in files else SentencePieceVocabulary
    return kind(str(source), files)
