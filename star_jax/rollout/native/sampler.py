"""Prompts in, completions out: the host's half of sampling, around the programs of `decode`."""

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import seqio
from jax.sharding import Mesh

from star_jax.errors import UserError
from star_jax.models.config import DecoderConfig
from star_jax.models.splash import check_attention
from star_jax.parallel import partitioning
from star_jax.records import Completion, Params, Prompt
from star_jax.rollout.fitting import Group, fit_prompts
from star_jax.rollout.native.logits import SamplingParams
from star_jax.rollout.native.meter import DECODE, PREFILL, Meter, SamplingStats
from star_jax.rollout.native.programs import Programs, programs_for
from star_jax.rollout.native.score import score_continuations
from star_jax.rollout.native.shapes import (
    PREFIX_COLUMNS,
    Shapes,
    fill_chunk,
    most_in_a_shard,
    shapes_for,
    up_to,
    waves,
)
from star_jax.rollout.native.slots import EMPTY, Chunk, Finished, Prefix, Slots, Writer
from star_jax.rollout.native.weights import DecodingModel
from star_jax.tokenizers.vocabularies import check_room, stop_ids

ENCODED_FOR_SIZES = 500  # texts, twice, from which prompt lengths are estimated
WAVES_AHEAD = 2  # that the host dispatches before it reads what an earlier one gave


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


@dataclasses.dataclass(frozen=True)
class Sampler:
    """Samples completions from a model's weights; holds no weights itself.

    `shapes` are the sizes to compile for; without them, those that suit the prompts at hand.
    """

    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    config: SamplerConfig
    mesh: Mesh
    rules: partitioning.Rules = partitioning.DECODING_RULES
    shapes: Shapes | None = None

    def __post_init__(self):
        """Raises UserError for a batch that the mesh cannot split and for impossible sampling."""
        partitioning.check_batch(
            "SamplerConfig.batch_size", self.config.batch_size, self.mesh, self.rules
        )
        check_attention(self.model, self.mesh, self.rules)
        self.programs  # noqa: B018  refuses bad values now, not after hours of work
        check_room(self.vocabulary, self.model.vocab_size)
        for name in ("max_new_tokens", "prefill_tokens"):
            if getattr(self.config, name) < 1:
                value = getattr(self.config, name)
                raise UserError(f"SamplerConfig.{name} = {value}: give 1 or more")
        if not 0 < self.config.refill_share <= 1:
            raise UserError(
                f"SamplerConfig.refill_share = {self.config.refill_share}: give a share of the "
                f"slots, above 0 and at most 1"
            )

    def load(self, params: Params) -> DecodingModel:
        """Casts weights in the layout of training and lays them out for decoding, on the devices.

        What it returns goes into `generate` and `score`; keep it from stage to stage.
        """
        return DecodingModel(self.programs.place(params))

    def for_prompts(self, texts: Sequence[str]) -> "Sampler":
        """The same sampler with sizes that suit all of these prompts' own texts.

        Stages that sample different ones of them then run the same compiled programs. Only the
        texts with the most characters and some others are encoded.
        """
        room = self.model.context_length - self.config.max_new_tokens
        by_size = sorted(filter(None, texts), key=len)
        long = by_size[-ENCODED_FOR_SIZES:]
        some = by_size[:: max(1, len(by_size) // ENCODED_FOR_SIZES)]
        lengths, longest = (
            [n for text in part if (n := len(self.vocabulary.encode(text))) <= room]
            for part in (some, long)
        )
        if not lengths:
            return self
        shapes = self._shapes_for(lengths, max(lengths + longest))
        return dataclasses.replace(self, shapes=shapes)

    def at_temperature(self, temperature: float) -> "Sampler":
        """The same sampler, drawing at another temperature; it takes the same prepared models."""
        config = dataclasses.replace(self.config, temperature=temperature)
        return dataclasses.replace(self, config=config)

    def generate(
        self,
        model: DecodingModel,
        prompts: Sequence[Prompt],
        keys: Sequence[np.ndarray],
        *,
        limits: Sequence[int] | None = None,
        on_stats: Callable[[SamplingStats], None] = lambda stats: None,
    ) -> Iterator[tuple[int, Completion | None]]:
        """Each prompt's place and completion as they are finished, whatever the batching.

        The devices work on while the caller deals with what came. A prompt that is too long for
        the context length loses its oldest examples; one that exceeds it even without
        any is dropped: its completion is None.

        Args:
          model: made by `load`.
          prompts: those with the same examples share the slots and pay for them once.
          keys: `prompt_key` of each prompt; unused when greedy.
          limits: the most tokens of each prompt's completion, up to max_new_tokens.
          on_stats: called once, at the end, with what it cost.

        Raises:
          UserError: a prompt is empty, or none fits into the model's context together with its
            completion.
        """
        n_new, context = self.config.max_new_tokens, self.model.context_length
        limits = [n_new] * len(prompts) if limits is None else [min(n, n_new) for n in limits]
        with Meter() as meter:
            encoded = [self.vocabulary.encode(prompt.text) for prompt in prompts]
            groups = fit_prompts(prompts, encoded, self.vocabulary, n_new, context)
            run = _Run(self, model, meter, encoded, keys, limits)
            for group in groups:
                yield from run.group(group)
            sampled = {place for group in groups for place in group.members}
            yield from ((i, None) for i in range(len(prompts)) if i not in sampled)
        on_stats(run.stats())

    def score(
        self,
        model: DecodingModel,
        prompts: Sequence[Prompt],
        continuations: Sequence[Sequence[str]],
        on_progress: Callable[[int], None] = lambda n: None,
    ) -> list[list[float] | None]:
        """Log-probabilities of each prompt's continuations, as `score.score_continuations`.

        Args:
          model: made by `load`.
          prompts: what comes before.
          continuations: texts to score, of each prompt.
          on_progress: called with the number of prompts just finished.

        Returns:
          A list for each prompt; None for one that exceeds the context length.
        """
        return score_continuations(self, model, prompts, continuations, on_progress)

    def prefix(self, model: DecodingModel, ids: tuple[int, ...]) -> Prefix | None:
        """The keys and values of few-shot examples, computed once for these weights."""

        def compute() -> Prefix:
            tokens = np.zeros(up_to(len(ids), PREFIX_COLUMNS), np.int32)
            tokens[: len(ids)] = ids
            return self.programs.prefill_prefix(model.params, tokens, np.int32(len(ids)))

        return model.prefix(ids, compute)

    @functools.cached_property
    def programs(self) -> Programs:
        """The compiled halves of sampling."""
        unrolled = dataclasses.replace(self.model, scan_layers=False, remat="none")
        n_ids = self.vocabulary.vocab_size
        writer = Writer(unrolled, self.config.params, n_ids, stop_ids(self.vocabulary))
        return programs_for(writer, self.mesh, self.rules)

    def shapes_of(self, lengths: Sequence[int]) -> Shapes:
        """The sizes to sample prompts of these lengths with: the given ones where they suffice."""
        if self.shapes is None or max(lengths) > self.shapes.window:
            return self._shapes_for(lengths, max(lengths))
        return self.shapes

    def _shapes_for(self, lengths: Sequence[int], longest: int) -> Shapes:
        config = self.config
        return shapes_for(
            sum(lengths) / len(lengths),
            longest,
            n_shards=partitioning.n_parts(self.mesh, self.rules, "batch"),
            batch_size=config.batch_size,
            max_new_tokens=config.max_new_tokens,
            refill_share=config.refill_share,
            prefill_tokens=config.prefill_tokens,
        )


@dataclasses.dataclass
class _Run:
    """One stage on its way through the slots; counts what it does."""

    sampler: Sampler
    model: DecodingModel
    meter: Meter
    encoded: Sequence[Sequence[int]]
    keys: Sequence[np.ndarray]
    limits: Sequence[int]
    n_done: int = 0
    new_tokens: int = 0
    prompt_tokens: int = 0
    prefix_tokens: int = 0
    times: list[tuple[Any, int]] = dataclasses.field(default_factory=list)  # and slots till then

    def group(self, group: Group) -> Iterator[tuple[int, Completion]]:
        """The completions of prompts with the same examples, as they are finished."""
        pending: deque[list[Finished]] = deque()
        for left in self._dispatched(group):
            pending.append(left)
            if len(pending) > WAVES_AHEAD:
                yield from self._read(pending.popleft())
        for left in pending:
            yield from self._read(left)

    def stats(self) -> SamplingStats:
        """What the stage cost; call it when all completions are read."""
        pairs = [(int(time), n_slots) for time, n_slots in self.times]
        steps = [
            (max(0, time - before), n_slots)
            for (before, _), (time, n_slots) in itertools.pairwise(pairs)
        ]
        return SamplingStats(
            n_questions=self.n_done,
            prefix_tokens=self.prefix_tokens,
            prompt_tokens=self.prompt_tokens,
            new_tokens=self.new_tokens,
            decode_steps=sum(n for n, _ in steps),
            slot_steps=sum(n * n_slots for n, n_slots in steps),
            seconds=self.meter.elapsed(),
            compile_seconds=self.meter.compile_seconds,
            prefill_seconds=self.meter.seconds[PREFILL],
            decode_seconds=self.meter.seconds[DECODE],
        )

    def _dispatched(self, group: Group) -> Iterator[list[Finished]]:
        """Dispatches work to the devices, wave after wave; yields the rows that left their slots.

        Nothing is read here: which prompts come next, and how many free slots they need, does not
        depend on what is sampled.
        """
        sampler, programs, members = self.sampler, self.sampler.programs, group.members
        encoded = [self.encoded[i] for i in members]
        keys, limits = [self.keys[i] for i in members], [self.limits[i] for i in members]
        lengths = [len(ids) for ids in encoded]
        self.prompt_tokens += sum(lengths)
        shapes = sampler.shapes_of(lengths)
        prefix = self._prefix(group.prefix_ids)
        n_slots = shapes.slots_for(len(members))
        slots = programs.empty_slots(n_slots, shapes)
        # On the mesh from the start, as decoding returns it: else it is compiled once more.
        self.times.append((partitioning.same_everywhere(np.zeros((), np.int32), sampler.mesh), 0))
        rows = partitioning.batch_sharding(sampler.mesh, sampler.rules)
        for wave in waves(lengths, shapes, n_slots):
            slots = self._decode(prefix, slots, most_in_a_shard(wave))
            left = []
            for bins in wave:

                def fill(start: int, stop: int, bins: Any = bins) -> Chunk:
                    given = (shapes, encoded, members, keys, limits)
                    return fill_chunk(bins[start:stop], stop - start, *given)

                slots, rows_left = self.meter.run(
                    PREFILL, programs.refill, shapes.window, self.model.params, prefix, slots,
                    partitioning.in_rows(rows, shapes.n_shards, fill),
                )  # fmt: skip
                left.append(rows_left)
            yield left
        for half in shapes.halves(n_slots):
            slots = self._decode(prefix, slots, half)
            slots, rows_left = self.meter.run(DECODE, programs.shrink, slots)
            yield [rows_left]
            n_slots = half
        slots = self._decode(prefix, slots, n_slots)
        yield [programs.written(slots)]

    def _decode(self, prefix: Prefix | None, slots: Slots, n_free: int) -> Slots:
        """Until so many slots are free in each shard."""
        slots, time = self.meter.run(
            DECODE, self.sampler.programs.decode, self.model.params, prefix, slots,
            self.times[-1][0], np.int32(n_free),
        )  # fmt: skip
        self.times.append((time, slots.done.size))
        return slots

    def _prefix(self, ids: tuple[int, ...]) -> Prefix | None:
        known = self.model.knows(ids)
        self.prefix_tokens += 0 if known else len(ids)
        if known or not ids:
            return self.sampler.prefix(self.model, ids)
        return self.meter.run(PREFILL, self.sampler.prefix, self.model, ids)

    def _read(self, left: Sequence[Finished]) -> Iterator[tuple[int, Completion]]:
        for rows in jax.device_get(left):
            for row in np.flatnonzero(rows.prompt != EMPTY):
                ended, count = bool(rows.ended[row]), int(rows.n_tokens[row])
                ids = rows.tokens[row, : count - ended].tolist()
                self.n_done += 1
                self.new_tokens += count
                text = self.sampler.vocabulary.decode(ids)
                yield (
                    int(rows.prompt[row]),
                    Completion(text, tuple(ids), ended, float(rows.log_prob[row])),
                )
