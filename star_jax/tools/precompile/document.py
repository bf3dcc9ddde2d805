"""What the run mode `precompile` found on a topology: a table for the screen, and JSON."""

import dataclasses

from star_jax.parallel.topologies import larger
from star_jax.run.progress import aligned
from star_jax.tools.precompile.fit import GIB, TRAINING, Fit, Verdict
from star_jax.tools.precompile.prediction import StageTime, assumptions_in_words

COLUMNS = ("program", "needs", "has, GiB", "fits", "compiled in", "TFLOP", "GB read+written",
           "GB received", "roofline", "bound by")  # fmt: skip


def fit_text(fit: Fit) -> str:
    """A table of the programs, what would help, and the predicted times."""
    topology, generation, peaks = fit.topology, fit.topology.generation, fit.topology.peaks
    mesh = " x ".join(f"{axis}={size}" for axis, size in fit.mesh.items())
    lines = [
        f"{topology.cloud_name} ({topology.name}): {_count(topology.n_chips, 'chip')}, "
        f"{_count(topology.n_devices, 'device')} of {generation.hbm_gib:g} GiB; mesh {mesh}",
        "",
        *aligned([COLUMNS, *map(_row, fit.verdicts)], left=(0, -1)),
        "evaluation: the same programs as sampling (prefix, refill, decode step)",
        "",
        f"peaks per device in the roofline: {peaks.flops / 1e12:g} TFLOP/s in bfloat16, "
        f"{peaks.hbm_bytes / 1e9:g} GB/s of memory, "
        f"{peaks.link_bytes / 1e9:g} GB/s from its neighbours",
        "memory is the compiler's report; FLOPs and traffic are estimates, per device and run of "
        "the program (for decoding: one token per slot)",
    ]
    for verdict in fit.verdicts:
        if verdict.fits is False:
            lines += ["", *_help_for(verdict, fit)]
    return "\n".join([*lines, "", *_prediction_lines(fit)])


def _prediction_lines(fit: Fit) -> list[str]:
    """The predicted time of the first outer iteration and of the whole run, with assumptions."""
    settings, stages = fit.settings, _first_iteration(fit)
    heading = "outer iteration 1" if settings.loop else "in the order of running"
    n_trainings = _count(settings.iterations, "outer iteration" if settings.loop else "training")
    ours = sum(one.seconds for one in stages)
    theirs = sum(one.released_seconds for one in stages)
    times = [
        *((one.name, one.seconds, one.released_seconds, one.how) for one in stages),
        ("total", ours, theirs, f"{theirs / ours:.1f} x"),
        ("the whole run", *fit.prediction.whole_run(), f"{n_trainings} and the base's evaluation"),
    ]
    rows = [
        (f"{heading}, predicted", "here", "the released code", ""),
        *((name, duration(here), duration(released), how) for name, here, released, how in times),
    ]
    assumed = [f"  {line}" for line in assumptions_in_words(settings)]
    return [*aligned(rows, left=(0, -1)), "", "assumed:", *assumed]


def _help_for(verdict: Verdict, fit: Fit) -> list[str]:
    """How far a program is from fitting, and what would help."""
    topology, slots = fit.topology, fit.settings.sampler.batch_size
    needed = "more" if verdict.needed is None else f"{verdict.needed / GIB:.2f} GiB"
    lines = [
        f"{verdict.program} does not fit {topology.cloud_name}: needs {needed} of "
        f"{verdict.available / GIB:.2f} GiB, {verdict.missing / GIB:.2f} GiB too much. "
        "What would help:"
    ]
    # The smallest slice of the generation that may suffice, if all memory were split over it.
    total = (verdict.needed or 0.0) * topology.n_devices / GIB
    for bigger in larger(topology):
        if total <= bigger.n_devices * bigger.generation.hbm_gib:
            lines.append(f"  more chips: --topology={bigger.cloud_name} ({bigger.name})")
            break
    if verdict.program == TRAINING:
        return lines + _help_for_training(fit)
    return [
        *lines,
        f"  fewer slots: --gin.SamplerConfig.batch_size={slots // 2}",
        "  parameters split over more devices while decoding: MeshConfig.decoding_rules with "
        "('fsdp', 'tensor') for heads, kv_heads, mlp and vocab",
    ]


def fit_json(fit: Fit) -> dict[str, object]:
    """The whole result: names, "programs", "outer_iteration", "assumed" ...; bytes and seconds."""
    ours, theirs = fit.prediction.whole_run()
    return {
        "topology": fit.topology.name,
        "cloud_name": fit.topology.cloud_name,
        "chips": fit.topology.n_chips,
        "devices": fit.topology.n_devices,
        "mesh": dict(fit.mesh),
        "fits": fit.fits,
        "peaks": dataclasses.asdict(fit.topology.peaks),
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
        "outer_iteration": [dataclasses.asdict(stage) for stage in _first_iteration(fit)],
        "whole_run_seconds": ours,
        "whole_run_released_seconds": theirs,
        "assumed": {
            **dataclasses.asdict(fit.settings.assumed),
            "in_words": assumptions_in_words(fit.settings),
        },
    }


def duration(seconds: float) -> str:
    """0.0123 -> "12.3 ms", 75 -> "75.0 s", 1,000 -> "16.7 min", 10,000 -> "2.8 h"."""
    for unit, size in (("us", 1e-6), ("ms", 1e-3), ("s", 1.0), ("min", 60.0), ("h", 3600.0)):
        limit = {"s": 120.0, "min": 120.0}.get(unit, 1000.0)
        if seconds < limit * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86400:.1f} days"


def _first_iteration(fit: Fit) -> list[StageTime]:
    return fit.prediction.outer_iteration(min(1, fit.settings.iterations))


def _row(verdict: Verdict) -> tuple[str, ...]:
    work, needed = verdict.work, verdict.needed
    fits = {True: "yes", False: f"NO, by {verdict.missing / GIB:.2f}", None: "not compiled"}
    return (
        verdict.program,
        "?" if needed is None else f"{needed / GIB:.2f}",
        f"{verdict.available / GIB:.2f}",
        fits[verdict.fits],
        f"{verdict.compile_seconds:.0f} s" if verdict.compile_seconds else "-",
        f"{work.flops / 1e12:.3g}",
        f"{work.hbm_bytes / 1e9:.3g}",
        f"{work.link_bytes / 1e9:.3g}",
        duration(verdict.roofline.seconds),
        verdict.roofline.bound,
    )


def _help_for_training(fit: Fit) -> list[str]:
    lines, trainer, mesh = [], fit.settings.training, fit.mesh
    if mesh["data"] > 1:
        lines.append(
            "  parameters and Adam's state split over all devices: MeshConfig.data = 1 and "
            f"MeshConfig.fsdp = {mesh['data'] * mesh['fsdp']}"
        )
    parts = trainer.accumulation_steps * 2
    state = f"weights and Adam's state alone take {fit.state_bytes / GIB:.2f} GiB"
    if fit.state_bytes > fit.topology.generation.hbm_gib * GIB:
        lines.append(f"  only more devices for each copy of the model: {state}")
    elif trainer.batch_size // (mesh["data"] * mesh["fsdp"]) % parts == 0:
        flag = f"--gin.TrainerConfig.accumulation_steps={parts}"
        lines.append(f"  the batch in parts: {flag} ({state})")
    if fit.settings.model.remat != "full":
        lines.append("  --gin.DecoderConfig.remat=\"'full'\"")
    return [*lines, "  another mesh: --search looks for one"]


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}{'' if n == 1 else 's'}"
