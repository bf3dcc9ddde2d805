"""What `--run_mode` can run, one file each. This is the one list of those that come with star_jax.

The command line, gin's registry, `precompile`, sweeps and the TPU launcher all read it.
"""

import importlib
import inspect

from star_jax.errors import UserError, did_you_mean
from star_jax.modes.compare import CompareMode
from star_jax.modes.convert import ConvertMode
from star_jax.modes.evaluate import EvaluateMode
from star_jax.modes.few_shot import FewShotMode
from star_jax.modes.finetune import FinetuneMode
from star_jax.modes.infer import InferMode
from star_jax.modes.mode import RunMode
from star_jax.modes.precompile import PrecompileMode
from star_jax.modes.pretrain import PretrainMode
from star_jax.modes.report import ReportMode
from star_jax.modes.score_comparison import ScoreComparisonMode
from star_jax.modes.star import StarMode

MODES: dict[str, type[RunMode]] = {
    "star": StarMode,
    "few_shot": FewShotMode,
    "pretrain": PretrainMode,
    "finetune": FinetuneMode,
    "evaluate": EvaluateMode,
    "infer": InferMode,
    "convert": ConvertMode,
    "precompile": PrecompileMode,
    "report": ReportMode,
    "compare": CompareMode,
    "score_comparison": ScoreComparisonMode,
}


def find_mode(name: str) -> type[RunMode]:
    """The run mode of this name, "module.Class" for the user's own; UserError if there is none."""
    if name in MODES:
        return MODES[name]
    module_name, _, class_name = name.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in name.split(".")):
        hint = did_you_mean(name, MODES, f"; it is one of {', '.join(MODES)}")
        raise UserError(f"unknown run mode '{name}'{hint}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there and imports one that is not
        raise UserError(
            f"--run_mode={name}: no module named '{error.name}'; give module.Class, with the "
            f"module's folder on PYTHONPATH"
        ) from error
    if not hasattr(module, class_name):
        hint = did_you_mean(class_name, vars(module))
        raise UserError(f"--run_mode={name}: {module.__file__} has no '{class_name}'{hint}")
    mode = getattr(module, class_name)
    is_mode = inspect.isclass(mode) and issubclass(mode, RunMode) and not inspect.isabstract(mode)
    # A dataclass itself; Python has it frozen, as RunMode is.
    if not is_mode or "__dataclass_fields__" not in vars(mode):
        raise UserError(
            f"--run_mode={name} is not a run mode; define a frozen dataclass that derives from "
            f"star_jax.modes.mode.RunMode and has __call__"
        )
    return mode
