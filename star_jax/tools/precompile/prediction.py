"""How long an outer iteration takes, from how long each program does; every assumption is named."""

import dataclasses
import math
from typing import Any

from star_jax.errors import UserError
from star_jax.loop.config import StarConfig
from star_jax.models.config import DecoderConfig
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.rollout.native.shapes import Shapes
from star_jax.tools.precompile.roofline import Peaks, Split, decode_step, prefill, roofline
from star_jax.training.schedules import StepSchedule
from star_jax.training.trainer import TrainerConfig

RELEASED_PROMPT = 1536  # tokens that the released code pads each whole prompt to


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What a prediction takes for granted of a run that has not been; all of it is printed."""

    n_questions: int = 9741  # of the training split: CommonsenseQA's
    n_eval: int = 1221  # held out, asked after each outer iteration
    prefix_tokens: int = 1280  # of the few-shot examples
    question_tokens: float = 100  # of a question, on average
    longest_question: int = 128  # tokens
    new_tokens: float = 60  # that an answer has before it ends, on average
    hinted_share: float = 0.4  # of the questions, failed and asked again with a hint
    kept_share: float = 0.8  # of the questions, answered rightly with a hint or without
    busy_slots: float = 0.85  # of the decode steps' slots, those with an unfinished row
    packed_share: float = 0.9  # of the places in rows and chunks, those with a token
    efficiency: float = 0.5  # of its peaks that a device reaches
    message_microseconds: float = 5.0  # latency of one collective operation between devices

    def __post_init__(self):
        """Raises UserError for what no run can have."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            share = field.name in ("busy_slots", "packed_share", "efficiency")
            lowest = 0 if field.name in ("prefix_tokens", "message_microseconds") else 1e-9
            if field.name in ("hinted_share", "kept_share"):
                share, lowest = True, 0
            if not lowest <= value or (share and value > 1):
                raise UserError(
                    f"Assumptions.{field.name} = {value}: give a "
                    f"{'share up to 1' if share else 'positive number'}"
                )


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage of an outer iteration."""

    name: str
    seconds: float
    released_seconds: float  # of the released code, on the same roofline
    how: str


@dataclasses.dataclass(frozen=True)
class ProgramSeconds:
    """What one run of each program takes, at the efficiency that is assumed."""

    training_step: float
    decode_step: float
    refill: float
    prefix: float
    released_question: float  # one question, alone, as the released code asks it


@dataclasses.dataclass(frozen=True)
class Run:
    """What of a run's settings decides how long it takes."""

    sampler: SamplerConfig
    trainer: TrainerConfig | None  # None: nothing is trained
    schedule: StepSchedule | None
    loop: StarConfig | None  # None: a baseline
    assumed: Assumptions
    shapes: Shapes

    @property
    def n_questions(self) -> int:
        """Asked in each outer iteration, or learnt from without being asked."""
        drawn = self.loop.questions_per_iteration if self.loop else 0
        return drawn or self.assumed.n_questions

    @property
    def iterations(self) -> int:
        """Trainings: of a baseline one or none."""
        return self.loop.iterations if self.loop else int(self.trainer is not None)


def shows_examples(loop: StarConfig | None, trainer: TrainerConfig | None) -> bool:
    """Whether a run asks behind few-shot examples; of the baselines the one without training."""
    return loop.few_shot != "never" if loop else trainer is None


def released_question(
    model: DecoderConfig, n_devices: int, max_new_tokens: int, peaks: Peaks
) -> float:
    """Seconds for one question as the released code asks it, at the peaks.

    Its whole prompt, padded, is run for each question, and then always `max_new_tokens` steps
    over a cache as long; every device takes its share of the heads.
    """
    all_of_them = dict.fromkeys(("heads", "kv_heads", "mlp", "vocab"), n_devices)
    split = Split(**all_of_them)
    prompt = prefill(model, split, RELEASED_PROMPT, 0, n_read=1)
    step = decode_step(model, split, 1, 0, RELEASED_PROMPT + max_new_tokens)
    times = roofline(prompt, peaks).seconds, roofline(step, peaks).seconds
    return times[0] + max_new_tokens * times[1]


def outer_iteration(run: Run, each: ProgramSeconds, n: int = 1) -> list[Stage]:
    """The stages of outer iteration `n`; of the base's evaluation alone for n = 0."""
    assumed = run.assumed
    evaluate = _ask("evaluate", assumed.n_eval, run, each)
    if n == 0:
        return [evaluate]
    if run.loop is None:
        return [_finetune(run, each, n), evaluate]
    asked = [_ask("generate", run.n_questions, run, each)]
    failed = math.ceil(assumed.hinted_share * run.n_questions)
    if run.loop.rationalize:
        asked.append(_ask("rationalize", failed, run, each))
    if run.loop.resample_temperature:
        asked.append(_ask("resample", failed, run, each))
    return [*asked, _finetune(run, each, n), evaluate]


def whole_run(run: Run, each: ProgramSeconds) -> tuple[float, float]:
    """Seconds of all outer iterations and the base's evaluation: ours and the released code's."""
    stages = [stage for n in range(run.iterations + 1) for stage in outer_iteration(run, each, n)]
    return sum(stage.seconds for stage in stages), sum(stage.released_seconds for stage in stages)


def _asked_again(loop: StarConfig) -> str:
    if loop.rationalize:
        return " and are asked again with a hint"
    return " and are asked again at another temperature" if loop.resample_temperature else ""


def assumptions_told(run: Run) -> list[str]:
    """Every assumption in words."""
    a, asked = run.assumed, run.n_questions
    prefix = a.prefix_tokens if shows_examples(run.loop, run.trainer) else 0
    if run.loop:
        questions = [
            f"{asked:,} questions an outer iteration, {a.n_eval:,} held out",
            f"{a.hinted_share:.0%} of them fail{_asked_again(run.loop)}, "
            f"{a.kept_share:.0%} of them are kept",
        ]
    else:
        trained_on = f"{asked:,} examples to train on, " if run.trainer else ""
        questions = [f"{trained_on}{a.n_eval:,} questions held out"]
    return [
        *questions,
        f"a few-shot prefix of {prefix:,} tokens, the same for all questions; "
        f"{a.question_tokens:g} tokens a question (at most {a.longest_question}), "
        f"{a.new_tokens:g} written (at most {run.sampler.max_new_tokens})",
        f"{a.busy_slots:.0%} of the slots busy, {a.packed_share:.0%} of the places in rows and "
        f"chunks filled",
        f"a device reaches {a.efficiency:.0%} of its peaks, and computes, reads and sends at the "
        f"same time; {a.message_microseconds:g} microseconds' latency a collective operation",
        "counted: matrix products, Adam, traffic between devices; not counted: the host, loading "
        "and saving weights, compiling",
        f"the released code: each question alone, its whole prompt padded to {RELEASED_PROMPT:,} "
        f"tokens, always {run.sampler.max_new_tokens} new tokens, heads split over all devices; "
        f"the same training",
    ]


def told(assumed: Assumptions) -> dict[str, Any]:
    """The assumptions for JSON."""
    return dataclasses.asdict(assumed)


def _ask(name: str, n: int, run: Run, each: ProgramSeconds) -> Stage:
    """Prefix once, prompts in chunks, then a decode step for each token of the fullest slots."""
    assumed, shapes = run.assumed, run.shapes
    n_slots = min(run.sampler.batch_size, n)
    steps = max(
        math.ceil(n * assumed.new_tokens / (n_slots * assumed.busy_slots)),
        run.sampler.max_new_tokens,
    )
    places = shapes.chunk_tokens * shapes.n_shards * assumed.packed_share
    chunks = math.ceil(n * assumed.question_tokens / places)
    seconds = each.prefix + chunks * each.refill + steps * each.decode_step
    return Stage(
        name,
        seconds,
        n * each.released_question,
        f"{n:,} questions: {chunks:,} chunks, {steps:,} decode steps of {n_slots} slots",
    )


def _finetune(run: Run, each: ProgramSeconds, n: int) -> Stage:
    assumed, trainer = run.assumed, run.trainer
    kept = math.ceil(assumed.kept_share * run.n_questions)
    per_row = trainer.row_length * assumed.packed_share
    per_step = trainer.batch_size * per_row / (assumed.question_tokens + assumed.new_tokens)
    steps = run.schedule(n, kept, per_step)
    seconds = steps * each.training_step
    return Stage("finetune", seconds, seconds, f"{steps:,} steps of {kept:,} kept examples")
