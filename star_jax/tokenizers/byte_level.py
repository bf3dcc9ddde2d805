"""Byte-level BPE as tokenizer.json, from tokens, merges and what happens before merging."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from types import ModuleType

from star_jax.errors import UserError, one_line
from star_jax.tokenizers.configs import Configs, import_needed


@dataclasses.dataclass(frozen=True)
class Scheme:
    """What a family of byte-level tokenizers does besides merging."""

    pattern: str = ""  # the words that merging stays inside; "" is GPT-2's pattern
    separate_digits: bool = False  # before the pattern
    nfc: bool = False  # Unicode's composed form, first of all
    whole_words: bool = False  # a word that is a token is used without merging
    adds_bos: bool = False  # unless the file says otherwise


WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA_3 = Scheme(WORDS % r"\p{N}{1,3}", whole_words=True, adds_bos=True)
# By GGUF's tokenizer.ggml.pre; as in the tokenizer.json of GPT-2, Llama 3, Qwen2 and SmolLM.
SCHEMES = {
    "gpt-2": Scheme(),
    "llama-bpe": LLAMA_3,
    "llama-v3": LLAMA_3,
    "llama3": LLAMA_3,
    "qwen2": Scheme(WORDS % r"\p{N}", nfc=True),
    "smollm": Scheme(separate_digits=True),
}
# By tokenizer_config.json's tokenizer_class, which may be missing.
CLASS_SCHEMES = {None: "gpt-2", "GPT2Tokenizer": "gpt-2", "Qwen2Tokenizer": "qwen2"}
PRINTABLE = {*range(33, 127), *range(161, 173), *range(174, 256)}


def byte_symbols() -> list[str]:
    """The symbol of each of the 256 bytes in GPT-2's and all later byte-level vocabularies."""
    others = iter(range(256, 512))
    return [chr(byte if byte in PRINTABLE else next(others)) for byte in range(256)]


def byte_level_json(
    source: str,
    scheme: Scheme,
    vocabulary: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    *,
    special: Collection[str] = (),
    added: Collection[str] = (),
    bos: str | None = None,
) -> bytes:
    """tokenizer.json of a byte-level BPE.

    Args:
      source: the files it is made from, for errors.
      scheme: what it does besides merging.
      vocabulary: id of every token, including special and added ones.
      merges: pairs of tokens, in the order of merging.
      special: control tokens.
      added: tokens that are recognized in the text first.
      bos: token that is put in front of every text, if any.

    Raises:
      UserError: the merges do not fit the vocabulary.
    """
    library = import_needed("tokenizers", "a byte-level tokenizer")
    try:
        pairs = [tuple(pair) for pair in merges]
        model = library.models.BPE(dict(vocabulary), pairs, ignore_merges=scheme.whole_words)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(
            f"{source}: the merges do not fit the tokens ({one_line(error)}); fetch them again, "
            f"both from the same model"
        ) from error
    tokenizer = library.Tokenizer(model)
    tokenizer.pre_tokenizer = _pre_tokenizer(library, scheme)
    tokenizer.decoder = library.decoders.ByteLevel()
    if scheme.nfc:
        tokenizer.normalizer = library.normalizers.NFC()
    tokenizer.add_special_tokens(sorted(special, key=vocabulary.__getitem__))
    tokenizer.add_tokens(sorted(added, key=vocabulary.__getitem__))
    if bos is not None:
        tokenizer.post_processor = library.processors.TemplateProcessing(
            single=[bos, "$A"], pair=[bos, "$A", "$B:1"], special_tokens=[(bos, vocabulary[bos])]
        )
    return tokenizer.to_str().encode()


def from_vocab_and_merges(configs: Configs) -> bytes:
    """tokenizer.json from GPT-2's or Qwen2's vocab.json, merges.txt and lists of added tokens."""
    tokenizer_class = configs.read("tokenizer_config.json").get("tokenizer_class")
    name = tokenizer_class.removesuffix("Fast") if tokenizer_class else None
    if name not in CLASS_SCHEMES:
        raise UserError(
            f"{configs.source}: vocab.json and merges.txt of the class {tokenizer_class} are not "
            f"supported ({', '.join(filter(None, CLASS_SCHEMES))} are); write tokenizer.json with "
            f"transformers' AutoTokenizer.from_pretrained(...).save_pretrained(...)"
        )
    added = configs.added_tokens()
    vocabulary = {**configs.read("vocab.json"), **{text: id_ for id_, (text, _) in added.items()}}
    special = {text for text, is_special in added.values() if is_special}
    special |= configs.role_tokens() & vocabulary.keys()
    try:
        lines = configs.files["merges.txt"].decode().splitlines()
    except UnicodeDecodeError as error:
        raise configs.damaged("merges.txt", error) from error
    merges = [line.split(" ") for line in lines if line and not line.startswith("#version")]
    scheme, plain = SCHEMES[CLASS_SCHEMES[name]], {text for text, _ in added.values()} - special
    return byte_level_json(configs.source, scheme, vocabulary, merges, special=special, added=plain)


def _pre_tokenizer(library: ModuleType, scheme: Scheme) -> object:
    pre = library.pre_tokenizers
    splits = [pre.Digits(individual_digits=True)] if scheme.separate_digits else []
    if scheme.pattern:
        splits.append(pre.Split(library.Regex(scheme.pattern), "isolated"))
    splits.append(pre.ByteLevel(add_prefix_space=False, use_regex=not scheme.pattern))
    return pre.Sequence(splits)
