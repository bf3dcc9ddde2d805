"""Algorithm 1, lines 3-4: the model writes a rationale and an answer for each question.

    (r, y^)   = M_{n-1}(x)                for every x              stage GENERATE
    (r', y'^) = M_{n-1}(add_hint(x, y))   for the failures         stage RATIONALIZE

Questions in, attempts out: sampled by the engine, read by the task. A stage is one object here, and
has its place on disk. Adding one is adding an object, and its place in the loop.
"""

import contextlib
import dataclasses
import math
import numbers
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeVar

from star_jax import records
from star_jax.errors import UserError, one_line
from star_jax.records import Attempt, Completion, KeptExample, Prompt, Question, Reading
from star_jax.rollout.engine import Engine, Loaded, Stats, prompt_key
from star_jax.run.progress import progress
from star_jax.run.stage_dir import Lazy, StageDir
from star_jax.tasks.task import ReasoningTask

Sampled = TypeVar("Sampled", Attempt, KeptExample)
Reward = Callable[[Question, str, Reading], float]  # of a question, its completion and reading


def right_or_wrong(question: Question, completion: str, reading: Reading) -> float:
    """The reward of STaR: 1 for a right answer, else 0."""
    return float(reading.correct)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """How attempts are drawn, whatever the stage."""

    engine: Engine
    task: ReasoningTask
    seed: int
    iteration: int  # outer iteration; draws differ from one to the next
    few_shot: bool = False  # put the few-shot examples P before each question
    reward: Reward = right_or_wrong
    on_stats: Callable[[Stats], None] = lambda stats: None


@dataclasses.dataclass(frozen=True)
class Stage:
    """A pass over questions: its names, and how it prompts the model."""

    name: str  # in metrics, in sampling.json and on the progress bar
    file: str  # of its attempts, with .jsonl
    source: str  # of its attempts, and of the examples that are kept of them
    hinted: bool = False  # show the right answer as a hint (Algorithm 1, add_hint)
    first_sample: int = 0  # a later draw of a prompt that another stage drew from, too
    temperature: float | None = None  # None samples as the engine is configured


GENERATE = Stage("generate", "generations", records.GENERATED)  # Algorithm 1, line 3
RATIONALIZE = Stage("rationalize", "rationalizations", records.RATIONALIZED, hinted=True)  # line 4
RESAMPLE = Stage("resample", "resamplings", records.RESAMPLED, first_sample=1)  # section 4.6
EVALUATE = Stage("evaluate", "eval", "evaluated")
SAMPLED = (GENERATE, RATIONALIZE, RESAMPLE)  # those that may give examples to train on
FINETUNE, TRAIN_FILE, CHECKPOINT = "finetune", "train", "checkpoint"


@dataclasses.dataclass
class Stages:
    """The stages of one outer iteration in its directory: finished ones are read, not done again.

    `seconds` has how long each took when it was done.
    """

    directory: StageDir
    rollout: Rollout
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    def sample(
        self, stage: Stage, model: Lazy[Loaded], questions: Sequence[Question], *, few_shot: bool
    ) -> list[Attempt]:
        """One attempt for each question, in their order.

        Args:
          stage: how the model is prompted.
          model: loaded by the engine only if the stage is not finished.
          questions: to be answered.
          few_shot: put the few-shot examples P before each.
        """
        rollout = dataclasses.replace(
            self.rollout,
            few_shot=few_shot,
            on_stats=lambda stats: self.directory.write_stats(stage.name, stats),
        )
        done = self.directory.records(
            stage.file, Attempt, lambda: draw_attempts(model(), questions, rollout, stage)
        )
        self.seconds[stage.name] = done.seconds
        return done.value

    def kept(self, examples: Sequence[KeptExample]) -> list[KeptExample]:
        """What is trained on, as it is on disk."""
        return self.directory.records(TRAIN_FILE, KeptExample, lambda: examples).value


def by_stage(items: Sequence[Sampled]) -> Mapping[str, list[Sampled]]:
    """What is there of each stage that sampled, by the stage's name, in order."""
    names = {stage.source: stage.name for stage in SAMPLED}
    groups: dict[str, list[Sampled]] = {}
    for item in items:
        groups.setdefault(names[item.source], []).append(item)
    return groups


def draw_attempts(
    model: Loaded, questions: Sequence[Question], rollout: Rollout, stage: Stage
) -> list[Attempt]:
    """One attempt for each question, in the order of the questions.

    Args:
      model: loaded by the engine.
      questions: to be answered.
      rollout: engine, task and seed.
      stage: with hints or without, and at which temperature.
    """
    task, hint = rollout.task, " hinted" if stage.hinted else ""
    engine = rollout.engine
    if stage.temperature is not None:
        engine = engine.at_temperature(stage.temperature)
    prompts = [task.prompt(q, hinted=stage.hinted, few_shot=rollout.few_shot) for q in questions]
    keys = [
        prompt_key(rollout.seed, rollout.iteration, f"{q.id}{hint}", stage.first_sample)
        for q in questions
    ]
    attempts: dict[int, Attempt] = {}
    with progress(stage.name, len(prompts), "questions") as advance:
        stream = engine.generate(model, prompts, keys, on_stats=rollout.on_stats)
        for i, completion in stream:  # read while the devices sample the next ones
            if i in attempts or i not in range(len(prompts)):
                raise UserError(
                    f"the engine {type(engine).__name__} gave a completion for the prompt {i} of "
                    f"{len(prompts)}, which has one or does not exist; it gives each exactly one"
                )
            attempts[i] = read_attempt(rollout, questions[i], prompts[i], completion, stage)
            advance(1)
    if len(attempts) < len(prompts):
        raise UserError(
            f"the engine {type(engine).__name__} gave {len(attempts)} completions for "
            f"{len(prompts)} prompts; it gives each exactly one"
        )
    return [attempts[i] for i in range(len(questions))]


def read_attempt(
    rollout: Rollout,
    question: Question,
    prompt: Prompt,
    completion: Completion | None,
    stage: Stage,
) -> Attempt:
    """A completion as an attempt, read once.

    Args:
      rollout: its task reads, its reward rewards.
      question: that was to be answered.
      prompt: that the model saw.
      completion: that it wrote; None if the prompt exceeds the context length.
      stage: that drew it.
    """
    task, written = rollout.task, completion or Completion("", (), False, 0.0)
    if completion is None:
        reading = Reading(answer=None, end=0, correct=False)
    else:
        reading = task.read(question, written.text)
    gold = task.gold_completion(question)
    return Attempt(
        question_id=question.id,
        sample=stage.first_sample,
        turn=0,
        group=question.group,
        source=stage.source,
        hinted=prompt.hinted,
        prompt=prompt.text,
        completion=written.text,
        token_ids=written.token_ids,
        ended=written.ended,
        log_probability=written.log_probability,
        reading=reading,
        reward=_reward_of(rollout.reward, question, written.text, reading),
        dropped=completion is None,
        reference_steps=None if gold is None else task.read(question, gold).n_steps,
        expected=question.answer,
    )


def _reward_of(reward: Reward, question: Question, completion: str, reading: Reading) -> float:
    """The reward of a completion; raises UserError unless the function gives a finite number."""
    name = getattr(reward, "__name__", type(reward).__name__)
    with named_errors(f"the reward {name}"):
        value = reward(question, completion, reading)
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise UserError(f"the reward {name} gave {value!r} for {question.id}: give a finite number")
    return float(value)


@contextlib.contextmanager
def named_errors(what: str) -> Iterator[None]:
    """Turns an exception of a user's function into a UserError that names the function."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise UserError(
            f"{what} failed: {type(error).__name__}: {one_line(str(error))} ({place.filename}, "
            f"line {place.lineno}); correct it"
        ) from error


def failures(questions: Sequence[Question], attempts: Sequence[Attempt]) -> list[Question]:
    """The questions that no attempt answers correctly, in their order."""
    solved = {attempt.question_id for attempt in attempts if attempt.correct}
    return [question for question in questions if question.id not in solved]
