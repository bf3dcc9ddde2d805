"""Does a run fit a TPU that is not there? Asks the TPU's compiler, and counts what a run takes.

The programs are those that the run compiles: the training step, and sampling's prefix, refill and
decode, which evaluation runs too. The compiler says what memory they need; FLOPs, traffic and time
are counted by hand in `roofline`.
"""

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.errors import UserError
from star_jax.loop.config import StarConfig
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import placed_params
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.parallel.topologies import Topology
from star_jax.rollout.native.decode import Writer
from star_jax.rollout.native.logits import PickConfig
from star_jax.rollout.native.programs import Programs
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.rollout.native.shapes import PREFIX_COLUMNS, Shapes, shapes_for, up_to
from star_jax.run.progress import log
from star_jax.tools.precompile.prediction import (
    Assumptions,
    ProgramSeconds,
    Run,
    released_question,
    shows_examples,
)
from star_jax.tools.precompile.roofline import (
    Peaks,
    Roofline,
    Work,
    decode_step,
    prefill,
    roofline,
    split_of,
    state_bytes,
    training_step,
)
from star_jax.training.schedules import StepSchedule
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer, TrainerConfig

GIB = 2**30
TRAINING, PREFIX, REFILL, DECODE = "training step", "prefix", "refill", "decode step"
SAMPLING = (PREFIX, REFILL, DECODE)
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
SIZE = r"([\d.]+)([KMGT]?)"
OUT_OF_MEMORY = (  # before and after the compiler has planned the memory
    re.compile(rf"required for HLO temporaries \({SIZE}\) exceeds available HBM \({SIZE}\)"),
    re.compile(rf"Used {SIZE} of {SIZE} hbm"),
)
# There is no TPU to ask about (libtpu complains at length of one that it cannot find), and other
# processes may compile too.
ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v3-8",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What of a run decides whether it fits; neither weights nor data nor a vocabulary.

    A baseline has no outer loop, and one of them has nothing to train.
    """

    model: DecoderConfig
    sampler: SamplerConfig
    trainer: TrainerConfig | None
    optimizer: OptimizerConfig | None
    schedule: StepSchedule | None
    loop: StarConfig | None
    mesh: MeshConfig
    assumed: Assumptions

    @property
    def prefix_tokens(self) -> int:
        """Of the few-shot examples, if there are any."""
        return self.assumed.prefix_tokens if shows_examples(self.loop, self.trainer) else 0

    def shapes(self, mesh: Mesh) -> Shapes:
        """The static sizes of sampling."""
        return shapes_for(
            self.assumed.question_tokens,
            self.assumed.longest_question,
            n_shards=partitioning.n_shards(mesh, self.mesh.decoding_rules),
            batch_size=self.sampler.batch_size,
            max_new_tokens=self.sampler.max_new_tokens,
            refill_share=self.sampler.refill_share,
            prefill_tokens=self.sampler.prefill_tokens,
        )


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What the compiler said of a program, and what one run of it takes; all of one device."""

    program: str
    fits: bool | None  # None: not asked, since another program does not fit
    needed: float | None  # bytes; None if the compiler was not asked or names no number
    available: float  # bytes
    compile_seconds: float
    work: Work
    roofline: Roofline  # at the peaks

    @property
    def missing(self) -> float:
        """Bytes that are too much; 0 if it fits."""
        too_much = self.fits is False and self.needed is not None
        return max(0.0, self.needed - self.available) if too_much else 0.0


@dataclasses.dataclass(frozen=True)
class Fit:
    """All about one run on one topology."""

    topology: Topology
    mesh: dict[str, int]
    peaks: Peaks
    verdicts: tuple[Verdict, ...]
    state_bytes: float  # of weights and Adam's moments on a device
    run: Run
    released_question: float  # seconds, at the peaks

    @property
    def fits(self) -> bool:
        """Whether all programs do."""
        return all(verdict.fits is True for verdict in self.verdicts)

    def seconds(self) -> ProgramSeconds:
        """What the programs take at the efficiency that is assumed."""
        at_peak = {verdict.program: verdict.roofline.seconds for verdict in self.verdicts}
        order = (TRAINING, DECODE, REFILL, PREFIX)
        times = [*(at_peak.get(name, 0.0) for name in order), self.released_question]
        return ProgramSeconds(*(one / self.run.assumed.efficiency for one in times))


Lower = Callable[[], jax.stages.Lowered]
Devices = Callable[[Topology], Sequence[Any]]


def tpu_devices(topology: Topology) -> list[Any]:
    """Devices to compile for, though they are not there.

    Raises:
      UserError: libtpu, which has the compiler, is not installed or refuses the topology.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "precompile needs libtpu, the compiler for TPUs: install the extra, "
            "pip install 'star_jax[precompile]'"
        )
    os.environ.update(ENVIRONMENT)
    jax.config.update("jax_platforms", "cpu")
    from jax.experimental import topologies

    chip = topology.generation.chip_config
    options = {"chip_config_name": chip} if chip else {}
    try:
        described = topologies.get_topology_desc(
            platform="tpu", topology_name=topology.name, **options
        )
    except (jax.errors.JaxRuntimeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"libtpu does not know the topology {topology.name}: {reason}") from error
    return list(described.devices)


def precompile(settings: Settings, topology: Topology, devices: Devices = tpu_devices) -> Fit:
    """Compiles the run's programs for a topology, one after the other until one does not fit.

    Raises:
      UserError: as the run itself would for its mesh and batches, and as `tpu_devices`.
    """
    mesh = make_mesh(settings.mesh, list(devices(topology)))
    training = {TRAINING: training_lowering(settings, mesh)} if settings.trainer else {}
    lowerings = {**training, **sampling(settings, mesh)}
    works = work_of(settings, mesh)
    peaks = peaks_of(topology, settings.assumed)
    verdicts: list[Verdict] = []
    for name, lower in lowerings.items():
        if all(one.fits for one in verdicts):
            log(f"{topology.cloud_name}: compiling {name}")
            verdicts.append(verdict(name, lower, topology, works[name], peaks))
        else:
            available, times = topology.generation.hbm_gib * GIB, roofline(works[name], peaks)
            verdicts.append(Verdict(name, None, None, available, 0.0, works[name], times))
    return Fit(
        topology,
        dict(mesh.shape),
        peaks,
        tuple(verdicts),
        state_bytes(settings.model, split_of(mesh, settings.mesh.training_rules)),
        Run(
            settings.sampler, settings.trainer, settings.schedule, settings.loop, settings.assumed,
            settings.shapes(mesh),
        ),
        released_question(
            settings.model, topology.n_devices, settings.sampler.max_new_tokens, peaks
        ),
    )  # fmt: skip


def training_lowering(settings: Settings, mesh: Mesh) -> Lower:
    """The training step, to be lowered; raises UserError for what the mesh cannot split."""
    trainer = Trainer(
        settings.model, settings.optimizer, settings.trainer, mesh, settings.mesh.training_rules
    )
    trainer.parameter_shardings  # noqa: B018  refuses what does not divide, before the long wait
    return trainer.lower_step


def sampling(settings: Settings, mesh: Mesh) -> dict[str, Lower]:
    """Sampling's programs, to be lowered; raises UserError for what the mesh cannot split."""
    rules = settings.mesh.decoding_rules
    partitioning.check_batch("SamplerConfig.batch_size", settings.sampler.batch_size, mesh, rules)
    model = dataclasses.replace(settings.model, scan_layers=False, remat="none")
    sampler = settings.sampler
    # Which ids the vocabulary has and how a row ends hardly matters for memory; that some ids are
    # left out does.
    pick = PickConfig(sampler.temperature, sampler.top_k, sampler.top_p, model.vocab_size - 1)
    programs = Programs(Writer(model, pick, (0,)), mesh, rules)
    shapes, prefix_tokens = settings.shapes(mesh), settings.prefix_tokens
    placed = placed_params(model, mesh, rules)
    lowered: dict[str, jax.stages.Lowered] = {}

    def one_of_both(name: str) -> Lower:
        def lower() -> jax.stages.Lowered:
            if not lowered:
                # Without examples: as if they had one token, a hair more than is needed.
                lowered.update(programs.lower(shapes, max(1, prefix_tokens)))
            return lowered[name]

        return lower

    def prefix() -> jax.stages.Lowered:
        whole = partitioning.replicated(mesh)
        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, model.dtype, sharding=leaf.sharding),
            placed,
        )
        tokens = jax.ShapeDtypeStruct(
            (up_to(prefix_tokens, PREFIX_COLUMNS),), jnp.int32, sharding=whole
        )
        length = jax.ShapeDtypeStruct((), jnp.int32, sharding=whole)
        return programs.prefill_prefix.lower(params, tokens, length)

    first = {PREFIX: prefix} if prefix_tokens else {}
    return {**first, REFILL: one_of_both("refill"), DECODE: one_of_both("decode")}


def work_of(settings: Settings, mesh: Mesh) -> dict[str, Work]:
    """What one run of each program makes one device do."""
    model, trainer, shapes = settings.model, settings.trainer, settings.shapes(mesh)
    training = split_of(mesh, settings.mesh.training_rules)
    decoding = split_of(mesh, settings.mesh.decoding_rules)
    prefix = up_to(settings.prefix_tokens, PREFIX_COLUMNS)
    columns = shapes.window + shapes.max_new_tokens
    return {
        TRAINING: training_step(
            model, training, trainer.batch_size, trainer.row_length, trainer.accumulation_steps
        )
        if trainer
        else Work(),
        PREFIX: prefill(model, decoding, prefix, 0, n_read=1),
        REFILL: prefill(model, decoding, shapes.chunk_tokens, prefix, shapes.chunk_prompts),
        DECODE: decode_step(model, decoding, settings.sampler.batch_size, prefix, columns),
    }


def peaks_of(topology: Topology, assumed: Assumptions) -> Peaks:
    """The speed of one device of the topology."""
    return Peaks(
        topology.flops,
        topology.hbm_bytes_per_second,
        topology.link_bytes_per_second,
        assumed.message_microseconds * 1e-6,
    )


def verdict(name: str, lower: Lower, topology: Topology, work: Work, peaks: Peaks) -> Verdict:
    """Lowers and compiles a program; too large a one is a verdict, any other failure an error."""
    available, start = topology.generation.hbm_gib * GIB, time.monotonic()
    try:
        needed, fits = needed_bytes(lower().compile()), True
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(str(error)):
            raise
        needed, available = used_of(str(error)) or (None, available)
        fits = False
    seconds = time.monotonic() - start
    return Verdict(name, fits, needed, available, seconds, work, roofline(work, peaks))


def needed_bytes(compiled: jax.stages.Compiled) -> float:
    """A device's memory that a program needs: what it is given, makes and works with."""
    memory = compiled.memory_analysis()
    return float(
        memory.argument_size_in_bytes
        + memory.temp_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
    )


def is_out_of_memory(message: str) -> bool:
    """Whether the compiler failed because the program is too large for the device's memory."""
    return "CompileTimeHbmOom" in message or used_of(message) is not None


def used_of(message: str) -> tuple[float, float] | None:
    """Bytes needed and available, of the compiler's message; None if it names none.

    "Used 23.24G of 15.75G hbm" -> (23.24 GiB, 15.75 GiB).
    """
    for pattern in OUT_OF_MEMORY:
        if found := pattern.search(message):
            used, unit, of, of_unit = found.groups()
            return float(used) * UNITS[unit], float(of) * UNITS[of_unit]
    return None
