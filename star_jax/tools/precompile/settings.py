"""The settings that decide whether a run fits and how long it takes, and assumptions about it."""

import dataclasses

from jax.sharding import Mesh

from star_jax.errors import check_not_negative, check_positive, check_share
from star_jax.loop.baselines import TrainingLength
from star_jax.loop.config import StarConfig
from star_jax.models.config import DecoderConfig
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import MeshConfig
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.rollout.native.shapes import Shapes, shapes_for
from star_jax.tools.precompile.roofline import DeviceModel, split_of
from star_jax.training.schedules import StepSchedule
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import TrainerConfig

SHARES = ("hinted_share", "kept_share", "busy_slots", "packed_share", "efficiency")
MAY_BE_ZERO = ("hinted_share", "kept_share", "prefix_tokens", "message_microseconds")


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What a prediction assumes about a run that has not happened yet; all of it is printed."""

    n_questions: int = 9741  # in the training split: CommonsenseQA's
    n_eval: int = 1221  # held-out questions, evaluated after each outer iteration
    prefix_tokens: int = 1280  # of the few-shot examples
    question_tokens: float = 100  # per question, on average
    longest_question: int = 128  # tokens
    new_tokens: float = 60  # per completion, on average
    hinted_share: float = 0.4  # of the questions: failed, and sampled again with a hint
    kept_share: float = 0.8  # of the questions: correctly answered with or without a hint
    busy_slots: float = 0.85  # of the decode steps' slots: those with an unfinished row
    packed_share: float = 0.9  # of the positions in rows and chunks: those with a token
    efficiency: float = 0.5  # of its peaks that a device reaches
    message_microseconds: float = 5.0  # latency of one collective operation between devices

    def __post_init__(self):
        """Raises UserError for values that no run can have."""
        names = [field.name for field in dataclasses.fields(self)]
        check_share(self, *SHARES)
        check_not_negative(self, *MAY_BE_ZERO)
        check_positive(self, *(name for name in names if name not in MAY_BE_ZERO))


@dataclasses.dataclass(frozen=True)
class Settings:
    """The part of a run that decides whether it fits: no weights, data or vocabulary.

    A baseline has no outer loop, and the few-shot baseline trains nothing.
    """

    model: DecoderConfig
    sampler: SamplerConfig
    trainer: TrainerConfig | None  # None: nothing is trained
    optimizer: OptimizerConfig | None
    schedule: StepSchedule | TrainingLength | None
    loop: StarConfig | None  # None: a baseline
    mesh: MeshConfig
    assumed: Assumptions

    @property
    def training(self) -> TrainerConfig:
        """The trainer's settings, of a run that trains."""
        assert self.trainer
        return self.trainer

    @property
    def prefix_tokens(self) -> int:
        """Length of the few-shot prefix; 0 for a run that shows no examples."""
        shown = self.loop.few_shot != "never" if self.loop else self.trainer is None
        return self.assumed.prefix_tokens if shown else 0

    @property
    def n_questions(self) -> int:
        """Questions that each outer iteration samples or, for a baseline, trains on."""
        drawn = self.loop.questions_per_iteration if self.loop else 0
        return drawn or self.assumed.n_questions

    @property
    def iterations(self) -> int:
        """Number of trainings; a baseline has one or none."""
        return self.loop.iterations if self.loop else int(self.trainer is not None)

    def trained_model(self, mesh: Mesh) -> DeviceModel:
        """The model as one device of the mesh trains it."""
        return DeviceModel(self.model, split_of(mesh, self.mesh.training_rules))

    def decoded_model(self, mesh: Mesh) -> DeviceModel:
        """The model as one device of the mesh samples from it."""
        return DeviceModel(self.model, split_of(mesh, self.mesh.decoding_rules))

    def shapes(self, mesh: Mesh) -> Shapes:
        """The static sizes of sampling."""
        assumed, sampler = self.assumed, self.sampler
        return shapes_for(
            assumed.question_tokens,
            assumed.longest_question,
            n_shards=partitioning.n_parts(mesh, self.mesh.decoding_rules, "batch"),
            batch_size=sampler.batch_size,
            max_new_tokens=sampler.max_new_tokens,
            refill_share=sampler.refill_share,
            prefill_tokens=sampler.prefill_tokens,
        )
