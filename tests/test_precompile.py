import dataclasses
import json
import re

import gin
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.cli import gin_errors, gin_sources
from star_jax.cli.configurables import bound_mode
from star_jax.errors import UserError
from star_jax.loop.baselines import TrainingLength
from star_jax.loop.config import StarConfig
from star_jax.main import main
from star_jax.models.attention import KeyValues, Store, causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder, abstract_params, n_params
from star_jax.modes.precompile import PrecompileMode
from star_jax.parallel.partitioning import DECODING_RULES, TRAINING_RULES, MeshConfig, make_mesh
from star_jax.parallel.topologies import TOPOLOGIES, find_topologies, find_topology, larger
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.rollout.native.shapes import shapes_for
from star_jax.tools.precompile import fit as programs
from star_jax.tools.precompile import search as precompile_search
from star_jax.tools.precompile.document import duration, fit_json, fit_text
from star_jax.tools.precompile.fit import is_out_of_memory, precompile, used_of
from star_jax.tools.precompile.prediction import Assumptions, Prediction, Settings
from star_jax.tools.precompile.roofline import (
    DeviceModel,
    Peaks,
    Split,
    Work,
    roofline,
    split_of,
)
from star_jax.training import train_step as steps
from star_jax.training.schedules import GeometricSteps
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import TrainerConfig
from tests import tiny

SMALL = DecoderConfig(
    vocab_size=512, n_layers=2, d_model=256, n_heads=4, head_dim=64, d_ff=1024, rotary_dim=32,
    context_length=512, scan_layers=False, remat="full",
)  # fmt: skip
GROUPED = dataclasses.replace(
    SMALL, n_kv_heads=2, block="sequential", mlp="swiglu", norm="rms", head="plain"
)
TINY = DecoderConfig(
    vocab_size=64, n_layers=2, d_model=32, n_heads=8, head_dim=8, d_ff=64, rotary_dim=8,
    context_length=256,
)  # fmt: skip
OOM = (
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory "
    "required for HLO temporaries (23.24G) exceeds available HBM (15.75G). HLO module: jit_step."
)


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


# Names.


@pytest.mark.parametrize(
    ("cloud", "compiler", "n_chips", "n_devices"),
    [
        ("v3-8", "v3:2x2", 4, 8),
        ("v3-32", "v3:4x4", 16, 32),
        ("v4-8", "v4:2x2x1", 4, 4),
        ("v4-128", "v4:4x4x4", 64, 64),
        ("v5litepod-16", "v5e:4x4", 16, 16),
        ("v5litepod-256", "v5e:16x16", 256, 256),
        ("v5p-8", "v5p:2x2x1", 4, 4),
        ("v6e-8", "v6e:2x4", 8, 8),
    ],
)
def test_a_topology_goes_by_both_names(cloud, compiler, n_chips, n_devices):
    topology = find_topology(cloud)
    assert topology is find_topology(compiler)
    assert (topology.name, topology.cloud_name) == (compiler, cloud)
    assert (topology.n_chips, topology.n_devices) == (n_chips, n_devices)


def test_no_two_topologies_share_a_name():
    names = [name for one in TOPOLOGIES for name in (one.name, one.cloud_name)]
    assert len(set(names)) == len(names)


def test_names_are_taken_as_people_write_them():
    assert find_topology(" V5E-16 ").name == "v5e:4x4"
    assert [one.name for one in find_topologies(["all", "v5p-8"])] == [
        "v3:2x2", "v4:2x2x1", "v5e:2x4", "v5e:4x4", "v5p:2x2x1", "v6e:2x4",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["", "v3", "v3:2x3", "v5e", "h100-8", "v5e-12"])
def test_a_wrong_topology_lists_the_right_ones(name):
    with pytest.raises(UserError) as raised:
        find_topology(name)
    for known in ("v3-8 (v3:2x2)", "v4-8 (v4:2x2x1)", "v5litepod-16 (v5e:4x4)", "v6e-8 (v6e:2x4)"):
        assert known in raised.value.message
    assert "\n" not in raised.value.message


def test_a_larger_slice_is_of_the_same_generation():
    assert [one.cloud_name for one in larger(find_topology("v5litepod-64"))] == [
        "v5litepod-128", "v5litepod-256",
    ]  # fmt: skip


def test_links_are_those_a_chip_has_within_the_slice():
    small, cube = find_topology("v4-8"), find_topology("v4-128")
    assert cube.peaks.link_bytes == 3 * small.peaks.link_bytes  # 6 neighbours, not 2


# The roofline, by hand and by what JAX itself counts.


def products_in(function, *args):
    """FLOPs and bytes of all matrix products in a traced function, those in calls included."""
    flops = n_bytes = 0

    def walk(jaxpr):
        nonlocal flops, n_bytes
        for equation in jaxpr.eqns:
            if equation.primitive.name == "dot_general":
                left, right = (x.aval for x in equation.invars)
                out = equation.outvars[0].aval
                (contracted, _), _ = equation.params["dimension_numbers"]
                flops += 2 * out.size * int(np.prod([left.shape[i] for i in contracted]))
                n_bytes += sum(x.size * x.dtype.itemsize for x in (left, right, out))
            for value in equation.params.values():
                for inner in value if isinstance(value, tuple | list) else (value,):
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        walk(inner)

    walk(jax.make_jaxpr(function)(*args).jaxpr)
    return flops, n_bytes


def batch_of(n_rows, length):
    shape = (n_rows, length)
    numbers = jax.ShapeDtypeStruct(shape, jnp.int32)
    return steps.PackedBatch(numbers, numbers, numbers, jax.ShapeDtypeStruct(shape, jnp.float32))


def step_of(model, accumulation):
    optimizer = steps.make_optimizer(OptimizerConfig())

    def step(state, batch):
        return steps.train_step(model, optimizer, accumulation, state, batch)

    state = jax.eval_shape(lambda p: steps.init_state(optimizer, p), abstract_params(model))
    return step, state


@pytest.mark.parametrize("model", [SMALL, GROUPED], ids=["gpt-j", "llama"])
@pytest.mark.parametrize("remat", ["none", "dots", "full"])
def test_training_flops_are_those_of_the_traced_products(model, remat):
    model = dataclasses.replace(model, remat=remat)
    step, state = step_of(model, 1)
    counted, n_bytes = products_in(step, state, batch_of(2, 128))
    ours = DeviceModel(model, Split()).training_step(2, 128)
    adam = 20 * n_params(model)
    assert ours.flops - adam == pytest.approx(counted, rel=0.001)
    adam_bytes = 7 * 4 * n_params(model)
    assert ours.hbm_bytes - adam_bytes == pytest.approx(n_bytes, rel=0.01)
    assert (ours.link_bytes, ours.messages) == (0, 0)


def test_training_flops_are_those_of_the_compilers_count_where_nothing_is_scanned():
    step, state = step_of(SMALL, 1)
    counted = jax.jit(step).lower(state, batch_of(4, 128)).cost_analysis()
    assert DeviceModel(SMALL, Split()).training_step(4, 128).flops == pytest.approx(
        counted["flops"], rel=0.05
    )


def test_a_scan_does_not_change_our_count_though_it_does_the_compilers():
    scanned = dataclasses.replace(SMALL, scan_layers=True, n_layers=8)
    unrolled = dataclasses.replace(scanned, scan_layers=False)
    ours = [DeviceModel(model, Split()).training_step(2, 64) for model in (scanned, unrolled)]
    assert ours[0] == ours[1]


@pytest.mark.parametrize("model", [SMALL, GROUPED], ids=["gpt-j", "llama"])
def test_a_decoding_step_is_counted_as_it_is_traced(model):
    model = dataclasses.replace(model, remat="none")
    rows, prefix, columns = 6, 64, 48
    kv = jax.ShapeDtypeStruct((rows, model.kv_heads, columns, model.head_dim), jnp.float32)
    shared = jax.ShapeDtypeStruct((model.kv_heads, prefix, model.head_dim), jnp.float32)

    def one_token(params, kv, shared, tokens):
        seen = jnp.ones((rows, 1, columns), bool)
        stores = (
            Store(KeyValues(shared, shared), jnp.ones((1, 1, prefix), bool)),
            Store(KeyValues(kv, kv), seen),
        )
        return Decoder(model).apply(
            {"params": params}, tokens, tokens, jnp.ones((rows, 1, 1), bool),
            context=(stores,) * model.n_layers,
        )[0]  # fmt: skip

    tokens = jax.ShapeDtypeStruct((rows, 1), jnp.int32)
    counted, n_bytes = products_in(one_token, abstract_params(model), kv, shared, tokens)
    ours = DeviceModel(model, Split()).decode_step(rows, prefix, columns)
    assert ours.flops == counted
    assert ours.hbm_bytes == pytest.approx(n_bytes, rel=0.02)


def test_a_prefill_is_counted_as_it_is_traced():
    model, length = dataclasses.replace(SMALL, remat="none"), 96

    def run(params, tokens):
        ids = jnp.ones(tokens.shape, jnp.int32)
        read = jnp.zeros((1, 3), jnp.int32)
        return Decoder(model).apply(
            {"params": params}, tokens, tokens, causal_mask(ids), read_at_BR=read
        )[0]

    tokens = jax.ShapeDtypeStruct((1, length), jnp.int32)
    counted, _ = products_in(run, abstract_params(model), tokens)
    assert DeviceModel(model, Split()).prefill(length, 0, n_read=3).flops == counted


def test_gptj_by_hand():
    gptj = DecoderConfig(dtype=jnp.bfloat16, remat="full")
    assert n_params(gptj) == 6_050_882_784
    # A block: 4 x 4096 x 4096 + 2 x 4096 x 16384 weights; 28 of them; a head of 4096 x 50400.
    weights = 28 * (4 * 4096**2 + 2 * 4096 * 16384)
    head = 4096 * 50400
    step = DeviceModel(gptj, Split(heads=8, kv_heads=8, mlp=8, vocab=8)).decode_step(256, 0, 224)
    attention = 28 * 4 * 256 * 16 * 225 * 256
    assert step.flops == pytest.approx((2 * 256 * (weights + head) + attention) / 8)
    cache = 28 * 2 * 256 * 16 * 224 * 256 * 2 / 8
    assert DeviceModel(gptj, Split(heads=8, kv_heads=8)).slot_bytes(224) * 256 == cache
    assert step.hbm_bytes > (weights + head) * 2 / 8 + cache
    # A sum over 8 devices sends 2 x 7/8 of the array: once a block, and for the embedding.
    assert step.link_bytes == pytest.approx(29 * 2 * 7 / 8 * 256 * 4096 * 2)
    assert step.messages == 29
    assert DeviceModel(gptj, Split(embed=8)).state_bytes == (weights + 2 * head) * 12 / 8


def test_splitting_shares_the_work_and_sends_what_it_must():
    one = DeviceModel(SMALL, Split()).training_step(8, 128)
    fsdp = DeviceModel(SMALL, Split(batch=8, embed=8)).training_step(8, 128)
    tensor = DeviceModel(SMALL, Split(heads=4, kv_heads=4, mlp=4, vocab=4)).training_step(8, 128)
    assert fsdp.flops == pytest.approx(one.flops / 8)
    assert tensor.flops == pytest.approx(one.flops / 4, rel=0.02)
    weights = 2 * (4 * 256**2 + 2 * 256 * 1024) + 256 * 512
    # Gathered twice and summed once, 7/8 of each array comes from elsewhere.
    assert fsdp.link_bytes == pytest.approx(3 * 7 / 8 * weights * 4)
    rows = 8 * 128 * 256 * 4
    assert tensor.link_bytes == pytest.approx(2 * (2 + 1) * 2 * 3 / 4 * rows)
    data = DeviceModel(SMALL, Split(batch=8, replicas=8)).training_step(8, 128)
    assert data.link_bytes == pytest.approx(2 * 7 / 8 * weights * 4)


def test_accumulation_gathers_the_weights_anew_and_computes_the_same():
    split = Split(batch=2, embed=2)
    whole, parts = (DeviceModel(SMALL, split).training_step(8, 128, n) for n in (1, 4))
    assert parts.flops == pytest.approx(whole.flops)
    assert parts.link_bytes == pytest.approx(4 * whole.link_bytes)
    assert parts.hbm_bytes > whole.hbm_bytes


def test_splash_attention_skips_the_masked_half_and_keeps_scores_on_the_chip():
    splash = dataclasses.replace(SMALL, attention="splash")
    plain, ours = (DeviceModel(model, Split()).training_step(2, 512) for model in (SMALL, splash))
    pairs = 2 * 2 * 4 * 512 * 512
    assert plain.flops - ours.flops == 4 * (4 * pairs * 64) / 2
    assert plain.hbm_bytes - ours.hbm_bytes == 4 * pairs * 8


def test_the_split_is_read_off_mesh_and_rules():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    training, decoding = (split_of(mesh, rules) for rules in (TRAINING_RULES, DECODING_RULES))
    assert (training.batch, training.embed, training.heads, training.replicas) == (4, 2, 2, 2)
    assert (decoding.batch, decoding.embed, decoding.vocab) == (4, 1, 2)
    ours = split_of(mesh, precompile_search.SPLIT_DECODING)
    assert (ours.batch, ours.heads, ours.kv_heads, ours.mlp, ours.vocab) == (2, 4, 4, 4, 4)


def test_the_slowest_of_three_decides():
    peaks = Peaks(flops=10, hbm_bytes=5, link_bytes=2, message_seconds=0.25)
    times = roofline(Work(flops=20, hbm_bytes=5, link_bytes=1, messages=4), peaks)
    assert (times.compute, times.memory, times.communication) == (2, 1, 1.5)
    assert (times.seconds, times.bound) == (2, "compute")
    assert roofline(Work(hbm_bytes=5), peaks).bound == "memory"


# Prediction.


EACH = {
    "training step": 1.0, "decode step": 0.01, "refill": 0.1, "prefix": 2.0,
    "released question": 3.0,
}  # fmt: skip


def prediction_of(assumed=None, **changes):
    """Of STaR in two iterations; `changes` are of the loop, or of the settings."""
    assumed = assumed or Assumptions(
        n_questions=1000, n_eval=100, question_tokens=64, longest_question=64, new_tokens=50,
        hinted_share=0.4, kept_share=0.8, busy_slots=1.0, packed_share=1.0,
    )  # fmt: skip
    shapes = shapes_for(64, 64, 1, SamplerConfig(100, 96, 0.1, 640))
    fields = {field.name for field in dataclasses.fields(Settings)}
    loop = {name: value for name, value in changes.items() if name not in fields}
    settings = Settings(
        TINY, SamplerConfig(batch_size=100, max_new_tokens=96), TrainerConfig(), OptimizerConfig(),
        GeometricSteps(), StarConfig(iterations=2, **loop), MeshConfig(), assumed,
    )  # fmt: skip
    own = {name: value for name, value in changes.items() if name in fields}
    return Prediction(dataclasses.replace(settings, **own), shapes, EACH)


def test_an_outer_iteration_by_hand():
    prediction = prediction_of()
    stages = {stage.name: stage for stage in prediction.outer_iteration()}
    assert list(stages) == ["generate", "rationalize", "finetune", "evaluate"]
    per_chunk = prediction.shapes.chunk_tokens // 64
    # 1,000 questions of 50 tokens in 100 slots: 500 steps.
    assert stages["generate"].seconds == pytest.approx(2 + 0.1 * -(-1000 // per_chunk) + 5.0)
    assert stages["rationalize"].seconds == pytest.approx(2 + 0.1 * -(-400 // per_chunk) + 2.0)
    assert stages["finetune"].seconds == 40
    assert stages["generate"].released_seconds == 3000
    assert stages["finetune"].released_seconds == 40


def test_a_run_is_its_iterations_and_the_bases_evaluation():
    base, first, second = (prediction_of().outer_iteration(n) for n in (0, 1, 2))
    assert [stage.seconds for stage in second if stage.name == "finetune"] == [48]
    ours, theirs = prediction_of().whole_run()
    stages = [*base, *first, *second]
    assert ours == pytest.approx(sum(stage.seconds for stage in stages))
    assert theirs == pytest.approx(sum(stage.released_seconds for stage in stages))


def test_without_rationalization_failures_are_not_sampled_again():
    names = [stage.name for stage in prediction_of(rationalize=False).outer_iteration()]
    assert names == ["generate", "finetune", "evaluate"]


def test_failures_may_be_resampled_instead_of_rationalized():
    resampling = prediction_of(rationalize=False, resample_temperature=0.7)
    stages = {stage.name: stage.seconds for stage in resampling.outer_iteration()}
    assert list(stages) == ["generate", "resample", "finetune", "evaluate"]
    rationalizing = {stage.name: stage.seconds for stage in prediction_of().outer_iteration()}
    assert stages["resample"] == rationalizing["rationalize"]


def test_a_baseline_that_trains_does_so_once_between_two_evaluations():
    prediction = prediction_of(loop=None, schedule=TrainingLength(steps=70))
    (evaluate,) = prediction.outer_iteration(0)
    finetune, again = prediction.outer_iteration()
    assert (finetune.name, finetune.seconds, again) == ("finetune", 70.0, evaluate)
    assert prediction.whole_run()[0] == pytest.approx(70 + 2 * evaluate.seconds)
    assert prediction.settings.prefix_tokens == 0


def test_the_few_shot_baseline_is_one_evaluation():
    prediction = prediction_of(loop=None, schedule=None, trainer=None)
    (evaluate,) = prediction.outer_iteration(0)
    assert prediction.whole_run()[0] == pytest.approx(evaluate.seconds)
    assert prediction.settings.prefix_tokens == 1280


@pytest.mark.parametrize(
    "wrong",
    [{"efficiency": 0.0}, {"efficiency": 1.5}, {"hinted_share": -0.1}, {"n_questions": 0},
     {"new_tokens": -1.0}],
)  # fmt: skip
def test_assumptions_that_no_run_can_have_are_refused(wrong):
    (name,) = wrong
    with pytest.raises(UserError, match=f"Assumptions.{name}"):
        Assumptions(**wrong)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(2e-6, "2.0 us"), (0.0123, "12.3 ms"), (75, "75.0 s"), (1000, "16.7 min"), (1e4, "2.8 h"),
     (1e7, "115.7 days")],
)  # fmt: skip
def test_durations_are_readable(seconds, text):
    assert duration(seconds) == text


# What the compiler reports. CPU devices replace the TPU's.


def settings_of(**changes):
    made = dict(
        model=TINY,
        sampler=SamplerConfig(batch_size=16, max_new_tokens=16),
        trainer=TrainerConfig(batch_size=8, row_length=32),
        optimizer=OptimizerConfig(),
        schedule=GeometricSteps(),
        loop=StarConfig(iterations=2),
        mesh=MeshConfig(
            data=1, fsdp=8, decoding_rules=precompile_search.SPLIT_DECODING
        ),
        assumed=Assumptions(prefix_tokens=30, question_tokens=10, longest_question=16),
    )  # fmt: skip
    return Settings(**{**made, **changes})


def here(topology):
    return jax.devices()[: topology.n_devices]


def fails(message):
    def lower():
        raise jax.errors.JaxRuntimeError(message)

    return lower


@pytest.fixture
def cpu_for_tpu(monkeypatch):
    monkeypatch.setattr(programs, "tpu_devices", here)


@pytest.fixture
def too_large(monkeypatch):
    """The training step does not fit."""
    monkeypatch.setattr(programs, "training_lowering", lambda settings, mesh: fails(OOM))


def test_out_of_memory_is_read_off_the_compilers_message():
    assert is_out_of_memory(OOM)
    assert used_of(OOM) == (23.24 * 2**30, 15.75 * 2**30)
    later = "Ran out of memory in memory space hbm. Used 512.5M of 1.00G hbm. Exceeded by"
    assert is_out_of_memory(later)
    assert used_of(later) == (512.5 * 2**20, 2**30)
    assert is_out_of_memory("RESOURCE_EXHAUSTED: CompileTimeHbmOom")
    assert used_of("RESOURCE_EXHAUSTED: CompileTimeHbmOom") is None
    assert not is_out_of_memory("INTERNAL: something else")


def test_every_program_of_a_run_is_compiled_and_reported():
    settings = settings_of()
    fit = precompile(settings, find_topology("v3-8"), here)
    assert [v.program for v in fit.verdicts] == [
        "training step", "prefix", "refill", "decode step",
    ]  # fmt: skip
    assert fit.fits
    assert all(v.needed > 0 and v.work.flops > 0 and v.roofline.seconds > 0 for v in fit.verdicts)
    text = fit_text(fit)
    for words in ("v3-8 (v3:2x2)", "8 devices of 15.48 GiB", "fsdp=8", "training step", "yes",
                  "evaluation", "61.5 TFLOP/s", "outer iteration 1", "the released code",
                  "the whole run", "assumed:", "50% of its peaks", "9,741 questions"):  # fmt: skip
        assert words in text, words


def test_without_few_shot_examples_there_is_no_prefix():
    loop = StarConfig(few_shot="never")
    fit = precompile(settings_of(loop=loop), find_topology("v3-8"), here)
    assert [v.program for v in fit.verdicts] == ["training step", "refill", "decode step"]
    assert "prefix" not in fit.prediction.each


def test_a_baselines_programs_are_those_that_it_runs():
    finetune = settings_of(loop=None, schedule=TrainingLength(epochs=1.0))
    fit = precompile(finetune, find_topology("v3-8"), here)
    assert [v.program for v in fit.verdicts] == ["training step", "refill", "decode step"]
    text = fit_text(fit)
    assert "1 training and the base's evaluation" in text and "examples to train on" in text
    assert "outer iteration" not in text
    few_shot = settings_of(loop=None, schedule=None, trainer=None, optimizer=None)
    fit = precompile(few_shot, find_topology("v3-8"), here)
    assert [v.program for v in fit.verdicts] == ["prefix", "refill", "decode step"]
    assert [stage["name"] for stage in fit_json(fit)["outer_iteration"]] == ["evaluate"]
    text = fit_text(fit)
    assert "0 trainings and the base's evaluation" in text and "to train on" not in text
    with pytest.raises(UserError, match="--search looks for a mesh to train on"):
        precompile_search.search(few_shot, find_topology("v3-8"), here)


def test_what_does_not_fit_says_by_how_much_and_what_would_help(too_large):
    settings = settings_of()
    fit = precompile(settings, find_topology("v5litepod-8"), here)
    assert not fit.fits
    refused, *rest = fit.verdicts
    assert [v.fits for v in rest] == [None] * 3  # not compiled: the answer is known
    assert all(v.roofline.seconds > 0 for v in rest)
    assert refused.missing == pytest.approx(7.49 * 2**30)
    text = fit_text(fit)
    assert "needs 23.24 GiB of 15.75 GiB, 7.49 GiB too much" in text
    assert "--topology=v5litepod-16 (v5e:4x4)" in text
    assert "--search" in text
    state = dataclasses.replace(fit, state_bytes=16 * 2**30)
    assert "state alone take 16.00 GiB" in fit_text(state)


def test_any_other_failure_of_the_compiler_is_no_verdict(monkeypatch):
    monkeypatch.setattr(
        programs, "training_lowering", lambda settings, mesh: fails("INTERNAL: bug")
    )
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        precompile(settings_of(), find_topology("v3-8"), here)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"mesh": MeshConfig(data=3)}, ["data=3", "8 devices"]),
        ({"trainer": TrainerConfig(batch_size=12, row_length=32)}, ["TrainerConfig.batch_size 12"]),
        ({"sampler": SamplerConfig(batch_size=3), "mesh": MeshConfig(data=2, tensor=4)},
         ["SamplerConfig.batch_size 3"]),
        ({"model": dataclasses.replace(TINY, n_heads=4)}, ["heads", "(32, 4, 8)"]),
    ],
)  # fmt: skip
def test_what_the_run_would_refuse_is_refused_before_anything_is_compiled(changes, words):
    with pytest.raises(UserError) as raised:
        precompile(settings_of(**changes), find_topology("v3-8"), here)
    for word in words:
        assert word in raised.value.message


def test_a_mesh_that_does_not_fit_one_of_many_topologies_is_reported(tmp_path, cpu_for_tpu):
    file = tmp_path / "fits.json"
    assert PrecompileMode(["v3-8", "v5p-8"], str(file)).print_fits(settings_of()) == 1
    fine, refused = json.loads(file.read_text())
    assert fine["fits"] and fine["mesh"] == {"data": 1, "fsdp": 8, "sequence": 1, "tensor": 1}
    assert fine["programs"][0]["program"] == "training step"
    assert fine["assumed"]["n_questions"] == 9741
    assert not refused["fits"] and "fsdp=8" in refused["problem"]
    with pytest.raises(UserError, match="fsdp=8"):
        PrecompileMode(["v5p-8"]).print_fits(settings_of())


# The search.


def test_the_search_takes_the_quickest_mesh_that_fits(monkeypatch):
    honest = programs.training_lowering

    def only_by_tensor(settings, mesh):
        honest(settings, mesh)
        fits = settings.mesh.tensor > 1
        return honest(settings, mesh) if fits else fails(OOM)

    monkeypatch.setattr(programs, "training_lowering", only_by_tensor)
    settings = settings_of(mesh=MeshConfig())
    found = precompile_search.search(settings, find_topology("v3-8"), here)
    assert found.settings.mesh.tensor > 1
    mesh = found.settings.mesh
    assert mesh.data * mesh.fsdp * mesh.tensor == 8
    assert found.training.fits and found.decoding.fits
    text = precompile_search.found_text(found)
    assert f"MeshConfig.fsdp = {mesh.fsdp}\n" in text
    assert f"SamplerConfig.batch_size = {found.settings.sampler.batch_size} " in text


def test_the_search_says_when_nothing_fits(monkeypatch, capsys, cpu_for_tpu):
    monkeypatch.setattr(programs, "training_lowering", lambda s, mesh: fails(OOM))
    assert PrecompileMode(["v3-8"], search=True).print_fits(settings_of()) == 1
    out = capsys.readouterr().out
    assert out.count("23.24 GiB of 15.75, does not fit") == precompile_search.MOST_COMPILED
    assert "take more chips" in out


def test_the_search_finds_the_most_slots(monkeypatch):
    """A slot takes 1 GiB, all else 4: 11 of 15.48 GiB are left, and slots come by eight."""
    monkeypatch.setattr(DeviceModel, "slot_bytes", lambda *args: 2**30)

    def says(settings, mesh):
        def verdict_of(name, lower, topology, work):
            needed = (4 + settings.sampler.batch_size) * 2**30
            fits = needed <= 15.48 * 2**30
            times = roofline(work, topology.peaks)
            return programs.Verdict(name, fits, needed, 15.48 * 2**30, 0.0, work, times)

        monkeypatch.setattr(precompile_search, "verdict", verdict_of)
        return dict.fromkeys(("refill", "decode step"))

    monkeypatch.setattr(programs, "sampling", says)
    mesh = make_mesh(MeshConfig(data=1, tensor=8))
    tried = []
    settings = settings_of(mesh=MeshConfig(data=1, tensor=8))
    best, verdict = precompile_search._most_slots(settings, mesh, find_topology("v3-8"), tried)
    assert best.sampler.batch_size == 8
    assert verdict.fits
    assert [line.split()[1] for line in tried] == ["8"]


# The command line and the shipped configurations.


PAPER = "paper/table1_star_with_rationalization.gin"


def bound(*files, **flags):
    sources = gin_sources.read_sources(
        files, list(flags.items()), (), ("MODEL_DIR", "MODEL_CHECKPOINT")
    )
    gin_errors.load(sources)


def settings_bound(monkeypatch):
    found = []
    monkeypatch.setattr(PrecompileMode, "print_fits", lambda mode, run: found.append(run))
    bound_mode("precompile", PrecompileMode)()
    return found[0]


def test_the_papers_run_is_bound_without_weights_data_or_vocabulary(monkeypatch):
    bound(PAPER)
    settings = settings_bound(monkeypatch)
    assert n_params(settings.model) == 6_050_882_784
    assert settings.model.dtype == jnp.bfloat16 and settings.model.remat == "full"
    trainer, sampler = settings.trainer, settings.sampler
    assert (trainer.batch_size, trainer.row_length) == (8, 1536)
    assert (sampler.temperature, sampler.max_new_tokens) == (0, 96)
    optimizer, schedule = settings.optimizer, settings.schedule
    assert (optimizer.learning_rate, optimizer.warmup_steps) == (1e-6, 100)
    assert [schedule(n, 0, 0.0) for n in (1, 2, 3)] == [40, 48, 57]
    assert (settings.loop.rationalize, settings.loop.few_shot) == (True, "always")
    assert (settings.assumed.n_questions, settings.assumed.n_eval) == (9741, 1221)


def test_a_baselines_settings_are_those_of_its_own_run(monkeypatch):
    bound("paper/table1_few_shot_cot.gin")
    few_shot = settings_bound(monkeypatch)
    assert (few_shot.trainer, few_shot.schedule, few_shot.loop) == (None, None, None)
    assert few_shot.prefix_tokens == 1280
    bound("paper/table1_direct_finetuned.gin")
    finetune = settings_bound(monkeypatch)
    assert (finetune.loop, finetune.prefix_tokens) == (None, 0)
    assert (finetune.assumed.n_questions, finetune.assumed.kept_share) == (9741, 1.0)
    bound("paper/table1_direct_finetuned.gin", N_EXAMPLES="100")
    assert settings_bound(monkeypatch).assumed.n_questions == 100


def test_a_run_mode_that_has_no_programs_is_refused():
    bound(PAPER, **{"precompile.run": "'pretrain'"})
    message = r"'pretrain' is none of \('star', 'few_shot', 'finetune'\)"
    with pytest.raises(UserError, match=message):
        bound_mode("precompile", PrecompileMode)()


MESHES = {
    "v3_8": 8, "v4_8": 4, "v5e_8": 8, "v5e_16": 16, "v5p_8": 4, "v6e_8": 8, "v5e_256": 256,
    "v4_128": 64,
}  # fmt: skip


@pytest.mark.parametrize(("name", "n_devices"), MESHES.items())
def test_each_mesh_fills_the_machine_that_its_comment_names(monkeypatch, name, n_devices):
    bound("models/gptj_6b.gin", "tasks/commonsense_qa.gin", "runs/star.gin", f"meshes/{name}.gin")
    mesh = settings_bound(monkeypatch).mesh
    assert mesh.data * mesh.fsdp * mesh.tensor * mesh.sequence == n_devices
    path = gin_sources.search_paths()[-1] / f"meshes/{name}.gin"
    cloud, compiler = re.match(r"# Cloud TPU (\S+) \((\S+)\)", path.read_text()).groups()
    topology = find_topology(cloud)
    assert topology.name == compiler
    assert topology.n_devices == n_devices


def command_line(tmp_path, *flags):
    file = tmp_path / "run.gin"
    file.write_text(tiny.STAR_GIN)
    return ["--run_mode=precompile", f"--gin_file={file}", *flags]


def test_the_run_mode_prints_and_writes_what_fits(tmp_path, capsys, cpu_for_tpu):
    file = tmp_path / "fits.json"
    argv = command_line(tmp_path, "--topology=v3-8", "--topology", "v5e:2x4", f"--json={file}")
    assert main([*argv, "--gin.MeshConfig.fsdp=1"]) == 0
    out = capsys.readouterr().out
    assert "v3-8 (v3:2x2)" in out and "v5litepod-8 (v5e:2x4)" in out
    assert [one["topology"] for one in json.loads(file.read_text())] == ["v3:2x2", "v5e:2x4"]


def test_what_does_not_fit_is_exit_code_1_after_the_table(tmp_path, capsys, cpu_for_tpu, too_large):
    assert main(command_line(tmp_path, "--topology=v5e-8")) == 1
    out = capsys.readouterr().out
    assert "NO, by 7.49" in out and "What would help" in out


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--topology=v3-9"], ["v3-9", "v3-8 (v3:2x2)"]),
        ([], ["--topology"]),
        (["--topology=v3-8", "--search=yes"], ["--search: ignored explicit argument 'yes'"]),
        (["--topology=v3-8", "--json=run.gin/fits.json"], ["run.gin"]),
        (["--topology=v3-8", "--gin.Assumptions.efficiency=2.0"], ["Assumptions.efficiency"]),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tmp_path, monkeypatch, capsys, cpu_for_tpu, flags, words
):
    monkeypatch.chdir(tmp_path)
    assert main(command_line(tmp_path, *flags)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    for word in words:
        assert word in line


def test_its_flags_belong_to_precompile(capsys):
    assert main(["--run_mode=star", "--topology=v3-8"]) == 2
    assert "--topology belongs to --run_mode=precompile" in capsys.readouterr().err


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(programs.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[precompile\]'"):
        programs.tpu_devices(find_topology("v3-8"))
