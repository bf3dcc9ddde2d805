"""Slots that are refilled: which prompts come when, what it costs, and that nothing is compiled."""

import dataclasses

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_jax.loop.config import StarConfig
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.rollout.engine import prompt_key
from star_jax.rollout.native.meter import Meter
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.rollout.native.shapes import (
    FEWEST_SLOTS,
    Shapes,
    fill_chunk,
    most_in_a_shard,
    shapes_for,
    waves,
)
from star_jax.run.run_dir import Recorder
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.training.schedules import GeometricSteps
from tests import tiny
from tests.compilations import n_compiled
from tests.test_sampling import MODEL, PROMPTS, WORDS, params, random_prompts, sampler

MANY = random_prompts(60, seed=3)
KEYS = [prompt_key(0, 1, prompt.question_id) for prompt in MANY]
LIMITS = np.random.default_rng(0).integers(1, 17, len(MANY)).tolist()


def run(limits=None, **config):
    """All of MANY with 16 slots; returns token ids and what it cost."""
    base = sampler()
    config = {"batch_size": 16, "max_new_tokens": 16, "prefill_tokens": 32, **config}
    mine = dataclasses.replace(base, config=SamplerConfig(**config))
    stats = []
    said = tiny.sample(mine, mine.load(params()), MANY, KEYS, limits=limits, on_stats=stats.append)
    return [completion.token_ids for completion in said], stats[0]


# What refilling must not change.


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_refilled_slots_give_the_ids_of_one_row_at_a_time(temperature):
    refilled, _ = run(temperature=temperature)
    alone, stats = run(temperature=temperature, batch_size=1)
    assert refilled == alone
    assert stats["slot_steps"] == stats["decode_steps"]
    assert len({len(ids) for ids in refilled}) > 2


def test_batches_without_refill_give_the_same_ids_in_more_steps():
    refilled, few = run(LIMITS)
    batches, many = run(LIMITS, refill_share=1.0)
    assert refilled == batches
    assert few["decode_steps"] < many["decode_steps"]
    assert few["slot_occupancy"] > many["slot_occupancy"]


def test_a_prompts_own_limit_cuts_its_completion():
    ids, stats = run(LIMITS)
    whole, _ = run()
    for mine, long, limit in zip(ids, whole, LIMITS, strict=True):
        assert mine == long[:limit]
    assert any(len(mine) < len(long) for mine, long in zip(ids, whole, strict=True))
    assert stats["new_tokens"] <= sum(LIMITS)


@pytest.mark.parametrize("n_prompts", [1, 9, 20])
def test_few_prompts_in_many_slots_are_written_the_same(n_prompts):
    """Fewer than a chunk has places for, when the failures of a good model are asked again."""
    many = sampler(batch_size=128)
    prompts, keys = MANY[:n_prompts], KEYS[:n_prompts]
    got = tiny.sample(many, many.load(params()), prompts, keys)
    assert [c.token_ids for c in got] == run()[0][:n_prompts]


def test_completions_come_while_others_are_written():
    mine = sampler(batch_size=8)
    model = mine.load(params())
    prompts, stats = MANY, []
    places = []
    for place, completion in mine.generate(model, prompts, KEYS, on_stats=stats.append):
        assert completion is not None
        assert not stats
        places.append(place)
    assert sorted(places) == list(range(len(prompts)))
    assert places != sorted(places)
    assert len(stats) == 1


def test_a_prefix_is_computed_once_for_every_set_of_weights():
    mine = sampler()
    prompts = [dataclasses.replace(prompt, examples=("a b c\n",)) for prompt in PROMPTS]
    keys = KEYS[: len(prompts)]

    def prefix_tokens(model, prompts):
        stats = []
        tiny.sample(mine, model, prompts, keys, on_stats=stats.append)
        return stats[0]["prefix_tokens"]

    model = mine.load(params())
    assert prefix_tokens(model, prompts) == len(WORDS.encode("a b c\n"))
    assert prefix_tokens(model, prompts) == 0
    hinted = [dataclasses.replace(prompt, examples=("a b\n",)) for prompt in prompts]
    assert prefix_tokens(model, hinted) == len(WORDS.encode("a b\n"))
    assert prefix_tokens(model, prompts) == 0
    assert prefix_tokens(mine.load(params()), prompts) > 0


# What it costs.


def test_the_cost_adds_up():
    ids, stats = run()
    written = sum(len(x) for x in ids) + sum(c.ended for c in _completions())
    assert stats["n_questions"] == len(MANY)
    assert stats["prompt_tokens"] == sum(len(WORDS.encode(prompt.text)) for prompt in MANY)
    assert stats["new_tokens"] == written
    steps = stats["new_tokens"] - stats["n_questions"]
    assert stats["slot_steps"] >= steps
    assert 0 < stats["slot_occupancy"] <= 1
    assert stats["slot_occupancy"] == pytest.approx(steps / stats["slot_steps"], abs=1e-4)
    assert 0 < stats["prefill_seconds"] + stats["decode_seconds"] <= stats["seconds"]
    assert 0 <= stats["device_idle_share"] < 1
    assert stats["questions_per_second"] > 0
    assert stats["device_share"] + stats["device_idle_share"] == pytest.approx(1, abs=1e-3)


def test_the_shares_of_the_cost_by_hand():
    summary = Meter(
        n_questions=10, prefix_tokens=7, prompt_tokens=13, new_tokens=30, decode_steps=20,
        slot_steps=40, seconds=10.0, compile_seconds=2.0, prefill_seconds=0.5, decode_seconds=1.5,
    ).summary()  # fmt: skip
    assert summary["slot_occupancy"] == (30 - 10) / 40  # each row's first token is the prefill's
    assert summary["device_idle_share"] == 1 - 2.0 / 8.0
    assert summary["questions_per_second"] == 10 / 8
    assert summary["prefill_tokens_per_second"] == (7 + 13) / 0.5
    assert summary["decode_tokens_per_second"] == 30 / 1.5


def _completions():
    mine = sampler(batch_size=8)
    return tiny.sample(mine, mine.load(params()), MANY, KEYS)


# Which prompts come when.

SHAPES = Shapes(2, 16, 16, 16, chunk_tokens=40, chunk_prompts=4, wave=8)
lengths_of_prompts = st.lists(st.integers(1, 16), min_size=1, max_size=80)


@given(lengths_of_prompts, st.sampled_from([8, 16]))
def test_every_prompt_is_let_in_once_and_finds_a_slot(lengths, n_slots):
    seen = []
    for wave in waves(lengths, SHAPES, n_slots):
        assert most_in_a_shard(wave) <= min(SHAPES.wave, n_slots)
        for chunk in wave:
            assert len(chunk) <= SHAPES.n_shards
            for places in chunk:
                assert 0 < len(places) <= SHAPES.chunk_prompts
                assert sum(lengths[i] for i in places) <= SHAPES.chunk_tokens
                seen.extend(places)
    assert sorted(seen) == list(range(len(lengths)))


def test_a_wave_is_as_large_as_it_may_be():
    # Three prompts fill a chunk's row, and eight may enter a shard at a time.
    assert [len(wave) for wave in waves([13] * 36, SHAPES, 16)] == [2, 2, 2]


def test_a_chunk_is_drawn_as_promised():
    encoded = [[5, 6, 7], [8, 9, 10, 11], [0]]
    keys = [np.array([i, i], np.uint32) for i in range(3)]
    shapes = dataclasses.replace(SHAPES, chunk_tokens=10)
    chunk = fill_chunk([[0, 1, 2]], shapes.n_shards, shapes, encoded, [20, 21, 22], keys, [3, 4, 5])
    assert chunk.tokens.tolist() == [[5, 6, 7, 8, 9, 10, 11, 0, 0, 0], [0] * 10]
    assert chunk.segment_ids.tolist()[0] == [1, 1, 1, 2, 2, 2, 2, 3, 0, 0]
    assert chunk.positions.tolist()[0] == [0, 1, 2, 0, 1, 2, 3, 0, 0, 0]
    assert (chunk.starts.tolist()[0], chunk.lengths.tolist()[0]) == ([0, 3, 7, 0], [3, 4, 1, 0])
    assert chunk.prompt.tolist() == [[20, 21, 22, -1], [-1] * 4]
    assert chunk.limit.tolist()[0] == [3, 4, 5, 0]
    assert chunk.key[0, 2].tolist() == [2, 2]
    later = fill_chunk([[1, 2]], 1, shapes, encoded, [20, 21, 22], keys, [3, 4, 5])
    assert later.prompt.tolist() == [[21, 22, -1, -1]]
    assert later.limit.tolist() == [[4, 5, 0, 0]]
    assert later.key[0, :2].tolist() == [[1, 1], [2, 2]]


@given(
    st.floats(1, 300), st.integers(0, 500), st.sampled_from([1, 2, 8]),
    st.sampled_from([1, 3, 8, 24, 64]), st.floats(0.01, 1.0), st.integers(1, 2000),
)  # fmt: skip
def test_shapes_hold_what_they_are_for(mean, more, n_shards, n_slots, share, prefill):
    longest = int(np.ceil(mean)) + more
    config = SamplerConfig(n_slots * n_shards, 20, share, prefill)
    shapes = shapes_for(mean, longest, n_shards, config)
    assert shapes.window >= longest
    assert shapes.chunk_tokens >= longest
    assert 1 <= shapes.chunk_prompts <= shapes.wave <= shapes.n_slots == n_slots
    halves = shapes.halves(n_slots)
    assert all(a == 2 * b for a, b in zip([n_slots, *halves], halves, strict=False))
    assert not halves or halves[-1] * 2 > FEWEST_SLOTS
    for n_prompts in (1, n_slots * n_shards // 2, 10**6):
        fitting = shapes.slots_for(n_prompts)
        assert fitting in [n_slots, *halves]
        assert fitting >= shapes.chunk_prompts
        assert fitting * n_shards >= min(n_prompts, n_slots * n_shards)


# Compilation.


class SometimesRight(Sampler):
    """Does a sampler's work, and says something of its own in the end."""

    def generate(self, model, prompts, keys, **options):
        for i, completion in super().generate(model, prompts, keys, **options):
            said = tiny.gold(prompts[i]) if i % 3 or prompts[i].hinted else "0"
            yield i, dataclasses.replace(completion, text=said)


def test_nothing_is_compiled_from_the_second_outer_iteration_on(tmp_path, monkeypatch):
    small = tiny.trainer()
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    mine = SometimesRight(
        small.model, arithmetic_vocabulary(), SamplerConfig(16, 8, refill_share=0.5), mesh
    )
    counts = []
    publish = Recorder.publish

    def counted(self, metrics):
        counts.append(n_compiled())
        return publish(self, metrics)

    monkeypatch.setattr(Recorder, "publish", counted)
    tiny.run_star(
        tmp_path, "run", StarConfig(4, 50, few_shot="first"),
        ArithmeticTask(digits=(1, 2, 3), n_train=200, n_validation=12, n_few_shot=1), mine, small,
        GeometricSteps(2),
    )  # fmt: skip
    base, *iterations = counts
    assert iterations[0] > base
    assert iterations == [iterations[0]] * 4


def test_each_size_of_each_program_is_compiled_once():
    mine = dataclasses.replace(sampler(), config=SamplerConfig(32, 8, prefill_tokens=48))
    model = mine.load(params())
    before = n_compiled()
    tiny.sample(mine, model, MANY, KEYS)
    # Decoding with 32, 16 and 8 slots, halving them twice, and one each of the three others.
    assert n_compiled() - before <= 3 + 2 + 3
    tiny.sample(mine, model, MANY[:40], KEYS[:40])
    assert n_compiled() - before <= 3 + 2 + 3


def test_samplers_alike_share_their_programs():
    # Both new: an old one keeps programs that may have left the cache meanwhile.
    assert dataclasses.replace(sampler()).programs is dataclasses.replace(sampler()).programs
    other = dataclasses.replace(MODEL, d_ff=32)
    assert dataclasses.replace(sampler(), model=other).programs is not sampler().programs
