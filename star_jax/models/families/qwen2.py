"""Qwen2 and Qwen2.5: Llama with biases of queries, keys and values."""

import dataclasses

from star_jax.models.config import DecoderConfig
from star_jax.models.families import llama
from star_jax.models.families.family import ConfigJson


def read_config(config: ConfigJson) -> DecoderConfig:
    """The decoder that Qwen2's config.json describes."""
    config.only("use_sliding_window", False)
    return dataclasses.replace(llama.read_modern(config), qkv_bias=True)


QWEN2 = llama.relative("qwen2", read_config)
