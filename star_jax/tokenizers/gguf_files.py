"""The tokenizer in a GGUF file's metadata, as the files Hugging Face would have.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md lists the metadata.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from sentencepiece import sentencepiece_model_pb2

from star_jax.errors import UserError, one_line
from star_jax.run.paths import check_local
from star_jax.tokenizers.byte_level import SCHEMES, byte_level_json
from star_jax.tokenizers.configs import Files, Json, import_needed, json_files

Metadata: TypeAlias = dict[str, Json]  # by the names in the file, without tokenizer.ggml
# GGUF's kinds of tokens, which are SentencePiece's.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
STOP_KEYS = ("eos_token_id", "eot_token_id", "eom_token_id")  # end of text, turn and message
ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}  # ours: GGUF's


def from_gguf(path: Path) -> Files:
    """Makes tokenizer.json or tokenizer.model, tokenizer_config.json and generation_config.json."""
    check_local(path, "a GGUF file")
    values = _metadata(path)
    makers = {"gpt2": _byte_level, "llama": _sentence_piece}
    kind = values.get("model")
    if kind not in makers:
        raise _unknown(path, "model", kind, makers)
    return makers[kind](path, values)


def _metadata(path: Path) -> Metadata:
    reader = import_needed("gguf", "a GGUF file").GGUFReader
    try:
        values = {
            name.removeprefix("tokenizer.").removeprefix("ggml."): field.contents()
            for name, field in reader(path).fields.items()
            if name.startswith("tokenizer.")
        }
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"{path} is no GGUF file, or it is damaged or truncated ({one_line(error)}); "
            f"fetch it again"
        ) from error
    tokens = values.get("tokens")
    if not tokens:
        raise UserError(
            f"{path} holds no tokenizer (tokenizer.ggml.tokens); give the directory of the "
            f"tokenizer, or the GGUF file of the whole model"
        )
    for name in ("scores", "token_type"):
        if len(values.get(name, tokens)) != len(tokens):
            raise UserError(
                f"{path} has {len(tokens)} tokens and {len(values[name])} of tokenizer.ggml.{name}"
                f"; convert the model again"
            )
    return {  # an id that is out of range means "none"
        name: value
        for name, value in values.items()
        if not name.endswith("_token_id") or 0 <= value < len(tokens)
    }


def _unknown(path: Path, key: str, value: object, known: Iterable[str]) -> UserError:
    return UserError(
        f"{path}: tokenizer.ggml.{key} = {value} is none of {', '.join(known)}; give the directory "
        f"with the model's tokenizer.json instead"
    )


def _byte_level(path: Path, values: Metadata) -> Files:
    if values.get("pre") not in SCHEMES:
        raise _unknown(path, "pre", values.get("pre"), SCHEMES)
    scheme, tokens = SCHEMES[values["pre"]], values["tokens"]
    kinds = values.get("token_type") or [NORMAL] * len(tokens)
    adds_bos = bool(values.get("add_bos_token", scheme.adds_bos)) and "bos_token_id" in values
    tokenizer = byte_level_json(
        str(path),
        scheme,
        # Unused ones only fill the table up to the model's size.
        {t: i for i, (t, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind != UNUSED},
        [merge.split(" ") for merge in values.get("merges", ())],
        special=[t for t, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, UNKNOWN)],
        added=[t for t, kind in zip(tokens, kinds, strict=True) if kind == USER_DEFINED],
        bos=tokens[values["bos_token_id"]] if adds_bos else None,
    )
    configs = _configs(values, tokenizer_class="PreTrainedTokenizerFast", add_bos_token=adds_bos)
    return {"tokenizer.json": tokenizer, **configs}


def _sentence_piece(path: Path, values: Metadata) -> Files:
    if "scores" not in values or "token_type" not in values:
        raise UserError(
            f"{path} lacks tokenizer.ggml.scores or tokenizer.ggml.token_type; convert the model "
            f"again"
        )
    tokens, scores, kinds = values["tokens"], values["scores"], values["token_type"]
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    for piece, score, kind in zip(tokens, scores, kinds, strict=True):
        model.pieces.add(piece=piece, score=score, type=kind)
    trainer = model.trainer_spec
    trainer.model_type, trainer.vocab_size = trainer.BPE, len(tokens)
    trainer.byte_fallback = BYTE in kinds
    for role in ("bos", "eos", "unk"):
        if (id_ := values.get(f"{ROLES[role]}_token_id")) is not None:
            setattr(trainer, f"{role}_id", id_)
            setattr(trainer, f"{role}_piece", tokens[id_])
    adds_space = bool(values.get("add_space_prefix", True))
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = adds_space
    model.normalizer_spec.remove_extra_whitespaces = False
    configs = _configs(
        values,
        tokenizer_class="LlamaTokenizer",
        add_bos_token=bool(values.get("add_bos_token", True)) and "bos_token_id" in values,
        add_prefix_space=adds_space,
        legacy=False,
    )
    return {"tokenizer.model": model.SerializeToString(deterministic=True), **configs}


def _configs(values: Metadata, **settings: object) -> Files:
    """tokenizer_config.json, with the `settings` and the special tokens, and generation_config."""
    ids = {role: values.get(f"{name}_token_id") for role, name in ROLES.items()}
    tokens = {f"{role}_token": values["tokens"][i] for role, i in ids.items() if i is not None}
    config = {**settings, **tokens, "clean_up_tokenization_spaces": False}
    if "chat_template" in values:
        config["chat_template"] = values["chat_template"]
    stops = list(dict.fromkeys(values[key] for key in STOP_KEYS if key in values))
    generation = {"bos_token_id": ids["bos"], "eos_token_id": stops or None}
    return json_files({"tokenizer_config.json": config, "generation_config.json": generation})
