"""The fastest mesh on which a run's training step fits a topology, and the most slots beside it.

What is quickest is counted (`roofline`), what fits is asked of the compiler: candidates are
compiled from the quickest on until one fits. Those whose weights and optimizer state alone are
too large are not compiled at all.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

from jax.sharding import Mesh

from star_jax.errors import UserError
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import MeshConfig, Rules, make_mesh
from star_jax.parallel.topologies import Topology
from star_jax.run.progress import log
from star_jax.tools.precompile.fit import (
    DECODE,
    GIB,
    REFILL,
    TRAINING,
    Devices,
    Lower,
    Settings,
    Verdict,
    peaks_of,
    sampling,
    tpu_devices,
    training_lowering,
    verdict,
    work_of,
)
from star_jax.tools.precompile.roofline import roofline, slot_bytes, split_of, state_bytes

ACCUMULATIONS = (1, 2, 4, 8)
MOST_COMPILED = 6  # training steps that are tried before the search gives up
MOST_TRIES = 4  # to find the largest decoding batch
# Parameters split over all devices but those of `data`: what decoding reads for each token is
# shared by the most.
SPLIT_DECODING: Rules = (
    ("batch", "data"),
    *(
        (name, ("fsdp", "tensor") if axes == "tensor" else axes)
        for name, axes in partitioning.DECODING_RULES
        if name != "batch"
    ),
)


@dataclasses.dataclass(frozen=True)
class Found:
    """What a search came to."""

    topology: Topology
    settings: Settings | None  # with the mesh, accumulation and batches that fit
    tried: tuple[str, ...]  # each candidate that was compiled, in words
    training: Verdict | None = None
    decoding: Verdict | None = None
    rules_changed: bool = False  # decoding wants SPLIT_DECODING


def search(settings: Settings, topology: Topology, devices: Devices = tpu_devices) -> Found:
    """Compiles candidates, quickest first.

    Raises:
      UserError: as `precompile.tpu_devices`, or the run trains nothing.
    """
    if settings.trainer is None:
        raise UserError("--search looks for a mesh to train on, and --run_mode=few_shot never does")
    there, tried = list(devices(topology)), []
    for candidate, mesh in _quickest_first(settings, topology, there)[:MOST_COMPILED]:
        lower = training_lowering(candidate, mesh)
        found = _asked(candidate, mesh, topology, TRAINING, lower)
        tried.append(f"{_named(candidate)}: {_words(found)}")
        if found.fits:
            return _with_slots(candidate, mesh, topology, found, tried)
    return Found(topology, None, tuple(tried))


def found_text(found: Found) -> str:
    """What was tried and what to bind."""
    head = f"{found.topology.cloud_name} ({found.topology.name}), searched"
    lines = [head, *(f"  {line}" for line in found.tried)]
    if found.settings is None:
        return "\n".join([*lines, "  no mesh lets the training step fit; take more chips"])
    mesh, settings = found.settings.mesh, found.settings
    lines += [
        "  the quickest that fits:",
        f"    MeshConfig.data = {mesh.data}",
        f"    MeshConfig.fsdp = {mesh.fsdp}",
        f"    MeshConfig.tensor = {mesh.tensor}",
        f"    TrainerConfig.batch_size = {settings.trainer.batch_size}",
        f"    TrainerConfig.accumulation_steps = {settings.trainer.accumulation_steps}",
    ]
    if found.rules_changed:
        lines.append(f"    MeshConfig.decoding_rules = {mesh.decoding_rules}")
    if found.decoding is None:
        return "\n".join([*lines, "  no decoding batch fits; split the heads over more devices"])
    return "\n".join(
        [*lines, f"    SamplerConfig.batch_size = {settings.sampler.batch_size}  # the most slots"]
    )


def found_json(found: Found) -> dict[str, Any]:
    """What was tried and found, JSON-ready."""
    best = found.settings
    return {
        "topology": found.topology.name,
        "cloud_name": found.topology.cloud_name,
        "fits": best is not None and found.decoding is not None,
        "tried": list(found.tried),
        "mesh": dataclasses.asdict(best.mesh) if best else None,
        "trainer": dataclasses.asdict(best.trainer) if best else None,
        "sampler": dataclasses.asdict(best.sampler) if best else None,
        "training": dataclasses.asdict(found.training) if found.training else None,
        "decoding": dataclasses.asdict(found.decoding) if found.decoding else None,
    }


def candidates(settings: Settings, n_devices: int) -> Iterator[Settings]:
    """Every mesh of so many devices with every accumulation, at the run's batch.

    Where no mesh splits the batch, it is raised to a row a device.
    """
    batch = settings.trainer.batch_size
    for batch_size in dict.fromkeys((batch, math.lcm(batch, n_devices))):
        for fsdp, tensor in _factors(n_devices):
            mesh = dataclasses.replace(
                settings.mesh, data=n_devices // (fsdp * tensor), fsdp=fsdp, tensor=tensor,
                sequence=1,
            )  # fmt: skip
            for parts in ACCUMULATIONS:
                trainer = dataclasses.replace(
                    settings.trainer, batch_size=batch_size, accumulation_steps=parts
                )
                yield dataclasses.replace(settings, mesh=mesh, trainer=trainer)


def _factors(n: int) -> list[tuple[int, int]]:
    """(fsdp, tensor) whose product divides n."""
    divisors = [size for size in range(1, n + 1) if n % size == 0]
    return [(a, b) for a in divisors for b in divisors if n % (a * b) == 0]


def _quickest_first(
    settings: Settings, topology: Topology, devices: Sequence
) -> list[tuple[Settings, Mesh]]:
    """Candidates that can be laid out and whose state alone has room, by seconds a token."""
    peaks, ranked = peaks_of(topology, settings.assumed), []
    for place, candidate in enumerate(candidates(settings, len(devices))):
        try:
            mesh = make_mesh(candidate.mesh, list(devices))
            training_lowering(candidate, mesh)
        except UserError:
            continue
        state = state_bytes(candidate.model, split_of(mesh, candidate.mesh.training_rules))
        if state < topology.generation.hbm_gib * GIB:
            seconds = roofline(work_of(candidate, mesh)[TRAINING], peaks).seconds
            ranked.append((seconds / candidate.trainer.batch_size, place, candidate, mesh))
    ours = settings.trainer.batch_size
    ranked.sort(key=lambda one: (one[2].trainer.batch_size != ours, one[0], one[1]))
    return [(candidate, mesh) for _, _, candidate, mesh in ranked]


def _with_slots(
    candidate: Settings, mesh: Mesh, topology: Topology, training: Verdict, tried: list[str]
) -> Found:
    """The most slots with the run's own rules for decoding, or else with parameters split more."""
    split = dataclasses.replace(candidate.mesh, decoding_rules=SPLIT_DECODING)
    for changed, config in ((False, candidate.mesh), (True, split)):
        ours = dataclasses.replace(candidate, mesh=config)
        try:
            largest = _most_slots(ours, mesh, topology, tried)
        except UserError as error:  # heads that do not divide, say
            tried.append(f"decoding: {error.message}")
            continue
        if largest is not None:
            return Found(topology, largest[0], tuple(tried), training, largest[1], changed)
    return Found(topology, candidate, tuple(tried), training)


def _most_slots(
    settings: Settings, mesh: Mesh, topology: Topology, tried: list[str]
) -> tuple[Settings, Verdict] | None:
    """Guesses from what a slot's cache takes, then asks the compiler, until it fits.

    The first question is about the fewest slots: it tells what everything else takes.
    """
    unit = partitioning.n_shards(mesh, settings.mesh.decoding_rules) * 8
    shapes, split = settings.shapes(mesh), split_of(mesh, settings.mesh.decoding_rules)
    slot = slot_bytes(settings.model, split, shapes.window + shapes.max_new_tokens)
    best, n_slots, largest_refused = None, unit, math.inf
    for _ in range(MOST_TRIES):
        sampler = dataclasses.replace(settings.sampler, batch_size=n_slots)
        asked = dataclasses.replace(settings, sampler=sampler)
        lowerings = sampling(asked, mesh)
        both = (_asked(asked, mesh, topology, one, lowerings[one]) for one in (DECODE, REFILL))
        found = max(both, key=lambda one: (not one.fits, one.needed or 0.0))
        tried.append(f"decoding, {n_slots:,} slots: {_words(found)}")
        if found.fits and (best is None or n_slots > best[0].sampler.batch_size):
            best = asked, found
        if not found.fits:
            largest_refused = min(largest_refused, n_slots)
        if found.needed is None:
            return best
        room = 0.99 * found.available - found.needed
        guess = n_slots + int(room / slot // unit) * unit
        if guess == n_slots or guess < unit or guess >= largest_refused:
            return best
        n_slots = guess
    return best


def _asked(
    settings: Settings, mesh: Mesh, topology: Topology, program: str, lower: Lower
) -> Verdict:
    log(f"{topology.cloud_name}: compiling {program}, {_named(settings)}")
    work, peaks = work_of(settings, mesh)[program], peaks_of(topology, settings.assumed)
    return verdict(program, lower, topology, work, peaks)


def _named(settings: Settings) -> str:
    mesh: MeshConfig = settings.mesh
    return (
        f"data={mesh.data} x fsdp={mesh.fsdp} x tensor={mesh.tensor}, batch "
        f"{settings.trainer.batch_size} in {settings.trainer.accumulation_steps}, "
        f"{settings.sampler.batch_size} slots"
    )


def _words(found: Verdict) -> str:
    needed = "too much" if found.needed is None else f"{found.needed / GIB:.2f} GiB"
    return f"{needed} of {found.available / GIB:.2f}, {'fits' if found.fits else 'does not fit'}"
