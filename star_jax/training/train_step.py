"""One optimizer step, pure: state and batch in, state and loss out."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from star_jax.errors import check_not_negative, check_positive, check_share
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder
from star_jax.records import PackedBatch, Params
from star_jax.training.schedules import warmup_then_constant


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam without weight decay; the defaults are the paper's (section 4.1)."""

    learning_rate: float = 1e-6
    warmup_steps: int = 100  # optimizer steps of linear warm-up, then constant
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8
    clip_norm: float = 1.0  # global gradient norm
    decay_share: float = 0.0  # of the steps, at the end, in which the rate falls to 0; paper: none

    def __post_init__(self):
        """Raises UserError for values that train nothing."""
        check_positive(self, "learning_rate")
        check_not_negative(self, "warmup_steps")
        check_share(self, "decay_share")


class TrainState(NamedTuple):
    """All that a step changes: arrays, or their shapes or shardings."""

    step: Params  # int32 scalar, optimizer steps taken
    params: Params
    opt_state: optax.OptState


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Global-norm clipping, then Adam with `warmup_then_constant`."""
    return optax.chain(
        optax.stateless(lambda grads, _: clip_by_global_norm(grads, config.clip_norm)),
        optax.adam(
            warmup_then_constant(config.learning_rate, config.warmup_steps),
            b1=config.b1,
            b2=config.b2,
            eps=config.epsilon,
        ),
    )


def clip_by_global_norm(grads: Params, largest: float) -> Params:
    """Gradients whose global norm is at most `largest`."""
    # Not optax's: XLA computes a product twice, for each of Adam's moments, but it would keep
    # quotients, a whole copy of the gradients.
    factor = largest / jnp.maximum(optax.tree.norm(grads), largest)
    return jax.tree.map(lambda grad: grad * factor.astype(grad.dtype), grads)


def init_state(optimizer: optax.GradientTransformation, params: Params) -> TrainState:
    """Step 0 from `params`, which are copied because a step donates its state's memory."""
    params = jax.tree.map(jnp.copy, params)
    return TrainState(jnp.int32(0), params, optimizer.init(params))


def train_step(
    model: DecoderConfig,
    optimizer: optax.GradientTransformation,
    accumulation: int,
    state: TrainState,
    batch: PackedBatch,
    decay: jax.Array | float = 1.0,
    n_read: int | None = None,
) -> tuple[TrainState, jax.Array]:
    """One step over a batch; returns the new state and the loss (nats per weighted token).

    The loss is divided by the whole batch's weight, so `accumulation` does not change the result.

    Args:
      model: the decoder.
      optimizer: as `make_optimizer` returns it.
      accumulation: parts of the batch's rows, processed one after the other.
      state: before the step.
      batch: B packed rows of L tokens.
      decay: factor on the learning rate, `schedules.final_decay` of the step.
      n_read: columns of each row that are predicted, at least as many as have loss; None: all.
    """
    rows = (batch.tokens, batch.segment_ids, batch.positions, batch.loss_weights)
    parts = [split_rows(jnp.asarray(leaf), accumulation) for leaf in rows]
    total_weight = jnp.maximum(jnp.sum(batch.loss_weights[:, 1:]), 1.0)

    def loss_of(params: Params, part: list[jax.Array]) -> jax.Array:
        tokens, segment_ids, positions, weights = part
        columns, targets, weights = where_to_predict(tokens, weights, n_read or tokens.shape[1])
        logits, _ = Decoder(model).apply(
            {"params": params}, tokens, positions, segment_ids, read_at_BR=columns
        )
        return weighted_cross_entropy(logits, targets, weights)[0] / total_weight

    def add_part(carry: tuple, part: list[jax.Array]) -> tuple[tuple, None]:
        loss, grads = jax.value_and_grad(loss_of)(state.params, part)
        return jax.tree.map(jnp.add, carry, (loss, grads)), None

    if accumulation == 1:
        loss, grads = jax.value_and_grad(loss_of)(state.params, [leaf[0] for leaf in parts])
    else:
        zeros = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
        (loss, grads), _ = jax.lax.scan(add_part, zeros, parts)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    updates = jax.tree.map(lambda update: decay * update, updates)  # linear in the rate
    params = optax.apply_updates(state.params, updates)
    return TrainState(state.step + 1, params, opt_state), loss


def split_rows(leaf_BL: jax.Array, n_parts: int) -> jax.Array:
    """[B, L] -> [n_parts, B / n_parts, L]; part i has the rows i, i + n_parts, ...

    So each device has rows in every part; without them it would repeat another's work.
    """
    return leaf_BL.reshape(-1, n_parts, *leaf_BL.shape[1:]).swapaxes(0, 1)


def where_to_predict(
    tokens_BL: jax.Array, weights_BL: jax.Array, n_read: int
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """The columns with loss, the tokens to predict there and their weights, each [B, n_read].

    weights_BL[b, t] weighs the prediction of tokens_BL[b, t], made at t - 1. A document's first
    token has weight 0. `n_read` is at least the number of columns with loss in any row; the columns
    are None if they are all of them.
    """
    targets_BL = jnp.roll(tokens_BL, -1, axis=1)
    weights_BL = jnp.roll(weights_BL, -1, axis=1).at[:, -1].set(0)
    if n_read == tokens_BL.shape[1]:
        return None, targets_BL, weights_BL
    columns_BR = jnp.argsort(weights_BL == 0, axis=1, stable=True)[:, :n_read]
    targets_BR = jnp.take_along_axis(targets_BL, columns_BR, axis=1)
    return columns_BR, targets_BR, jnp.take_along_axis(weights_BL, columns_BR, axis=1)


def weighted_cross_entropy(
    logits_BRV: jax.Array, targets_BR: jax.Array, weights_BR: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Summed loss (nats) and summed weight of predicting each target."""
    losses_BR = optax.softmax_cross_entropy_with_integer_labels(
        logits_BRV.astype(jnp.float32), targets_BR
    )
    return jnp.sum(losses_BR * weights_BR), jnp.sum(weights_BR)
