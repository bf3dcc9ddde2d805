"""Tokenizers without what they do to a text beside cutting it into tokens."""

from collections.abc import Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2


def lossless(spec: Mapping[str, Any]) -> dict[str, Any]:
    """tokenizer.json without what adds a space, strips, cuts, pads or draws at random."""
    added = [{**token, "lstrip": False, "rstrip": False} for token in spec["added_tokens"]]
    parts = {key: _plain(spec.get(key)) for key in ("normalizer", "pre_tokenizer", "decoder")}
    model = dict(spec["model"])
    if "dropout" in model:
        model["dropout"] = None
    nothing = {"truncation": None, "padding": None}
    return {**spec, **parts, **nothing, "added_tokens": added, "model": model}


def _plain(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """A normalizer, pre-tokenizer or decoder without what adds a space or strips."""
    match part and part.get("type"):
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
    return dict(part)


def kinds_of(part: Mapping[str, Any] | None) -> set[str]:
    """The types of a pre-tokenizer and its members."""
    members = (part or {}).get("pretokenizers", ())
    return {(part or {}).get("type", "")}.union(*map(kinds_of, members))


def add_pieces(
    model: sentencepiece_model_pb2.ModelProto, added: Mapping[int, tuple[str, bool]]
) -> None:
    """Appends the added tokens that the model lacks, each at its id."""
    pieces = model.pieces
    kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
    for id_ in sorted(id_ for id_ in added if id_ >= len(pieces)):
        text, special = added[id_]
        while len(pieces) < id_:  # ids that nobody uses
            pieces.add(piece=f"<unused id {len(pieces)}>", score=0.0, type=kinds.UNUSED)
        kind = kinds.CONTROL if special else kinds.USER_DEFINED
        pieces.add(piece=text.replace(" ", "▁"), score=0.0, type=kind)
