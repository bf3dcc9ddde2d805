"""Everything gin can bind: the constructors of the frozen records, and one function a run mode.

The library itself knows nothing of gin: here, and only here, names become objects.
"""

import dataclasses
import functools
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import gin
import jax.numpy as jnp
import seqio

from star_jax.errors import UserError
from star_jax.loop.config import StarConfig
from star_jax.loop.direct import TrainingLength
from star_jax.loop.evaluate import (
    GENERATED,
    GRADINGS,
    LIKELIHOOD,
    chance,
    check_grading,
    evaluate_by_likelihood,
    evaluation_metrics,
)
from star_jax.loop.filters import BUILT_IN, gin_name
from star_jax.loop.pretrain import Phase, train_base
from star_jax.loop.rationales import Rollout, draw_attempts
from star_jax.loop.stages import EVALUATE
from star_jax.models import base_weights
from star_jax.models.config import DecoderConfig, RopeScaling
from star_jax.models.decoder import placed_params
from star_jax.models.families import decoder_config
from star_jax.models.formats import open_model
from star_jax.modes.runs import RUNS
from star_jax.parallel import processes
from star_jax.parallel.partitioning import MeshConfig, Rules, make_mesh
from star_jax.records import to_json
from star_jax.reporting.intervals import wilson_interval
from star_jax.reporting.report import report
from star_jax.rollout.engine import Loaded
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.run import compilation, tracking
from star_jax.run.files import check_writable, write_atomically
from star_jax.run.metrics import OnMetrics
from star_jax.run.paths import path_of
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.corpus import ArithmeticCorpus
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.jsonl_corpus import JsonlCorpus, jsonl_vocabulary
from star_jax.tasks.task import VALIDATION, ReasoningTask
from star_jax.tasks.toy.corpus import ToyCorpus, toy_vocabulary
from star_jax.tokenizers.loading import load_vocabulary
from star_jax.tools.comparison.command import compare, score_comparison
from star_jax.tools.precompile.settings import Assumptions
from star_jax.training import schedules
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer, TrainerConfig

for _configurable in (
    DecoderConfig,
    RopeScaling,
    MeshConfig,
    SamplerConfig,
    StarConfig,
    TrainerConfig,
    OptimizerConfig,
    schedules.GeometricSteps,
    schedules.LinearSteps,
    schedules.EpochSteps,
    ArithmeticTask,
    CommonsenseQATask,
    GSM8KTask,
    JsonlTask,
    ArithmeticCorpus,
    JsonlCorpus,
    ToyCorpus,
    Assumptions,
    arithmetic_vocabulary,
    jsonl_vocabulary,
    toy_vocabulary,
    TrainingLength,
    Phase,
):
    gin.external_configurable(_configurable, module="star_jax")
for _filter in BUILT_IN:
    gin.external_configurable(_filter, gin_name(_filter), module="star_jax")
for _name in ("float32", "bfloat16", "float16"):
    gin.constant(f"jnp.{_name}", getattr(jnp, _name))


for _name, _record in RUNS.items():
    gin.external_configurable(_record, _name, module="star_jax")


def _run(name: str) -> None:
    """Runs or resumes a run in its directory and writes its report."""
    run = gin.get_configurable(f"star_jax.{name}")()  # gin binds all of it
    on_metrics = track(run.model_dir)
    run(make_mesh(run.mesh), gin.operative_config_str, on_metrics)
    if processes.is_lead():
        report([run.model_dir])


@gin.configurable(module="star_jax")
def precompile(
    topologies: Sequence[str] = (), json_file: str = "", search: bool = False, run: str = "star"
) -> int:
    """Prints whether the bound run fits TPUs, and how long it would take there.

    Returns 1 if it does not fit one of them. `json_file` gets all of it as JSON; `search` looks
    for a mesh instead; `run` is the run mode that is asked about. Neither the weights nor the
    data nor the vocabulary need to be there.
    """
    from star_jax.modes.runs import settings_of
    from star_jax.tools.precompile import command as precompile_command

    if run not in RUNS:
        raise UserError(f"precompile.run = {run!r} is none of {', '.join(RUNS)}")
    # By position: only then does gin leave alone what is bound to them.
    bound = gin.get_configurable(f"star_jax.{run}")("", "", gin.REQUIRED, None, None)
    settings = settings_of(bound, gin.get_configurable("star_jax.Assumptions")())
    devices = precompile_command.tpu_devices
    return precompile_command.run(settings, topologies, json_file, search, devices)


@gin.configurable(module="star_jax")
def pretrain(
    model_dir: str,
    model: DecoderConfig,
    vocabulary: seqio.Vocabulary,
    phases: Sequence[Phase],
    trainer: TrainerConfig,
    seed: int = 0,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008  frozen
) -> None:
    """Makes the tiny base model in `model_dir`, once."""
    train_base(
        model_dir,
        phases,
        vocabulary,
        Trainer(model, OptimizerConfig(), trainer, make_mesh(mesh), mesh.training_rules),
        seed,
        gin.operative_config_str,
    )


@gin.configurable(module="star_jax")
def evaluate(
    checkpoint: str,
    model: DecoderConfig,
    vocabulary: seqio.Vocabulary,
    task: ReasoningTask,
    sampler: SamplerConfig,
    few_shot: bool = False,
    split: str = VALIDATION,
    seed: int = 0,
    output_file: str = "",
    grading: str = GENERATED,
    normalize: str = "bytes",
    mesh: MeshConfig = MeshConfig(),  # noqa: B008  frozen
) -> None:
    """Prints a checkpoint's accuracy on a split; `output_file` gets every attempt as JSON lines.

    Graded by what the model writes ("generated") or by the "likelihood" of the choices' text, a
    mean over its `normalize`: "bytes", "tokens" or, for the sum, "none".
    """
    engine = Sampler(model, vocabulary, sampler, make_mesh(mesh), mesh.decoding_rules)
    rollout = Rollout(engine, task, seed, iteration=0, few_shot=few_shot)
    if output_file:
        check_writable(path_of(output_file))
    questions = task.questions(split)
    check_grading(grading, normalize, task, questions)
    weights = _load(checkpoint, engine, mesh.training_rules)
    if grading == LIKELIHOOD:
        attempts = evaluate_by_likelihood(weights, questions, rollout, normalize)
    else:
        attempts = draw_attempts(weights, questions, rollout, EVALUATE)
    if not processes.is_lead():
        return
    result = evaluation_metrics(attempts)
    print(f"grading: {GRADINGS[grading]}")
    # A line that is copied alone still says that its answers were not generated.
    how = f"seed {seed}" if grading == GENERATED else f"{grading} a choice, by {normalize}"
    for name, accuracy in {**result["accuracy_by_group"], "all": result["accuracy"]}.items():
        n = result["n_eval_by_group"].get(name, result["n_eval"])
        low, high = wilson_interval(round(accuracy * n), n)
        print(
            f"{task.name} {split} {name}: {100 * accuracy:.1f} % "
            f"(95 %: {100 * low:.1f} to {100 * high:.1f}, n = {n}, {how})"
        )
    if guessing := chance(task, questions):
        print(f"chance: {100 * guessing:.1f} %")
    print(f"without a readable answer: {result['unparsable']} of {result['n_eval']}")
    if output_file:
        lines = ({"grading": grading, **to_json(attempt)} for attempt in attempts)
        write_atomically(
            path_of(output_file), "".join(json.dumps(x) + "\n" for x in lines).encode()
        )


@gin.configurable(module="star_jax")
def infer(
    checkpoint: str,
    questions: Sequence[str],
    model: DecoderConfig,
    vocabulary: seqio.Vocabulary,
    task: ReasoningTask,
    sampler: SamplerConfig,
    few_shot: bool = False,
    seed: int = 0,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008  frozen
) -> None:
    """Prints what a checkpoint writes for `questions`, texts as the task writes them."""
    if not questions or isinstance(questions, str):
        raise UserError(f"infer.questions = {questions!r}: give a list of texts, at least one")
    engine = Sampler(model, vocabulary, sampler, make_mesh(mesh), mesh.decoding_rules)
    rollout = Rollout(engine, task, seed, iteration=0, few_shot=few_shot)
    asked = [task.make_question(f"infer_{i}", text) for i, text in enumerate(questions)]
    weights = _load(checkpoint, engine, mesh.training_rules)
    attempts = draw_attempts(weights, asked, rollout, dataclasses.replace(EVALUATE, name="infer"))
    if processes.is_lead():
        sys.stdout.writelines(f"{attempt.prompt}{attempt.completion}\n\n" for attempt in attempts)


@gin.configurable(module="star_jax")
def convert(
    source: str,
    target: str,
    format: str,
    model: DecoderConfig,
    vocabulary: seqio.Vocabulary,
    mesh: MeshConfig = MeshConfig(),  # noqa: B008  frozen
) -> None:
    """Writes the weights at `source` to `target` as "huggingface" or "orbax"."""
    # Its packages are those of the extra `models`, which a run from Orbax does without.
    from star_jax.tools.convert import convert_weights

    convert_weights(source, target, format, model, vocabulary, make_mesh(mesh), mesh.training_rules)


@gin.configurable(module="star_jax")
def pretrained_model(path: str, **numerics: Any) -> DecoderConfig:
    """The decoder that the checkpoint at `path` says it is; `numerics` are ours to choose."""
    stored = open_model(path_of(path))
    if stored.config is None:
        raise UserError(f"{path} does not say what model it is; bind MODEL = @DecoderConfig()")
    return decoder_config(stored.config, path, **numerics)


@gin.configurable(module="star_jax")
def pretrained_vocabulary(path: str) -> seqio.Vocabulary:
    """The tokenizer that lies at `path`: a model's directory, a tokenizer's or GGUF file."""
    return load_vocabulary(path)


def _load(checkpoint: str, sampler: Sampler, rules: Rules) -> Loaded:
    """The weights, read as training would have them and laid out anew."""
    return sampler.load(
        base_weights.load_base(
            path_of(checkpoint), sampler.model, placed_params(sampler.model, sampler.mesh, rules)
        )
    )


@gin.configurable(module="star_jax")
def track(model_dir: str, tensorboard: bool = True, wandb_project: str = "") -> OnMetrics:
    """Where a run's numbers go beside metrics.jsonl; see `tracking.tracker`."""
    return tracking.tracker(model_dir, tensorboard, wandb_project)


@gin.configurable(module="star_jax")
def compilation_cache(directory: str = compilation.DEFAULT_CACHE) -> str:
    """Where compiled programs are kept between processes; "" for nowhere."""
    return directory


def _entry(function: Callable[[], None]) -> Callable[[], int]:
    def run() -> int:
        compilation.use_cache(compilation_cache())
        function()
        return 0

    return run


gin.external_configurable(report, module="star_jax")
gin.external_configurable(compare, module="star_jax")
gin.external_configurable(score_comparison, module="star_jax")
ENTRY_POINTS = {
    **{name: _entry(functools.partial(_run, name)) for name in RUNS},
    "pretrain": _entry(pretrain),
    "evaluate": _entry(evaluate),
    "infer": _entry(infer),
    "convert": _entry(convert),
    "report": _entry(gin.get_configurable("star_jax.report")),
    "compare": _entry(gin.get_configurable("star_jax.compare")),
    "score_comparison": _entry(gin.get_configurable("star_jax.score_comparison")),
    "precompile": precompile,  # without the cache: it tells how long compiling takes
}
