"""What a precompilation came to, as text for a terminal and as JSON."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from star_jax.parallel.topologies import Topology, larger
from star_jax.tools.precompile.fit import GIB, TRAINING, Fit, Settings, Verdict
from star_jax.tools.precompile.prediction import assumptions_told, outer_iteration, whole_run

COLUMNS = ("program", "needs", "has, GiB", "fits", "compiled in", "TFLOP", "GB read+written",
           "GB received", "roofline", "bound by")  # fmt: skip


def fit_text(fit: Fit, settings: Settings) -> str:
    """A table of the programs, what would help, and the predicted times."""
    topology, generation = fit.topology, fit.topology.generation
    mesh = " x ".join(f"{axis}={size}" for axis, size in fit.mesh.items())
    rows = [COLUMNS, *(_row(verdict) for verdict in fit.verdicts)]
    lines = [
        f"{topology.cloud_name} ({topology.name}): {_count(topology.n_chips, 'chip')}, "
        f"{_count(topology.n_devices, 'device')} of {generation.hbm_gib:g} GiB; mesh {mesh}",
        "",
        *_aligned(rows),
        "evaluation: the same programs as sampling (prefix, refill, decode step)",
        "",
        f"peaks of a device that the roofline assumes: {fit.peaks.flops / 1e12:g} TFLOP/s in "
        f"bfloat16, {fit.peaks.hbm_bytes / 1e9:g} GB/s of memory, "
        f"{fit.peaks.link_bytes / 1e9:g} GB/s from its neighbours",
        "memory is what the compiler says; FLOPs and traffic are of one device and one run of the "
        "program (one token a slot for decoding), counted by hand",
    ]
    for verdict in fit.verdicts:
        if verdict.fits is False:
            lines += ["", *help_for(verdict, fit, settings)]
    return "\n".join([*lines, "", *prediction_lines(fit)])


def prediction_lines(fit: Fit) -> list[str]:
    """The predicted time of the first outer iteration and of the whole run, with assumptions."""
    each, run = fit.seconds(), fit.run
    stages = outer_iteration(run, each, n=min(1, run.iterations))
    heading = "outer iteration 1" if run.loop else "in the order of running"
    rows = [(f"{heading}, predicted", "here", "the released code", "")]
    rows += [
        (stage.name, duration(stage.seconds), duration(stage.released_seconds), stage.how)
        for stage in stages
    ]
    ours, theirs = (
        sum(getattr(stage, name) for stage in stages) for name in ("seconds", "released_seconds")
    )
    rows.append(("in all", duration(ours), duration(theirs), f"{theirs / ours:.1f} x"))
    ours, theirs = whole_run(run, each)
    noun = "outer iteration" if run.loop else "training"
    how = f"{_count(run.iterations, noun)} and the base's evaluation"
    rows.append(("the whole run", duration(ours), duration(theirs), how))
    return [*_aligned(rows), "", "assumed:", *(f"  {line}" for line in assumptions_told(run))]


def help_for(verdict: Verdict, fit: Fit, settings: Settings) -> list[str]:
    """How far a program is from fitting, and what would help."""
    topology = fit.topology
    needed = "more" if verdict.needed is None else f"{verdict.needed / GIB:.2f} GiB"
    lines = [
        f"{verdict.program} does not fit {topology.cloud_name}: needs {needed} of "
        f"{verdict.available / GIB:.2f} GiB, {verdict.missing / GIB:.2f} GiB too much. "
        "What would help:"
    ]
    if bigger := _large_enough(verdict, topology):
        lines.append(f"  more chips: --topology={bigger.cloud_name} ({bigger.name})")
    if verdict.program == TRAINING:
        lines += _help_for_training(fit, settings)
    else:
        smaller = settings.sampler.batch_size // 2
        lines.append(f"  fewer slots: --gin.SamplerConfig.batch_size={smaller}")
        lines.append(
            "  parameters split over more devices while decoding: MeshConfig.decoding_rules with "
            "('fsdp', 'tensor') for heads, kv_heads, mlp and vocab"
        )
    return lines


def fit_json(fit: Fit) -> dict[str, Any]:
    """All of it, JSON-ready; bytes and seconds."""
    each, run = fit.seconds(), fit.run
    ours, theirs = whole_run(run, each)
    return {
        "topology": fit.topology.name,
        "cloud_name": fit.topology.cloud_name,
        "chips": fit.topology.n_chips,
        "devices": fit.topology.n_devices,
        "mesh": fit.mesh,
        "fits": fit.fits,
        "peaks": dataclasses.asdict(fit.peaks),
        "programs": [
            {
                **dataclasses.asdict(verdict),
                "missing": verdict.missing,
                "roofline_seconds": verdict.roofline.seconds,
                "bound": verdict.roofline.bound,
            }
            for verdict in fit.verdicts
        ],
        "evaluation": "the same programs as sampling",
        "outer_iteration": [
            dataclasses.asdict(stage)
            for stage in outer_iteration(run, each, n=min(1, run.iterations))
        ],
        "whole_run_seconds": ours,
        "whole_run_released_seconds": theirs,
        "assumed": {**dataclasses.asdict(run.assumed), "in_words": assumptions_told(run)},
    }


def duration(seconds: float) -> str:
    """0.0123 -> "12.3 ms", 75 -> "75.0 s", 1,000 -> "16.7 min", 10,000 -> "2.8 h"."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        limit = {"s": 120.0, "min": 120.0}.get(unit, 1000.0)
        if seconds < limit * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _row(verdict: Verdict) -> tuple[str, ...]:
    work, needed = verdict.work, verdict.needed
    said = {True: "yes", False: f"NO, by {verdict.missing / GIB:.2f}", None: "not asked"}
    return (
        verdict.program,
        "?" if needed is None else f"{needed / GIB:.2f}",
        f"{verdict.available / GIB:.2f}",
        said[verdict.fits],
        f"{verdict.compile_seconds:.0f} s" if verdict.compile_seconds else "-",
        f"{work.flops / 1e12:.3g}",
        f"{work.hbm_bytes / 1e9:.3g}",
        f"{work.link_bytes / 1e9:.3g}",
        duration(verdict.roofline.seconds),
        verdict.roofline.bound,
    )


def _large_enough(verdict: Verdict, topology: Topology) -> Topology | None:
    """The smallest slice of the generation that may do, were all that is needed split over it."""
    for one in larger(topology):
        needed = (verdict.needed or 0.0) * topology.n_devices / one.n_devices
        if needed <= one.generation.hbm_gib * GIB:
            return one
    return None


def _help_for_training(fit: Fit, settings: Settings) -> list[str]:
    lines, trainer = [], settings.trainer
    room = fit.topology.generation.hbm_gib * GIB
    if fit.mesh["data"] > 1:
        lines.append(
            "  parameters and Adam's state split over all devices: MeshConfig.data = 1 and "
            f"MeshConfig.fsdp = {fit.mesh['data'] * fit.mesh['fsdp']}"
        )
    parts = trainer.accumulation_steps * 2
    rows = trainer.batch_size // (fit.mesh["data"] * fit.mesh["fsdp"])
    state = f"weights and Adam's state alone take {fit.state_bytes / GIB:.2f} GiB"
    if fit.state_bytes > room:
        lines.append(f"  nothing but more devices for each copy of the model: {state}")
    elif rows % parts == 0:
        flag = f"--gin.TrainerConfig.accumulation_steps={parts}"
        lines.append(f"  the batch in parts: {flag} ({state})")
    if settings.model.remat != "full":
        lines.append("  --gin.DecoderConfig.remat=\"'full'\"")
    lines.append("  another mesh: --search looks for one")
    return lines


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns: the first and the last to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
