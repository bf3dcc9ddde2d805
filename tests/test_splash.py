"""Splash attention against einsum attention, emulated here and compiled for TPUs."""

import dataclasses
import functools
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies

from star_jax.errors import UserError
from star_jax.models import decoder
from star_jax.models.attention import KeyValues, Store, attend, causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder, abstract_params, unstack_layers
from star_jax.models.splash import check_attention, splash_attend
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import MESH_AXES, TRAINING_RULES, MeshConfig, make_mesh
from star_jax.records import PackedBatch
from star_jax.training.train_step import OptimizerConfig, init_state, make_optimizer, train_step
from star_jax.training.trainer import Trainer, TrainerConfig

emulated = functools.partial(splash_attend, interpret=True)
TINY = DecoderConfig(
    vocab_size=24, n_layers=2, d_model=32, n_heads=4, n_kv_heads=2, head_dim=8, d_ff=64,
    rotary_dim=4, context_length=512, remat="full",
)  # fmt: skip
SPLASH = dataclasses.replace(TINY, attention="splash")


def packed_ids(*rows):
    """Segment ids of rows of document lengths; the rest of a row is padding (0)."""
    length = max(map(sum, rows))
    ids = [np.repeat(np.arange(1, len(sizes) + 1), sizes) for sizes in rows]
    return jnp.asarray([np.pad(row, (0, length - row.size)) for row in ids], jnp.int32)


def drawn(ids, n_heads, n_groups, head_dim, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), jnp.float32)  # noqa: E731
    (rows, length), k = ids.shape, head_dim
    stored = KeyValues(draw(rows, n_groups, length, k), draw(rows, n_groups, length, k))
    return draw(rows, length, n_heads, k), stored


def einsum_attend(query, key_values, ids):
    return attend(query, (Store(key_values, causal_mask(ids)),))


@functools.partial(jax.jit, static_argnums=0)
def output_and_grads(attention, query, key_values, ids):
    """The gradients are of a sum in which every number counts otherwise."""

    def weighted(query, key_values):
        out = attention(query, key_values, ids)
        return jnp.sum(out * jnp.cos(jnp.arange(out.size)).reshape(out.shape)), out

    (_, out), grads = jax.value_and_grad(weighted, (0, 1), has_aux=True)(query, key_values)
    return out, grads


def assert_equal(got, expected):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), got, expected)


@pytest.mark.parametrize(
    ("ids", "heads"),
    [
        (packed_ids([100, 28, 72], [130, 3]), (4, 2, 8)),  # an odd length, padding, groups
        (packed_ids([300, 212], [90, 100]), (3, 1, 8)),  # blocks of 512, one head of keys
    ],
    ids=["odd", "large"],
)
def test_splash_equals_einsum_with_its_gradients(ids, heads):
    arrays = drawn(ids, *heads)
    got, expected = (output_and_grads(f, *arrays, ids) for f in (emulated, einsum_attend))
    assert_equal(got, expected)


def test_every_token_sees_its_own_document_up_to_itself_and_nothing_else():
    """Queries of 0 weigh all that is seen alike, and values of the identity show the weights."""
    ids = packed_ids([127, 1, 1, 128, 40], [128, 129], [5])
    length = ids.shape[1]
    query = jnp.zeros((3, length, 1, length))
    values = jnp.broadcast_to(jnp.eye(length), (3, 1, length, length))
    weights = jax.jit(emulated)(query, KeyValues(values, values), ids)[:, :, 0]
    mask = np.asarray(causal_mask(ids))
    np.testing.assert_array_equal(np.asarray(weights) > 0, mask)
    np.testing.assert_allclose(weights, mask / mask.sum(-1, keepdims=True), rtol=1e-6)


def on_mesh(query, key_values, ids):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    with partitioning.on_mesh(mesh, TRAINING_RULES):
        return emulated(query, key_values, ids)


def on_all_devices(arrays):
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    return jax.device_put(arrays, jax.NamedSharding(mesh, jax.P()))


def test_on_a_mesh_splash_equals_einsum_and_splits_rows_and_heads():
    ids = packed_ids([100, 61], [100, 62], [100, 63], [164])
    arrays = drawn(ids, 4, 2, 8)
    got = output_and_grads(on_mesh, *on_all_devices((*arrays, ids)))
    assert_equal(got, output_and_grads(einsum_attend, *arrays, ids))
    assert {shard.data.shape for shard in got[0].addressable_shards} == {(1, 164, 2, 8)}


def test_one_row_on_a_mesh_is_whole_on_every_part_of_it():
    """As the few-shot prefix is: data and fsdp cannot split it, tensor splits its heads."""
    ids = packed_ids([150])
    arrays = drawn(ids, 4, 2, 8)
    got = jax.jit(on_mesh)(*on_all_devices((*arrays, ids)))
    assert_equal(got, einsum_attend(*arrays, ids))
    assert {shard.data.shape for shard in got.addressable_shards} == {(1, 150, 2, 8)}


# The decoder and the training step.


@pytest.fixture
def splash_calls(monkeypatch):
    """Emulates the kernel in the decoder; the lengths it was called with are noted."""
    calls = []

    def noting(query, key_values, ids):
        calls.append(query.shape[1])
        return emulated(query, key_values, ids)

    monkeypatch.setattr(decoder, "splash_attend", noting)
    return calls


def randomized(config):
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape), leaf.dtype),
        abstract_params(config),
    )


def packed_batch(*rows):
    ids = packed_ids(*rows)
    rng = np.random.default_rng(0)
    positions = [np.concatenate([np.arange(n) for n in sizes]) for sizes in rows]
    positions = [np.pad(row, (0, ids.shape[1] - row.size)) for row in positions]
    return PackedBatch(
        tokens=jnp.asarray(rng.integers(0, TINY.vocab_size, ids.shape), jnp.int32),
        segment_ids=ids,
        positions=jnp.asarray(positions, jnp.int32),
        loss_weights=(ids > 0).astype(jnp.float32),
    )


def test_a_training_step_with_splash_equals_the_one_with_einsum(splash_calls):
    """Layers scanned and computed twice. Adam's epsilon is large: else rounding in a gradient
    near 0 becomes a whole step."""
    batch = packed_batch([60, 70], [100, 9], [131])
    optimizer = make_optimizer(OptimizerConfig(learning_rate=1e-2, warmup_steps=1, epsilon=1e-3))
    state = init_state(optimizer, randomized(TINY))
    (got, loss), (expected, expected_loss) = (
        jax.jit(functools.partial(train_step, config, optimizer, 1))(state, batch)
        for config in (SPLASH, TINY)
    )
    assert set(splash_calls) == {131}
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-6)
    assert_equal(got.params, expected.params)


@pytest.mark.parametrize(
    ("length", "given", "context", "uses_splash"),
    [
        (128, "ids", None, True),
        (127, "ids", None, False),  # padding would cost more than it saves
        (128, "mask", None, False),
        (128, "ids", "nothing", True),  # a prompt without examples
        (128, "ids", "prefix", False),
    ],
)
def test_the_decoder_uses_splash_where_it_can(splash_calls, length, given, context, uses_splash):
    config = unstack_layers(SPLASH, abstract_params(SPLASH) | {"layers": {}})[0]
    ids = jnp.ones((2, length), jnp.int32)
    prefix = Store(KeyValues(*[jnp.zeros((2, 5, 8))] * 2), jnp.ones((1, 1, 5), bool))
    stores = {None: None, "nothing": ((),) * 2, "prefix": ((prefix,),) * 2}[context]
    seen = ids if given == "ids" else causal_mask(ids)
    apply = functools.partial(Decoder(config).apply, context=stores)
    jax.eval_shape(apply, {"params": abstract_params(config)}, ids, ids, seen)
    assert splash_calls == [length] * (2 * uses_splash)


# Refusals.


def mesh_of(kind, platform="tpu", tensor=1):
    devices = [SimpleNamespace(device_kind=kind, platform=platform, id=i) for i in range(tensor)]
    shape = {**dict.fromkeys(MESH_AXES, 1), "tensor": tensor}
    return SimpleNamespace(devices=np.array(devices), shape=shape)


@pytest.mark.parametrize(
    ("changes", "mesh", "problem"),
    [
        ({}, mesh_of("cpu", "cpu"), "needs TPU v4 or newer, and this device is 'cpu'"),
        ({}, mesh_of("NVIDIA H100", "gpu"), "needs TPU v4 or newer, .* 'NVIDIA H100'"),
        ({}, mesh_of("TPU v3"), "needs TPU v4 or newer, and this device is 'TPU v3'"),
        ({"dtype": jnp.float16}, mesh_of("TPU v4"), "does not compute in float16"),
        ({"head_dim": 512}, mesh_of("TPU v4"), "at most 256 dims, not head_dim = 512"),
        ({}, mesh_of("TPU v4", tensor=4), "does not split 2 heads of keys over 4 devices"),
    ],
)
def test_splash_where_it_cannot_run_is_refused_with_the_way_out(changes, mesh, problem):
    config = dataclasses.replace(SPLASH, **changes)
    with pytest.raises(UserError) as raised:
        check_attention(config, mesh, TRAINING_RULES)
    wanted = rf"DecoderConfig.attention = 'splash' .*{problem}; bind .* = 'einsum'"
    assert re.fullmatch(wanted, raised.value.message)
    check_attention(dataclasses.replace(config, attention="einsum"), mesh, TRAINING_RULES)


def test_splash_wants_whole_rows():
    mesh = mesh_of("TPU v4")
    mesh.shape["sequence"] = 2
    with pytest.raises(UserError, match=r"needs whole rows, not MeshConfig\.sequence = 2"):
        check_attention(SPLASH, mesh, TRAINING_RULES)


@pytest.mark.parametrize("kind", ["TPU v4", "TPU v5 lite", "TPU v5", "TPU v6 lite", "TPU7x"])
def test_newer_tpus_may_use_splash(kind):
    check_attention(SPLASH, mesh_of(kind, tensor=2), TRAINING_RULES)


def test_a_trainer_without_a_tpu_refuses_splash():
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    with pytest.raises(UserError, match="'splash' needs TPU v4 or newer"):
        Trainer(SPLASH, OptimizerConfig(), TrainerConfig(1, 128), mesh)
    with pytest.raises(UserError, match=r"'flash' is none of .*; did you mean 'splash'"):
        dataclasses.replace(SPLASH, attention="flash")


# Ahead of time, for TPUs that are not here.


def mesh_of_tpus(monkeypatch, name, **chips):
    pytest.importorskip("libtpu", reason="libtpu, the compiler for TPUs, is not installed")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")  # nobody to ask about this machine
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name, **chips)
    return make_mesh(MeshConfig(data=1, fsdp=-1), list(topology.devices))


def compiled_step(mesh, **changes):
    """A training step's program and the bytes it needs besides its arguments.

    The model is small, but for its heads and the length of its rows, which are GPT-J 6B's: the
    scores of one row are 256 MiB, too many for the chip's fast memory.
    """
    model = DecoderConfig(
        vocab_size=512, n_layers=2, d_model=512, n_heads=16, d_ff=1024, dtype=jnp.bfloat16,
        remat="full", **changes,
    )  # fmt: skip
    config = TrainerConfig(batch_size=16, row_length=2048, accumulation_steps=2)
    trainer = Trainer(model, OptimizerConfig(), config, mesh)
    lowered = trainer.lower_step()
    return lowered.as_text(), lowered.compile().memory_analysis().temp_size_in_bytes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "chips"), [("v4:2x2x1", {"chip_config_name": "megacore"}), ("v5e:2x4", {})]
)
def test_a_training_step_with_splash_compiles_for_tpus_and_needs_less_memory(
    monkeypatch, name, chips
):
    mesh = mesh_of_tpus(monkeypatch, name, **chips)
    program, n_bytes = compiled_step(mesh, attention="splash", n_kv_heads=4)
    reference, n_reference_bytes = compiled_step(mesh, n_kv_heads=4)
    assert "tpu_custom_call" in program and "tpu_custom_call" not in reference
    assert n_bytes < n_reference_bytes / 2


@pytest.mark.slow
def test_a_v3_pod_is_refused(monkeypatch):
    with pytest.raises(UserError, match="needs TPU v4 or newer, and this device is 'TPU v3'"):
        check_attention(SPLASH, mesh_of_tpus(monkeypatch, "v3:2x2"), TRAINING_RULES)
