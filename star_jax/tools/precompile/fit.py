"""Does a run fit a TPU that is not there? Compiles the programs that the run would compile.

The compiler reports their memory; `roofline` estimates FLOPs, traffic and time. Evaluation runs the
programs of sampling.
"""

import dataclasses
import functools
from collections.abc import Mapping

import jax
from jax.sharding import Mesh

from star_jax.models.decoder import placed_params
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import make_mesh
from star_jax.parallel.topologies import Topology
from star_jax.rollout.native.programs import Programs
from star_jax.rollout.native.shapes import PREFIX_COLUMNS, Shapes, up_to
from star_jax.rollout.native.slots import Writer
from star_jax.run.progress import log
from star_jax.tools.precompile.compiler import Devices, Lower, Verdict, tpu_devices, verdict
from star_jax.tools.precompile.prediction import Prediction, ProgramSeconds, released_question
from star_jax.tools.precompile.roofline import Peaks, Work
from star_jax.tools.precompile.settings import Assumptions, Settings
from star_jax.training.trainer import Trainer

TRAINING, PREFIX, REFILL, DECODE = "training step", "prefix", "refill", "decode step"


@dataclasses.dataclass(frozen=True)
class Fit:
    """One run on one topology."""

    settings: Settings
    topology: Topology
    mesh: Mapping[str, int]  # size of each axis
    shapes: Shapes
    peaks: Peaks
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
        times = [at_peak.get(name, 0.0) for name in (TRAINING, DECODE, REFILL, PREFIX)]
        efficiency = self.settings.assumed.efficiency
        each = ProgramSeconds(*(time / efficiency for time in (*times, self.released_question)))
        return Prediction(self.settings, self.shapes, each)


def precompile(settings: Settings, topology: Topology, devices: Devices = tpu_devices) -> Fit:
    """Compiles the run's programs one by one until one does not fit; raises as the run would."""
    mesh, sampler = make_mesh(settings.mesh, list(devices(topology))), settings.sampler
    training = {TRAINING: training_lowering(settings, mesh)} if settings.trainer else {}
    works, peaks = work_of(settings, mesh), peaks_of(topology, settings.assumed)
    verdicts: list[Verdict] = []
    for name, lower in {**training, **sampling(settings, mesh)}.items():
        wanted = all(one.fits for one in verdicts)
        if wanted:
            log(f"{topology.cloud_name}: compiling {name}")
        verdicts.append(verdict(name, lower if wanted else None, topology, works[name], peaks))
    return Fit(
        settings,
        topology,
        dict(mesh.shape),
        settings.shapes(mesh),
        peaks,
        tuple(verdicts),
        settings.trained_model(mesh).state_bytes,
        released_question(settings.model, topology.n_devices, sampler.max_new_tokens, peaks),
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


def peaks_of(topology: Topology, assumed: Assumptions) -> Peaks:
    """The speed of one device of the topology, with the assumed latency."""
    return dataclasses.replace(topology.peaks, message_seconds=assumed.message_microseconds * 1e-6)
