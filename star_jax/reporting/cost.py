"""What each outer iteration cost: tokens, time, and the share of the devices' peak used."""

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from star_jax.errors import UserError
from star_jax.loop.stages import EVALUATE, FINETUNE, SAMPLED
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import n_params
from star_jax.parallel.topologies import GENERATIONS
from star_jax.reporting.runs import RunReport
from star_jax.reporting.tables import TEXTS, Section, Table, ratio, run_table, times
from star_jax.run.metrics import number, percent

Numbers: TypeAlias = dict[str, float | None]  # by column

STAGES = (*(stage.name for stage in SAMPLED), FINETUNE, EVALUATE.name)
DEVICE_KINDS = {"v5 lite": "v5e", "v5": "v5p", "v6 lite": "v6e"}  # in JAX -> in the topologies


def cost_section(runs: Sequence[RunReport]) -> Section:
    """Tokens, seconds and shares of the roofline."""
    return Section("Cost", (TEXTS["cost"],), tuple(map(_table, runs)))


def _peak_per_parameter(run: RunReport) -> float | None:
    """FLOP/s of all devices in bf16 over the model's parameters, None where one is not known."""
    kind = run.facts.device.removeprefix("TPU ")
    name = DEVICE_KINDS.get(kind, kind)
    peaks = [x.bf16_tflops * 1e12 / x.devices_per_chip for x in GENERATIONS if x.name == name]
    try:
        size = n_params(DecoderConfig(**_literals(run.bindings, "DecoderConfig")))
    except (UserError, TypeError, ValueError, AttributeError):
        return None  # a model that is read from its checkpoint, or one of another release
    return ratio(peaks[0] * run.facts.n_devices, size) if peaks else None


def _literals(bindings: Mapping[str, str], name: str) -> dict[str, Any]:
    """Argument -> value of the plain numbers and strings that are bound to `name` in gin text."""
    found = {}
    for target, text in bindings.items():
        owner, _, argument = target.rpartition(".")
        if owner.rpartition("/")[2] == name and not text.startswith(("%", "@")):
            found[argument] = ast.literal_eval(text)
    return found


def _trained_tokens(run: RunReport, n: int) -> float | None:
    """Tokens in the training steps of outer iteration `n`, without padding."""
    trainer = _literals(run.bindings, "TrainerConfig")
    steps, efficiency = (run.rows[n].training.get(x) for x in ("steps", "packing_efficiency"))
    factors = [steps, efficiency, trainer.get("batch_size"), trainer.get("row_length")]
    known = [float(factor) for factor in factors if isinstance(factor, int | float)]
    return math.prod(known) if len(known) == len(factors) else None


def _table(run: RunReport) -> Table:
    peak = _peak_per_parameter(run)
    lines = [_numbers(run, n, peak or 0) for n in range(len(run.rows))]
    total: Numbers = {}
    for name in lines[0]:
        known = [value for line in lines if (value := line[name]) is not None]
        total[name] = sum(known) if len(known) == len(lines) and "%" not in name else None
    cells = [["iteration", *total]]
    for name, line in zip(["base", *run.trained, "all"], [*lines, total], strict=True):
        cells.append([str(name)])
        for column, value in line.items():
            form = ",.1f" if " s" in column else ",.0f"
            cells[-1].append(percent(value or None) if "%" in column else number(value, form))
    device = f"; {run.facts.n_devices} x {run.facts.device}" if run.facts.device else ""
    return run_table(run, cells, device)


def _numbers(run: RunReport, n: int, peak: float) -> Numbers:
    """By column, in order; `peak` is FLOP/s per parameter, 0 where it is not known."""
    sampling = run.iterations[n].sampling.values()

    def total(*names: str) -> float | None:
        counts = [stage.get(name, 0) for stage in sampling for name in names]
        return sum(counts) if counts else None

    sampled = total("prefix_tokens", "prompt_tokens", "new_tokens")
    device_seconds = total("prefill_seconds", "decode_seconds")
    trained = _trained_tokens(run, n) if n else 0
    seconds = {stage: run.rows[n].seconds.get(stage, 0.0) for stage in STAGES}
    return {
        "prefilled": total("prefix_tokens", "prompt_tokens"),
        "written": total("new_tokens"),
        "trained on": trained,
        **{f"{stage} s": value for stage, value in seconds.items()},
        "all s": sum(seconds.values()),
        "device s": device_seconds,
        "sampling %": ratio(times(2, sampled), times(peak, device_seconds)),
        "training %": ratio(times(6, trained), peak * seconds[FINETUNE]),
    }
