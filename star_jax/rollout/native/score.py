"""How likely a model finds given continuations of a prompt: texts in, log-probabilities out.

A continuation is run after its prompt's last token, whose logits predict its first token; the
rest of the prompt is run once and shared by all continuations of the prompt.

    shared prefix [P]   | prompt [q q q q]   | inputs  [q c c]
    (no batch axis)     |  seen   1 1 1 0    | targets [c c c]
"""

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from star_jax.errors import UserError
from star_jax.models.attention import KeyValues, Store, causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder
from star_jax.parallel import partitioning
from star_jax.records import Params, Prompt
from star_jax.rollout.fitting import fit_prompts
from star_jax.rollout.native import decode
from star_jax.rollout.native.slots import DecodingModel, Prefix

if TYPE_CHECKING:
    from star_jax.rollout.native.sampler import Sampler

SMALLEST_BUCKET = 16  # tokens; prompts and continuations are padded to this times a power of two


def score_continuations(
    sampler: "Sampler",
    model: DecodingModel,
    prompts: Sequence[Prompt],
    continuations: Sequence[Sequence[str]],
    on_progress: Callable[[int], None] = lambda n: None,
) -> list[list[float] | None]:
    """As `Engine.score`; it is the method `score` of `Sampler`.

    Prompt and continuation are encoded apart and joined, as in sampling and training.

    Args:
      sampler: its model, vocabulary, batch size and mesh; how it picks tokens does not matter.
      model: made by `Sampler.load`.
      prompts: those with the same examples are batched together and pay for them once.
      continuations: of each prompt, in the order of the prompts.
      on_progress: called with the number of prompts that were just finished.
    """
    encode = sampler.vocabulary.encode
    encoded = [encode(prompt.text) for prompt in prompts]
    endings = [[encode(text) for text in texts] for texts in continuations]
    for prompt, texts in zip(prompts, endings, strict=True):
        if not all(texts):
            raise UserError(f"question {prompt.question_id} has a choice without text; give it one")

    n_new = max((len(ids) for texts in endings for ids in texts), default=0)
    groups = fit_prompts(prompts, encoded, sampler.vocabulary, n_new, sampler.model.context_length)
    scores: list[list[float] | None] = [None] * len(prompts)
    for group in groups:
        prefix, size = model.prefix(group.prefix_ids), sampler.config.batch_size
        for start in range(0, len(group.members), size):
            places = group.members[start : start + size]
            ids = [encoded[i] for i in places], [endings[i] for i in places]
            for i, row in zip(places, _score_batch(sampler, model, prefix, *ids), strict=True):
                scores[i] = row
            on_progress(len(places))
    if n_left_out := scores.count(None):
        on_progress(n_left_out)
    return scores


def _score_batch(
    sampler: "Sampler",
    model: DecodingModel,
    prefix: Prefix | None,
    prompts: Sequence[Sequence[int]],
    endings: Sequence[Sequence[Sequence[int]]],
) -> list[list[float]]:
    """Runs the prompts once, then every prompt's first ending, second ending and so on."""
    config, n_ids = sampler.programs.writer.model, sampler.vocabulary.vocab_size
    tokens, lengths = _padded(sampler, prompts)
    key_values = _run_prompts(config, model.params, prefix, tokens, lengths)
    scores = []
    # A prompt with fewer endings gets an empty one, which is not read.
    for turn in itertools.zip_longest(*endings, fillvalue=()):
        shifted = [[prompt[-1], *ids[:-1]] for prompt, ids in zip(prompts, turn, strict=True)]
        inputs, (targets, counts) = _padded(sampler, shifted)[0], _padded(sampler, turn)
        scores.append(
            _log_probabilities(
                config, n_ids, model.params, prefix, key_values, lengths, inputs, targets, counts
            )
        )
    # Whole on every device, so that every process can read all rows.
    scores = jax.device_get(jax.device_put(scores, partitioning.replicated(sampler.mesh)))
    return [[float(turn[row]) for turn in scores[: len(e)]] for row, e in enumerate(endings)]


@functools.partial(jax.jit, static_argnames="config")
def _run_prompts(
    config: DecoderConfig,
    params: Params,
    prefix: Prefix | None,
    tokens_BL: jax.Array,
    lengths_B: jax.Array,
) -> tuple[KeyValues, ...]:
    """Each layer's keys and values [B, H, L, K] of the prompts, which are padded on the right."""
    columns = jnp.arange(tokens_BL.shape[1])
    return Decoder(config).apply(
        {"params": params},
        tokens_BL,
        jnp.broadcast_to(columns, tokens_BL.shape) + decode.prefix_length(prefix),
        causal_mask((columns < lengths_B[:, None]).astype(jnp.int32)),
        context=decode.contexts(config, prefix),
        read_at_BR=jnp.zeros_like(lengths_B)[:, None],
        return_key_values=True,
    )[1]


@functools.partial(jax.jit, static_argnames=("config", "n_ids"))
def _log_probabilities(
    config: DecoderConfig,
    n_ids: int,
    params: Params,
    prefix: Prefix | None,
    key_values: tuple[KeyValues, ...],
    lengths_B: jax.Array,
    inputs_BT: jax.Array,
    targets_BT: jax.Array,
    counts_B: jax.Array,
) -> jax.Array:
    """float32[B]: of each row's first `counts_B` targets, summed.

    As in sampling, ids from `n_ids` on, which the vocabulary does not know, have no probability.
    """
    columns = jnp.arange(inputs_BT.shape[1])
    counted_BT = columns < counts_B[:, None]
    n_seen_B = lengths_B - 1  # the prompt's last token comes with the continuation
    seen_B1C = jnp.arange(key_values[0].key.shape[2]) < n_seen_B[:, None, None]
    logits_BTV, _ = Decoder(config).apply(
        {"params": params},
        inputs_BT,
        decode.prefix_length(prefix) + n_seen_B[:, None] + columns,
        causal_mask(counted_BT.astype(jnp.int32)),
        context=decode.contexts(config, prefix, [Store(kv, seen_B1C) for kv in key_values]),
    )
    known_V = jnp.arange(logits_BTV.shape[-1]) < n_ids
    log_probs_BTV = jax.nn.log_softmax(jnp.where(known_V, logits_BTV, -jnp.inf))
    of_targets_BT = jnp.take_along_axis(log_probs_BTV, targets_BT[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(counted_BT, of_targets_BT, 0.0), axis=-1)


def _padded(sampler: "Sampler", rows: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
    """Ids [B, L] of a whole batch, its last rows dummies of one token, and lengths [B]."""
    # So that few shapes are compiled: 16, 32, 64, ...
    longest = max(SMALLEST_BUCKET, 1 << (max(map(len, rows)) - 1).bit_length())

    def fill(start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        tokens = np.zeros((stop - start, longest), np.int32)
        lengths = np.ones(stop - start, np.int32)
        for row, ids in enumerate(rows[start:stop]):
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
        return tokens, lengths

    split = partitioning.batch_sharding(sampler.mesh, sampler.rules)
    return partitioning.in_rows(split, sampler.config.batch_size, fill)
