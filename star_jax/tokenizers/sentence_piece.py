"""tokenizer.model through the `sentencepiece` library."""

from collections.abc import Mapping
from typing import Any

import sentencepiece
from google.protobuf.message import DecodeError
from sentencepiece import sentencepiece_model_pb2

from star_jax.tokenizers.pretrained_vocabulary import PretrainedVocabulary

ModelProto = sentencepiece_model_pb2.ModelProto  # type: ignore[attr-defined]


class SentencePieceVocabulary(PretrainedVocabulary):
    """tokenizer.model through the `sentencepiece` library.

    seqio's own takes id 0 for padding and puts a space in front of every text. Here no text gets
    one, not even the first of a document. Texts are returned unchanged where the model has byte
    pieces and no normalization of its own, as Llama's and Mistral's; only "▁" becomes a space.
    """

    def _load(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        added = self._configs.added_tokens()
        try:
            model = ModelProto.FromString(self._configs.files["tokenizer.model"])
            model.normalizer_spec.add_dummy_prefix = False
            model.normalizer_spec.remove_extra_whitespaces = False
            _add_pieces(model.pieces, added)
            processor = sentencepiece.SentencePieceProcessor(model_proto=model.SerializeToString())
        except (DecodeError, RuntimeError) as error:
            raise self._configs.damaged("tokenizer.model", error) from error
        self._processor, self._base_vocab_size = processor, processor.get_piece_size()
        is_bpe = model.trainer_spec.model_type == model.trainer_spec.BPE
        self._transformers_class = "LlamaTokenizer" if is_bpe else None
        special = {id_ for id_, (_, is_special) in added.items() if is_special}
        self._special = {*special, *filter(processor.is_control, range(self._base_vocab_size))}
        self.unk_id = processor.unk_id()
        self._special.discard(self.unk_id)
        bos, eos = processor.bos_id(), processor.eos_id()  # negative for none
        return (bos,) if bos >= 0 else (), (eos,) if eos >= 0 else ()

    def _to_ids(self, text: str) -> list[int]:
        return self._processor.encode(text, out_type=int)

    def _to_text(self, ids: list[int]) -> str:
        return self._processor.decode(ids)

    def _id_of(self, token: str) -> int | None:
        id_ = self._processor.piece_to_id(token)
        return id_ if self._spelling(id_) == token else None

    def _spelling(self, id_: int) -> str:
        return self._processor.id_to_piece(id_)


def _add_pieces(pieces: Any, added: Mapping[int, tuple[str, bool]]) -> None:
    """Appends the added tokens that a model's pieces lack, each at its id."""
    kinds = ModelProto.SentencePiece
    for id_ in sorted(id_ for id_ in added if id_ >= len(pieces)):
        text, special = added[id_]
        while len(pieces) < id_:  # unused ids
            pieces.add(piece=f"<unused id {len(pieces)}>", score=0.0, type=kinds.UNUSED)
        kind = kinds.CONTROL if special else kinds.USER_DEFINED
        pieces.add(piece=text.replace(" ", "▁"), score=0.0, type=kind)
