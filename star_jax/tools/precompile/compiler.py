"""Runs the TPU's compiler, without a TPU, to find how much memory a program needs."""

import dataclasses
import importlib.util
import os
import re
import time
from collections.abc import Callable, Sequence

import jax

from star_jax.errors import INSTALL, UserError
from star_jax.parallel.topologies import Topology
from star_jax.tools.precompile.roofline import Peaks, Roofline, Work, roofline

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


def verdict(
    name: str, lower: Lower | None, topology: Topology, work: Work, peaks: Peaks
) -> Verdict:
    """Lowers and compiles a program; one that is too large is a verdict, not an error.

    Args:
      name: of the program.
      lower: returns the lowered program; None to compile nothing.
      topology: compiled for.
      work: of one run of the program on one device.
      peaks: the speed of one device.
    """
    fits: bool | None = None
    needed, available = None, topology.generation.hbm_gib * GIB
    start = time.monotonic()
    if lower:
        try:
            memory = lower().compile().memory_analysis()
            assert memory
            needed, fits = (
                float(
                    memory.argument_size_in_bytes
                    + memory.temp_size_in_bytes
                    + memory.output_size_in_bytes
                    - memory.alias_size_in_bytes
                ),
                True,
            )
        except jax.errors.JaxRuntimeError as error:
            if not is_out_of_memory(str(error)):
                raise
            needed, available = used_of(str(error)) or (None, available)
            fits = False
    seconds = time.monotonic() - start if lower else 0.0
    return Verdict(name, fits, needed, available, seconds, work, roofline(work, peaks))


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
