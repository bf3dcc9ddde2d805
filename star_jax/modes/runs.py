"""The run modes that fill a run directory, each as one record: what is bound, and what it does.

`star` is the method, `few_shot` and `finetune` are what the paper sets beside it, on the same data
and graded in the same way.
"""

import dataclasses
from collections.abc import Callable

import seqio
from jax.sharding import Mesh

from star_jax.loop.config import StarConfig
from star_jax.loop.direct import Direct, TrainingLength, finetune_on_gold
from star_jax.loop.few_shot import evaluate_few_shot
from star_jax.loop.star import Star, run_star
from star_jax.models.base_weights import Base
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import placed_params
from star_jax.parallel.partitioning import MeshConfig
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.run.metrics import OnMetrics
from star_jax.run.run_dir import Recorder
from star_jax.tasks.task import ReasoningTask
from star_jax.tools.precompile.settings import Assumptions, Settings
from star_jax.training import schedules
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer, TrainerConfig


@dataclasses.dataclass(frozen=True)
class StarRun:
    """A whole run of STaR."""

    model_dir: str
    base_checkpoint: str
    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    task: ReasoningTask
    sampler: SamplerConfig
    trainer: TrainerConfig
    optimizer: OptimizerConfig
    schedule: schedules.StepSchedule
    loop: StarConfig
    mesh: MeshConfig = MeshConfig()  # noqa: RUF009  frozen
    row: str = ""  # of the paper's tables or figures

    def __call__(self, mesh: Mesh, config_text: Callable[[], str], on_metrics: OnMetrics) -> None:
        """Runs it or resumes it."""
        recorder = Recorder(self.model_dir, config_text, self.row, on_metrics)
        trainer = _trainer(self, mesh)
        star = Star(
            self.loop, self.task, _sampler(self, mesh), trainer, self.schedule, _base(self, trainer)
        )
        run_star(star, recorder)


@dataclasses.dataclass(frozen=True)
class FinetuneRun:
    """Direct fine-tuning, or fine-tuning on the data set's own solutions."""

    model_dir: str
    base_checkpoint: str
    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    task: ReasoningTask
    sampler: SamplerConfig
    trainer: TrainerConfig
    optimizer: OptimizerConfig
    length: TrainingLength
    n_examples: int = 0
    mesh: MeshConfig = MeshConfig()  # noqa: RUF009  frozen
    row: str = ""  # of the paper's tables or figures

    def __call__(self, mesh: Mesh, config_text: Callable[[], str], on_metrics: OnMetrics) -> None:
        """Runs it or resumes it."""
        recorder = Recorder(self.model_dir, config_text, self.row, on_metrics)
        trainer, sampler = _trainer(self, mesh), _sampler(self, mesh)
        base = _base(self, trainer)
        direct = Direct(self.length, self.task, sampler, trainer, base, self.n_examples)
        finetune_on_gold(direct, recorder)


@dataclasses.dataclass(frozen=True)
class FewShotRun:
    """The base, asked behind few-shot examples."""

    model_dir: str
    base_checkpoint: str
    model: DecoderConfig
    vocabulary: seqio.Vocabulary
    task: ReasoningTask
    sampler: SamplerConfig
    seed: int = 0
    mesh: MeshConfig = MeshConfig()  # noqa: RUF009  frozen
    row: str = ""  # of the paper's tables or figures

    def __call__(self, mesh: Mesh, config_text: Callable[[], str], on_metrics: OnMetrics) -> None:
        """Runs it or resumes it."""
        recorder = Recorder(self.model_dir, config_text, self.row, on_metrics)
        abstract = placed_params(self.model, mesh, self.mesh.training_rules)
        base = Base(self.base_checkpoint, self.model, abstract)
        evaluate_few_shot(base, self.task, _sampler(self, mesh), recorder, self.seed)


Run = StarRun | FinetuneRun | FewShotRun
RUNS: dict[str, type[Run]] = {"star": StarRun, "finetune": FinetuneRun, "few_shot": FewShotRun}


def _sampler(run: Run, mesh: Mesh) -> Sampler:
    return Sampler(run.model, run.vocabulary, run.sampler, mesh, run.mesh.decoding_rules)


def _base(run: StarRun | FinetuneRun, trainer: Trainer) -> Base:
    return Base(run.base_checkpoint, run.model, trainer.abstract_params())


def _trainer(run: StarRun | FinetuneRun, mesh: Mesh) -> Trainer:
    return Trainer(run.model, run.optimizer, run.trainer, mesh, run.mesh.training_rules)


def settings_of(run: StarRun | FinetuneRun | FewShotRun, assumed: Assumptions) -> Settings:
    """The settings of a run as it is bound; a baseline trains for its own length, on everything."""
    if isinstance(run, StarRun):
        trained = run.trainer, run.optimizer, run.schedule, run.loop
    elif isinstance(run, FinetuneRun):
        trained = run.trainer, run.optimizer, run.length, None
        n_examples = run.n_examples or assumed.n_questions
        assumed = dataclasses.replace(assumed, n_questions=n_examples, kept_share=1.0)
    else:
        trained = None, None, None, None
    return Settings(run.model, run.sampler, *trained, run.mesh, assumed)
