"""Mistral: a Llama whose attention may be limited to a window. Exports have Llama's form."""

import dataclasses

from star_jax.models.config import DecoderConfig
from star_jax.models.families.family import ConfigJson, Family
from star_jax.models.families.llama import CONSTANTS, NAMES, read_modern


def read_config(config: ConfigJson) -> DecoderConfig:
    """The decoder that Mistral's config.json describes, with the window as its longest context."""
    decoder = read_modern(config)
    if "sliding_window" in config.fields and config.fields["sliding_window"] is None:
        return decoder
    # Up to the window's length, attention is the same with it and without.
    window = config.whole("sliding_window", 4096)
    return dataclasses.replace(decoder, context_length=min(decoder.context_length, window))


MISTRAL = Family("mistral", NAMES, read_config, constants=CONSTANTS)
