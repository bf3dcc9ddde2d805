"""Every family against transformers: the same weights, the same logits, the same texts."""

import functools
import json
from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.cli import configurables  # noqa: F401  registers DecoderConfig with gin
from star_jax.errors import UserError
from star_jax.models.attention import Store, causal_mask
from star_jax.models.config import DecoderConfig, RopeScaling
from star_jax.models.decoder import Decoder, abstract_params, unstack_layers
from star_jax.models.families import ARCHITECTURE, decoder_config, family_of, hf_config
from star_jax.models.families.gptj import mesh_config
from star_jax.models.rotary import rotary_angles
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.records import Prompt
from star_jax.rollout.engine import prompt_key
from star_jax.rollout.native import decode
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.tokenizers.vocabularies import WordVocabulary
from tests import tiny
from tests.families import (
    FAMILIES,
    LLAMA3_ROPE,
    Dims,
    hf_greedy,
    hf_logits,
    hf_model,
    ours,
    transformers,
)

LlamaRotaryEmbedding = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding
GIN_CONFIGS = Path(__file__).parent.parent / "gin_configs"
each_family = pytest.mark.parametrize("family", FAMILIES)
NUMBERS = WordVocabulary([str(n) for n in range(Dims.vocab_size - 3)])


@functools.cache
def pair(family):
    model = hf_model(family, Dims())
    return (model, *ours(model))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, tokens_BL, lengths_B):
    columns = jnp.arange(tokens_BL.shape[1])
    segment_ids = (columns < lengths_B[:, None]).astype(jnp.int32)
    positions = jnp.broadcast_to(columns, tokens_BL.shape)
    return Decoder(config).apply(
        {"params": params}, tokens_BL, positions, causal_mask(segment_ids)
    )[0]


def random_tokens(n_rows, length, vocab_size, seed=0):
    return np.random.default_rng(seed).integers(0, vocab_size, (n_rows, length))


def assert_same_logits(model, config, params, length=64, atol=1e-4):
    lengths = np.array([length, length - 14, 7])
    tokens = random_tokens(3, length, config.vocab_size)
    theirs = hf_logits(model, tokens, lengths)
    mine = np.asarray(logits_of(config, params, jnp.asarray(tokens), jnp.asarray(lengths)))
    real = np.arange(length) < lengths[:, None]
    assert np.abs(mine - theirs)[real].max() <= atol
    np.testing.assert_array_equal(mine.argmax(-1)[real], theirs.argmax(-1)[real])


@each_family
def test_logits_equal_transformers(family):
    assert_same_logits(*pair(family))


drawn_dims = st.builds(
    lambda kv_heads, group_size, half_head, half_rotary, width, **sizes: Dims(
        n_heads=kv_heads * group_size,
        group_size=group_size,
        d_model=width * kv_heads * group_size,  # transformers wants a multiple
        head_dim=2 * half_head,
        rotary_dim=2 * min(half_rotary, half_head),
        **sizes,
    ),
    kv_heads=st.integers(1, 3),
    group_size=st.integers(1, 3),
    half_head=st.integers(1, 6),
    half_rotary=st.integers(1, 6),
    n_layers=st.integers(1, 2),
    width=st.sampled_from([3, 8]),
    d_ff=st.sampled_from([8, 44]),
    vocab_size=st.integers(5, 60),
)


@each_family
def test_any_sizes_equal_transformers(family):
    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(dims=drawn_dims, seed=st.integers(0, 99))
    def check(dims, seed):
        model = hf_model(family, dims, seed)
        assert_same_logits(model, *ours(model), length=20)

    check()


@each_family
def test_greedy_decoding_equals_transformers_generate(family):
    model, config, params = pair(family)
    prompts = [
        random_tokens(1, 3 + 5 * i, config.vocab_size, seed=i)[0].clip(min=3) for i in range(8)
    ]
    theirs = [hf_greedy(model, ids, 64) for ids in prompts]
    mine = greedy(config, params, prompts, 64)
    assert [list(completion.token_ids) for completion in mine] == theirs
    assert sum(len(ids) == 64 for ids in theirs) >= 4


def greedy(config, params, prompts, n_new, examples=()):
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    sampler = Sampler(config, NUMBERS, SamplerConfig(4, n_new), mesh)
    asked = [
        Prompt(str(i), NUMBERS.decode(ids.tolist()), examples) for i, ids in enumerate(prompts)
    ]
    return tiny.sample(
        sampler, sampler.load(params), asked, [prompt_key(0, 0, p.question_id) for p in asked]
    )


@each_family
def test_cached_and_shared_prefix_decoding_equal_the_full_forward_pass(family):
    """[shared prefix 10 | prompt of 8 prefilled | 6 tokens one by one] against 24 at once."""
    _, config, params = pair(family)
    tokens = jnp.asarray(random_tokens(2, 24, config.vocab_size))
    tokens = tokens.at[:, :10].set(tokens[0, :10])
    full = logits_of(config, params, tokens, jnp.array([24, 24]))

    model, weights = unstack_layers(config, params)
    prefix = decode.prefill_prefix(model, weights, tokens[0, :10], jnp.int32(10))
    apply = jax.jit(functools.partial(Decoder(model).apply, return_key_values=True))
    got, caches = [], [None] * config.n_layers
    for start, stop in [(10, 18), *((at, at + 1) for at in range(18, 24))]:
        context = []
        for shared, cache in zip(prefix.key_values, caches, strict=True):
            stores = [Store(shared, jnp.ones((1, 1, 10), bool))]
            if cache is not None:
                stores.append(Store(cache, jnp.ones((1, 1, cache.key.shape[2]), bool)))
            context.append(tuple(stores))
        part = tokens[:, start:stop]
        logits, new = apply(
            {"params": weights},
            part,
            jnp.broadcast_to(jnp.arange(start, stop), part.shape),
            causal_mask(jnp.ones_like(part)),
            tuple(context),
        )
        got.append(logits)
        caches = [
            now if cache is None else jax.tree.map(lambda *x: jnp.concatenate(x, 2), cache, now)
            for cache, now in zip(caches, new, strict=True)
        ]
    np.testing.assert_allclose(jnp.concatenate(got, 1), full[:, 10:], atol=1e-4)


@each_family
def test_config_json_survives_the_way_there_and_back(family):
    _, config, _ = pair(family)
    again = decoder_config(hf_config(config), "config.json")
    assert {name: getattr(again, name) for name in ARCHITECTURE} == {
        name: getattr(config, name) for name in ARCHITECTURE
    }


# Sizes as the publishers state them, in billions where they round.
@pytest.mark.parametrize(
    ("name", "parameters", "stated"),
    [
        ("gptj_6b", 6_050_882_784, 6.05),
        ("llama3_1b", 1_235_814_400, 1.23),
        ("llama3_8b", 8_030_261_248, 8.03),
        ("qwen25_05b", 494_032_768, 0.49),
        ("qwen25_7b", 7_615_616_512, 7.61),
        ("qwen3_06b", 596_049_920, 0.6),
        ("smollm2_135m", 134_515_008, 0.135),
    ],
)
def test_gin_models_have_their_published_sizes(name, parameters, stated):
    gin.clear_config()
    try:
        gin.add_config_file_search_path(str(GIN_CONFIGS))
        gin.parse_config_file(f"models/{name}.gin")
        config = gin.get_configurable("DecoderConfig")()
    finally:
        gin.clear_config()
    counted = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
    assert counted == parameters
    assert counted / 1e9 == pytest.approx(stated, rel=0.02)
    family = family_of(config).model_type
    assert family in name.replace("smollm2", "llama").replace("qwen25", "qwen2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "bert"}, ["config.json", "'bert'", "llama"]),
        ({"hidden_size": None}, ["config.json", "hidden_size", "missing"]),
        ({"hidden_size": "64"}, ["config.json", "hidden_size is '64'", "whole number"]),
        ({"num_hidden_layers": 2.0}, ["num_hidden_layers is '2.0'", "whole number"]),
        ({"rms_norm_eps": -1}, ["rms_norm_eps is '-1'", "above 0"]),
        ({"tie_word_embeddings": "true"}, ["tie_word_embeddings", "true or false"]),
        ({"rope_scaling": "x"}, ["rope_scaling is 'x'", "an object"]),
        ({"rope_scaling": {"rope_type": "llama3", "factor": "8"}}, ["factor is '8'"]),
        ({"model_type": ["llama"]}, ["model_type", "llama"]),
        ({"attention_bias": True}, ["attention_bias = True", "not supported"]),
        ({"hidden_act": "relu"}, ["hidden_act = 'relu'", "'silu'"]),
        ({"rope_scaling": {"rope_type": "yarn"}}, ["'yarn'", "llama3"]),
        ({"rope_scaling": {"factor": 4.0}}, ["rope_scaling of type 'default' has factor = 4.0"]),
        ({"rope_parameters": {"factor": 4.0}}, ["rope_parameters of type 'default' has factor"]),
        (
            {"rope_scaling": {**LLAMA3_ROPE, "beta_fast": 32}},
            ["of type 'llama3' has beta_fast = 32"],
        ),
        (
            {"rope_scaling": {"type": "default", "mrope_section": [16, 24]}},
            ["mrope_section = [16, 24]"],
        ),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            ["has full_attention = {'rope"],
        ),
        (
            {"rope_parameters": {"rope_theta": 1e6, "partial_rotary_factor": 0.5}},
            ["partial_rotary"],
        ),
        ({"rope_scaling": {"rope_theta": "1e6"}}, ["rope_theta is '1e6'"]),
    ],
)
def test_a_config_json_that_is_not_ours_is_refused(changes, words):
    _, config, _ = pair("llama2")
    with pytest.raises(UserError) as error:
        decoder_config({**hf_config(config), **changes}, "config.json")
    assert all(word in error.value.message for word in words)


BASE = {"rope_theta": 500000.0}
LLAMA3 = {name: value for name, value in LLAMA3_ROPE.items() if name != "rope_theta"}
PLAIN_LENGTH = {k: v for k, v in LLAMA3.items() if k != "original_max_position_embeddings"}


@pytest.mark.parametrize(
    ("fields", "base", "original"),
    [
        ({}, 1e4, None),
        (BASE, 5e5, None),
        ({"rope_scaling": {"type": "default", **BASE}}, 5e5, None),
        ({"rope_scaling": {"rope_type": "default", **BASE}, "rope_theta": 1e6}, 5e5, None),
        ({"rope_scaling": BASE}, 5e5, None),
        ({"rope_parameters": BASE}, 5e5, None),
        ({"rope_parameters": BASE, "rope_theta": 1e6}, 5e5, None),
        ({"rope_parameters": BASE, "rope_scaling": {"type": "default"}}, 1e4, None),
        ({"rope_parameters": BASE, "rope_scaling": {}}, 5e5, None),
        ({"rope_scaling": LLAMA3, **BASE}, 5e5, 64),
        ({"rope_scaling": LLAMA3_ROPE}, 5e5, 64),
        ({"rope_scaling": {**LLAMA3, "type": "llama3"}, **BASE}, 5e5, 64),
        ({"rope_parameters": LLAMA3_ROPE, "rope_theta": 1e6}, 5e5, 64),
        ({"rope_parameters": LLAMA3, **BASE}, 5e5, 64),
        ({"rope_scaling": PLAIN_LENGTH, **BASE}, 5e5, 256),
        ({"rope_scaling": LLAMA3_ROPE, "original_max_position_embeddings": 128}, 5e5, 128),
    ],
)
def test_rotary_frequencies_wherever_they_are_described(fields, base, original):
    config = hf_config(pair("llama2")[1])
    config = {k: v for k, v in config.items() if not k.startswith("rope")} | fields
    decoder = decoder_config(config, "config.json")
    assert decoder.rotary_base == base
    scaling = original and RopeScaling(8.0, 1.0, 4.0, original)
    assert decoder.rope_scaling == scaling
    theirs = transformers.LlamaConfig.from_dict(json.loads(json.dumps(config)))
    expected = LlamaRotaryEmbedding(theirs).inv_freq.numpy()
    mine = rotary_angles(jnp.ones((1, 1)), decoder)[0, 0]
    np.testing.assert_allclose(mine, expected, rtol=1e-5)


def test_a_sliding_window_shortens_the_context():
    config = {**hf_config(pair("llama2")[1]), "model_type": "mistral", "sliding_window": 32}
    assert decoder_config(config, "config.json").context_length == 32


def test_a_decoder_of_no_family_is_not_exported():
    with pytest.raises(UserError, match=r"of no family .* norm = 'rms'"):
        hf_config(DecoderConfig(norm="rms"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm": "batch"}, r"DecoderConfig.norm = 'batch' is none of \('layer', 'rms'\)"),
        ({"n_kv_heads": 3}, "n_kv_heads = 3 must divide n_heads = 16"),
    ],
)
def test_impossible_decoders_are_refused(fields, message):
    with pytest.raises(UserError, match=message):
        DecoderConfig(**fields)


def test_impossible_rope_scaling_is_refused():
    with pytest.raises(UserError, match=r"low_freq_factor = 4.0 < high_freq_factor = 4.0"):
        RopeScaling(low_freq_factor=4.0)


def test_a_slim_checkpoint_without_a_config_json_is_gptj_6b_if_its_sizes_are():
    config = mesh_config(50400, 4096, 28)
    assert decoder_config(config, "shards") == DecoderConfig()
    assert (config["bos_token_id"], config["eos_token_id"]) == (50256, 50256)
    assert mesh_config(50400, 4096, 27) is None
