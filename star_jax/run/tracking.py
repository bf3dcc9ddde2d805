"""A run's metrics for TensorBoard and Weights & Biases, in addition to its metrics.jsonl.

    MODEL_DIR/tensorboard/             one file per outer iteration, which is the step
    MODEL_DIR/tensorboard/iter_001/    the loss of each of its optimizer steps

An event file is made from what is on disk, whole, and named by the iteration and the hash of its
content. So a resumed run writes what is missing and replaces what was measured again: no step
appears twice, and none is truncated.
"""

import hashlib
import importlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from flax import traverse_util

from star_jax.errors import UserError
from star_jax.parallel import processes
from star_jax.records import to_json
from star_jax.run.metrics import IterationMetrics, OnMetrics
from star_jax.run.paths import bucket_errors, is_dir, path_of, read_if_there, write_atomically
from star_jax.run.run_dir import RunDir

NOT_MEASURED = ("iteration", "seed", "rationalize")  # of metrics.json
WANDB_ID = "wandb_run_id.txt"  # in MODEL_DIR: a resumed run continues its run there


def tracker(model_dir: str, tensorboard: bool = True, wandb_project: str = "") -> OnMetrics:
    """A function to call with each outer iteration's metrics, old ones too, once they are on disk.

    It writes event files into `model_dir`, and sends the numbers to a project of Weights & Biases
    ("" for none). Raises UserError if that is not installed or refuses the login.
    """
    run = RunDir(path_of(model_dir))
    on_metrics: list[OnMetrics] = []  # empty in all processes but the lead

    def start() -> None:
        if wandb_project:
            on_metrics.append(_to_wandb(run, wandb_project))
        if tensorboard:
            importlib.import_module("clu.metric_writers")  # fails now if missing, not in hours
            on_metrics.append(lambda metrics: write_events(run, metrics))

    processes.from_lead(start)

    def track(metrics: IterationMetrics) -> None:
        for function in on_metrics:
            function(metrics)

    return track


def scalars(run: RunDir, metrics: IterationMetrics) -> dict[str, float]:
    """The numbers of a finished iteration by name, without nulls: metrics.json, sampling.json.

    {"accuracy_by_group/2": 0.5, ..., "sampling/generate/seconds": 1.5}.
    """
    measured = {name: x for name, x in to_json(metrics).items() if name not in NOT_MEASURED}
    stats = run.iteration(metrics.iteration).read_stats()
    flat = traverse_util.flatten_dict({**measured, "sampling": stats}, sep="/")
    return {name: float(x) for name, x in flat.items() if isinstance(x, int | float)}


def write_events(run: RunDir, metrics: IterationMetrics) -> None:
    """Writes the event files of a finished iteration, unless they exist."""
    n, stage = metrics.iteration, run.iteration(metrics.iteration)
    folder = run.path / "tensorboard"
    _write_once(folder, n, {n: scalars(run, metrics)})
    first, losses = stage.read_losses()
    steps = {step: {"train_loss": loss} for step, loss in enumerate(losses, start=first)}
    if steps:
        _write_once(folder / stage.path.name, n, steps)


def _event_file(series: Mapping[int, Mapping[str, float]]) -> bytes:
    """A TensorBoard event file of step -> name -> number."""
    from clu import metric_writers  # imports tensorboard

    with tempfile.TemporaryDirectory() as folder:
        writer = metric_writers.SummaryWriter(folder)
        for step, values in series.items():
            writer.write_scalars(step, values)
        writer.close()
        [file] = Path(folder).iterdir()
        return file.read_bytes()


def _write_once(folder: Path, n: int, series: Mapping[int, Mapping[str, float]]) -> None:
    content = hashlib.sha256(json.dumps(series).encode()).hexdigest()[:12]
    prefix = f"events.out.tfevents.{n:010d}."  # TensorBoard reads files in the order of names
    file = folder / f"{prefix}{content}"
    with bucket_errors(folder):
        existing = list(folder.glob(f"{prefix}*")) if is_dir(folder) else []
        for other in existing:
            if other.name != file.name:
                other.unlink()
    if file not in existing:
        write_atomically(file, _event_file(series))


def _to_wandb(run: RunDir, project: str) -> OnMetrics:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise UserError(
            f"track.wandb_project = {project!r} needs the package {error.name}, which is not "
            f"installed; run `uv pip install wandb`, or remove the binding"
        ) from error
    id_file = run.path / WANDB_ID
    try:
        wandb_run = wandb.init(
            project=project,
            name=run.path.name,
            id=(read_if_there(id_file) or b"").decode().strip() or None,
            resume="allow",
            settings={"console": "off"},  # keeps the live table and the progress bars
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"track.wandb_project = {project!r}: Weights & Biases reports: {reason}; log in with "
            f"`wandb login`, set WANDB_MODE=offline, or remove the binding"
        ) from error

    def on_metrics(metrics: IterationMetrics) -> None:
        # Not before: the directory may turn out to belong to another run.
        write_atomically(id_file, wandb_run.id.encode())
        if metrics.iteration >= wandb_run.step:  # it has the earlier ones
            wandb_run.log(scalars(run, metrics), step=metrics.iteration)

    return on_metrics
