"""Vocabularies as `seqio.Vocabulary`, and the one way prompts and completions become ids."""

import functools
import math
import re
from collections.abc import Iterable, Sequence

import numpy as np
import seqio
import tensorflow as tf

from star_jax.errors import UserError
from star_jax.records import TokenizedExample

PAD, EOS, NEWLINE = "<pad>", "</s>", "\n"
HALF = "\ufffd"  # what is decoded for bytes that are no whole character


class PythonVocabulary(seqio.Vocabulary):
    """A vocabulary that encodes and decodes in Python inside TensorFlow, too."""

    _base_vocab_size = 0  # seqio's name for the number of ids

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: tf.Tensor) -> np.ndarray:
            try:
                return np.array(self.encode(text.numpy().decode()), np.int32)
            except UserError as error:
                raise ValueError(error.message) from error  # TensorFlow: InvalidArgumentError

        return tf.ensure_shape(tf.py_function(encode, [s], tf.int32), [None])

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        def decode(batch: tf.Tensor) -> np.ndarray:
            *rows, length = batch.shape
            texts = map(self._decode, batch.numpy().reshape(math.prod(rows), length))
            return np.array(list(texts), dtype=object).reshape(rows)

        return tf.ensure_shape(tf.py_function(decode, [ids], tf.string), ids.shape[:-1])


class WordVocabulary(PythonVocabulary):
    """One id per word; words are separated by spaces, and a line break is a word of its own.

    Decoding returns the text that was encoded, provided that it had single spaces between words
    and none around line breaks. There is no unknown word: encoding one raises UserError.

    Id 0 is `<pad>`, as seqio requires; nothing in star_jax recognizes padding by its id.
    """

    bos_id = 0  # `<pad>`, as in T5; used only for models that need BOS
    eos_id = 1  # `</s>`
    unk_id = None

    def __init__(self, words: Sequence[str]):
        """Gives ids to `<pad>`, `</s>`, the line break and then `words`, in this order."""
        super().__init__()
        self.words = (PAD, EOS, NEWLINE, *words)  # in the order of their ids
        self._base_vocab_size = len(self.words)
        self._ids = {word: i for i, word in enumerate(self.words)}
        if len(self._ids) != len(self.words):
            raise UserError(f"vocabulary: a word is listed twice in {list(words)}")

    @classmethod
    def of_texts(cls, texts: Iterable[str]) -> "WordVocabulary":
        """The vocabulary of all words in some texts, sorted."""
        return cls(sorted({word for text in texts for word in re.split("[ \n]+", text)} - {""}))

    def _encode(self, s: str) -> list[int]:
        words = s.replace(NEWLINE, f" {NEWLINE} ").split(" ")
        try:
            return [self._ids[word] for word in words if word]
        except KeyError as missing:
            raise UserError(
                f"vocabulary lacks the word {missing} of the text {s[:60]!r}; "
                f"it has {len(self.words)} words: {' '.join(self.words[3:])}"
            ) from None

    def _decode(self, ids: Iterable[int]) -> str:
        words = [self.words[i] for i in ids if self.words[i] not in (PAD, EOS)]
        return re.sub(" ?\n ?", NEWLINE, " ".join(words))

    def __eq__(self, other: object) -> bool:
        """Equal when the words and their order are equal."""
        return isinstance(other, WordVocabulary) and self.words == other.words

    def __hash__(self) -> int:
        """Hash of the words, so that seqio may key caches by vocabulary."""
        return hash(self.words)


def check_room(vocabulary: seqio.Vocabulary, vocab_size: int) -> None:
    """Raises UserError if a model of `vocab_size` ids cannot embed all that documents can have."""
    n_ids = getattr(vocabulary, "largest_id", vocabulary.vocab_size - 1) + 1
    if n_ids > vocab_size:
        raise UserError(
            f"the vocabulary has {n_ids} ids, the model room for {vocab_size}; set DecoderConfig."
            f"vocab_size to {n_ids} or more, or give a pretrained model its own tokenizer"
        )


def document_start(vocabulary: seqio.Vocabulary) -> tuple[int, ...]:
    """The ids that `vocabulary`'s model needs in front of every document: often BOS or nothing."""
    return tuple(getattr(vocabulary, "document_start_ids", ()))


def stop_ids(vocabulary: seqio.Vocabulary) -> tuple[int, ...]:
    """All ids that end generation; EOS alone unless `vocabulary` has others."""
    return tuple(getattr(vocabulary, "stop_ids", (vocabulary.eos_id,)))


@functools.lru_cache(maxsize=4)
def added_bytes(vocabulary: seqio.Vocabulary) -> tuple[list[bytes], list[bytes]]:
    """What each id adds to a text: at its start or after a line break, and after a word."""
    ids, decode = range(vocabulary.vocab_size), vocabulary.decode
    alone = [decode([id_]) for id_ in ids]
    word = next((id_ for id_ in ids if alone[id_].strip(f" \n{HALF}")), 0)
    after = [decode([word, id_]).removeprefix(alone[word]) for id_ in ids]
    of_half = getattr(vocabulary, "half_character", lambda id_: HALF.encode())

    def as_bytes(texts: list[str]) -> list[bytes]:
        return [of_half(i) if HALF in text else text.encode() for i, text in enumerate(texts)]

    return as_bytes(alone), as_bytes(after)


def encode_spans(
    vocabulary: seqio.Vocabulary,
    spans: Iterable[tuple[str | Sequence[int], bool]],
    weight: float = 1.0,
) -> TokenizedExample:
    """Encodes spans of (text or its ids, has loss) separately and joins them; the last gets EOS.

    Encoding them separately makes the loss boundary exact, in training as in sampling. What the
    model needs in front of a document comes first, without loss. `weight` is a factor on the loss.
    """
    tokens = list(document_start(vocabulary))
    weights = [0.0] * len(tokens)
    for text, has_loss in spans:
        ids = vocabulary.encode(text) if isinstance(text, str) else text
        tokens.extend(ids)
        weights.extend([weight * has_loss] * len(ids))
    tokens.append(vocabulary.eos_id)
    weights.append(weight * has_loss)
    weights[0] = 0.0  # nothing comes before it to predict it from
    return TokenizedExample(np.array(tokens, np.int32), np.array(weights, np.float32))


def encode_example(vocabulary: seqio.Vocabulary, prompt: str, completion: str) -> TokenizedExample:
    """A prompt, without loss, and its completion as one document.

    tokens        [b p p p r r a e]     for a model that needs BOS
    loss_weights  [0 0 0 0 1 1 1 1]
    """
    return encode_spans(vocabulary, [(prompt, False), (completion, True)])
