"""Everything gin can bind: frozen records, a few functions and the run modes.

Only this room and the run modes know gin: here objects get the names that gin files use.
"""

import os
from typing import Any

import gin
import jax
import jax.numpy as jnp

from star_jax.errors import UserError
from star_jax.loop.baselines import TrainingLength
from star_jax.loop.config import StarConfig
from star_jax.loop.filters import BUILT_IN, gin_name
from star_jax.loop.finetune import Phase
from star_jax.models.config import DecoderConfig, RopeScaling
from star_jax.models.families import decoder_config
from star_jax.models.formats import open_model
from star_jax.modes import MODES, RunMode
from star_jax.parallel.partitioning import MeshConfig
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.run import tracking
from star_jax.run.paths import path_of
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.corpus import ArithmeticCorpus, JsonlCorpus, jsonl_vocabulary
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.math import MathTask
from star_jax.tasks.toy.corpus import ToyCorpus, toy_vocabulary
from star_jax.tokenizers.loading import load_vocabulary
from star_jax.tools.precompile.prediction import Assumptions
from star_jax.training.schedules import EpochSteps, GeometricSteps, LinearSteps
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import TrainerConfig

SMALLEST_COMPILE_SECONDS = 0.3  # programs that compile faster are not cached


def pretrained_model(path: str, **numerics: Any) -> DecoderConfig:
    """The decoder that the checkpoint at `path` describes; `numerics` are ours to choose."""
    stored = open_model(path_of(path))
    if stored.config is None:
        raise UserError(f"{path} does not say what model it is; bind MODEL = @DecoderConfig()")
    return decoder_config(stored.config, path, **numerics)


def compilation_cache(directory: str = "~/.cache/star_jax/compiled") -> None:
    """Keeps compiled programs in `directory` ("": none); JAX_COMPILATION_CACHE_DIR overrides it."""
    if directory and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(path_of(directory).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_COMPILE_SECONDS)


RECORDS = (
    *(DecoderConfig, RopeScaling, MeshConfig, SamplerConfig, TrainerConfig, OptimizerConfig),
    *(StarConfig, TrainingLength, Phase, GeometricSteps, LinearSteps, EpochSteps, Assumptions),
    *(ArithmeticTask, CommonsenseQATask, GSM8KTask, JsonlTask, MathTask),
    *(ArithmeticCorpus, JsonlCorpus, ToyCorpus),
)
FUNCTIONS = {
    "arithmetic_vocabulary": arithmetic_vocabulary,
    "jsonl_vocabulary": jsonl_vocabulary,
    "toy_vocabulary": toy_vocabulary,
    "pretrained_vocabulary": load_vocabulary,
    "pretrained_model": pretrained_model,
    "track": tracking.tracker,
    "compilation_cache": compilation_cache,
}


def register_mode(run_mode: str, mode: type[RunMode]) -> None:
    """Lets gin bind a run mode's fields: those of "my_module.MyMode" as `MyMode.field`."""
    module, _, name = run_mode.rpartition(".")
    with gin.unlock_config():
        gin.external_configurable(mode, name, module=module or "star_jax")


def bound_mode(run_mode: str, mode: type[RunMode]) -> RunMode:
    """The registered run mode with the values that gin binds to its fields."""
    if mode.caches_programs:
        gin.get_configurable("star_jax.compilation_cache")()
    return gin.get_configurable(run_mode if "." in run_mode else f"star_jax.{run_mode}")()


for _record in RECORDS:
    gin.external_configurable(_record, module="star_jax")
for _filter in BUILT_IN:
    gin.external_configurable(_filter, gin_name(_filter), module="star_jax")
for _name, _function in FUNCTIONS.items():
    gin.external_configurable(_function, _name, module="star_jax")
for _name, _mode in MODES.items():
    register_mode(_name, _mode)
for _name in ("float32", "bfloat16", "float16"):
    gin.constant(f"jnp.{_name}", getattr(jnp, _name))
