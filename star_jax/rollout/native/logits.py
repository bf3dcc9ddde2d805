"""From logits to the next token: greedy, temperature, top-k, top-p."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from star_jax.errors import UserError, check_not_negative, check_positive, check_share


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How the next token is picked; the default is greedy, as in the paper."""

    temperature: float = 0.0  # 0 is greedy
    top_k: int = 0  # keep the k likeliest tokens; 0 keeps all
    top_p: float = 1.0  # keep the likeliest tokens that together reach this probability
    stop: Sequence[str] | None = None  # texts that end completions; None: the prompt's own

    def __post_init__(self):
        """Raises UserError for values that mean nothing."""
        check_not_negative(self, "temperature", "top_k")
        check_positive(self, "top_p")
        check_share(self, "top_p")
        if self.stop is None:
            return
        is_list = isinstance(self.stop, list | tuple)
        if not is_list or not all(isinstance(text, str) and text for text in self.stop):
            raise UserError(
                f"{type(self).__name__}.stop = {self.stop!r}: give a list of texts that are not "
                f"empty, such as ['\\n\\nQ:'], [] for none or None for the task's own"
            )
        object.__setattr__(self, "stop", tuple(self.stop))


@dataclasses.dataclass(frozen=True)
class SamplerConfig(SamplingParams):
    """How completions are sampled: SamplingParams, and the sizes of batches."""

    batch_size: int = 64  # slots: rows decoded together
    max_new_tokens: int = 96  # completions are truncated here; 96 as in the released code for CQA
    refill_share: float = 0.125  # of the slots, free before new prompts enter; 1 for batches
    prefill_tokens: int = 512  # about so many tokens of new prompts run together, on each shard

    @property
    def params(self) -> SamplingParams:
        """How the next token is picked, without the sizes."""
        return SamplingParams(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


def pick_tokens(
    logits_BV: jax.Array, keys_B: jax.Array, params: SamplingParams, n_ids: int = 0
) -> tuple[jax.Array, jax.Array]:
    """The next token of each row and its log-probability (nats) under the plain softmax.

    An id that the vocabulary does not know is never picked and has no probability.

    Args:
      logits_BV: float32.
      keys_B: one random key per row, used only if temperature > 0.
      params: static.
      n_ids: static, ids that the vocabulary knows; 0 for all of the model's.
    """
    if 0 < n_ids < logits_BV.shape[-1]:
        logits_BV = jnp.where(jnp.arange(logits_BV.shape[-1]) < n_ids, logits_BV, -jnp.inf)
    if params.temperature == 0:
        tokens_B = _first_highest(logits_BV)
    else:
        kept_BV = keep_top_p(keep_top_k(logits_BV / params.temperature, params.top_k), params.top_p)
        tokens_B = jax.vmap(jax.random.categorical)(keys_B, kept_BV)
    picked_B = jnp.take_along_axis(logits_BV, tokens_B[:, None], axis=1)[:, 0]
    return tokens_B, picked_B - jax.nn.logsumexp(logits_BV, axis=-1)


def _first_highest(logits_BV: jax.Array) -> jax.Array:
    """As jnp.argmax, in two plain reductions, which the CPU does several times faster."""
    n_ids = logits_BV.shape[-1]
    is_highest_BV = logits_BV == jnp.max(logits_BV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(is_highest_BV, jnp.arange(n_ids), n_ids - 1), axis=-1)


def keep_top_k(logits_BV: jax.Array, k: int) -> jax.Array:
    """All but the k highest logits of each row become -inf; k = 0 keeps all."""
    if k == 0 or k >= logits_BV.shape[-1]:
        return logits_BV
    threshold_B1 = jax.lax.top_k(logits_BV, k)[0][:, -1:]
    return jnp.where(logits_BV < threshold_B1, -jnp.inf, logits_BV)


def keep_top_p(logits_BV: jax.Array, p: float) -> jax.Array:
    """Keeps the smallest set of likeliest tokens whose probability reaches p; the rest is -inf.

    The likeliest token always stays (Holtzman et al. 2020).
    """
    if p >= 1:
        return logits_BV
    sorted_BV = jnp.sort(logits_BV, axis=-1, descending=True)
    probs_BV = jax.nn.softmax(sorted_BV)
    before_BV = jnp.cumsum(probs_BV, axis=-1) - probs_BV  # probability of all likelier ones
    last_B1 = jnp.sum(before_BV < p, axis=-1, keepdims=True) - 1
    return jnp.where(
        logits_BV < jnp.take_along_axis(sorted_BV, last_B1, axis=-1), -jnp.inf, logits_BV
    )
