"""The optimizer step against numpy, and training that is stopped, resumed or wrong."""

import dataclasses
import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from star_jax.errors import UserError
from star_jax.models.attention import causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder, abstract_params
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.records import PackedBatch, TokenizedExample
from star_jax.run.checkpoints import TrainingCheckpoint
from star_jax.training.packing import epochs
from star_jax.training.train_step import (
    OptimizerConfig,
    make_optimizer,
    split_rows,
    train_step,
    weighted_cross_entropy,
    where_to_predict,
)
from star_jax.training.trainer import Trainer, TrainerConfig
from tests.compilations import n_compiled
from tests.packed import pack_batches, packing_efficiency

MODEL = DecoderConfig(
    vocab_size=16, n_layers=2, d_model=32, n_heads=2, head_dim=16, d_ff=32, rotary_dim=8,
    context_length=32,
)  # fmt: skip
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=2, clip_norm=0.5)
CONFIG = TrainerConfig(batch_size=4, row_length=16)


HALF = TokenizedExample(np.arange(8, dtype=np.int32), np.repeat([0, 1], 4).astype(np.float32))


@functools.cache
def trainer(accumulation_steps=1, epsilon=OPTIMIZER.epsilon):
    """On one device; its compiled step is shared by the tests."""
    optimizer = dataclasses.replace(OPTIMIZER, epsilon=epsilon)
    config = dataclasses.replace(CONFIG, accumulation_steps=accumulation_steps)
    return Trainer(MODEL, optimizer, config, make_mesh(MeshConfig(), jax.devices()[:1]))


@functools.cache
def base_params():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.2 * rng.standard_normal(leaf.shape), leaf.dtype),
        abstract_params(MODEL),
    )


@functools.cache
def examples():
    rng = np.random.default_rng(1)

    def one(n):
        weights = np.ones(n, np.float32)
        weights[: n // 2] = 0
        return TokenizedExample(rng.integers(0, 16, n).astype(np.int32), weights)

    return [one(n) for n in (5, 9, 12, 6, 16, 7, 3, 8)]


@functools.cache
def batches(n=3, seed=0):
    stream = pack_batches(epochs(examples(), seed), CONFIG.batch_size, CONFIG.row_length)
    return list(itertools.islice(stream, n))


def train(n_steps, state=None, **kwargs):
    state = trainer().init_state(base_params()) if state is None else state
    return trainer().train(state, examples(), n_steps, seed=0, **kwargs)


@jax.jit
def loss_and_grads(params, batch):
    def loss(params):
        mask = causal_mask(batch.segment_ids)
        logits, _ = Decoder(MODEL).apply({"params": params}, batch.tokens, batch.positions, mask)
        _, targets, weights = where_to_predict(batch.tokens, batch.loss_weights, logits.shape[1])
        total, weight = weighted_cross_entropy(logits, targets, weights)
        return total / weight

    return jax.value_and_grad(loss)(params)


def assert_trees_close(got, expected, **tolerance):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **tolerance), got, expected)


def assert_trees_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, got, expected)


# The loss.


@pytest.mark.parametrize("n_read", [2, 3, 4])
def test_loss_is_the_weighted_mean_of_next_token_losses(n_read):
    """However few columns are read, as long as they are enough."""
    rng = np.random.default_rng(0)
    logits, tokens = rng.standard_normal((2, 4, 5)), rng.integers(0, 5, (2, 4))
    weights = np.array([[0, 1, 0, 1], [0, 0.5, 1, 0]])
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = sum(
        -weights[b, t] * log_probs[b, t - 1, tokens[b, t]] for b in range(2) for t in range(1, 4)
    )
    given = jnp.asarray(tokens), jnp.asarray(weights)
    columns, targets, weights_read = where_to_predict(*given, n_read)
    assert targets.shape == weights_read.shape == (2, n_read)
    read = logits if columns is None else np.take_along_axis(logits, columns[..., None], axis=1)
    total, weight = weighted_cross_entropy(jnp.asarray(read), targets, weights_read)
    assert float(total) == pytest.approx(expected, rel=1e-5)
    assert float(weight) == 3.5


def test_weight_of_the_first_column_counts_nothing():
    given = jnp.zeros((1, 3), jnp.int32), jnp.array([[1.0, 0, 0]])
    assert not where_to_predict(*given, 3)[2].any()


@pytest.mark.parametrize("first", [1.0, 9.0])
def test_weight_of_a_rows_first_token_does_not_change_a_step(first):
    tokens = np.arange(CONFIG.row_length, dtype=np.int32)
    weights = np.ones(CONFIG.row_length, np.float32)
    plain, heavy = (
        TokenizedExample(tokens, np.concatenate([[weight], weights[1:]])) for weight in (0.0, first)
    )
    (loss,), (same,) = (
        trainer().train(trainer().init_state(base_params()), [example] * 4, 1, seed=0).losses
        for example in (plain, heavy)
    )
    assert loss == same


@pytest.mark.parametrize("share", [0.0, 1.5, 0.01])
def test_a_share_of_loss_that_is_none_is_refused(share):
    config = dataclasses.replace(CONFIG, loss_share=share)
    with pytest.raises(UserError, match=f"TrainerConfig.loss_share = {share}: give a share"):
        dataclasses.replace(trainer(), config=config)


def test_training_that_predicts_only_where_there_is_loss_is_the_same():
    """Half of each document has loss, so that the rows are the same ones."""
    config = dataclasses.replace(CONFIG, loss_share=0.5)
    few = dataclasses.replace(trainer(epsilon=1e-3), config=config)
    alone, ours = (
        one.train(one.init_state(base_params()), [HALF] * 9, 3, seed=0)
        for one in (trainer(epsilon=1e-3), few)
    )
    np.testing.assert_allclose(ours.losses, alone.losses, rtol=1e-5)
    assert ours.packing_efficiency == alone.packing_efficiency
    assert_trees_close(ours.state.params, alone.state.params, rtol=1e-4, atol=1e-5)


def test_a_step_that_reads_few_columns_is_the_step_that_reads_all():
    batch = batches()[0]
    few = dataclasses.replace(
        batch, loss_weights=np.where(np.arange(CONFIG.row_length) % 5 == 1, batch.loss_weights, 0)
    )
    optimizer = make_optimizer(dataclasses.replace(OPTIMIZER, epsilon=1e-3))
    state = trainer(epsilon=1e-3).init_state(base_params())
    steps = (
        train_step(MODEL, optimizer, 1, state, few, 1.0, n_read)
        for n_read in (CONFIG.row_length // 2, None)
    )
    assert_trees_close(*steps, rtol=1e-5, atol=1e-7)


# The step.


def numpy_adam(params, grads_of_steps, rates):
    """Adam as published, after clipping by the global norm, on float64 leaves."""
    c = OPTIMIZER
    m = v = jax.tree.map(np.zeros_like, params)
    for t, (grads, rate) in enumerate(zip(grads_of_steps, rates, strict=True), start=1):
        norm = math.sqrt(sum(float(np.square(g).sum()) for g in jax.tree.leaves(grads)))
        grads = jax.tree.map(lambda g, n=norm: g * min(1, c.clip_norm / n), grads)
        m = jax.tree.map(lambda m, g: c.b1 * m + (1 - c.b1) * g, m, grads)
        v = jax.tree.map(lambda v, g: c.b2 * v + (1 - c.b2) * g * g, v, grads)
        params = jax.tree.map(
            lambda p, m, v, t=t, rate=rate: (
                p - rate * (m / (1 - c.b1**t)) / (np.sqrt(v / (1 - c.b2**t)) + c.epsilon)
            ),
            params,
            m,
            v,
        )
    return params


def test_three_steps_equal_adam_in_numpy():
    """Warm-up over two steps, then constant; the gradient's norm is clipped."""
    optimizer = make_optimizer(OPTIMIZER)
    grads_of_steps = [loss_and_grads(base_params(), batch)[1] for batch in batches(3)]
    params, state = base_params(), optimizer.init(base_params())
    for grads in grads_of_steps:
        updates, state = jax.jit(optimizer.update)(grads, state)
        params = jax.tree.map(jnp.add, params, updates)
    in_float64 = functools.partial(jax.tree.map, lambda leaf: np.asarray(leaf, np.float64))
    norms = [
        math.sqrt(sum(float(np.square(g).sum()) for g in jax.tree.leaves(grads)))
        for grads in in_float64(grads_of_steps)
    ]
    assert max(norms) > OPTIMIZER.clip_norm, "clipping has to matter here"
    expected = numpy_adam(
        in_float64(base_params()), in_float64(grads_of_steps), rates=[5e-3, 1e-2, 1e-2]
    )
    assert_trees_close(params, expected, rtol=1e-5, atol=1e-6)


def test_a_step_is_adam_on_the_gradient_of_the_mean_loss():
    (batch,) = batches(1)
    loss, grads = loss_and_grads(base_params(), batch)
    expected = numpy_adam(
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), base_params()),
        [jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), grads)],
        rates=[5e-3],
    )
    state, (taken,), _ = train(1)
    assert taken == pytest.approx(float(loss), rel=1e-6)
    assert int(state.step) == 1
    # Adam's first step divides a gradient by itself: where it is nearly 0, rounding shows.
    moved = jax.tree.map(
        lambda got, want, grad: np.where(np.abs(grad) > 1e-5, got - want, 0),
        state.params,
        expected,
        grads,
    )
    assert max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(moved)) < 1e-5


def test_the_optimizers_moments_are_carried_from_step_to_step():
    optimizer, params = make_optimizer(OPTIMIZER), base_params()
    moments = optimizer.init(params)
    for batch in batches(3):
        _, grads = loss_and_grads(params, batch)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
    state, *_ = train(3)
    difference = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), state.params, params)
    assert max(jax.tree.leaves(difference)) < 1e-3  # the rate is 1e-2 from the second step on


def test_small_gradients_are_not_clipped():
    config = dataclasses.replace(OPTIMIZER, clip_norm=1.0)
    optimizer = make_optimizer(config)
    states = []
    for scale in (1.0, 7.0):
        grads = {"w": jnp.array([3.0, 4.0]) / 5 * scale * 0.5}
        states.append(optimizer.update(grads, optimizer.init(grads))[1])
    below, above = (jax.tree.leaves(state)[1] for state in states)
    np.testing.assert_allclose(below, 0.1 * 0.5 * np.array([0.6, 0.8]), rtol=1e-6)
    np.testing.assert_allclose(above, 0.1 * 1.0 * np.array([0.6, 0.8]), rtol=1e-6)


@pytest.mark.parametrize("accumulation_steps", [2, 4])
def test_accumulation_does_not_change_the_step(accumulation_steps):
    """Rows have unequal loss weight, so a mean of the parts' means would differ."""
    weights = [batch.loss_weights.sum(1) for batch in batches(1)]
    assert len(set(weights[0].tolist())) > 1
    # Adam divides a gradient by itself: where it is nearly 0, only an epsilon hides rounding.
    whole, parts = (
        each.train(each.init_state(base_params()), examples(), 2, seed=0)
        for each in (trainer(1, epsilon=1e-3), trainer(accumulation_steps, epsilon=1e-3))
    )
    np.testing.assert_allclose(parts.losses, whole.losses, rtol=1e-6)
    assert_trees_close(parts.state.opt_state, whole.state.opt_state, rtol=1e-4, atol=1e-6)
    assert_trees_close(parts.state.params, whole.state.params, rtol=0, atol=1e-6)


def test_parts_together_are_the_batch():
    rows = jnp.arange(24).reshape(8, 3)
    parts = split_rows(rows, 4)
    assert parts.shape == (4, 2, 3)
    assert sorted(parts.reshape(8, 3).tolist()) == rows.tolist()
    np.testing.assert_array_equal(split_rows(rows, 1)[0], rows)


def test_a_batch_without_loss_gives_zero_and_not_nan():
    no_loss = [dataclasses.replace(e, loss_weights=e.loss_weights * 0) for e in examples()]
    state, losses, _ = trainer().train(trainer().init_state(base_params()), no_loss, 1, seed=0)
    assert losses == [0.0]
    assert_trees_equal(state.params, base_params())


# Training.


def test_loss_falls_on_what_can_be_memorized():
    losses = train(40).losses
    assert len(losses) == 40
    assert losses[-1] < 0.3 * losses[0]


def test_training_does_not_destroy_the_base():
    """A step gives up its state's memory, and must not give up the base's with it."""
    before = jax.tree.map(np.array, base_params())
    state = train(2).state
    assert_trees_equal(base_params(), before)
    changed = jax.tree.map(lambda a, b: not np.array_equal(a, b), state.params, before)
    assert all(jax.tree.leaves(changed))


def test_the_same_seed_trains_the_same_and_another_differently():
    first, again = train(3), train(3)
    assert first.losses == again.losses
    assert_trees_equal(first.state, again.state)
    others = trainer().train(trainer().init_state(base_params()), examples(), 3, seed=1)
    assert others.losses != first.losses


def test_random_weights_follow_the_seed():
    first, again, other = (trainer().random_params(seed) for seed in (1, 1, 2))
    assert_trees_equal(first, again)
    differ = jax.tree.map(lambda a, b: not np.array_equal(a, b), first, other)
    assert any(jax.tree.leaves(differ))


def test_the_learning_rate_of_a_resumed_training_decays_as_if_it_had_not_stopped(tmp_path):
    optimizer = dataclasses.replace(OPTIMIZER, decay_share=0.75)
    mine = dataclasses.replace(trainer(), optimizer=optimizer)
    checkpoint = TrainingCheckpoint(tmp_path)

    def save_second(step, state):
        if step == 2:
            checkpoint.save(step, state)

    state = mine.init_state(base_params())
    whole = mine.train(state, examples(), 4, seed=0, on_step=save_second)
    resumed = mine.train(checkpoint.restore(mine.abstract_state()), examples(), 4, seed=0)
    assert_trees_equal(resumed.state, whole.state)


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_resumed_training_is_bit_identical(stop, tmp_path):
    checkpoint = TrainingCheckpoint(tmp_path)
    undisturbed = train(5)

    def save_at_stop(step, state):
        if step == stop:
            checkpoint.save(step, state)

    before = train(stop, on_step=save_at_stop)
    state = checkpoint.restore(trainer().abstract_state())
    assert int(state.step) == stop
    resumed = train(5, state)
    assert before.losses + resumed.losses == undisturbed.losses
    assert resumed.packing_efficiency == undisturbed.packing_efficiency
    assert_trees_equal(resumed.state, undisturbed.state)


def test_each_step_is_told_with_its_number():
    steps = []
    train(4, on_step=lambda step, state: steps.append((step, int(state.step))))
    assert steps == [(1, 1), (2, 2), (3, 3), (4, 4)]


def test_no_steps_are_no_steps():
    state, losses, efficiency = train(0)
    assert (losses, efficiency) == ([], None)
    assert_trees_equal(state.params, base_params())


def test_packing_efficiency_is_that_of_the_steps_taken():
    assert 0.5 < train(3).packing_efficiency == packing_efficiency(batches(3)) < 1


# Memory and compilations.


def test_a_second_training_compiles_nothing():
    def once(seed):
        trainer().random_params(seed)
        state = trainer().init_state(base_params())
        trainer().train(state, examples(), 2, seed=seed)

    once(0)
    before = n_compiled()
    once(1)
    assert n_compiled() == before
    jax.jit(lambda x: x + 41)(1)
    assert n_compiled() > before, "the count has to see a compilation"


def test_a_step_gives_up_its_state():
    """Weights and moments are written where the old ones were, not next to them."""
    state = trainer().init_state(base_params())
    trainer().train(state, examples(), 1, seed=0)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves((state.params, state.opt_state)))


def test_accumulation_costs_one_copy_of_the_gradients():
    """Beside the state: the gradients of a part, their sum, and a layer that is worked on."""
    model = dataclasses.replace(MODEL, n_layers=4, d_model=256, n_heads=4, head_dim=64, d_ff=1024)

    def copies(parts):
        """Temporary memory of a step with one short row a part, in copies of the weights."""
        config = TrainerConfig(batch_size=parts, row_length=8, accumulation_steps=parts)
        mesh = make_mesh(MeshConfig(), jax.devices()[:1])
        compiled = Trainer(model, OPTIMIZER, config, mesh).lower_step().compile()
        weights = sum(4 * leaf.size for leaf in jax.tree.leaves(abstract_params(model)))
        assert compiled.memory_analysis().alias_size_in_bytes >= 3 * weights
        return compiled.memory_analysis().temp_size_in_bytes / weights

    one, two, four = map(copies, (1, 2, 4))
    assert one < 1.5
    assert two < one + 1.05
    assert four < two + 0.05


# Mistakes.


@pytest.mark.parametrize("n_steps", [3, 4, 9])
def test_a_loss_that_is_not_finite_stops_training_with_the_step_named(n_steps):
    def spoil(step, state):
        if step == 2:  # the loss of step 3 is computed from these
            leaf = state.params["embedding"]
            state.params["embedding"] = leaf.at[:].set(jnp.nan)

    with pytest.raises(UserError, match=r"the loss is nan at step 3; lower .*learning_rate"):
        train(n_steps, on_step=spoil)


def test_a_batch_that_cannot_be_split_is_refused():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    for batch_size, accumulation in ((12, 1), (8, 2), (0, 1), (-8, 1)):
        config = TrainerConfig(batch_size, row_length=16, accumulation_steps=accumulation)
        multiple = 8 * accumulation
        message = rf"TrainerConfig.batch_size {batch_size} .* multiple of {multiple}"
        with pytest.raises(UserError, match=message):
            Trainer(MODEL, OPTIMIZER, config, mesh)


def test_no_parts_are_refused():
    config = dataclasses.replace(CONFIG, accumulation_steps=0)
    with pytest.raises(UserError, match="in 0 parts; give 1 or more"):
        Trainer(MODEL, OPTIMIZER, config, make_mesh(MeshConfig()))


def test_rows_longer_than_the_context_are_refused():
    config = dataclasses.replace(CONFIG, row_length=33)
    with pytest.raises(UserError, match=r"row_length 33 exceeds the model's context length 32"):
        Trainer(MODEL, OPTIMIZER, config, make_mesh(MeshConfig(), jax.devices()[:1]))


def test_examples_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="nothing to train on"):
        trainer().train(None, [], 1, seed=0)
    long = TokenizedExample(np.zeros(17, np.int32), np.ones(17, np.float32))
    with pytest.raises(UserError, match="the longest has 17 tokens"):
        trainer().train(None, [*examples(), long], 1, seed=0)


def test_an_id_beyond_the_model_is_refused_before_it_reads_as_nan():
    strange = TokenizedExample(np.array([1, 16], np.int32), np.ones(2, np.float32))
    with pytest.raises(UserError, match="the token id 16, the model room for 16"):
        trainer().train(None, [*examples(), strange], 1, seed=0)


def test_a_batch_is_a_tree_of_its_four_arrays():
    (batch,) = batches(1)
    assert isinstance(batch, PackedBatch)
    assert [leaf.shape for leaf in jax.tree.leaves(batch)] == [(4, 16)] * 4


def test_decay_is_a_factor_on_the_learning_rate():
    """The second of two steps has half the rate: it moves half as far from the same state."""
    constant = trainer()
    decayed = dataclasses.replace(
        constant, optimizer=dataclasses.replace(OPTIMIZER, decay_share=1.0)
    )
    after_one, *_ = constant.train(constant.init_state(base_params()), examples(), 1, seed=0)
    after_one = jax.device_get(after_one.params)
    full, *_ = constant.train(constant.init_state(base_params()), examples(), 2, seed=0)
    half, *_ = decayed.train(decayed.init_state(base_params()), examples(), 2, seed=0)
    for start, a, b in zip(
        *map(jax.tree.leaves, (after_one, full.params, half.params)), strict=True
    ):
        np.testing.assert_allclose(b - start, 0.5 * (a - start), atol=1e-7)


@pytest.mark.parametrize(
    "fields", [{"learning_rate": 0.0}, {"warmup_steps": -1}, {"decay_share": 1.5}]
)
def test_an_optimizer_that_trains_nothing_is_refused(fields):
    with pytest.raises(UserError, match=f"{next(iter(fields))} = "):
        OptimizerConfig(**fields)
