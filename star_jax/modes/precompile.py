"""Run mode `precompile`: does a run fit a TPU, and how long would it take there."""

import dataclasses
from collections.abc import Sequence

from star_jax.errors import check_one_of
from star_jax.modes.mode import RunDirMode, RunMode, flag
from star_jax.parallel.topologies import ALL, find_topologies


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
        from star_jax.tools.precompile import command

        known = [name for name, mode in MODES.items() if issubclass(mode, RunDirMode)]
        check_one_of("precompile.run", self.run, known)
        # Positional: gin does not evaluate the bindings of what is passed by position.
        run = gin.get_configurable(f"star_jax.{self.run}")(
            gin.REQUIRED, None, None, gin.REQUIRED, "", ""
        )
        settings = run.settings(gin.get_configurable("star_jax.Assumptions")())
        given = self.topologies, self.json_file, self.search
        return command.run(settings, *given, command.tpu_devices)
