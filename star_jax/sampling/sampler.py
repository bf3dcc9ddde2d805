"""Prompts in, completions out: batching, padding and bucketing around the jitted `decode`."""

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import seqio
from jax.sharding import Mesh

from star_jax import partitioning
from star_jax.errors import UserError
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import placed_params, unstack_layers
from star_jax.records import Completion, Prompt
from star_jax.sampling import decode
from star_jax.sampling.fitting import fit_prompts
from star_jax.sampling.logits import PickConfig
from star_jax.vocabularies import stop_ids

Result = TypeVar("Result")
SMALLEST_BUCKET = 16  # tokens; prompts and caches are padded to this times a power of two


@dataclasses.dataclass(frozen=True)
class SamplerConfig:
    """How completions are drawn."""

    batch_size: int = 64  # rows decoded together
    max_new_tokens: int = 96  # a completion is cut here; 96 as in the released code for CQA
    temperature: float = 0.0  # 0 is greedy, as in the paper
    top_k: int = 0  # 0 keeps all tokens
    top_p: float = 1.0  # 1 keeps all tokens


def row_key(seed: int, iteration: int, question_id: str, sample: int = 0) -> np.ndarray:
    """The random key (uint32[2]) of one completion, the same in any batch on any machine."""
    name = f"{seed}/{iteration}/{question_id}/{sample}".encode()
    return np.frombuffer(hashlib.blake2b(name, digest_size=8).digest(), np.uint32)


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Samples completions from a model's weights; holds no weights itself."""

    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    config: SamplerConfig
    mesh: Mesh
    rules: partitioning.Rules = partitioning.DECODING_RULES

    def __post_init__(self):
        """Raises UserError for a batch that the mesh cannot split and for impossible sampling."""
        partitioning.check_batch("SamplerConfig.batch_size", self.config.batch_size, self.mesh)
        self._pick  # noqa: B018  refuses bad values now, not after hours of work
        if self.vocabulary.vocab_size > self.model.vocab_size:
            raise UserError(
                f"the vocabulary has {self.vocabulary.vocab_size} ids, the model room for "
                f"{self.model.vocab_size}; raise DecoderConfig.vocab_size"
            )
        if self.config.max_new_tokens < 1:
            raise UserError(
                f"SamplerConfig.max_new_tokens = {self.config.max_new_tokens}: give 1 or more"
            )

    def sample(
        self,
        params: Any,
        prompts: Sequence[Prompt],
        keys: Sequence[np.ndarray],
        on_progress: Callable[[int], None] = lambda n: None,
    ) -> list[Completion | None]:
        """One completion a prompt, in the order of the prompts, whatever the batching.

        A prompt that is too long for the model's context goes without its oldest examples; one
        that does not fit even without any gets None.

        Args:
          params: the model's parameters in the layout of training.
          prompts: those with the same examples are batched together and pay for them once.
          keys: `row_key` of each prompt; unused when greedy.
          on_progress: called with the number of completions that were just finished.

        Raises:
          UserError: a prompt is empty, or none fits into the model's context together with its
            completion.
        """
        encoded = [self.vocabulary.encode(prompt.text) for prompt in prompts]

        def sample_batch(
            model: DecoderConfig, params: Any, prefix: decode.Prefix | None, members: Sequence[int]
        ) -> list[Completion]:
            texts, row_keys = [encoded[i] for i in members], [keys[i] for i in members]
            return self._sample_batch(model, params, prefix, texts, row_keys)

        n_new = self.config.max_new_tokens
        return self.in_batches(params, prompts, encoded, n_new, sample_batch, on_progress)

    def in_batches(
        self,
        params: Any,
        prompts: Sequence[Prompt],
        encoded: Sequence[Sequence[int]],
        n_new: int,
        run_batch: Callable[..., Sequence[Result]],
        on_progress: Callable[[int], None],
    ) -> list[Result | None]:
        """One result a prompt, in the order of the prompts; None for one that does not fit.

        Args:
          params: the model's parameters in the layout of training.
          prompts: those with the same examples are batched together and pay for them once.
          encoded: ids of each prompt's own text.
          n_new: tokens that must fit behind each prompt.
          run_batch: called with the model and its weights as decoding wants them, the shared
            prefix, and the places of at most batch_size prompts; gives a result for each place.
          on_progress: called with the number of results that were just finished.

        Raises:
          UserError: a prompt is empty, or none fits into the model's context.
        """
        groups = fit_prompts(prompts, encoded, self.vocabulary, n_new, self.model.context_length)
        model, params = self._unrolled, self._place(params)
        results: dict[int, Result] = {}
        for group in groups:
            prefix = self._prefill_prefix(model, params, group.prefix_ids)
            for members in _chunks(group.members, self.config.batch_size):
                rows = run_batch(model, params, prefix, members)
                results.update(zip(members, rows, strict=True))
                on_progress(len(members))
        if len(results) < len(prompts):
            on_progress(len(prompts) - len(results))
        return [results.get(i) for i in range(len(prompts))]

    def padded(self, rows: Sequence[Sequence[int]]) -> tuple[jax.Array, jax.Array]:
        """Ids [B, L] of a whole batch, its last rows dummies of one token, and lengths [B]."""
        n_rows, longest = self.config.batch_size, bucket(max(len(ids) for ids in rows))
        tokens = np.zeros((n_rows, longest), np.int32)
        lengths = np.ones(n_rows, np.int32)
        for row, ids in enumerate(rows):
            tokens[row, : len(ids)] = ids
            lengths[row] = len(ids)
        return jax.device_put((tokens, lengths), partitioning.batch_sharding(self.mesh))

    def read(self, arrays: Any) -> Any:
        """The arrays on this host, with all their rows, in every process."""
        return jax.device_get(self._gather(arrays))

    @property
    def _pick(self) -> PickConfig:
        return PickConfig(
            self.config.temperature,
            self.config.top_k,
            self.config.top_p,
            n_ids=self.vocabulary.vocab_size,
        )

    @functools.cached_property
    def _unrolled(self) -> DecoderConfig:
        """The model as decoding wants it."""
        return dataclasses.replace(self.model, scan_layers=False, remat="none")

    @functools.cached_property
    def _place(self) -> Callable[[Any], Any]:
        """Weights to weights unrolled, in the dtype of computing, laid out for decoding."""
        placed = placed_params(self._unrolled, self.mesh, self.rules)

        def lay_out(params: Any) -> Any:
            params = unstack_layers(self.model, params)[1]
            return jax.tree.map(lambda leaf: leaf.astype(self.model.dtype), params)

        return jax.jit(lay_out, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, placed))

    def _prefill_prefix(
        self, model: DecoderConfig, params: Any, ids: Sequence[int]
    ) -> decode.Prefix | None:
        if not ids:
            return None
        tokens = np.zeros(bucket(len(ids)), np.int32)
        tokens[: len(ids)] = ids
        return decode.prefill_prefix(model, params, jnp.asarray(tokens), jnp.int32(len(ids)))

    def _sample_batch(
        self,
        model: DecoderConfig,
        params: Any,
        prefix: decode.Prefix | None,
        prompts: list[list[int]],
        keys: list[np.ndarray],
    ) -> list[Completion]:
        """Pads to a whole batch with dummy rows, decodes, and drops the dummies."""
        ends, limit = stop_ids(self.vocabulary), self.config.max_new_tokens
        tokens, lengths = self.padded(prompts)
        key_data = np.zeros((tokens.shape[0], 2), np.uint32)
        key_data[: len(keys)] = keys
        key_data, done = jax.device_put(
            (key_data, np.arange(tokens.shape[0]) >= len(prompts)),
            partitioning.batch_sharding(self.mesh),
        )
        row_keys = jax.random.wrap_key_data(key_data)
        capacity = 2 * tokens.shape[1]
        state = decode.prefill(
            model, self._pick, params, prefix, tokens, lengths, row_keys, done,
            capacity=capacity, max_new_tokens=limit, stop_ids=ends,
        )  # fmt: skip
        while True:
            state = decode.decode(model, self._pick, params, prefix, state, row_keys, stop_ids=ends)
            if int(state.step) >= limit or bool(jnp.all(state.done)):
                break
            capacity *= 2  # short answers never pay for the cache of long ones
            state = decode.grow_cache(state, capacity)
        return self._completions(state, len(prompts))

    @functools.cached_property
    def _gather(self) -> Callable[[Any], Any]:
        """Puts whole arrays on every device, so that every process can read all rows."""
        return jax.jit(lambda leaves: leaves, out_shardings=partitioning.replicated(self.mesh))

    def _completions(self, state: decode.DecodeState, n: int) -> list[Completion]:
        fields = (state.tokens, state.n_tokens, state.log_prob, state.done)
        tokens, counts, log_probs, done = self.read(fields)
        completions = []
        for row in range(n):
            ended = bool(done[row])
            ids = tokens[row, : counts[row] - ended].tolist()
            completions.append(
                Completion(self.vocabulary.decode(ids), tuple(ids), ended, float(log_probs[row]))
            )
        return completions


def bucket(length: int) -> int:
    """The smallest of 16, 32, 64, ... that holds `length`, so that few shapes are compiled."""
    size = SMALLEST_BUCKET
    while size < length:
        size *= 2
    return size


def _chunks(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
