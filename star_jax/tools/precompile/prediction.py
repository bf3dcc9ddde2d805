"""How long an outer iteration takes, estimated from how long each of its programs takes."""

import dataclasses
import math

from star_jax.models.config import DecoderConfig
from star_jax.rollout.native.shapes import Shapes
from star_jax.tools.precompile.roofline import DeviceModel, Peaks, Split, roofline
from star_jax.tools.precompile.settings import Settings

RELEASED_PROMPT = 1536  # tokens that the released code pads each whole prompt to


@dataclasses.dataclass(frozen=True)
class StageTime:
    """One stage of an outer iteration."""

    name: str
    seconds: float
    released_seconds: float  # of the released code, on the same roofline
    how: str  # in words


@dataclasses.dataclass(frozen=True)
class ProgramSeconds:
    """The time of one run of each program, at the assumed efficiency."""

    training_step: float
    decode_step: float
    refill: float
    prefix: float
    released_question: float  # one question sampled alone, as the released code does


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The times of a run's stages."""

    settings: Settings
    shapes: Shapes
    each: ProgramSeconds

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
            if loop.rationalize:
                sampled.append(self._sample("rationalize", failed))
            if loop.resample_temperature:
                sampled.append(self._sample("resample", failed))
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
            each.prefix + chunks * each.refill + steps * each.decode_step,
            n * each.released_question,
            f"{n:,} questions: {chunks:,} chunks, {steps:,} decode steps of {n_slots} slots",
        )

    def _finetune(self, n: int) -> StageTime:
        assumed, trainer = self.settings.assumed, self.settings.training
        assert self.settings.schedule
        kept = math.ceil(assumed.kept_share * self.settings.n_questions)
        positions = trainer.batch_size * trainer.row_length * assumed.packed_share
        per_step = positions / (assumed.question_tokens + assumed.new_tokens)
        steps = self.settings.schedule(n, kept, per_step)
        seconds = steps * self.each.training_step
        return StageTime("finetune", seconds, seconds, f"{steps:,} steps of {kept:,} kept examples")


def released_question(
    model: DecoderConfig, n_devices: int, max_new_tokens: int, peaks: Peaks
) -> float:
    """Seconds that the released code takes for a question's whole padded prompt and its answer.

    Args:
      model: the decoder.
      n_devices: the heads, the MLP and the vocabulary are split over all of them.
      max_new_tokens: decode steps per question, over a cache of the prompt and these.
      peaks: the speed of one device.
    """
    split = Split(heads=n_devices, kv_heads=n_devices, mlp=n_devices, vocab=n_devices)
    on_device = DeviceModel(model, split)
    prompt = on_device.prefill(RELEASED_PROMPT, 0, n_read=1)
    step = on_device.decode_step(1, 0, RELEASED_PROMPT + max_new_tokens)
    return roofline(prompt, peaks).seconds + max_new_tokens * roofline(step, peaks).seconds


def assumptions_in_words(settings: Settings) -> list[str]:
    """Every assumption of a prediction, as lines of text."""
    a, loop, new_tokens = settings.assumed, settings.loop, settings.sampler.max_new_tokens
    if loop:
        again = ""
        if loop.rationalize or loop.resample_temperature:
            how = "with a hint" if loop.rationalize else "at another temperature"
            again = f" and are sampled again {how}"
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
