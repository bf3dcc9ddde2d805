"""The fastest mesh on which a run's training step fits a topology, and the most slots it allows.

Candidates are compiled in the order of their speed, as `roofline` estimates it, until one fits.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import jax
from jax.sharding import Mesh

from star_jax.errors import UserError
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import Rules, make_mesh
from star_jax.parallel.topologies import Topology
from star_jax.run.progress import log
from star_jax.tools.precompile import fit as programs
from star_jax.tools.precompile.fit import GIB, Devices, Lower, Verdict, tpu_devices, verdict
from star_jax.tools.precompile.prediction import DECODE, REFILL, TRAINING, Settings
from star_jax.tools.precompile.roofline import roofline

ACCUMULATIONS = (1, 2, 4, 8)
MOST_COMPILED = 6  # training steps that are compiled before the search stops
MOST_TRIES = 4  # to find the largest decoding batch
# Parameters split over all devices but those of `data`: the smallest share per device of what a
# decode step reads.
SPLIT_DECODING: Rules = tuple(
    (name, "data" if name == "batch" else ("fsdp", "tensor") if axes == "tensor" else axes)
    for name, axes in partitioning.DECODING_RULES
)


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of a search."""

    topology: Topology
    settings: Settings | None  # with the mesh, accumulation and batches that fit
    tried: tuple[str, ...]  # each candidate that was compiled, in words
    training: Verdict | None = None
    decoding: Verdict | None = None
    rules_changed: bool = False  # decoding needs SPLIT_DECODING


def search(settings: Settings, topology: Topology, devices: Devices = tpu_devices) -> SearchResult:
    """Compiles candidates, fastest first; raises as `tpu_devices`, or if the run trains nothing."""
    if settings.trainer is None:
        raise UserError("--search looks for a mesh to train on; --run_mode=few_shot never trains")
    tried: list[str] = []
    topology = programs.with_latency(topology, settings.assumed)
    ranked = _fastest_first(settings, topology, list(devices(topology)))
    for candidate, mesh in ranked[:MOST_COMPILED]:
        lower = programs.training_lowering(candidate, mesh)
        found = _compiled(candidate, mesh, topology, TRAINING, lower)
        tried.append(f"{_named(candidate)}: {_words(found)}")
        if found.fits:
            return _with_slots(candidate, mesh, topology, found, tried)
    return SearchResult(topology, None, tuple(tried))


def found_text(found: SearchResult) -> str:
    """What was tried and what to bind."""
    head = f"{found.topology.cloud_name} ({found.topology.name}), searched"
    lines = [head, *(f"  {line}" for line in found.tried)]
    if found.settings is None:
        return "\n".join([*lines, "  the training step fits on no mesh; take more chips"])
    mesh, trainer, sampler = found.settings.mesh, found.settings.training, found.settings.sampler
    lines += [
        "  the fastest that fits:",
        *(f"    MeshConfig.{axis} = {getattr(mesh, axis)}" for axis in ("data", "fsdp", "tensor")),
        f"    TrainerConfig.batch_size = {trainer.batch_size}",
        f"    TrainerConfig.accumulation_steps = {trainer.accumulation_steps}",
    ]
    if found.rules_changed:
        lines.append(f"    MeshConfig.decoding_rules = {mesh.decoding_rules}")
    lines.append(
        f"    SamplerConfig.batch_size = {sampler.batch_size}  # the most slots"
        if found.decoding
        else "  no decoding batch fits; split the heads over more devices"
    )
    return "\n".join(lines)


def found_json(found: SearchResult) -> dict[str, object]:
    """What was tried ("tried") and found (the other keys), JSON-ready."""
    best = found.settings
    parts = {name: getattr(best, name, None) for name in ("mesh", "trainer", "sampler")}
    parts |= {"training": found.training, "decoding": found.decoding}
    return {
        "topology": found.topology.name,
        "cloud_name": found.topology.cloud_name,
        "fits": best is not None and found.decoding is not None,
        "tried": list(found.tried),
        **{name: part and dataclasses.asdict(part) for name, part in parts.items()},
    }


def candidates(settings: Settings, n_devices: int) -> Iterator[Settings]:
    """Every mesh with every accumulation, at the run's batch, or at least one row per device."""
    batch = settings.training.batch_size
    divisors = [size for size in range(1, n_devices + 1) if n_devices % size == 0]
    for batch_size, fsdp, tensor, parts in itertools.product(
        dict.fromkeys((batch, math.lcm(batch, n_devices))), divisors, divisors, ACCUMULATIONS
    ):
        data, rest = divmod(n_devices, fsdp * tensor)
        if rest == 0:
            mesh = dataclasses.replace(
                settings.mesh, data=data, fsdp=fsdp, tensor=tensor, sequence=1
            )
            trainer = dataclasses.replace(
                settings.training, batch_size=batch_size, accumulation_steps=parts
            )
            yield dataclasses.replace(settings, mesh=mesh, trainer=trainer)


def _fastest_first(
    settings: Settings, topology: Topology, devices: Sequence[jax.Device]
) -> list[tuple[Settings, Mesh]]:
    """Candidates that can be laid out and whose state fits, by seconds per row."""
    ours, ranked = settings.training.batch_size, []
    for candidate in candidates(settings, len(devices)):
        try:
            mesh = make_mesh(candidate.mesh, list(devices))
            programs.training_lowering(candidate, mesh)
        except UserError:
            continue
        if candidate.trained_model(mesh).state_bytes < topology.generation.hbm_gib * GIB:
            batch_size = candidate.training.batch_size
            work = programs.work_of(candidate, mesh)[TRAINING]
            seconds = roofline(work, topology.peaks).seconds
            ranked.append(((batch_size != ours, seconds / batch_size), candidate, mesh))
    ranked.sort(key=lambda one: one[0])
    return [(candidate, mesh) for _, candidate, mesh in ranked]


def _with_slots(
    candidate: Settings, mesh: Mesh, topology: Topology, training: Verdict, tried: list[str]
) -> SearchResult:
    """The most slots with the run's own rules for decoding, or else with SPLIT_DECODING."""
    split = dataclasses.replace(candidate.mesh, decoding_rules=SPLIT_DECODING)
    for changed, config in ((False, candidate.mesh), (True, split)):
        ours = dataclasses.replace(candidate, mesh=config)
        try:
            largest = _most_slots(ours, mesh, topology, tried)
        except UserError as error:  # for example heads that do not divide
            tried.append(f"decoding: {error.message}")
            continue
        if largest is not None:
            return SearchResult(topology, largest[0], tuple(tried), training, largest[1], changed)
    return SearchResult(topology, candidate, tuple(tried), training)


def _most_slots(
    settings: Settings, mesh: Mesh, topology: Topology, tried: list[str]
) -> tuple[Settings, Verdict] | None:
    """Compiles the fewest slots, then guesses how many fit from the bytes of a slot's KV cache."""
    unit = partitioning.n_parts(mesh, settings.mesh.decoding_rules, "batch") * 8
    columns = settings.shapes(mesh).window + settings.sampler.max_new_tokens
    slot = settings.decoded_model(mesh).slot_bytes(columns)
    best: tuple[Settings, Verdict] | None = None
    n_slots, smallest_refused = unit, math.inf
    for _ in range(MOST_TRIES):
        sampler = dataclasses.replace(settings.sampler, batch_size=n_slots)
        ours = dataclasses.replace(settings, sampler=sampler)
        lowerings = programs.sampling(ours, mesh)
        both = (_compiled(ours, mesh, topology, one, lowerings[one]) for one in (DECODE, REFILL))
        found = max(both, key=lambda one: (not one.fits, one.needed or 0.0))
        tried.append(f"decoding, {n_slots:,} slots: {_words(found)}")
        if not found.fits:
            smallest_refused = min(smallest_refused, n_slots)
        elif best is None or n_slots > best[0].sampler.batch_size:
            best = ours, found
        if found.needed is None:
            return best
        room = 0.99 * found.available - found.needed
        guess = n_slots + int(room / slot // unit) * unit
        if guess == n_slots or guess < unit or guess >= smallest_refused:
            return best
        n_slots = guess
    return best


def _compiled(
    settings: Settings, mesh: Mesh, topology: Topology, program: str, lower: Lower
) -> Verdict:
    log(f"{topology.cloud_name}: compiling {program}, {_named(settings)}")
    return verdict(program, lower, topology, programs.work_of(settings, mesh)[program])


def _named(settings: Settings) -> str:
    mesh, trainer = settings.mesh, settings.training
    return (
        f"data={mesh.data} x fsdp={mesh.fsdp} x tensor={mesh.tensor}, batch "
        f"{trainer.batch_size} in {trainer.accumulation_steps}, "
        f"{settings.sampler.batch_size} slots"
    )


def _words(found: Verdict) -> str:
    needed = "too much" if found.needed is None else f"{found.needed / GIB:.2f} GiB"
    return f"{needed} of {found.available / GIB:.2f}, {'fits' if found.fits else 'does not fit'}"
