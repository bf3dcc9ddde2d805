"""What a run mode is: a frozen dataclass whose fields gin binds, and which is then called.

`--help` and the answer to a wrong command line import every module of this room. So these modules
import JAX, TensorFlow and all that needs them inside their methods.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:  # for the fields of all run modes
    import seqio

    from star_jax.loop.baselines import TrainingLength as TrainingLength
    from star_jax.loop.config import StarConfig as StarConfig
    from star_jax.loop.finetune import Phase as Phase
    from star_jax.models.config import DecoderConfig
    from star_jax.parallel.partitioning import MeshConfig
    from star_jax.records import Attempt as Attempt
    from star_jax.rollout.engine import Engine
    from star_jax.rollout.native.sampler import SamplerConfig
    from star_jax.tasks.task import ReasoningTask
    from star_jax.tools.precompile.prediction import Assumptions, Settings
    from star_jax.training.schedules import StepSchedule as StepSchedule
    from star_jax.training.train_step import OptimizerConfig as OptimizerConfig
    from star_jax.training.trainer import TrainerConfig as TrainerConfig

    # Called with model, vocabulary, sampler settings, device mesh and its rules while decoding.
    MakeEngine = Callable[..., Engine]


def flag(name: str, **options: Any) -> dict[str, Any]:
    """Metadata of a dataclass field, {"flag": name} and the options: the flag binds the field.

    `options` are keyword arguments of `argparse.ArgumentParser.add_argument`.
    """
    return {"flag": name, **options}


@dataclasses.dataclass(frozen=True)
class RunMode(abc.ABC):
    """What `--run_mode` runs: a frozen dataclass that defines `help` and `__call__`.

    gin binds the fields. The built-in modes have short names (see `star_jax.modes.MODES`); one of
    your own is `--run_mode=my_module.MyMode`, and gin knows its fields as `MyMode.field`.
    """

    help: ClassVar[str] = ""  # one line for --help
    many_processes: ClassVar[bool] = False  # whether --processes is accepted
    not_needed: ClassVar[tuple[str, ...]] = ()  # macros that are %gin.REQUIRED for other modes only
    caches_programs: ClassVar[bool] = True  # whether compiled programs are cached on disk

    @classmethod
    def flags(cls) -> dict[str, Mapping[str, Any]]:
        """What `flag` returned for each field that a flag of the mode's own binds, by name."""
        return {field.name: field.metadata for field in dataclasses.fields(cls) if field.metadata}

    @abc.abstractmethod
    def __call__(self) -> int:
        """Runs the mode and returns the exit code, 0 if all is well; a user's error is raised."""


def default_mesh() -> MeshConfig:
    """All devices on the data axis."""
    from star_jax.parallel.partitioning import MeshConfig

    return MeshConfig()


@dataclasses.dataclass(frozen=True)
class PromptingMode(RunMode):
    """A run mode that prompts a model with the questions of a task."""

    many_processes = True

    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    task: ReasoningTask
    sampler: SamplerConfig
    mesh: MeshConfig = dataclasses.field(default_factory=default_mesh, kw_only=True)
    engine: MakeEngine | None = dataclasses.field(default=None, kw_only=True)  # None: native


@dataclasses.dataclass(frozen=True)
class RunDirMode(PromptingMode):
    """A run mode that fills a run directory from a base model, or resumes it, and reports on it."""

    model_dir: str
    base_checkpoint: str
    row: str = dataclasses.field(default="", kw_only=True)  # of the paper's tables or figures

    def settings(self, assumed: Assumptions) -> Settings:
        """What `precompile` needs to know of the run."""
        from star_jax.tools.precompile.prediction import Settings

        names = ("trainer", "optimizer", "schedule", "loop")  # of which a baseline has not all
        trained: dict[str, Any] = {name: getattr(self, name, None) for name in names}
        return Settings(self.model, self.sampler, mesh=self.mesh, assumed=assumed, **trained)


@dataclasses.dataclass(frozen=True)
class CheckpointMode(PromptingMode):
    """A run mode that prompts a checkpoint and writes no run directory."""

    not_needed = ("MODEL_DIR",)

    checkpoint: str
    few_shot: bool = dataclasses.field(default=False, kw_only=True)
    seed: int = dataclasses.field(default=0, kw_only=True)
