"""Next-token cross entropy on rationale, answer and EOS."""

import jax
import jax.numpy as jnp
import optax


def where_to_predict(
    tokens_BL: jax.Array, weights_BL: jax.Array, n_read: int
) -> tuple[jax.Array | None, jax.Array, jax.Array]:
    """The columns with loss, the tokens to predict there and their weights, each [B, n_read].

    weights_BL[b, t] weighs the prediction of tokens_BL[b, t], made at t - 1. A document's first
    token has weight 0, so no prediction crosses from one document into the next.

    `n_read` is at least the number of columns with loss in any row; the rest have weight 0. The
    columns are None if they are all of them.
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
