"""Prompts in, completions out: the host's half of sampling, around the programs of `decode`."""

import dataclasses
import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import jax
import numpy as np
import seqio
from jax.sharding import Mesh
from typing_extensions import override

from star_jax.errors import check_positive, check_share
from star_jax.models.config import DecoderConfig
from star_jax.models.splash import check_attention
from star_jax.parallel import partitioning
from star_jax.records import Completion, Params, Prompt
from star_jax.rollout.engine import Engine, Stats, before_stop
from star_jax.rollout.fitting import Group, fit_prompts
from star_jax.rollout.native.logits import SamplerConfig
from star_jax.rollout.native.meter import DECODE, PREFILL, Meter
from star_jax.rollout.native.programs import Programs, programs_for
from star_jax.rollout.native.score import score_continuations
from star_jax.rollout.native.shapes import Shapes, fill_chunk, most_in_a_shard, shapes_for, waves
from star_jax.rollout.native.slots import (
    EMPTY,
    Chunk,
    DecodingModel,
    Finished,
    Prefix,
    Slots,
    Writer,
)
from star_jax.rollout.native.stop import automaton, ids_before_stop
from star_jax.tokenizers.vocabularies import check_room, stop_ids

ENCODED_FOR_SIZES = 500  # texts, twice, from which prompt lengths are estimated
WAVES_AHEAD = 2  # that the host dispatches before it reads what an earlier one gave


@dataclasses.dataclass(frozen=True)
class Sampler(Engine):
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
        check_positive(self.config, "max_new_tokens", "prefill_tokens", "refill_share")
        check_share(self.config, "refill_share")

    @override
    def load(self, params: Params) -> DecodingModel:
        return DecodingModel(self.programs.place(params), self.programs.prefix)

    @override
    def for_prompts(self, texts: Sequence[str]) -> Self:
        # Only the texts with the most characters and some others are encoded.
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

    @override
    def at_temperature(self, temperature: float) -> Self:
        config = dataclasses.replace(self.config, temperature=temperature)
        return dataclasses.replace(self, config=config)

    @override
    def generate(
        self,
        model: DecodingModel,
        prompts: Sequence[Prompt],
        keys: Sequence[np.ndarray],
        *,
        limits: Sequence[int] | None = None,
        on_stats: Callable[[Stats], None] = lambda stats: None,
    ) -> Iterator[tuple[int, Completion | None]]:
        # The devices work on while the caller reads a completion. `limits` are the most tokens of
        # each prompt's completion, up to max_new_tokens.
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
            run.count_steps()
        on_stats(meter.summary())

    score = score_continuations

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
        n_shards = partitioning.n_parts(self.mesh, self.rules, "batch")
        return shapes_for(sum(lengths) / len(lengths), longest, n_shards, self.config)


@dataclasses.dataclass
class _Run:
    """One stage on its way through the slots; the meter counts what it does."""

    sampler: Sampler
    model: DecodingModel
    meter: Meter
    encoded: Sequence[Sequence[int]]
    keys: Sequence[np.ndarray]
    limits: Sequence[int]
    times: list[tuple[Any, int]] = dataclasses.field(default_factory=list)  # and slots till then
    stop: tuple[str, ...] = ()  # of the group at hand
    automaton: jax.Array | None = None  # of these texts

    def group(self, group: Group) -> Iterator[tuple[int, Completion]]:
        """The completions of prompts with the same examples, as they are finished."""
        own = self.sampler.config.stop
        self.stop = group.stop if own is None else tuple(own)
        self.automaton = None
        if self.stop:
            moves = automaton(self.sampler.vocabulary, self.stop)
            self.automaton = partitioning.same_everywhere(moves, self.sampler.mesh)
        pending: deque[list[Finished]] = deque()
        for left in self._dispatched(group):
            pending.append(left)
            if len(pending) > WAVES_AHEAD:
                yield from self._read(pending.popleft())
        for left in pending:
            yield from self._read(left)

    def count_steps(self) -> None:
        """Adds the decode steps to what the stage cost; call it when all completions are read."""
        pairs = [(int(time), n_slots) for time, n_slots in self.times]
        for (before, _), (time, n_slots) in itertools.pairwise(pairs):
            steps = max(0, time - before)
            self.meter.decode_steps += steps
            self.meter.slot_steps += steps * n_slots

    def _dispatched(self, group: Group) -> Iterator[list[Finished]]:
        """Dispatches work to the devices, wave after wave; yields the rows that left their slots.

        Nothing is read here: which prompts come next, and how many free slots they need, does not
        depend on what is sampled.
        """
        sampler, programs, members = self.sampler, self.sampler.programs, group.members
        encoded = [self.encoded[i] for i in members]
        keys, limits = [self.keys[i] for i in members], [self.limits[i] for i in members]
        lengths = [len(ids) for ids in encoded]
        self.meter.prompt_tokens += sum(lengths)
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
                    partitioning.in_rows(rows, shapes.n_shards, fill), self.automaton,
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
            self.times[-1][0], np.int32(n_free), self.automaton,
        )  # fmt: skip
        self.times.append((time, slots.done.size))
        return slots

    def _prefix(self, ids: tuple[int, ...]) -> Prefix | None:
        if not ids:
            return None
        n_computed = self.model.prefix.cache_info().misses
        prefix = self.meter.run(PREFILL, self.model.prefix, ids)
        if self.model.prefix.cache_info().misses > n_computed:
            self.meter.prefix_tokens += len(ids)
        return prefix

    def _read(self, left: Sequence[Finished]) -> Iterator[tuple[int, Completion]]:
        for rows in jax.device_get(left):
            for row in np.flatnonzero(rows.prompt != EMPTY):
                ids = rows.tokens[row, : rows.n_tokens[row]].tolist()
                self.meter.n_questions += 1
                self.meter.new_tokens += len(ids)
                ended, log_prob = bool(rows.ended[row]), float(rows.log_prob[row])
                yield int(rows.prompt[row]), self._completion(ids, ended, log_prob)

    def _completion(self, ids: Sequence[int], ended: bool, log_probability: float) -> Completion:
        """Without the EOS or the stop text that ended it."""
        vocabulary = self.sampler.vocabulary
        if ids[-1] in stop_ids(vocabulary):
            ids = ids[:-1]
        text = vocabulary.decode(ids)
        if (before := before_stop(text, self.stop)) is not None:
            text, ended, ids = before, True, ids_before_stop(vocabulary, ids, before)
        return Completion(text, tuple(ids), ended, log_probability)
