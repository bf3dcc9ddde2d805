"""The smallest setting in which STaR still does something: sums of one digit, width 32."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from unittest import mock

import jax
import numpy as np

from star_jax.loop import star
from star_jax.loop.config import StarConfig
from star_jax.loop.stages import GENERATE, RATIONALIZE, Rollout, read_attempt
from star_jax.loop.star import Star
from star_jax.main import main
from star_jax.models.base_weights import Base
from star_jax.models.config import DecoderConfig
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.records import Attempt, Completion, Prompt, Question
from star_jax.rollout.engine import Engine, Loaded
from star_jax.run import checkpoints
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import Recorder
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.task import ReasoningTask
from star_jax.testing.engine import FakeEngine
from star_jax.training.schedules import StepSchedule
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer, TrainerConfig

MODEL_GIN = """
MODEL = @DecoderConfig()
VOCABULARY = @arithmetic_vocabulary()
DecoderConfig:
  vocab_size = 20
  n_layers = 2
  d_model = 32
  n_heads = 2
  head_dim = 16
  d_ff = 128
  rotary_dim = 16
  context_length = 256
  embedding_init = 0.1
TrainerConfig:
  batch_size = 8
  row_length = 64
OptimizerConfig:
  learning_rate = 5e-3
  warmup_steps = 20
  b2 = 0.98
"""

PRETRAIN_GIN = (
    MODEL_GIN
    + """
MODEL_DIR = %gin.REQUIRED
STEPS = 450
pretrain:
  model_dir = %MODEL_DIR
  model = %MODEL
  vocabulary = %VOCABULARY
  phases = [@first/Phase(), @second/Phase()]
  trainer = @TrainerConfig()
  seed = 1
Phase.corpus = @ArithmeticCorpus()
Phase.optimizer = @OptimizerConfig()
first/Phase.steps = 1
second/Phase.steps = %STEPS
ArithmeticCorpus:
  n_documents = 2000
  facts = 0.0
  plain = 0.5
  layout = 0.0
  hinted = 0.5
  plain_digits = (1.0,)
  hinted_digits = (1.0,)
"""
)

TASK_GIN = """
TASK = @ArithmeticTask()
ArithmeticTask:
  digits = (1,)
  n_train = 400
  n_validation = 20
  n_few_shot = 1
SamplerConfig:
  batch_size = 16
  max_new_tokens = 32
"""

STAR_GIN = (
    MODEL_GIN
    + TASK_GIN
    + """
include "runs/star.gin"
ITERATIONS = 2
StarConfig:
  questions_per_iteration = 48
  few_shot = "never"
  hinted_share = 0.5
GeometricSteps:
  first = 30
  growth = 1.0
"""
)

FINETUNE_GIN = (
    MODEL_GIN
    + TASK_GIN
    + """
MODEL_DIR = %gin.REQUIRED
MODEL_CHECKPOINT = %gin.REQUIRED
finetune:
  model_dir = %MODEL_DIR
  base_checkpoint = %MODEL_CHECKPOINT
  model = %MODEL
  vocabulary = %VOCABULARY
  task = %TASK
  sampler = @SamplerConfig()
  trainer = @TrainerConfig()
  optimizer = @OptimizerConfig()
  length = @TrainingLength()
  n_examples = 50
TrainingLength.steps = 20
"""
)

FEW_SHOT_GIN = (
    MODEL_GIN
    + TASK_GIN
    + """
include "runs/few_shot.gin"
"""
)

ASK_GIN = (
    MODEL_GIN
    + TASK_GIN
    + """
CHECKPOINT = %gin.REQUIRED
MODE.checkpoint = %CHECKPOINT
MODE.model = %MODEL
MODE.vocabulary = %VOCABULARY
MODE.task = %TASK
MODE.sampler = @SamplerConfig()
"""
)

GIN = {
    "pretrain": PRETRAIN_GIN,
    "star": STAR_GIN,
    "finetune": FINETUNE_GIN,
    "few_shot": FEW_SHOT_GIN,
    "evaluate": ASK_GIN.replace("MODE", "evaluate"),
    "infer": ASK_GIN.replace("MODE", "infer"),
}


def command_line(folder: Path, run_mode: str, **bindings: object) -> list[str]:
    """Arguments of star_jax.main for the tiny setting; `a__b` in a name stands for `a.b`."""
    file = folder / f"{run_mode}.gin"
    if run_mode in GIN:
        file.write_text(GIN[run_mode])
    flags = [f"--gin.{name.replace('__', '.')}={_gin(value)}" for name, value in bindings.items()]
    files = [f"--gin_file={file}"] if run_mode in GIN else []
    return [f"--run_mode={run_mode}", *files, *flags]


def run(folder: Path, run_mode: str, files: Sequence[Path] = (), **bindings: object) -> int:
    """Runs the tiny setting in this process, on one device; returns the exit code.

    Args:
      folder: gets the setting's gin file.
      run_mode: star, few_shot and so on.
      files: more gin files.
      bindings: as in `command_line`.
    """
    one_device = functools.partial(make_mesh, devices=jax.devices()[:1])
    more = [f"--gin_file={file}" for file in files]
    with mock.patch.object(partitioning, "make_mesh", one_device):
        return main([*command_line(folder, run_mode, **bindings), *more])


def run_file(file: str, run_mode: str, bindings: dict[str, object]) -> int:
    """Runs a shipped gin file in this process, on one device; returns the exit code."""
    one_device = functools.partial(make_mesh, devices=jax.devices()[:1])
    flags = [f"--gin.{name}={_gin(value)}" for name, value in bindings.items()]
    with mock.patch.object(partitioning, "make_mesh", one_device):
        return main([f"--run_mode={run_mode}", f"--gin_file={file}", *flags])


def make_base(folder: Path, steps: int = 450) -> Path:
    """A base that solves some one-digit sums and most hinted ones; returns its directory."""
    assert run(folder, "pretrain", MODEL_DIR=folder / "base", STEPS=steps) == 0
    return folder / "base"


def read_lines(file: Path) -> list[dict]:
    """The records of a JSON lines file."""
    return [json.loads(line) for line in file.read_text().splitlines()]


def trainer(width: int = 8, **config: object) -> Trainer:
    """A trainer of a one-layer decoder on one device."""
    model = DecoderConfig(
        vocab_size=20, n_layers=1, d_model=width, n_heads=1, head_dim=8, d_ff=16,
        rotary_dim=8, context_length=256,
    )  # fmt: skip
    config = {"batch_size": 2, "row_length": 64, **config}
    mesh = make_mesh(MeshConfig(), jax.devices()[:1])
    return Trainer(model, OptimizerConfig(1e-2, 2), TrainerConfig(**config), mesh)


def fake_engine(says: Callable[..., str | None]) -> FakeEngine:
    """An engine that answers the arithmetic task's prompts as `says` does."""
    return FakeEngine(says, arithmetic_vocabulary())


def sample(
    engine: Engine,
    model: Loaded,
    prompts: Sequence[Prompt],
    keys: Sequence[np.ndarray],
    on_progress: Callable[[int], None] = lambda n: None,
    **options: object,
) -> list[Completion | None]:
    """An engine's completion of each prompt, in their order; calls `on_progress` for each."""
    results = [None] * len(prompts)
    for place, completion in engine.generate(model, prompts, keys, **options):
        results[place] = completion
        on_progress(1)
    return results


def prompts_of(engine: FakeEngine) -> list[Prompt]:
    """The prompts that an engine was given, in order."""
    return [call.prompt for call in engine.calls]


def attempt_of(
    task: ReasoningTask, question: Question, text: str | None, hinted: bool = False
) -> Attempt:
    """An attempt with this completion; None stands for a question that exceeds the context."""
    prompt = task.prompt(question, hinted=hinted, few_shot=False)
    completion = None if text is None else Completion(text, (), True, 0.0)
    rollout, stage = Rollout(None, task, 0, 1), RATIONALIZE if hinted else GENERATE
    return read_attempt(rollout, question, prompt, completion, stage)


def trimmed_by(task: ReasoningTask, question: Question, completion: str) -> str:
    """A completion up to the end of its answer."""
    return completion[: task.read(question, completion).end]


def run_star(
    folder: Path,
    name: str,
    config: StarConfig,
    task: ReasoningTask,
    engine: FakeEngine,
    small: Trainer,
    schedule: StepSchedule,
) -> list[IterationMetrics]:
    """Runs STaR into folder/name from the base in folder/base, which is made if it is not there."""
    if not (folder / "base").exists():
        checkpoints.save(folder / "base", small.random_params(0))
    base = Base(str(folder / "base"), small.model, small.abstract_params())
    loop = Star(config, task, engine, small, schedule, base)
    return star.run_star(loop, Recorder(str(folder / name)))


def gold(prompt: Prompt) -> str:
    """The right completion of a prompt of the arithmetic task, hinted or not."""
    task = ArithmeticTask()
    return task.gold_completion(task.make_question("", prompt.text.splitlines()[1]))


def wrong(prompt: Prompt) -> str:
    """A completion that ends in a wrong answer."""
    return "<scratch>\n</scratch>\n0 0"


def question(a: int, b: int, id_: str = "") -> Question:
    """The question a + b with an id of its own."""
    return dataclasses.replace(ArithmeticTask().make_question(id_ or f"{a}+{b}", f"{a}+{b}"))


def _gin(value: object) -> str:
    return repr(str(value)) if isinstance(value, str | Path) else repr(value)
