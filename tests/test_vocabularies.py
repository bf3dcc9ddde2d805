import string

import numpy as np
import pytest
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.errors import UserError
from star_jax.tasks.arithmetic import WORDS, ArithmeticTask, arithmetic_vocabulary
from star_jax.tokenizers.vocabularies import (
    WordVocabulary,
    document_start,
    encode_example,
    encode_spans,
    stop_ids,
)

VOCABULARY = arithmetic_vocabulary()
LINES = st.lists(st.lists(st.sampled_from(WORDS), min_size=1).map(" ".join) | st.just(""))
TEXTS = LINES.map("\n".join)


@given(TEXTS)
def test_decoding_gives_back_what_was_encoded(text):
    assert VOCABULARY.decode(VOCABULARY.encode(text)) == text


@given(st.lists(st.integers(2, VOCABULARY.vocab_size - 1)))
def test_any_ids_come_back_from_the_text_they_decode_to(ids):
    # What a model wrote is stored as text and trained on as ids: they must be the same ids.
    assert VOCABULARY.encode(VOCABULARY.decode(ids)) == [i for i in ids if i != 1]


@settings(max_examples=30, deadline=None)
@given(TEXTS)
def test_tensorflow_encodes_and_decodes_alike(text):
    ids = VOCABULARY.encode(text)
    assert VOCABULARY.encode_tf(tf.constant(text)).numpy().tolist() == ids
    assert VOCABULARY.decode_tf(tf.constant(ids, tf.int32)).numpy().decode() == text


def test_tensorflow_decodes_rows_up_to_their_eos():
    rows = [[3, 4, VOCABULARY.eos_id, 5], [5, VOCABULARY.eos_id, 0, 0]]
    decoded = VOCABULARY.decode_tf(tf.constant(rows, tf.int32)).numpy().tolist()
    assert [text.decode() for text in decoded] == [VOCABULARY.decode(row) for row in rows]
    assert decoded == [b"0 1", b"2"]


def test_encode_works_inside_a_tensorflow_pipeline():
    texts = ["1 + 2", "", "Target:\n"]
    dataset = tf.data.Dataset.from_tensor_slices(texts).map(VOCABULARY.encode_tf)
    assert [ids.tolist() for ids in dataset.as_numpy_iterator()] == [
        VOCABULARY.encode(text) for text in texts
    ]


@pytest.mark.parametrize(("text", "word"), [("1 + x1", "x1"), ("a", "a"), ("1\t2", "\\t")])
def test_a_missing_word_is_named(text, word):
    with pytest.raises(UserError, match="lacks the word") as error:
        VOCABULARY.encode(text)
    assert word in error.value.message
    assert "\n" not in error.value.message


def test_a_missing_word_is_refused_inside_tensorflow():
    with pytest.raises(tf.errors.InvalidArgumentError, match="vocabulary lacks"):
        VOCABULARY.encode_tf(tf.constant("1 + x1"))


def test_words_cannot_be_listed_twice():
    with pytest.raises(UserError, match="twice"):
        WordVocabulary(["a", "b", "a"])
    with pytest.raises(UserError, match="twice"):
        WordVocabulary(["</s>"])


def test_ids_are_frozen():
    # Checkpoints outlive the code: these ids may never move.
    ids = VOCABULARY.encode("0 9 + , C: Input: Target: <scratch> </scratch> \n")
    assert ids == [3, 12, 13, 14, 15, 16, 17, 18, 19, 2]
    assert (VOCABULARY.pad_id, VOCABULARY.eos_id, VOCABULARY.vocab_size) == (0, 1, 20)


def test_vocabularies_are_equal_by_their_words():
    assert arithmetic_vocabulary() == VOCABULARY
    assert hash(arithmetic_vocabulary()) == hash(VOCABULARY)
    assert WordVocabulary(string.ascii_lowercase) != VOCABULARY


def test_loss_weights_cover_rationale_answer_and_eos_only():
    task = ArithmeticTask()
    question = task.make_question("", "29+57")
    prompt, gold = task.question_text(question, False), task.gold_completion(question)
    example = encode_example(VOCABULARY, prompt, gold)
    n_prompt, n_gold = len(VOCABULARY.encode(prompt)), len(VOCABULARY.encode(gold))
    assert example.loss_weights.tolist() == [0.0] * n_prompt + [1.0] * (n_gold + 1)
    assert example.tokens.tolist() == [
        *VOCABULARY.encode(prompt), *VOCABULARY.encode(gold), VOCABULARY.eos_id,
    ]  # fmt: skip
    assert example.tokens.dtype == np.int32
    assert VOCABULARY.decode(example.tokens) == prompt + gold


def test_loss_on_prompt_leaves_out_only_the_first_token():
    example = encode_spans(VOCABULARY, [("1 + 2\n", True), ("3", True)])
    assert example.loss_weights.tolist() == [0, 1, 1, 1, 1, 1]


def test_spans_keep_their_own_loss():
    example = encode_spans(VOCABULARY, [("1", True), ("2 3", False), ("4", True)])
    assert example.loss_weights.tolist() == [0, 0, 0, 1, 1]
    assert VOCABULARY.decode(example.tokens) == "1 2 3 4"


class BeginningVocabulary(WordVocabulary):
    """Words of a model that wants two ids in front of a document and stops at two."""

    document_start_ids = (4, 3)
    stop_ids = (6, 1)


def test_any_vocabulary_has_a_document_start_and_stop_ids():
    assert (document_start(VOCABULARY), stop_ids(VOCABULARY)) == ((), (VOCABULARY.eos_id,))
    byte_vocabulary = seqio.ByteVocabulary()
    assert (document_start(byte_vocabulary), stop_ids(byte_vocabulary)) == ((), (1,))
    beginning = BeginningVocabulary("abcd")
    assert (document_start(beginning), stop_ids(beginning)) == ((4, 3), (6, 1))


def test_what_a_model_wants_in_front_comes_first_and_has_no_loss():
    beginning = BeginningVocabulary("abcd")
    example = encode_spans(beginning, [("a", True), ("c", True)])
    assert example.tokens.tolist() == [4, 3, 3, 5, 1]
    assert example.loss_weights.tolist() == [0, 0, 1, 1, 1]  # the prompt's first has, too
    plain = encode_example(beginning, "a", "c")
    assert plain.loss_weights.tolist() == [0, 0, 0, 1, 1]
    assert plain.tokens.tolist() == example.tokens.tolist()
