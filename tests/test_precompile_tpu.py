"""What fits real TPUs, from their compiler; needs libtpu, the extra `precompile`."""

import time

import gin
import jax
import pytest

from star_jax.cli import gin_errors, gin_sources
from star_jax.cli.configurables import bound_mode
from star_jax.main import main
from star_jax.modes.precompile import PrecompileMode
from star_jax.parallel.partitioning import make_mesh
from star_jax.parallel.topologies import GENERATIONS, TOPOLOGIES, find_topology
from star_jax.tools.precompile.document import fit_text
from star_jax.tools.precompile.fit import (
    DECODE,
    GIB,
    PREFIX,
    REFILL,
    TRAINING,
    precompile,
    sampling,
    tpu_devices,
    training_lowering,
    verdict,
    with_latency,
    work_of,
)
from star_jax.tools.precompile.roofline import Work
from tests.test_gin_files import FULL

pytestmark = pytest.mark.slow
LIMIT_SECONDS = 180  # for one program of GPT-J, on two idle cores
PAPER = "paper/table1_star_with_rationalization.gin"


@pytest.fixture(autouse=True)
def a_compiler_and_no_configuration_left():
    pytest.importorskip("libtpu", reason="libtpu, the compiler for TPUs, is not installed")
    yield
    gin.clear_config()


def settings_of(monkeypatch, *files, **flags):
    sources = gin_sources.read_sources(
        files, [(name.replace("__", "."), value) for name, value in flags.items()], (),
        ("MODEL_DIR", "MODEL_CHECKPOINT"),
    )  # fmt: skip
    gin_errors.load(sources)
    found = []
    monkeypatch.setattr(PrecompileMode, "print_fits", lambda mode, run: found.append(run))
    bound_mode("precompile", PrecompileMode)()
    return found[0]


def verdicts_of(settings, name, *programs):
    """The verdicts on some of a run's programs."""
    topology = with_latency(find_topology(name), settings.assumed)
    mesh = make_mesh(settings.mesh, list(tpu_devices(topology)))
    lowerings = sampling(settings, mesh)
    if settings.trainer:
        lowerings[TRAINING] = training_lowering(settings, mesh)
    works = work_of(settings, mesh)
    found = [verdict(one, lowerings[one], topology, works[one]) for one in programs]
    for one in found:
        needed = "?" if one.needed is None else f"{one.needed / GIB:.2f}"
        print(f"\n{name} {one.program}: {needed} GiB, {one.compile_seconds:.0f} s")
    return found


BASE = ("tasks/commonsense_qa.gin", "runs/star.gin")


@pytest.mark.parametrize(
    ("name", "mesh", "most"),
    [
        ("v3:2x2", "v3_8", 12.1),
        ("v4:2x2x1", "v4_8", 30.75),
        ("v5e:2x4", "v5e_8", 11.9),
        ("v5e:4x4", "v5e_16", 6.5),
        ("v5p:2x2x1", "v5p_8", 95.0),
        ("v6e:2x4", "v6e_8", 31.25),
    ],
)
def test_gptj_trains_on(monkeypatch, name, mesh, most):
    settings = settings_of(monkeypatch, "models/gptj_6b.gin", *BASE, f"meshes/{mesh}.gin")
    (found,) = verdicts_of(settings, name, TRAINING)
    assert found.fits
    assert found.needed <= most * GIB
    assert found.compile_seconds <= LIMIT_SECONDS


@pytest.mark.parametrize(
    ("name", "mesh", "most"), [("v5e:16x16", "v5e_256", 0.9), ("v4:4x4x4", "v4_128", 30.75)]
)
def test_gptj_trains_on_a_pod(monkeypatch, name, mesh, most):
    settings = settings_of(
        monkeypatch, "models/gptj_6b.gin", *BASE, f"meshes/{mesh}.gin",
        TrainerConfig__batch_size="64",
    )  # fmt: skip
    (found,) = verdicts_of(settings, name, TRAINING)
    assert found.fits
    assert found.needed <= most * GIB


def test_gptj_does_not_fit_four_v5e_and_the_report_says_so(capsys):
    start = time.monotonic()
    code = main(
        ["--run_mode=precompile", "--topology=v5e:2x2", f"--gin_file={PAPER}",
         "--gin.MeshConfig.fsdp=4"]
    )  # fmt: skip
    out = capsys.readouterr().out
    print(out)
    assert code == 1
    assert time.monotonic() - start < 120
    assert "training step does not fit v5litepod-4" in out
    assert "more chips: --topology=v5litepod-8" in out


@pytest.mark.parametrize("model", ["llama3_8b", "qwen25_7b"])
@pytest.mark.parametrize(("name", "mesh"), [("v5e:4x4", "v5e_16"), ("v5p:2x2x1", "v5p_8")])
def test_other_families_train_and_sample_on(monkeypatch, model, name, mesh):
    settings = settings_of(monkeypatch, f"models/{model}.gin", *BASE, f"meshes/{mesh}.gin")
    assert all(one.fits for one in verdicts_of(settings, name, TRAINING, PREFIX, REFILL, DECODE))


def test_the_papers_run_fits_the_papers_machine(monkeypatch):
    settings = settings_of(monkeypatch, PAPER)
    fit = precompile(settings, find_topology("v3-8"))
    text = fit_text(fit)
    print(f"\n{text}")
    assert fit.fits
    assert max(one.compile_seconds for one in fit.verdicts) <= LIMIT_SECONDS
    assert "the released code" in text and "the whole run" in text


FITS = {}  # a program, in words -> whether it fits a v3-8


@pytest.mark.parametrize("name", FULL)
def test_every_row_of_the_paper_fits_the_papers_machine(monkeypatch, name):
    """Each program is compiled once, whatever rows share it."""
    settings = settings_of(monkeypatch, name)
    trained = settings.trainer, settings.optimizer
    sampled = settings.sampler, settings.prefix_tokens, settings.assumed.longest_question
    mesh = make_mesh(settings.mesh, list(tpu_devices(find_topology("v3-8"))))
    programs = dict.fromkeys(sampling(settings, mesh), (*sampled, settings.assumed.question_tokens))
    if settings.trainer:
        programs[TRAINING] = trained
    for program, made_by in programs.items():
        key = repr((program, settings.model, settings.mesh, made_by))
        if key not in FITS:
            (found,) = verdicts_of(settings, "v3-8", program)
            FITS[key] = found.fits
        assert FITS[key], program


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda one: one.name)
def test_what_the_compiler_has_for_a_program_is_what_we_say(generation):
    topology = next(one for one in TOPOLOGIES if one.generation is generation)
    device = tpu_devices(topology)[0]
    assert len(tpu_devices(topology)) == topology.n_devices
    huge = jax.ShapeDtypeStruct(
        (2**19, 2**17), "float32", sharding=jax.sharding.SingleDeviceSharding(device)
    )
    found = verdict(
        "huge",
        lambda: jax.jit(lambda x: x @ x.T).lower(huge),
        topology,
        Work(),
    )
    assert not found.fits
    assert found.available / GIB == pytest.approx(generation.hbm_gib, abs=0.01)
