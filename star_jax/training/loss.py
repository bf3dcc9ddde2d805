"""Next-token cross entropy on rationale, answer and EOS."""

import jax
import jax.numpy as jnp
import optax


def weighted_cross_entropy(
    logits_BLV: jax.Array, tokens_BL: jax.Array, weights_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Summed loss (nats) and summed weight of predicting each token from those before it.

    weights_BL[b, t] weighs the prediction of tokens_BL[b, t], made at t - 1. A document's first
    token has weight 0, so no prediction crosses from one document into the next.
    """
    losses = optax.softmax_cross_entropy_with_integer_labels(
        logits_BLV[:, :-1].astype(jnp.float32), tokens_BL[:, 1:]
    )
    weights = weights_BL[:, 1:]
    return jnp.sum(losses * weights), jnp.sum(weights)
