"""A run as precompile sees it: its settings, what is assumed of it, and how long its stages take.

The time of an outer iteration is estimated from how long each of its programs takes.
"""

import dataclasses
import math
from collections.abc import Mapping

from jax.sharding import Mesh

from star_jax.errors import check_not_negative, check_positive, check_share
from star_jax.loop.baselines import TrainingLength
from star_jax.loop.config import StarConfig
from star_jax.models.config import DecoderConfig
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import MeshConfig
from star_jax.parallel.topologies import Topology
from star_jax.rollout.native.logits import SamplerConfig
from star_jax.rollout.native.shapes import Shapes, shapes_for
from star_jax.tools.precompile.roofline import DeviceModel, Split, roofline, split_of
from star_jax.training.schedules import StepSchedule
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import TrainerConfig

TRAINING, PREFIX, REFILL, DECODE = "training step", "prefix", "refill", "decode step"
RELEASED = "released question"  # one question sampled alone, as the released code does
RELEASED_PROMPT = 1536  # tokens that the released code pads each whole prompt to
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
        n_shards = partitioning.n_parts(mesh, self.mesh.decoding_rules, "batch")
        assumed = self.assumed
        return shapes_for(assumed.question_tokens, assumed.longest_question, n_shards, self.sampler)


@dataclasses.dataclass(frozen=True)
class StageTime:
    """One stage of an outer iteration."""

    name: str
    seconds: float
    released_seconds: float  # of the released code, on the same roofline
    how: str  # in words


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The times of a run's stages."""

    settings: Settings
    shapes: Shapes
    each: Mapping[str, float]  # seconds of one run of each program, at the assumed efficiency

    def outer_iteration(self, n: int = 1) -> list[StageTime]:
        """The stages of outer iteration `n`; for n = 0 only the evaluation of the base model."""
        settings, loop = self.settings, self.settings.loop
        evaluate = self._sample("evaluate", settings.assumed.n_eval)
        if n == 0:
            return [evaluate]
        sampled = []
        if loop:
            failed = math.ceil(settings.assumed.hinted_share * settings.n_questions)
            sampled.append(self._sample("generate", settings.n_questions))
            sampled += [self._sample(stage.name, failed) for stage in loop.retries]
        return [*sampled, self._finetune(n), evaluate]

    def whole_run(self) -> tuple[float, float]:
        """Seconds of all outer iterations and the base's evaluation: ours, the released code's."""
        iterations = range(self.settings.iterations + 1)
        stages = [stage for n in iterations for stage in self.outer_iteration(n)]
        ours = sum(stage.seconds for stage in stages)
        return ours, sum(stage.released_seconds for stage in stages)

    def _sample(self, name: str, n: int) -> StageTime:
        """Prefix once, prompts in chunks, and decode steps until the fullest slots are done."""
        assumed, sampler, each = self.settings.assumed, self.settings.sampler, self.each
        n_slots = min(sampler.batch_size, n)
        busy = math.ceil(n * assumed.new_tokens / (n_slots * assumed.busy_slots))
        steps = max(busy, sampler.max_new_tokens)  # the longest row needs that many
        positions = self.shapes.chunk_tokens * self.shapes.n_shards * assumed.packed_share
        chunks = math.ceil(n * assumed.question_tokens / positions)
        return StageTime(
            name,
            each.get(PREFIX, 0.0) + chunks * each[REFILL] + steps * each[DECODE],
            n * each[RELEASED],
            f"{n:,} questions: {chunks:,} chunks, {steps:,} decode steps of {n_slots} slots",
        )

    def _finetune(self, n: int) -> StageTime:
        assumed, trainer = self.settings.assumed, self.settings.training
        assert self.settings.schedule
        kept = math.ceil(assumed.kept_share * self.settings.n_questions)
        positions = trainer.batch_size * trainer.row_length * assumed.packed_share
        per_step = positions / (assumed.question_tokens + assumed.new_tokens)
        steps = self.settings.schedule(n, kept, per_step)
        seconds = steps * self.each[TRAINING]
        return StageTime("finetune", seconds, seconds, f"{steps:,} steps of {kept:,} kept examples")


def released_question(settings: Settings, topology: Topology) -> float:
    """Seconds that the released code takes for a question's whole padded prompt and its answer.

    The heads, the MLP and the vocabulary are split over all devices.
    """
    n_devices, max_new_tokens = topology.n_devices, settings.sampler.max_new_tokens
    split = Split(heads=n_devices, kv_heads=n_devices, mlp=n_devices, vocab=n_devices)
    on_device = DeviceModel(settings.model, split)
    prompt = on_device.prefill(RELEASED_PROMPT, 0, n_read=1)
    step = on_device.decode_step(1, 0, RELEASED_PROMPT + max_new_tokens)
    prompt_seconds, step_seconds = (roofline(x, topology.peaks).seconds for x in (prompt, step))
    return prompt_seconds + max_new_tokens * step_seconds


def assumptions_in_words(settings: Settings) -> list[str]:
    """Every assumption of a prediction, as lines of text."""
    a, loop, new_tokens = settings.assumed, settings.loop, settings.sampler.max_new_tokens
    if loop:
        how = "with a hint" if loop.rationalize else "at another temperature"
        again = f" and are sampled again {how}" if loop.retries else ""
        questions = [
            f"{settings.n_questions:,} questions per outer iteration, {a.n_eval:,} held out",
            f"{a.hinted_share:.0%} of them fail{again}, {a.kept_share:.0%} of them are kept",
        ]
    else:
        trained = f"{settings.n_questions:,} examples to train on, " if settings.trainer else ""
        questions = [f"{trained}{a.n_eval:,} questions held out"]
    return [
        *questions,
        f"a few-shot prefix of {settings.prefix_tokens:,} tokens, the same for all questions; "
        f"{a.question_tokens:g} tokens per question (at most {a.longest_question}), "
        f"{a.new_tokens:g} new tokens per completion (at most {new_tokens})",
        f"{a.busy_slots:.0%} of the slots are busy; tokens fill {a.packed_share:.0%} of the "
        f"positions in rows and chunks",
        f"a device reaches {a.efficiency:.0%} of its peaks; computing, memory and communication "
        f"overlap; each collective operation has a latency of {a.message_microseconds:g} "
        f"microseconds",
        "counted: matrix products, Adam, traffic between devices; not counted: the host, loading "
        "and saving weights, compiling",
        f"the released code: one question at a time, its whole prompt padded to "
        f"{RELEASED_PROMPT:,} tokens, always {new_tokens} new tokens, heads split over all "
        f"devices; the same training",
        "the times are estimates that were never checked on a TPU; use them only to compare "
        "settings",
    ]
