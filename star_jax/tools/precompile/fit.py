"""Does a run fit a TPU that is not there? Compiles the programs that the run would compile.

The TPU's compiler, which needs no TPU, reports their memory; `roofline` estimates FLOPs, traffic
and time. Evaluation runs the programs of sampling.
"""

import dataclasses
import functools
import importlib.util
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence

import jax
from jax.sharding import Mesh

from star_jax.errors import INSTALL, UserError
from star_jax.models.decoder import placed_params
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import make_mesh
from star_jax.parallel.topologies import Topology
from star_jax.rollout.native.programs import Programs
from star_jax.rollout.native.shapes import PREFIX_COLUMNS, Shapes, up_to
from star_jax.rollout.native.slots import Writer
from star_jax.run.progress import log
from star_jax.tools.precompile.prediction import (
    DECODE,
    PREFIX,
    REFILL,
    RELEASED,
    TRAINING,
    Assumptions,
    Prediction,
    Settings,
    released_question,
)
from star_jax.tools.precompile.roofline import Roofline, Work, roofline
from star_jax.training.trainer import Trainer

GIB = 2**30
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = r"([\d.]+)([KMGT]?)"
OUT_OF_MEMORY = (  # before and after the compiler has planned the memory
    re.compile(rf"required for HLO temporaries \({SIZE}\) exceeds available HBM \({SIZE}\)"),
    re.compile(rf"Used {SIZE} of {SIZE} hbm"),
)
# Without these libtpu searches for a local TPU, prints long errors when it finds none, and allows
# only one process at a time.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
}

Lower = Callable[[], jax.stages.Lowered]
Devices = Callable[[Topology], Sequence[jax.Device]]


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the compiler reports for a program, and the cost of one run of it; per device."""

    program: str
    fits: bool | None  # None: not compiled, since another program does not fit
    needed: float | None  # bytes; None if it was not compiled or the compiler gives no number
    available: float  # bytes
    compile_seconds: float
    work: Work
    roofline: Roofline  # at the peaks

    @property
    def missing(self) -> float:
        """Bytes needed beyond those available; 0 if it fits."""
        if self.fits is not False or self.needed is None:
            return 0.0
        return max(0.0, self.needed - self.available)


@dataclasses.dataclass(frozen=True)
class Fit:
    """One run on one topology."""

    settings: Settings
    topology: Topology
    mesh: Mapping[str, int]  # size of each axis
    shapes: Shapes
    verdicts: tuple[Verdict, ...]
    state_bytes: float  # of weights and Adam's moments on a device
    released_question: float  # seconds, at the peaks

    @property
    def fits(self) -> bool:
        """Whether all programs fit."""
        return all(verdict.fits is True for verdict in self.verdicts)

    @property
    def prediction(self) -> Prediction:
        """The times of the run's stages, at the assumed efficiency."""
        at_peak = {verdict.program: verdict.roofline.seconds for verdict in self.verdicts}
        at_peak[RELEASED] = self.released_question
        efficiency = self.settings.assumed.efficiency
        each = {name: seconds / efficiency for name, seconds in at_peak.items()}
        return Prediction(self.settings, self.shapes, each)


def tpu_devices(topology: Topology) -> Sequence[jax.Device]:
    """Devices to compile for, which need not exist; raises UserError without a libtpu for them."""
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            f"precompile needs libtpu, the compiler for TPUs; {INSTALL.format('precompile')}"
        )
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    chip = topology.generation.chip_config
    options = {"chip_config_name": chip} if chip else {}
    try:
        return topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        ).devices
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"libtpu does not know the topology {topology.name}: {reason}") from error


def verdict(name: str, lower: Lower | None, topology: Topology, work: Work) -> Verdict:
    """Lowers and compiles a program; one that is too large is a verdict, not an error.

    Args:
      name: of the program.
      lower: returns the lowered program; None to compile nothing.
      topology: compiled for.
      work: of one run of the program on one device.
    """
    fits: bool | None = None
    needed, available = None, topology.generation.hbm_gib * GIB
    start = time.monotonic()
    if lower:
        try:
            memory = lower().compile().memory_analysis()
            assert memory
            own = memory.temp_size_in_bytes + memory.output_size_in_bytes
            needed = float(own + memory.argument_size_in_bytes - memory.alias_size_in_bytes)
            fits = True
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(str(error)):
                raise
            needed, available = used_of(str(error)) or (None, available)
            fits = False
    seconds = time.monotonic() - start if lower else 0.0
    return Verdict(name, fits, needed, available, seconds, work, roofline(work, topology.peaks))


def is_out_of_memory(message: str) -> bool:
    """Whether the compiler failed because the program is too large for the device's memory."""
    return "CompileTimeHbmOom" in message or used_of(message) is not None


def used_of(message: str) -> tuple[float, float] | None:
    """(bytes needed, available) in "... Used 23.24G of 15.75G hbm ..."; None without numbers."""
    for pattern in OUT_OF_MEMORY:
        if found := pattern.search(message):
            used, unit, of, of_unit = found.groups()
            return float(used) * UNITS[unit], float(of) * UNITS[of_unit]
    return None


def precompile(settings: Settings, topology: Topology, devices: Devices = tpu_devices) -> Fit:
    """Compiles the run's programs one by one until one does not fit; raises as the run would."""
    mesh = make_mesh(settings.mesh, list(devices(topology)))
    training = {TRAINING: training_lowering(settings, mesh)} if settings.trainer else {}
    works, topology = work_of(settings, mesh), with_latency(topology, settings.assumed)
    verdicts: list[Verdict] = []
    for name, lower in {**training, **sampling(settings, mesh)}.items():
        wanted = all(one.fits for one in verdicts)
        if wanted:
            log(f"{topology.cloud_name}: compiling {name}")
        verdicts.append(verdict(name, lower if wanted else None, topology, works[name]))
    return Fit(
        settings,
        topology,
        dict(mesh.shape),
        settings.shapes(mesh),
        tuple(verdicts),
        settings.trained_model(mesh).state_bytes,
        released_question(settings, topology),
    )


def training_lowering(settings: Settings, mesh: Mesh) -> Lower:
    """A function that lowers the training step; raises UserError as `sampling`."""
    assert settings.trainer and settings.optimizer
    trainer = Trainer(
        settings.model, settings.optimizer, settings.trainer, mesh, settings.mesh.training_rules
    )
    trainer.abstract_params()  # raises for what does not divide
    return trainer.lower_step


def sampling(settings: Settings, mesh: Mesh) -> dict[str, Lower]:
    """Name -> a function that lowers it; raises UserError for what the mesh cannot split."""
    rules, sampler = settings.mesh.decoding_rules, settings.sampler
    partitioning.check_batch("SamplerConfig.batch_size", sampler.batch_size, mesh, rules)
    model = dataclasses.replace(settings.model, scan_layers=False, remat="none")
    # Which ids the vocabulary has and how a row ends hardly matter for memory; that some ids are
    # excluded does.
    writer = Writer(model, sampler.params, model.vocab_size - 1, (0,))
    programs = Programs(writer, mesh, rules)
    placed_params(model, mesh, rules)  # raises for what does not divide

    @functools.cache
    def lowered() -> Mapping[str, jax.stages.Lowered]:
        # Without examples: as if they had one token, slightly more than is needed.
        return programs.lower(settings.shapes(mesh), max(1, settings.prefix_tokens))

    return {
        **({PREFIX: lambda: lowered()["prefix"]} if settings.prefix_tokens else {}),
        REFILL: lambda: lowered()["refill"],
        DECODE: lambda: lowered()["decode"],
    }


def work_of(settings: Settings, mesh: Mesh) -> dict[str, Work]:
    """Name -> the work of one device for one run of the program; none for training without one."""
    shapes, decoded = settings.shapes(mesh), settings.decoded_model(mesh)
    prefix = up_to(settings.prefix_tokens, PREFIX_COLUMNS)
    columns = shapes.window + shapes.max_new_tokens
    works = {
        PREFIX: decoded.prefill(prefix, 0, 1),
        REFILL: decoded.prefill(shapes.chunk_tokens, prefix, shapes.chunk_prompts),
        DECODE: decoded.decode_step(settings.sampler.batch_size, prefix, columns),
    }
    if trainer := settings.trainer:
        works[TRAINING] = settings.trained_model(mesh).training_step(
            trainer.batch_size, trainer.row_length, trainer.accumulation_steps
        )
    return works


def with_latency(topology: Topology, assumed: Assumptions) -> Topology:
    """The topology with the assumed latency of a collective operation among its peaks."""
    seconds = assumed.message_microseconds * 1e-6
    peaks = dataclasses.replace(topology.peaks, message_seconds=seconds)
    return dataclasses.replace(topology, peaks=peaks)
