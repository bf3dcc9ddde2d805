"""The model families: one file each. `register` adds a family that is defined elsewhere.

A family's file says how its config.json becomes a `DecoderConfig` and back, and what its tensors
are called in each format. `formats` reads the files themselves.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from star_jax.errors import UserError
from star_jax.models.config import DecoderConfig
from star_jax.models.families.family import ConfigJson, Family
from star_jax.models.families.gptj import GPTJ
from star_jax.models.families.llama import LLAMA
from star_jax.models.families.mistral import MISTRAL
from star_jax.models.families.qwen2 import QWEN2
from star_jax.models.families.qwen3 import QWEN3

FAMILIES: dict[str, Family] = {
    family.model_type: family for family in (GPTJ, LLAMA, MISTRAL, QWEN2, QWEN3)
}
PARTS = (
    *("block", "norm", "mlp", "head", "rotary_pairs", "qkv_bias", "qk_norm"),
    *("rope_scaling", "rotary_base", "kv_heads"),
)
# The fields that a checkpoint decides; the user chooses the others.
ARCHITECTURE = (
    *("vocab_size", "n_layers", "d_model", "n_heads", "head_dim", "d_ff"),
    *("norm_epsilon", "rotary_dim", *PARTS),
)


def register(family: Family) -> None:
    """Adds a family, for reading and writing; UserError if another one has its model_type."""
    if FAMILIES.setdefault(family.model_type, family) is not family:
        raise UserError(f"the family {family.model_type!r} is registered already; rename one")


def decoder_config(config: Mapping[str, object], where: str, **numerics: Any) -> DecoderConfig:
    """The decoder that a config.json describes; its `model_type` is the family.

    `where` names the file in messages; `numerics` are the fields of DecoderConfig that the user
    chooses: dtype, remat, ...

    Raises:
      UserError: an unknown family, a missing field, or a part that this decoder does not have.
    """
    family = config.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise UserError(
            f"{where}: star_jax has no family for model_type {family!r}; it has "
            f"{', '.join(FAMILIES)}; give a model of these, or register its family"
        )
    theirs = FAMILIES[family].read_config(ConfigJson(config, where))
    return dataclasses.replace(theirs, **numerics)


def hf_config(config: DecoderConfig) -> dict[str, object]:
    """The config.json that transformers reads as this decoder; UserError as `family_of`."""
    write = family_of(config).write_config
    assert write is not None
    return write(config)


def family_of(config: DecoderConfig, stored: Mapping[str, object] | None = None) -> Family:
    """The family of a decoder; UserError if there is none.

    1. The family that `stored`, a checkpoint's config.json, names, if that describes this decoder.
    2. The first family whose config.json can describe it.
    """
    if stored is not None and not differences(config, decoder_config(stored, "config.json")):
        return FAMILIES[str(stored["model_type"])]
    for family in FAMILIES.values():
        if _can_write(family, config):
            return family
    raise UserError(
        f"DecoderConfig is of no family that star_jax can write ("
        f"{', '.join(name for name, family in FAMILIES.items() if family.write_config)}); its "
        f"parts are {', '.join(f'{name} = {getattr(config, name)!r}' for name in PARTS)}"
    )


def differences(config: DecoderConfig, other: DecoderConfig) -> list[str]:
    """The names of the ARCHITECTURE fields that differ."""
    return [name for name in ARCHITECTURE if getattr(config, name) != getattr(other, name)]


def _can_write(family: Family, config: DecoderConfig) -> bool:
    """Whether the family's config.json for `config` is read as `config` again."""
    if family.write_config is None:
        return False
    try:
        again = family.read_config(ConfigJson(family.write_config(config), family.model_type))
    except UserError:
        return False
    return not differences(config, again)
