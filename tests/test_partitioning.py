"""Sharding changes where numbers live, and no number."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from star_jax.errors import UserError
from star_jax.loop.stages import EVALUATE, Rollout, draw_attempts
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import abstract_params, logical_axes, placed_params
from star_jax.parallel.partitioning import (
    DECODING_RULES,
    TRAINING_RULES,
    MeshConfig,
    batch_sharding,
    check_batch,
    make_mesh,
    n_parts,
    parameter_shardings,
)
from star_jax.records import TokenizedExample
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.run import checkpoints
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.task import VALIDATION
from star_jax.training.train_step import OptimizerConfig, split_rows
from star_jax.training.trainer import Trainer, TrainerConfig

MODEL = DecoderConfig(
    vocab_size=16, n_layers=2, d_model=32, n_heads=4, head_dim=8, d_ff=64, rotary_dim=4,
    context_length=64,
)  # fmt: skip
MESHES = [(8, 1, 1), (1, 8, 1), (2, 4, 1), (4, 2, 1), (2, 2, 2), (1, 2, 4), (1, 2, 2, 2)]
each_mesh = pytest.mark.parametrize("sizes", MESHES, ids=lambda sizes: "x".join(map(str, sizes)))


@functools.cache
def mesh_of(sizes):
    return make_mesh(MeshConfig(*sizes), jax.devices()[: int(np.prod(sizes))])


@functools.cache
def trainer(sizes):
    """Adam's epsilon is large here: else rounding in a gradient near 0 becomes a whole step."""
    optimizer = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, epsilon=1e-3)
    return Trainer(MODEL, optimizer, TrainerConfig(batch_size=8, row_length=16), mesh_of(sizes))


@functools.cache
def host_params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: (0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype),
        abstract_params(MODEL),
    )


def params_on(sizes):
    places = jax.tree.map(lambda leaf: leaf.sharding, trainer(sizes).abstract_params())
    return jax.device_put(host_params(), places)


@functools.cache
def trained(sizes):
    rng = np.random.default_rng(1)
    examples = [
        TokenizedExample(rng.integers(0, 16, n).astype(np.int32), np.ones(n, np.float32))
        for n in (5, 9, 12, 6, 16, 7, 3, 8)
    ]
    state = trainer(sizes).init_state(params_on(sizes))
    return trainer(sizes).train(state, examples, 2, seed=0)[:2]


# Training.


@each_mesh
def test_sharded_step_equals_single_device(sizes):
    (state, losses), (alone, losses_alone) = trained(sizes), trained((1, 1, 1))
    np.testing.assert_allclose(losses, losses_alone, rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5),
        jax.device_get(state.params),
        jax.device_get(alone.params),
    )


@each_mesh
def test_states_lie_where_the_trainer_says(sizes):
    """Before a step and after it, moments as their weights: no step moves anything."""
    for state in (trainer(sizes).init_state(params_on(sizes)), trained(sizes)[0]):
        jax.tree.map(
            lambda leaf, shape: (
                leaf.sharding.is_equivalent_to(shape.sharding, leaf.ndim)
                or pytest.fail(f"{leaf.sharding} is not {shape.sharding}")
            ),
            state,
            trainer(sizes).abstract_state(),
        )


@pytest.mark.parametrize("sizes", [sizes for sizes in MESHES if sizes[1] > 1], ids=str)
def test_no_device_holds_a_whole_big_parameter_nor_its_moments(sizes):
    parts = sizes[1] * sizes[2]  # of a matrix: embed over fsdp, the other axis over tensor
    for leaf in jax.tree.leaves(trained(sizes)[0]):
        held = {shard.data.size for shard in leaf.addressable_shards}
        if leaf.size > 500:
            assert held == {leaf.size // parts}


def test_a_pure_data_mesh_copies_the_parameters():
    embedding = trained((8, 1, 1))[0].params["embedding"]
    assert {shard.data.shape for shard in embedding.addressable_shards} == {embedding.shape}


def test_every_device_has_rows_in_every_part_of_an_accumulated_batch():
    rows = jax.device_put(jnp.zeros((32, 4)), batch_sharding(mesh_of((4, 2, 1)), TRAINING_RULES))
    parts = jax.jit(split_rows, static_argnums=1)(rows, 2)
    expected = NamedSharding(mesh_of((4, 2, 1)), PartitionSpec(None, ("data", "fsdp")))
    assert parts.sharding.is_equivalent_to(expected, parts.ndim)


def test_random_params_do_not_depend_on_the_mesh():
    drawn = [jax.device_get(trainer(sizes).random_params(3)) for sizes in ((1, 1, 1), (2, 2, 2))]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *drawn)


def test_checkpoint_of_one_mesh_restores_onto_another_bit_exactly(tmp_path):
    state = trained((2, 2, 2))[0]
    checkpoints.save(tmp_path / "state", state)
    for sizes in ((1, 8, 1), (1, 1, 1)):
        abstract = trainer(sizes).abstract_state()
        moved = checkpoints.load(tmp_path / "state", abstract)
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(moved), jax.device_get(state))
        jax.tree.map(lambda leaf, shape: leaf.sharding == shape.sharding or pytest.fail(), moved,
                     abstract)  # fmt: skip


# Sampling.


SUMS = ArithmeticTask(digits=(1,), n_train=20, n_validation=10, n_few_shot=1)
SUMS_MODEL = dataclasses.replace(MODEL, vocab_size=24, context_length=96)


def evaluated(sizes, rules=DECODING_RULES):
    """Each held-out sum's attempt, few-shot examples before it, as random weights write it.

    Drawn at a temperature: greedily they write the same for all of them.
    """
    config, mesh = SamplerConfig(8, max_new_tokens=12, temperature=1.0), mesh_of(sizes)
    sampler = Sampler(SUMS_MODEL, arithmetic_vocabulary(), config, mesh, rules)
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: jax.device_put(
            (0.3 * rng.standard_normal(leaf.shape)).astype(leaf.dtype), leaf.sharding
        ),
        placed_params(SUMS_MODEL, mesh, TRAINING_RULES),
    )
    rollout = Rollout(sampler, SUMS, few_shot=True, seed=0, iteration=0)
    return draw_attempts(sampler.load(params), SUMS.questions(VALIDATION), rollout, EVALUATE)


@functools.cache
def evaluated_alone():
    return evaluated((1, 1, 1))


# As for a model that is too large for one device: split by heads over what fsdp splits in training.
SPLIT_RULES = tuple(
    {"batch": ("batch", "data"), "kv": ("kv", None)}.get(name, (name, axes and ("fsdp", "tensor")))
    for name, axes in DECODING_RULES
)


@pytest.mark.parametrize(
    ("sizes", "rules"),
    [
        *[(sizes, DECODING_RULES) for sizes in [(1, 8, 1), (2, 4, 1), (8, 1, 1), (4, 2, 1)]],
        ((2, 2, 2), DECODING_RULES),
        ((2, 4, 1), SPLIT_RULES),
        ((2, 2, 2), SPLIT_RULES),
    ],
    ids=str,
)
def test_sampling_and_evaluation_on_a_mesh_give_the_single_device_attempts(sizes, rules):
    got, alone = evaluated(sizes, rules), evaluated_alone()
    np.testing.assert_allclose(
        [attempt.log_probability for attempt in got],
        [attempt.log_probability for attempt in alone],
        atol=1e-4,
    )
    assert len({attempt.completion for attempt in alone}) > 5
    without = [dataclasses.replace(attempt, log_probability=0.0) for attempt in got]
    assert without == [dataclasses.replace(attempt, log_probability=0.0) for attempt in alone]


# Rules.


def lay_out(sizes, rules, model=MODEL):
    return parameter_shardings(abstract_params(model), logical_axes(model), mesh_of(sizes), rules)


@pytest.mark.parametrize("rules", [TRAINING_RULES, DECODING_RULES])
def test_every_axis_of_the_model_has_a_rule(rules):
    lay_out((2, 2, 2), rules)
    without_mlp = tuple(rule for rule in rules if rule[0] != "mlp")
    with pytest.raises(
        UserError, match=r"axis 'mlp' of parameter \['layers'\]\['mlp'\]\['mlp_in'\]"
    ):
        lay_out((2, 2, 2), without_mlp)


def test_decoding_splits_nothing_that_needs_gathering():
    for sharding in jax.tree.leaves(lay_out((2, 2, 2), DECODING_RULES)):
        assert set(sharding.spec) <= {None, "tensor"}


@pytest.mark.parametrize(
    ("rule", "sizes"),
    [
        (("embed", "model"), (2, 2, 2)),  # no such mesh axis
        (("embed", "tensor"), (2, 2, 2)),  # twice in one parameter
        (("kv", ("tensor", "tensor")), (2, 2, 2)),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_the_parameter(rule, sizes):
    rules = tuple(rule if name == rule[0] else (name, axis) for name, axis in TRAINING_RULES)
    with pytest.raises(UserError, match=r"parameter \['.* cannot be laid out as"):
        lay_out(sizes, rules)


def test_a_size_that_the_mesh_does_not_divide_is_refused_with_the_parameter():
    odd = dataclasses.replace(MODEL, n_heads=3)
    message = r"\['attention'\]\['key'\].* sizes \(2, 32, 3, 8\) .* tensor=2; change MeshConfig"
    with pytest.raises(UserError, match=message):
        lay_out((2, 2, 2), TRAINING_RULES, odd)


# The mesh.


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(data=2, fsdp=2, tensor=2), (2, 2, 2)),
        (MeshConfig(data=1, fsdp=-1, tensor=2), (1, 4, 2)),
        (MeshConfig(data=1, fsdp=8), (1, 8, 1)),
    ],
)
def test_mesh_takes_all_devices(config, sizes):
    mesh = make_mesh(config)
    assert tuple(mesh.shape.values()) == (*sizes[:2], 1, sizes[2])
    assert mesh.devices.size == len(jax.devices()) == 8


@pytest.mark.parametrize("sizes", [(2, 2, 1), (3, 1, 1), (-1, 3, 1), (-1, 16, 1), (16, 1, 1)])
def test_a_mesh_that_does_not_fill_the_devices_is_refused(sizes):
    message = rf"mesh data={sizes[0]} x fsdp={sizes[1]} .* does not fill the 8 devices"
    with pytest.raises(UserError, match=message):
        make_mesh(MeshConfig(*sizes))


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 1), (-2, 1, 1)])
def test_mesh_sizes_are_positive_but_for_one(sizes):
    with pytest.raises(UserError, match="sizes are positive, one of them may be -1"):
        make_mesh(MeshConfig(*sizes))


def test_a_batch_is_split_over_the_axes_of_its_rule():
    mesh, rules = mesh_of((2, 2, 2)), TRAINING_RULES
    assert batch_sharding(mesh, rules).spec == PartitionSpec(("data", "fsdp"))
    assert batch_sharding(mesh, SPLIT_RULES).spec == PartitionSpec(("data",))
    assert n_parts(mesh, rules, "batch") == 4
    assert n_parts(mesh, SPLIT_RULES, "batch") == 2
    check_batch("BATCH", 4, mesh, rules)
    check_batch("BATCH", 8, mesh, rules, unit=2)
    with pytest.raises(UserError, match=r"BATCH 6 is not divisible by data x fsdp \(4\); set"):
        check_batch("BATCH", 6, mesh, rules)
    with pytest.raises(UserError, match=r"data x fsdp x accumulation \(8\); set BATCH to a mult"):
        check_batch("BATCH", 4, mesh, rules, unit=2)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (TRAINING_RULES[1:], r"maps the logical axis 'batch'; add \('batch', None\)"),
        ((("batch", "rows"), *TRAINING_RULES[1:]), r"the mesh axis 'rows'; there are \('data', "),
    ],
)
def test_rules_that_do_not_say_where_a_batch_goes_are_refused(rules, message):
    with pytest.raises(UserError, match=message):
        check_batch("BATCH", 8, mesh_of((2, 2, 2)), rules)


def test_rows_that_the_sequence_axis_does_not_divide_are_refused():
    with pytest.raises(UserError, match=r"row_length 15 is not divisible by MeshConfig.sequence"):
        Trainer(MODEL, OptimizerConfig(), TrainerConfig(8, 15), mesh_of((1, 2, 2, 2)))
