"""tokenizer.json through the `tokenizers` library."""

import json
from collections.abc import Mapping
from typing import TypeAlias

from star_jax.errors import UserError
from star_jax.tokenizers.byte_level import byte_symbols
from star_jax.tokenizers.configs import Json, import_needed
from star_jax.tokenizers.pretrained_vocabulary import PretrainedVocabulary

Spec: TypeAlias = Mapping[str, Json]  # tokenizer.json, or a part of it


class HuggingFaceVocabulary(PretrainedVocabulary):
    """tokenizer.json through the `tokenizers` library.

    Byte-level tokenizers return any text unchanged, except for what their own normalizer composes
    (Qwen's NFC).
    """

    _transformers_class = "PreTrainedTokenizerFast"

    def _load(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        library = import_needed("tokenizers", "tokenizer.json")
        spec = self._configs.read("tokenizer.json")
        try:
            self._tokenizer = library.Tokenizer.from_str(json.dumps(_lossless(spec)))
        except Exception as error:  # the library raises nothing narrower
            raise self._configs.damaged("tokenizer.json", error) from error
        self._tokenizer.encode_special_tokens = True  # as plain text
        vocabulary = self._tokenizer.get_vocab(with_added_tokens=True)
        self._base_vocab_size = max(vocabulary.values(), default=-1) + 1
        model = spec["model"]
        self.unk_id = vocabulary.get(model.get("unk_token"), model.get("unk_id"))
        added = self._tokenizer.get_added_tokens_decoder()
        self._special = {id_ for id_, token in added.items() if token.special} - {self.unk_id}
        symbols = byte_symbols() if "ByteLevel" in _types(spec.get("pre_tokenizer")) else ()
        self._missing_bytes = {b for b, symbol in enumerate(symbols) if symbol not in vocabulary}
        encoded = self._tokenizer.encode("a", add_special_tokens=True)
        n_start = [*encoded.special_tokens_mask, 0].index(0)
        return tuple(encoded.ids[:n_start]), ()

    def _to_ids(self, text: str) -> list[int]:
        if self._missing_bytes and not self._missing_bytes.isdisjoint(text.encode()):
            lost = next(c for c in text if not self._missing_bytes.isdisjoint(c.encode()))
            raise UserError(
                f"{self._configs.source}: the tokenizer has no token for the character "
                f"U+{ord(lost):04X} of the text {text[:60]!r}; remove it from the text"
            )
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def _to_text(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=False)

    def _id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def _spelling(self, id_: int) -> str:
        return self._tokenizer.id_to_token(id_) or ""


def _lossless(spec: Spec) -> dict[str, object]:
    """tokenizer.json without what adds a space, strips, truncates, pads or draws at random."""
    added = [{**token, "lstrip": False, "rstrip": False} for token in spec["added_tokens"]]
    parts = {key: _plain(spec.get(key)) for key in ("normalizer", "pre_tokenizer", "decoder")}
    model = {key: None if key == "dropout" else value for key, value in spec["model"].items()}
    nothing = {"truncation": None, "padding": None}
    return {**spec, **parts, **nothing, "added_tokens": added, "model": model}


def _plain(part: Spec | None) -> Spec | None:
    """A normalizer, pre-tokenizer or decoder without what adds a space or strips."""
    if part is None:
        return None
    match part.get("type"):
        case None | "Prepend" | "Strip":
            return None
        case "Sequence":
            [(key, members)] = [(k, v) for k, v in part.items() if isinstance(v, list)]
            members = [plain for plain in map(_plain, members) if plain]
            return {**part, key: members} if members else None
        case "Metaspace":
            kept = {key: value for key, value in part.items() if key != "add_prefix_space"}
            return {**kept, "prepend_scheme": "never"}
        case "ByteLevel":
            return {**part, "add_prefix_space": False}
    return part


def _types(part: Spec | None) -> set[str]:
    """The types of a pre-tokenizer and its members."""
    part = part or {}
    return {part.get("type", "")}.union(*map(_types, part.get("pretokenizers", ())))
