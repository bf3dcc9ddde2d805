"""What the tokenizers of pretrained models share: text in, text out, and special tokens."""

import abc
import functools
import hashlib
import re
from collections.abc import Iterable

from star_jax.errors import UserError
from star_jax.tokenizers.byte_level import byte_symbols
from star_jax.tokenizers.configs import SAVED, Configs, Files, json_files
from star_jax.tokenizers.vocabularies import PythonVocabulary


class PretrainedVocabulary(PythonVocabulary):
    """The tokenizer of a pretrained model, with the BOS and EOS of its model.

    `encode` adds nothing to the text: no special tokens, and none of the spaces that some
    tokenizers put in front, so that texts that are encoded separately join to one text. The text
    of a special token, such as "<|endoftext|>" in a question, is encoded as plain text.

    `decode` returns the text up to the first of `stop_ids`, without control tokens.
    """

    eos_id = -1  # ends training documents
    stop_ids: tuple[int, ...]  # end generation; `eos_id` is the first
    bos_id: int | None = None  # `document_start_ids` says whether it is used
    document_start_ids: tuple[int, ...]  # what every document begins with: BOS, or nothing
    largest_id: int  # in documents; a control token without a role in them may have a larger one
    unk_id: int | None = None  # what the tokenizer cannot express; None for byte-level tokenizers
    _transformers_class: str | None  # for tokenizer_config.json where there was none
    _special: set[int]  # ids that have no text

    def __init__(self, source: str, files: Files):
        """Reads `files`, contents by name, that came from `source`; UserError if they are bad."""
        super().__init__()
        self._configs = Configs(source, files)
        self._read_roles(*self._load())
        written = {self.eos_id, *self.document_start_ids}
        ids = range(self._base_vocab_size)
        self.largest_id = max(id_ for id_ in ids if id_ in written or id_ not in self._special)
        roles = {self.bos_id, *self.stop_ids, *self.document_start_ids}
        self._special |= {id_ for id_ in roles if id_ is not None}
        unknown = set() if self.unk_id is None else {self.unk_id}
        spellings = map(self._spelling, sorted(self._special | unknown))
        # Matches between the first and the second character of a special token's spelling.
        places = [f"(?<={re.escape(s[0])})(?={re.escape(s[1:])})" for s in spellings if s[1:]]
        self._inside_special = re.compile("|".join(places) or "(?!)")  # or nowhere

    def _read_roles(self, model_start: tuple[int, ...], model_eos: tuple[int, ...]) -> None:
        """Which ids begin and end texts, by the model's own configuration.

        `model_start` is what the tokenizer itself puts in front of a text, `model_eos` its EOS.
        """
        configs, n_ids = self._configs, self._base_vocab_size

        def by_token(key: str) -> tuple[int, ...]:
            id_ = self._id_of(configs.token(key) or "")
            return () if id_ is None else (id_,)

        configured = configs.ids("config.json", "eos_token_id", n_ids)
        generation = configs.ids("generation_config.json", "eos_token_id", n_ids)
        # EOS: 1. config.json  2. tokenizer_config.json  3. generation_config.json  4. the tokenizer
        eos = configured or by_token("eos_token") or generation or model_eos
        if not eos:
            raise UserError(
                f"{configs.source} names no known token as EOS; give eos_token in "
                f"tokenizer_config.json or eos_token_id in config.json"
            )
        # Where sampling stops: at EOS, and  1. by generation_config.json  2. by config.json
        self.eos_id = eos[0]
        self.stop_ids = tuple(dict.fromkeys([eos[0], *(generation or configured)]))
        # BOS: 1. tokenizer_config.json  2. config.json  3. the tokenizer
        bos = by_token("bos_token") or configs.ids("config.json", "bos_token_id", n_ids)
        bos = bos or model_start
        self.bos_id = bos[0] if bos else None
        # Whether documents begin with it: 1. tokenizer_config.json  2. the tokenizer
        adds_bos = configs.read("tokenizer_config.json").get("add_bos_token")
        if adds_bos and not bos:
            raise UserError(
                f"{configs.source}: tokenizer_config.json has add_bos_token = true, but no "
                f"bos_token that the tokenizer has; give one, or set add_bos_token to false"
            )
        self.document_start_ids = model_start if adds_bos is None else bos[:1] if adds_bos else ()

    @abc.abstractmethod
    def _load(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Opens the tokenizer; returns the ids it puts in front of texts, and its EOS."""

    @abc.abstractmethod
    def _to_ids(self, text: str) -> list[int]:
        """The tokenizer's own ids, which may still contain special ones."""

    @abc.abstractmethod
    def _to_text(self, ids: list[int]) -> str:
        """The tokenizer's own text of ids in its range."""

    @abc.abstractmethod
    def _id_of(self, token: str) -> int | None:
        """The id of a token by its spelling."""

    @abc.abstractmethod
    def _spelling(self, id_: int) -> str:
        """The spelling of a token."""

    def half_character(self, id_: int) -> bytes:
        """The bytes of a token that are no whole characters."""
        spelling = self._spelling(id_)
        if found := re.fullmatch("<0x([0-9A-F]{2})>", spelling):
            return bytes.fromhex(found[1])
        by_symbol = {symbol: bytes([byte]) for byte, symbol in enumerate(byte_symbols())}
        return b"".join(by_symbol.get(symbol, symbol.encode()) for symbol in spelling)

    def saved_files(self) -> Files:
        """The tokenizer's files, contents by name, as `transformers.AutoTokenizer` loads them.

        The model's config.json, which also has `eos_id`, is not among them.
        """
        ids = {"bos_token": self.bos_id, "eos_token": self.eos_id}
        tokens = {role: self._spelling(id_) for role, id_ in ids.items() if id_ is not None}
        config: dict[str, object] = {**tokens}
        if self._transformers_class:
            config["tokenizer_class"] = self._transformers_class
        if "tokenizer.json" not in self._configs.files:  # which itself says what comes first
            config["add_bos_token"] = bool(self.document_start_ids)
        generation = {"bos_token_id": self.bos_id, "eos_token_id": self.stop_ids}
        made = {"tokenizer_config.json": config, "generation_config.json": generation}
        files = {**json_files(made), **self._configs.files}
        return {name: content for name, content in files.items() if name in SAVED}

    def _encode(self, s: str) -> list[int]:
        try:
            s.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"the text {s[:60]!r} has half a character (a surrogate) at place {error.start}; "
                f"repair it in the data"
            ) from error
        ids = self._to_ids(s)
        if self._special.isdisjoint(ids) and self.unk_id not in ids:
            return ids
        return [id_ for part in self._inside_special.split(s) for id_ in self._to_ids(part)]

    def _decode(self, ids: Iterable[int]) -> str:
        ids = [int(id_) for id_ in ids]
        end = next((i for i, id_ in enumerate(ids) if id_ in self.stop_ids), len(ids))
        known = range(self._base_vocab_size)
        return self._to_text([i for i in ids[:end] if i in known and i not in self._special])

    @functools.cached_property
    def _identity(self) -> tuple[object, ...]:
        """All that ids and texts depend on."""
        files, special = self._configs.files, frozenset(self._special)
        model = files["tokenizer.json" if "tokenizer.json" in files else "tokenizer.model"]
        digest = hashlib.sha256(model).digest()
        roles = self.eos_id, self.stop_ids, self.bos_id, self.document_start_ids
        return type(self), digest, self._base_vocab_size, special, roles

    def __eq__(self, other: object) -> bool:
        """Equal when they encode, begin and end texts alike, whatever their source."""
        return isinstance(other, PretrainedVocabulary) and self._identity == other._identity

    def __hash__(self) -> int:
        """Hash of the contents, so that seqio may key caches by vocabulary."""
        return hash(self._identity)

    def __reduce__(self) -> tuple[type, tuple[str, Files]]:
        """Copies read the files again: the libraries' own copies lose settings."""
        return type(self), (self._configs.source, self._configs.files)
