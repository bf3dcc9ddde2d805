"""Run mode `precompile`: does a run fit a TPU, and how long would it take there."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from star_jax.errors import UserError, check_one_of
from star_jax.modes.mode import RunDirMode, RunMode, flag
from star_jax.parallel.topologies import ALL, find_topologies

if TYPE_CHECKING:
    from star_jax.tools.precompile.prediction import Settings


def _known(name: str) -> str:
    """The name of a topology, or UserError at once."""
    find_topologies([name])
    return name


@dataclasses.dataclass(frozen=True)
class PrecompileMode(RunMode):
    """Compiles the bound run for TPUs. The weights, data and vocabulary need not be there."""

    help = "does a run fit a TPU, and how long would it take there; needs no TPU"
    not_needed = ("MODEL_DIR", "MODEL_CHECKPOINT")
    caches_programs = False  # it prints how long compiling takes

    topologies: Sequence[str] = dataclasses.field(
        default=(),
        metadata=flag(
            "--topology",
            action="append",
            metavar="NAME",
            type=_known,
            help=f"a TPU by its Cloud TPU name (v3-8) or its compiler name (v3:2x2); may be "
            f"repeated, or `{ALL}`",
        ),
    )
    json_file: str = dataclasses.field(
        default="", metadata=flag("--json", metavar="FILE", help="write the results as JSON")
    )
    search: bool = dataclasses.field(
        default=False,
        metadata=flag("--search", action="store_true", help="look for the fastest mesh that fits"),
    )
    run: str = "star"  # the run mode to compile

    def __call__(self) -> int:
        """Prints what fits; returns 1 if the run does not fit one of the topologies."""
        import gin

        from star_jax.modes import MODES

        known = [name for name, mode in MODES.items() if issubclass(mode, RunDirMode)]
        check_one_of("precompile.run", self.run, known)
        # Positional: gin does not evaluate the bindings of what is passed by position.
        run = gin.get_configurable(f"star_jax.{self.run}")(
            gin.REQUIRED, None, None, gin.REQUIRED, "", ""
        )
        return self.print_fits(run.settings(gin.get_configurable("star_jax.Assumptions")()))

    def print_fits(self, settings: Settings) -> int:
        """The same for the settings of a run.

        Settings that the mesh cannot split raise UserError; with several topologies they are
        reported and count as not fitting.
        """
        from star_jax.run.paths import check_writable, path_of, write_atomically
        from star_jax.run.progress import log
        from star_jax.tools.precompile import document, fit, search

        topologies = find_topologies(self.topologies)
        if self.json_file:
            check_writable(path_of(self.json_file))
        steps: tuple[Callable[..., Any], ...] = fit.precompile, document.fit_text, document.fit_json
        if self.search:
            steps = search.search, search.found_text, search.found_json
        results = []
        for topology in topologies:
            try:
                found = steps[0](settings, topology, fit.tpu_devices)
                print(steps[1](found), end="\n\n", flush=True)
                results.append(steps[2](found))
            except UserError as error:
                if len(topologies) == 1:
                    raise
                log(f"{topology.cloud_name} ({topology.name}): {error.message}")
                problem = {"fits": False, "problem": error.message}
                results.append({"topology": topology.name, **problem})
        if self.json_file:
            data = (json.dumps(results, indent=1) + "\n").encode()
            write_atomically(path_of(self.json_file), data)
        return 0 if all(result["fits"] for result in results) else 1
