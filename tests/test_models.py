"""The decoder against an independent GPT-J in numpy, and what must hold whatever the weights."""

import dataclasses
import functools
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
from star_jax.models.attention import KeyValues, Store, attend, causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import (
    Block,
    Decoder,
    abstract_params,
    init_params,
    logical_axes,
    unstack_layers,
)
from star_jax.models.rotary import rotary_angles, rotate

GPTJ_6B_PARAMETERS = 6_050_882_784
GIN_MODELS = Path(__file__).parent.parent / "gin_configs/models"
TINY = DecoderConfig(
    vocab_size=24, n_layers=2, d_model=32, n_heads=4, head_dim=8, d_ff=64, rotary_dim=4,
    context_length=32,
)  # fmt: skip


def randomized(shapes, seed=0):
    """Every leaf random, norms and biases too: all of them must matter."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype), shapes
    )


@functools.cache
def tiny_params():
    return randomized(abstract_params(TINY))


def inputs(n_rows=2, length=9, seed=0, vocab_size=TINY.vocab_size):
    tokens = np.random.default_rng(seed).integers(0, vocab_size, (n_rows, length))
    positions = np.broadcast_to(np.arange(length), tokens.shape)
    return jnp.asarray(tokens), jnp.asarray(positions), causal_mask(jnp.ones_like(tokens))


@functools.partial(jax.jit, static_argnums=0)
def logits_of(config, params, tokens, positions, mask):
    return Decoder(config).apply({"params": params}, tokens, positions, mask)[0]


# GPT-J as published, one token and one head at a time, in float64.


def numpy_norm(p, x, epsilon):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt(centred.var(-1, keepdims=True) + epsilon) * p["scale"] + p["bias"]


def numpy_gelu(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def numpy_rotate(x, position, rotary_dim, base):
    """Neighbouring dims are a complex number that turns by position / base^(2 i / rotary_dim)."""
    pairs = x[0:rotary_dim:2] + 1j * x[1:rotary_dim:2]
    pairs = pairs * np.exp(1j * position * base ** (-np.arange(0, rotary_dim, 2) / rotary_dim))
    turned = x.copy()
    turned[0:rotary_dim:2], turned[1:rotary_dim:2] = pairs.real, pairs.imag
    return turned


def numpy_attention(config, p, h_LD):
    out = np.zeros_like(h_LD)
    for head in range(config.n_heads):
        q, k, v = (h_LD @ p[name]["kernel"][:, head] for name in ("query", "key", "value"))
        rot = functools.partial(numpy_rotate, rotary_dim=config.rotary_dim, base=config.rotary_base)
        q, k = ([rot(row, at) for at, row in enumerate(x)] for x in (q, k))
        for t in range(len(h_LD)):
            scores = np.array([q[t] @ k[s] for s in range(t + 1)]) / np.sqrt(config.head_dim)
            weights = np.exp(scores - scores.max())
            out[t] += (weights / weights.sum()) @ v[: t + 1] @ p["out"]["kernel"][head]
    return out


def numpy_block(config, p, x_LD):
    h_LD = numpy_norm(p["norm"], x_LD, config.norm_epsilon)
    mlp_in, mlp_out = p["mlp"]["mlp_in"], p["mlp"]["mlp_out"]
    inner = numpy_gelu(h_LD @ mlp_in["kernel"] + mlp_in["bias"])
    mlp = inner @ mlp_out["kernel"] + mlp_out["bias"]
    return x_LD + numpy_attention(config, p["attention"], h_LD) + mlp


def numpy_gptj(config, params, tokens_L):
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    x_LD = p["embedding"][tokens_L]
    for i in range(config.n_layers):
        x_LD = numpy_block(config, p[f"layer_{i}"], x_LD)
    x_LD = numpy_norm(p["final_norm"], x_LD, config.norm_epsilon)
    return x_LD @ p["head"]["kernel"] + p["head"]["bias"]


small_dims = st.fixed_dictionaries(
    {
        "n_heads": st.integers(1, 3),
        "head_dim": st.sampled_from([4, 6, 8]),
        "rotary_dim": st.sampled_from([2, 4]),
        "d_model": st.sampled_from([8, 12]),
        "d_ff": st.sampled_from([8, 24]),
        "rotary_base": st.sampled_from([100.0, 10000.0]),
    }
)


@settings(max_examples=5, deadline=None, derandomize=True, database=None)
@given(dims=small_dims, length=st.integers(2, 9))
def test_block_equals_published_gptj(dims, length):
    config = dataclasses.replace(TINY, **dims)
    x_BLD = np.random.default_rng(length).standard_normal((2, length, config.d_model))
    angles = rotary_angles(jnp.arange(length)[None], config)
    mask = causal_mask(jnp.ones((2, length), jnp.int32))

    block, x = Block(config), jnp.asarray(x_BLD, jnp.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), x, angles, mask)["params"]
    params = randomized(shapes)
    out, _ = jax.jit(block.apply)({"params": params}, x, angles, mask)

    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    for row in range(2):
        np.testing.assert_allclose(
            out[row], numpy_block(config, p, x_BLD[row]), rtol=1e-5, atol=1e-5
        )


def test_decoder_equals_published_gptj():
    tokens, positions, mask = inputs()
    logits = logits_of(TINY, tiny_params(), tokens, positions, mask)
    _, unstacked = unstack_layers(TINY, tiny_params())
    for row in range(len(tokens)):
        np.testing.assert_allclose(
            logits[row], numpy_gptj(TINY, unstacked, tokens[row]), rtol=1e-5, atol=1e-5
        )


def test_gptj_6b_has_the_published_parameter_count():
    gin.clear_config()
    try:
        gin.parse_config_file(str(GIN_MODELS / "gptj_6b.gin"))
        configured = gin.get_configurable("DecoderConfig")()
    finally:
        gin.clear_config()
    for config in (configured, DecoderConfig(), DecoderConfig(scan_layers=False)):
        sizes = [leaf.size for leaf in jax.tree.leaves(abstract_params(config))]
        assert sum(sizes) == GPTJ_6B_PARAMETERS
    assert (configured.dtype, configured.param_dtype) == (jnp.bfloat16, jnp.float32)


def test_fresh_parameters_have_the_declared_scale():
    config = dataclasses.replace(TINY, d_model=64, d_ff=256, vocab_size=256, embedding_init=0.05)
    params = jax.jit(functools.partial(init_params, config))(jax.random.key(0))
    attention, mlp = params["layers"]["attention"], params["layers"]["mlp"]
    query = attention["query"]["kernel"]
    assert np.std(params["embedding"]) == pytest.approx(0.05, rel=0.05)
    assert np.std(query) == pytest.approx(64**-0.5, rel=0.1)
    assert np.std(attention["out"]["kernel"]) == pytest.approx(
        32**-0.5, rel=0.1
    )  # heads x head_dim
    assert np.std(mlp["mlp_out"]["kernel"]) == pytest.approx(256**-0.5, rel=0.1)
    assert not np.allclose(query[0], query[1])


@pytest.mark.parametrize("scan_layers", [True, False])
def test_every_parameter_names_its_axes(scan_layers):
    config = dataclasses.replace(TINY, scan_layers=scan_layers)
    shapes, axes = abstract_params(config), logical_axes(config)
    jax.tree.map(lambda leaf, names: len(leaf.shape) == len(names) or pytest.fail(), shapes, axes)
    assert axes["head"]["kernel"] == jax.sharding.PartitionSpec("embed", "vocab")
    if scan_layers:
        assert axes["layers"]["mlp"]["mlp_in"]["kernel"][0] == "layers"


def test_gradients_prove_causality():
    """The logits at t have a gradient by the embeddings of tokens up to t, and of no later one."""
    config, length = dataclasses.replace(TINY, vocab_size=9), 9
    params = randomized(abstract_params(config))
    tokens, positions, mask = inputs(n_rows=1, length=length)
    tokens = jnp.arange(length)[None]  # each its own row of the embedding table

    def summed_logits_L(embedding):
        variables = {"params": {**params, "embedding": embedding}}
        logits, _ = Decoder(config).apply(variables, tokens, positions, mask)
        return jnp.square(logits).sum((0, 2))

    jacobian = jax.jit(jax.jacrev(summed_logits_L))(params["embedding"])
    influence_TS = np.abs(np.asarray(jacobian)).sum(-1)
    assert np.all(influence_TS[np.triu_indices(length, 1)] == 0)
    assert np.all(influence_TS[np.tril_indices(length)] > 0)


def test_segments_do_not_see_each_other_and_padding_is_not_seen():
    mask = np.asarray(causal_mask(jnp.array([[1, 1, 2, 2, 0]])))[0]
    seen = [[i for i in range(5) if mask[t, i]] for t in range(5)]
    assert seen[:4] == [[0], [0, 1], [2], [2, 3]]


def test_scanned_layers_equal_unrolled_layers():
    config, params = unstack_layers(TINY, tiny_params())
    assert not config.scan_layers
    batch = inputs()
    scanned = logits_of(TINY, tiny_params(), *batch)
    unrolled = logits_of(config, params, *batch)
    np.testing.assert_allclose(scanned, unrolled, rtol=1e-6, atol=1e-6)
    assert jax.tree.structure(params) == jax.tree.structure(abstract_params(config))
    assert unstack_layers(config, params) == (config, params)


@functools.cache
def loss_and_grads(remat):
    config = dataclasses.replace(TINY, remat=remat)
    batch = inputs(n_rows=1)

    def loss(params):
        return jnp.square(Decoder(config).apply({"params": params}, *batch)[0]).mean()

    return jax.jit(jax.value_and_grad(loss))(tiny_params())


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_changes_neither_loss_nor_gradients(remat):
    (loss, grads), (plain_loss, plain_grads) = loss_and_grads(remat), loss_and_grads("none")
    np.testing.assert_allclose(loss, plain_loss, rtol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), grads, plain_grads
    )


def test_unknown_remat_policy_is_refused_with_the_known_ones():
    with pytest.raises(UserError, match=r"DecoderConfig.remat = 'most' .*'none', 'dots', 'full'"):
        abstract_params(dataclasses.replace(TINY, remat="most"))


def test_stores_are_attended_as_if_they_were_one():
    """[shared | own | new] with masks gives what one store of the unmasked keys would give."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    query = draw(2, 1, 3, 4)
    shared = KeyValues(draw(3, 5, 4), draw(3, 5, 4))
    own = KeyValues(draw(2, 3, 6, 4), draw(2, 3, 6, 4))
    sees_shared = jnp.arange(5)[None, None] < 3
    sees_own = jnp.arange(6)[None, None] < jnp.array([2, 4])[:, None, None]
    got = attend(query, (Store(shared, sees_shared), Store(own, sees_own)))
    for row, n_own in enumerate((2, 4)):
        key, value = (
            jnp.concatenate([common[:, :3], mine[row, :, :n_own]], axis=1)[None]
            for common, mine in zip(shared, own, strict=True)
        )
        alone = Store(KeyValues(key, value), jnp.ones((1, 1, 3 + n_own), bool))
        np.testing.assert_allclose(got[row], attend(query[row : row + 1], (alone,))[0], atol=1e-6)


def test_a_query_that_may_see_nothing_gives_finite_numbers():
    key_values = KeyValues(jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 3, 4)))
    out = attend(jnp.ones((1, 2, 2, 4)), (Store(key_values, jnp.zeros((1, 2, 3), bool)),))
    assert np.all(np.isfinite(out))


def test_rotation_keeps_lengths_and_makes_scores_depend_on_distance_alone():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 2, 3, 8)), jnp.float32)

    def score(first, second):
        turned = rotate(x, rotary_angles(jnp.array([[first, second]]), TINY))
        np.testing.assert_allclose(
            np.linalg.norm(turned, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-6
        )
        np.testing.assert_array_equal(turned[..., 4:], x[..., 4:])
        return np.einsum("hk,hk->h", turned[0, 0], turned[0, 1])

    np.testing.assert_allclose(score(0, 5), score(40, 45), rtol=1e-4, atol=1e-5)
    assert not np.allclose(score(0, 5), score(0, 6))


def test_rotation_of_bfloat16_is_exact_at_far_positions():
    """Positions beyond 256 do not fit bfloat16; the angles must not go through it."""
    x = jnp.ones((1, 1, 1, 4), jnp.bfloat16)
    angles = rotary_angles(jnp.array([[2047]]), TINY)
    turned = rotate(x, angles)
    expected = numpy_rotate(np.ones(4), 2047, 4, 10000.0)
    assert turned.dtype == jnp.bfloat16
    np.testing.assert_allclose(turned[0, 0, 0].astype(jnp.float32), expected, atol=0.01)


def test_compute_dtype_changes_activations_and_not_parameters():
    config = dataclasses.replace(TINY, dtype=jnp.bfloat16)
    shapes = abstract_params(config)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    logits = jax.eval_shape(functools.partial(logits_of, config), shapes, *inputs())
    assert logits.dtype == jnp.float32


def test_reading_some_columns_equals_reading_all():
    tokens, positions, mask = inputs(n_rows=2)
    read_at = jnp.array([[3, 5, 3], [8, 0, 1]])
    some, _ = jax.jit(Decoder(TINY).apply)(
        {"params": tiny_params()}, tokens, positions, mask, read_at_BR=read_at
    )
    every = logits_of(TINY, tiny_params(), tokens, positions, mask)
    rows = jnp.arange(2)[:, None]
    np.testing.assert_allclose(some, every[rows, read_at], rtol=1e-5, atol=1e-6)
