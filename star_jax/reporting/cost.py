"""What each outer iteration cost: tokens, time, and how near the devices came to their peak."""

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from star_jax.errors import UserError
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import n_params
from star_jax.parallel.topologies import GENERATIONS
from star_jax.reporting.document import Section, Table
from star_jax.reporting.runs import Run
from star_jax.reporting.tables import command_note, number, percent, ratio, run_title

# As JAX calls the devices, and as the topologies do.
DEVICE_KINDS = {
    "TPU v3": "v3",
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
STAGES = ("generate", "rationalize", "resample", "finetune", "evaluate")
HEADER = (
    "iteration", "prefilled", "written", "trained on", *(f"{stage} s" for stage in STAGES),
    "all s", "device s", "sampling %", "training %",
)  # fmt: skip


def cost_section(runs: Sequence[Run]) -> Section:
    """Tokens, seconds and shares of the roofline."""
    text = (
        "Tokens that were prefilled, written and trained on; each stage's time by the clock, in "
        "seconds; `device s` is how long the devices worked on sampling, compiling apart. "
        "`sampling %` and `training %` are shares of the roofline: the FLOPs needed, over the time "
        "(for sampling the devices', for training the clock's) times the peak of all devices in "
        "bf16. Needed are taken to be 2 FLOPs a parameter and token sampled, 6 trained on "
        '(attention\'s scores left out). "-" where the peak is not known, as on a CPU.',
    )
    return Section("Cost", text, tuple(map(_table, runs)))


def peak_flops(device: str, n_devices: int) -> float | None:
    """Of all devices together, bf16 FLOP/s; None where it is not known."""
    for generation in GENERATIONS:
        if DEVICE_KINDS.get(device) == generation.name and n_devices:
            return generation.bf16_tflops * 1e12 / generation.devices_per_chip * n_devices
    return None


def parameters(run: Run) -> int | None:
    """Of the run's model, if its configuration says what it is."""
    fields = literals(run.bindings, "DecoderConfig")
    try:
        return n_params(DecoderConfig(**fields))
    except (UserError, TypeError, ValueError, AttributeError):
        return None  # a model that is read from its checkpoint, or one of another release


def literals(bindings: Mapping[str, str], name: str) -> dict[str, Any]:
    """The arguments that gin text binds to `name` as plain numbers and strings."""
    found = {}
    for target, text in bindings.items():
        owner, _, argument = target.rpartition(".")
        if owner.rpartition("/")[2] == name and not text.startswith(("%", "@")):
            found[argument] = ast.literal_eval(text)
    return found


def trained_tokens(run: Run, n: int) -> float | None:
    """That the steps of outer iteration `n` went through, padding left out."""
    row, trainer = run.rows[n], literals(run.bindings, "TrainerConfig")
    factors = [row.get("train_steps"), row.get("packing_efficiency")]
    factors += [trainer.get("batch_size"), trainer.get("row_length")]
    if not all(type(factor) in (int, float) for factor in factors):
        return None
    steps, efficiency, batch_size, row_length = factors
    return steps * efficiency * batch_size * row_length


def _table(run: Run) -> Table:
    peak = peak_flops(run.facts.device, run.facts.n_devices)
    size = parameters(run) if peak else None
    lines = [_numbers(run, n, None if not size else peak / size) for n in range(len(run.rows))]
    rows = [_cells("base" if n == 0 else str(n), line) for n, line in enumerate(lines)]
    sums = [
        sum(values) if all(value is not None for value in values) else None
        for values in zip(*(line[:-2] for line in lines), strict=True)
    ]
    rows.append(_cells("all", [*sums, None, None]))
    device = f"; {run.facts.n_devices} x {run.facts.device}" if run.facts.device else ""
    return Table(run_title(run) + device, HEADER, tuple(rows), command_note(run))


def _numbers(run: Run, n: int, tokens_a_flop: float | None) -> list[float | None]:
    """In the order of HEADER; `tokens_a_flop` is the devices' peak over the parameters."""
    row, sampling = run.rows[n], run.iterations[n].sampling.values()
    names = ("prefix_tokens", "prompt_tokens", "new_tokens", "prefill_seconds", "decode_seconds")
    prefix, prompt, written, *device = (
        sum(stage.get(name, 0) for stage in sampling) if sampling else None for name in names
    )
    prefilled = prefix + prompt if sampling else None
    device_seconds = sum(device) if sampling else None
    trained = trained_tokens(run, n) if n else 0
    seconds = [row.get(f"seconds_{stage}") or 0.0 for stage in STAGES]
    shares = [None, None]
    if tokens_a_flop:
        sampled = prefilled + written if sampling else None
        shares[0] = ratio(_times(2, sampled), _times(tokens_a_flop, device_seconds))
        shares[1] = ratio(_times(6, trained), tokens_a_flop * row.get("seconds_finetune", 0))
    return [prefilled, written, trained, *seconds, sum(seconds), device_seconds, *shares]


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _cells(name: str, numbers: Sequence[float | None]) -> tuple[str, ...]:
    *counted, sampling, training = numbers
    tokens, seconds = counted[:3], counted[3:]
    return (
        name,
        *(number(value) for value in tokens),
        *(number(value, ",.1f") for value in seconds),
        percent(sampling),
        percent(training if training else None),
    )
