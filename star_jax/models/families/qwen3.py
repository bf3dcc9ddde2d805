"""Qwen3: Llama with norms of each head's query and key."""

import dataclasses

from star_jax.models.config import DecoderConfig
from star_jax.models.families import llama
from star_jax.models.families.family import ConfigJson


def read_config(config: ConfigJson) -> DecoderConfig:
    """The decoder that Qwen3's config.json describes."""
    config.only("use_sliding_window", False)
    config.only("attention_bias", False)
    return dataclasses.replace(llama.read_modern(config, head_dim=128), qk_norm=True)


QWEN3 = llama.relative("qwen3", read_config)
