"""The TPU slices that precompile knows: their names for Cloud TPU and the compiler, their peaks.

Peaks are Google's published figures for each generation (v3's links: Jouppi et al. 2020); the
memory of a program is the compiler's own figure.
"""

import dataclasses
import math
from collections.abc import Sequence

from star_jax.errors import UserError

ALL = "all"  # stands for one or two small slices of each generation
SMALL = ("v3-8", "v4-8", "v5litepod-8", "v5litepod-16", "v5p-8", "v6e-8")


@dataclasses.dataclass(frozen=True)
class Generation:
    """What the chips of a generation have in common; peaks are per chip."""

    name: str  # the compiler's
    cloud: str  # prefix of Cloud TPU's names of its slices
    counts_cores: bool  # Cloud TPU counts cores, two per chip, instead of chips
    devices_per_chip: int  # as JAX sees them
    hbm_gib: float  # per device, that the compiler gives a program
    bf16_tflops: float
    hbm_gb_s: float
    link_gb_s: float  # of one link to a neighbour, one way
    shapes: tuple[tuple[int, ...], ...]  # of slices, in chips
    chip_config: str = ""  # the compiler's; "" for its default


_SQUARES_V3 = ((2, 2), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16), (16, 32), (32, 32))
_SQUARES = ((1, 1), (2, 2), (2, 4), (4, 4), (4, 8), (8, 8), (8, 16), (16, 16))
_CUBES = (
    (2, 2, 1), (2, 2, 2), (2, 2, 4), (2, 4, 4), (4, 4, 4), (4, 4, 8), (4, 8, 8), (8, 8, 8),
    (8, 8, 16), (8, 16, 16),
)  # fmt: skip

# By default the compiler treats the two cores of a v4 chip as two devices; on a real one JAX sees
# one, the compiler's "megacore".
GENERATIONS = (
    Generation("v3", "v3", True, 2, 15.48, 123, 900, 82, _SQUARES_V3),
    Generation("v4", "v4", True, 1, 30.75, 275, 1228, 50, _CUBES, "megacore"),
    Generation("v5e", "v5litepod", False, 1, 15.75, 197, 819, 50, _SQUARES),
    Generation("v5p", "v5p", True, 1, 95.74, 459, 2765, 100, _CUBES),
    Generation("v6e", "v6e", False, 1, 31.24, 918, 1640, 100, _SQUARES),
)


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The speed of one device."""

    flops: float  # in bfloat16, per second
    hbm_bytes: float  # per second
    link_bytes: float  # received per second: its share of its chip's links within the slice
    message_seconds: float = 0.0  # latency of one collective operation


@dataclasses.dataclass(frozen=True)
class Topology:
    """A slice of TPU chips."""

    generation: Generation
    name: str  # the compiler's, such as v5e:4x4
    cloud_name: str  # Cloud TPU's, such as v5litepod-16
    n_chips: int
    n_devices: int  # that JAX sees
    peaks: Peaks


def _topology(generation: Generation, shape: tuple[int, ...]) -> Topology:
    n_chips, per_chip = math.prod(shape), generation.devices_per_chip
    # A chip has two neighbours along a dimension of more than two chips, one along one of two.
    n_links = sum(min(size - 1, 2) for size in shape)
    return Topology(
        generation,
        name=f"{generation.name}:{'x'.join(map(str, shape))}",
        cloud_name=f"{generation.cloud}-{n_chips * (2 if generation.counts_cores else 1)}",
        n_chips=n_chips,
        n_devices=n_chips * per_chip,
        peaks=Peaks(
            generation.bf16_tflops * 1e12 / per_chip,
            generation.hbm_gb_s * 1e9 / per_chip,
            n_links * generation.link_gb_s * 1e9 / per_chip,
        ),
    )


TOPOLOGIES = tuple(
    _topology(generation, shape) for generation in GENERATIONS for shape in generation.shapes
)


def find_topologies(names: Sequence[str]) -> list[Topology]:
    """The topologies with these names ("all": `SMALL`); raises UserError for an unknown or none."""
    if not names:
        raise UserError(f"--run_mode=precompile needs --topology=NAME: {_known()}")
    wanted = [one for name in names for one in (SMALL if name == ALL else (name,))]
    return list(dict.fromkeys(find_topology(name) for name in wanted))


def find_topology(name: str) -> Topology:
    """The topology with this name of Cloud TPU (v3-8) or the compiler (v3:2x2); else UserError."""
    wanted = name.strip().lower().replace("v5e-", "v5litepod-")
    for topology in TOPOLOGIES:
        if wanted in (topology.name, topology.cloud_name):
            return topology
    raise UserError(f"--topology={name}: no such TPU; {_known()}")


def larger(topology: Topology) -> list[Topology]:
    """Slices of the same generation with more chips, the smallest first."""
    same = (one for one in TOPOLOGIES if one.generation is topology.generation)
    return [one for one in same if one.n_chips > topology.n_chips]  # in order of size


def _known() -> str:
    names = ", ".join(f"{one.cloud_name} ({one.name})" for one in TOPOLOGIES)
    return f"give one of {names}, or {ALL} for {', '.join(SMALL)}"
