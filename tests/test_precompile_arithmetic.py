"""The estimates of `precompile`, computed by hand with values in which every factor shows.

Sizes are primes or have few common factors, every axis is split, no share is 0 or 1.
"""

import dataclasses
import math

import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh

from star_jax.loop.config import StarConfig
from star_jax.models.config import DecoderConfig
from star_jax.parallel.partitioning import DECODING_RULES, TRAINING_RULES, MeshConfig
from star_jax.parallel.topologies import find_topology
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.rollout.native.shapes import Shapes
from star_jax.tools.precompile.fit import Fit, Verdict, with_latency, work_of
from star_jax.tools.precompile.prediction import (
    Assumptions,
    Prediction,
    Settings,
    released_question,
)
from star_jax.tools.precompile.roofline import (
    DeviceModel,
    Peaks,
    Roofline,
    Split,
    Work,
    roofline,
    split_of,
)
from star_jax.training.schedules import EpochSteps
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import TrainerConfig

MODEL = DecoderConfig(
    vocab_size=247, n_layers=3, d_model=37, n_heads=14, n_kv_heads=7, head_dim=10, d_ff=187,
    rotary_dim=4, context_length=512, block="sequential", mlp="swiglu", norm="rms", head="plain",
    dtype=jnp.bfloat16, remat="full",
)  # fmt: skip
SPLIT = Split(batch=2, length=3, embed=5, heads=2, kv_heads=7, mlp=11, vocab=13, replicas=17)

# A device has 7 heads, 1 head of keys and values, 17 columns of the MLP, 19 of the vocabulary.
QUERY, KEY, WIDENING, HEAD = 37 * 70, 37 * 10, 37 * 17, 37 * 19
BLOCK = 2 * QUERY + 2 * KEY + 3 * WIDENING  # weights; queries, keys, values, output, MLP
EDGES = 2 * (37 + 70) + 2 * (37 + 10) + 3 * (37 + 17)  # inputs and outputs per token
BF16, F32 = 2, 4


def all_reduce(parts, size):
    return 2 * (parts - 1) / parts * size


def products(tokens, weights, edges):
    """(FLOPs, bytes) of matrix products: operands read and results written once."""
    return 2 * tokens * weights, (tokens * edges + weights) * BF16


def attention(rows, queries, keys, copies):
    """(FLOPs, bytes): queries read, outputs written in float32, scores written and read."""
    pairs, queried = rows * 7 * queries * keys, rows * 7 * queries * 10
    stored = 2 * copies * 1 * keys * 10
    return 4 * pairs * 10, (queried + stored) * BF16 + queried * F32 + pairs * (F32 + BF16)


def forward_traffic(tokens):
    """Bytes received: two sums per block, weights, a row's keys and values; embedding and head."""
    sums = 2 * all_reduce(11, tokens * 37 * BF16)
    weights = 4 / 5 * BLOCK * BF16
    keys_and_values = 2 / 3 * (2 * 1 * 10 * tokens * 3 * BF16)
    embedding = all_reduce(13, tokens * 37 * BF16)
    return 3 * (sums + weights + keys_and_values) + embedding + 4 / 5 * HEAD * BF16


# Per block two sums, seven weights and one for keys and values; then the embedding and the head.
FORWARD_MESSAGES = 3 * (2 + 7 + 1) + 2


def is_work(found, flops, hbm_bytes, link_bytes, messages):
    assert found.flops == pytest.approx(flops)
    assert found.hbm_bytes == pytest.approx(hbm_bytes)
    assert found.link_bytes == pytest.approx(link_bytes)
    assert found.messages == messages


def test_a_decode_step_by_hand():
    found = DeviceModel(MODEL, SPLIT).decode_step(46, 29, 41)  # 23 slots on a device
    block = products(23, BLOCK, EDGES)
    own, shared = attention(23, 1, 41 + 1, copies=23), attention(23, 1, 29, copies=1)
    head = products(23, HEAD, 37 + 19)
    flops, n_bytes = (
        3 * (a + b + c) + d for a, b, c, d in zip(block, own, shared, head, strict=True)
    )
    is_work(found, flops, n_bytes, forward_traffic(23), FORWARD_MESSAGES)


def test_a_prefill_by_hand():
    found = DeviceModel(MODEL, SPLIT).prefill(31, 29, 5)
    block = products(31, BLOCK, EDGES)
    own, shared = attention(1, 31, 31, copies=1), attention(1, 31, 29, copies=1)
    head = products(5, HEAD, 37 + 19)
    flops, n_bytes = (
        3 * (a + b + c) + d for a, b, c, d in zip(block, own, shared, head, strict=True)
    )
    is_work(found, flops, n_bytes, forward_traffic(31), FORWARD_MESSAGES)


def test_a_training_step_by_hand():
    found = DeviceModel(MODEL, SPLIT).training_step(batch_size=24, row_length=60, accumulation=3)
    rows, tokens = 4, 80  # of a part on a device: 24 / 2 / 3, and 60 / 3 tokens of each
    block, scores = products(tokens, BLOCK, EDGES), attention(rows, 20, 60, copies=rows)
    again = products(tokens, BLOCK - WIDENING, EDGES - 37 - 17)  # all but the MLP's last product
    head = products(tokens, HEAD, 37 + 19)
    flops, n_bytes = (
        3 * (3 * (a + b) + (c + b)) + 3 * d
        for a, b, c, d in zip(block, scores, again, head, strict=True)
    )
    params = (3 * BLOCK + 2 * HEAD) / 5
    gathered = 2 * params * 5 * BF16
    # Adam reads gradient, weights, moments, writes the last three; each part reads two, writes one.
    adam = params * F32 * (7 + 3 * 3)
    weights = 3 * BLOCK + HEAD
    gradients = 4 / 5 * weights * BF16 + all_reduce(17, weights / 5 * BF16)
    is_work(
        found,
        3 * flops + 20 * params,
        3 * (n_bytes + gathered) + adam,
        3 * (2 * forward_traffic(tokens) + gradients),
        3 * (2 * FORWARD_MESSAGES + 2 * (3 * 7 + 1)),
    )


def test_memory_of_state_and_slots_by_hand():
    assert DeviceModel(MODEL, SPLIT).state_bytes == pytest.approx(
        (3 * BLOCK + 2 * HEAD) / 5 * 3 * F32
    )
    tied = dataclasses.replace(MODEL, head="tied")
    assert DeviceModel(tied, SPLIT).state_bytes == pytest.approx((3 * BLOCK + HEAD) / 5 * 3 * F32)
    assert DeviceModel(MODEL, SPLIT).slot_bytes(41) == 2 * 1 * 10 * 41 * 3 * BF16 / 2


MESH = AbstractMesh((2, 3, 5, 7), ("data", "fsdp", "sequence", "tensor"))


def test_the_split_of_a_mesh_whose_axes_all_differ():
    training, decoding = split_of(MESH, TRAINING_RULES), split_of(MESH, DECODING_RULES)
    assert training == Split(
        batch=6, length=5, embed=3, heads=7, kv_heads=7, mlp=7, vocab=7, replicas=10
    )
    assert decoding == Split(
        batch=6, length=1, embed=1, heads=7, kv_heads=7, mlp=7, vocab=7, replicas=6
    )


ASSUMED = Assumptions(
    n_questions=1009, n_eval=101, prefix_tokens=200, question_tokens=31, longest_question=53,
    new_tokens=43, hinted_share=0.3, kept_share=0.7, busy_slots=0.8, packed_share=0.6,
    efficiency=0.25, message_microseconds=7.0,
)  # fmt: skip
SETTINGS = Settings(
    model=MODEL,
    sampler=SamplerConfig(batch_size=48, max_new_tokens=97),
    trainer=TrainerConfig(batch_size=5, row_length=89, accumulation_steps=3),
    optimizer=OptimizerConfig(),
    schedule=EpochSteps(2.0),
    loop=StarConfig(iterations=2),
    mesh=MeshConfig(),
    assumed=ASSUMED,
)
SHAPES = Shapes(
    n_shards=2, n_slots=24, window=64, max_new_tokens=97, chunk_tokens=112, chunk_prompts=4, wave=3
)


def test_each_programs_work_is_that_of_its_own_sizes():
    shapes, works = SETTINGS.shapes(MESH), work_of(SETTINGS, MESH)
    training, decoding = split_of(MESH, TRAINING_RULES), split_of(MESH, DECODING_RULES)
    assert (shapes.n_shards, shapes.n_slots, shapes.window) == (6, 8, 64)
    assert works == {
        "training step": DeviceModel(MODEL, training).training_step(5, 89, 3),
        "prefix": DeviceModel(MODEL, decoding).prefill(256, 0, 1),  # 200 tokens, padded
        "refill": DeviceModel(MODEL, decoding).prefill(
            shapes.chunk_tokens, 256, shapes.chunk_prompts
        ),
        "decode step": DeviceModel(MODEL, decoding).decode_step(48, 256, 64 + 97),
    }


def test_the_peaks_of_a_device_by_hand():
    # A v3 chip has two devices, and in a square of 2 x 2 a link to each of two neighbours.
    peaks = with_latency(find_topology("v3-8"), ASSUMED).peaks
    assert dataclasses.astuple(peaks) == pytest.approx((61.5e12, 450e9, 82e9, 7e-6))


def test_each_collective_operation_has_its_latency():
    peaks = Peaks(flops=2.0, hbm_bytes=3.0, link_bytes=7.0, message_seconds=0.11)
    times = roofline(Work(flops=13.0, hbm_bytes=17.0, link_bytes=19.0, messages=5), peaks)
    assert dataclasses.astuple(times) == pytest.approx((13 / 2, 17 / 3, 19 / 7 + 5 * 0.11))


PEAKS = Peaks(flops=1e9, hbm_bytes=1e8, link_bytes=1e7, message_seconds=1e-4)


def test_the_released_code_samples_one_question_at_a_time():
    split = Split(heads=7, kv_heads=7, mlp=7, vocab=7)
    prompt = roofline(DeviceModel(MODEL, split).prefill(1536, 0, 1), PEAKS).seconds
    step = roofline(DeviceModel(MODEL, split).decode_step(1, 0, 1536 + 97), PEAKS).seconds
    topology = dataclasses.replace(find_topology("v3-8"), n_devices=7, peaks=PEAKS)
    assert released_question(SETTINGS, topology) == pytest.approx(prompt + 97 * step)


EACH = {
    "training step": 11.0, "decode step": 0.013, "refill": 0.17, "prefix": 1.9,
    "released question": 2.3,
}  # fmt: skip


def sampled(n_chunks, n_steps):
    return pytest.approx(1.9 + n_chunks * 0.17 + n_steps * 0.013)


def test_the_stages_of_an_outer_iteration_by_hand():
    stages = {one.name: one for one in Prediction(SETTINGS, SHAPES, EACH).outer_iteration(1)}
    # 1,009 questions of 43 new tokens in 48 slots, of which 80 % are busy; their 31 tokens each in
    # chunks of 112 positions on each of two shards, 60 % of them filled.
    assert stages["generate"].seconds == sampled(233, 1130)
    assert (math.ceil(1009 * 31 / (112 * 2 * 0.6)), math.ceil(1009 * 43 / (48 * 0.8))) == (
        233,
        1130,
    )
    assert stages["generate"].released_seconds == pytest.approx(1009 * 2.3)
    assert stages["rationalize"].seconds == sampled(70, 340)  # 303 of them failed
    assert stages["rationalize"].released_seconds == pytest.approx(303 * 2.3)
    assert stages["evaluate"].seconds == sampled(24, 114)
    # 707 kept examples of 74 tokens, twice; 5 rows of 89 positions per step, 60 % of them filled.
    steps = math.ceil(2 * 707 / (5 * 89 * 0.6 / 74))
    assert stages["finetune"].seconds == stages["finetune"].released_seconds == steps * 11.0
    assert steps == 392


def test_a_whole_run_is_the_bases_evaluation_and_all_iterations():
    loop = dataclasses.replace(SETTINGS.loop, iterations=3)
    prediction = Prediction(dataclasses.replace(SETTINGS, loop=loop), SHAPES, EACH)
    stages = [stage for n in (0, 1, 2, 3) for stage in prediction.outer_iteration(n)]
    assert [stage.name for stage in stages].count("evaluate") == 4
    ours, released = prediction.whole_run()
    assert ours == pytest.approx(sum(stage.seconds for stage in stages))
    assert released == pytest.approx(sum(stage.released_seconds for stage in stages))


def test_few_rows_still_take_the_steps_of_the_longest_row():
    few = dataclasses.replace(SETTINGS, assumed=dataclasses.replace(ASSUMED, n_eval=17))
    (evaluate,) = Prediction(few, SHAPES, EACH).outer_iteration(0)
    assert math.ceil(17 * 43 / (17 * 0.8)) == 54 < 97  # on average; the longest has 97
    assert evaluate.seconds == sampled(4, 97)
    assert "97 decode steps of 17 slots" in evaluate.how


def test_a_drawn_part_of_the_questions_counts_for_all_of_them():
    drawn = dataclasses.replace(
        SETTINGS, loop=StarConfig(iterations=2, questions_per_iteration=211)
    )
    stages = {one.name: one for one in Prediction(drawn, SHAPES, EACH).outer_iteration(1)}
    assert [
        stages[name].released_seconds / 2.3 for name in ("generate", "rationalize", "evaluate")
    ] == (pytest.approx([211, 64, 101]))
    assert "of 148 kept examples" in stages["finetune"].how


def test_a_device_takes_its_time_by_the_efficiency():
    seconds = {"training step": 2.0, "prefix": 3.0, "refill": 5.0, "decode step": 7.0}
    verdicts = tuple(
        Verdict(name, True, 1.0, 2.0, 0.0, Work(), Roofline(time, 0.0, 0.0))
        for name, time in seconds.items()
    )
    fit = Fit(SETTINGS, find_topology("v3-8"), MESH.shape, SHAPES, verdicts, 1.0, 11.0)
    assert fit.prediction.each == {
        "training step": 8.0, "decode step": 28.0, "refill": 20.0, "prefix": 12.0,
        "released question": 44.0,
    }  # fmt: skip
