"""What a run measured, for TensorBoard and Weights & Biases, beside its metrics.jsonl.

    MODEL_DIR/tensorboard/             a file an outer iteration; the step is the outer iteration
    MODEL_DIR/tensorboard/iter_001/    the loss of each of its optimizer steps

Event files are made from what is on disk, one whole file an iteration, named by the iteration and
the hash of what is in it. So a run that goes on writes what is missing, replaces what was measured
anew, and leaves the rest alone: no step appears twice, and none is cut off.
"""

import hashlib
import importlib
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from star_jax.errors import UserError
from star_jax.parallel import processes
from star_jax.records import to_json
from star_jax.run.files import write_atomically
from star_jax.run.metrics import IterationMetrics, OnMetrics
from star_jax.run.paths import is_dir, path_of, read_if_there, told
from star_jax.run.run_dir import RunDir
from star_jax.run.stage_dir import StageDir

NOT_MEASURED = ("iteration", "seed", "rationalize")
WANDB_ID = "wandb_run_id.txt"  # in MODEL_DIR: a run that goes on is the same one there


def tracker(model_dir: str, tensorboard: bool = True, wandb_project: str = "") -> OnMetrics:
    """What to call with each outer iteration's metrics, old ones too, when they are on disk.

    Args:
      model_dir: the run directory; it need not be there yet.
      tensorboard: write event files into it.
      wandb_project: of Weights & Biases, where the numbers go too; "" for nowhere.

    Raises:
      UserError: Weights & Biases is asked for and not installed, or does not let us in. In every
        process, though the lead alone tracks.
    """
    run, on_metrics = RunDir(path_of(model_dir)), []

    def start() -> None:
        if wandb_project:
            on_metrics.append(_to_wandb(run.path, wandb_project))
        if tensorboard:
            importlib.import_module("clu.metric_writers")  # now, if it is not there, not in hours
            on_metrics.append(lambda metrics: write_events(run, metrics))

    processes.from_lead(start)

    def track(metrics: IterationMetrics) -> None:
        for function in on_metrics:
            function(metrics)

    return track


def scalars(metrics: Mapping[str, Any], sampling: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an iteration by name: {"accuracy_by_class/2": 0.5, ...}; nulls are left out.

    Args:
      metrics: a line of metrics.jsonl.
      sampling: sampling.json, stage -> what sampling it cost.
    """
    measured = {name: x for name, x in metrics.items() if name not in NOT_MEASURED}
    return dict(_flat({**measured, "sampling": sampling}))


def write_events(run: RunDir, metrics: IterationMetrics) -> None:
    """Writes the event files of a finished iteration, unless they are there."""
    n, stage = metrics.iteration, run.iteration(metrics.iteration)
    folder = run.path / "tensorboard"
    _write_once(folder, n, {n: _scalars_of(stage, metrics)})
    first, losses = stage.read_losses()
    steps = {step: {"train_loss": loss} for step, loss in enumerate(losses, start=first)}
    if steps:
        _write_once(folder / stage.path.name, n, steps)


def event_file(series: Mapping[int, Mapping[str, float]]) -> bytes:
    """A TensorBoard event file of step -> name -> number."""
    from clu import metric_writers  # imports tensorboard: only for who writes

    with tempfile.TemporaryDirectory() as folder:
        writer = metric_writers.SummaryWriter(folder)
        for step, values in series.items():
            writer.write_scalars(step, values)
        writer.close()
        [file] = Path(folder).iterdir()
        return file.read_bytes()


def _write_once(folder: Path, n: int, series: Mapping[int, Mapping[str, float]]) -> None:
    """One file an iteration; through `write_atomically`, which knows the way to buckets too."""
    content = hashlib.sha256(json.dumps(series).encode()).hexdigest()[:12]
    file = folder / f"events.out.tfevents.{n:010d}.{content}"  # TensorBoard reads them by name
    with told(folder):
        there = list(folder.glob(f"events.out.tfevents.{n:010d}.*")) if is_dir(folder) else []
        for other in there:
            if other.name != file.name:
                other.unlink()
    if file.name not in [other.name for other in there]:
        write_atomically(file, event_file(series))


def _to_wandb(directory: Path, project: str) -> OnMetrics:
    try:
        import wandb
    except ModuleNotFoundError as error:
        raise UserError(
            f"track.wandb_project = {project!r} needs the package {error.name}, which is not "
            f"installed; run `uv pip install wandb`, or leave the binding away"
        ) from error
    run_id = (read_if_there(directory / WANDB_ID) or b"").decode().strip() or None
    try:
        run = wandb.init(
            project=project,
            name=directory.name,
            id=run_id,
            resume="allow",
            settings={"console": "off"},  # the live table and the bars stay as they are
        )
    except wandb.Error as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f"track.wandb_project = {project!r}: Weights & Biases says: {reason}; log in with "
            f"`wandb login`, set WANDB_MODE=offline, or leave the binding away"
        ) from error

    def on_metrics(metrics: IterationMetrics) -> None:
        # Not before: until then the directory may turn out to be another run's.
        write_atomically(directory / WANDB_ID, run.id.encode())
        if metrics.iteration >= run.step:  # it has the others from before
            stage = RunDir(directory).iteration(metrics.iteration)
            run.log(_scalars_of(stage, metrics), step=metrics.iteration)

    return on_metrics


def _scalars_of(stage: StageDir, metrics: IterationMetrics) -> dict[str, float]:
    return scalars(to_json(metrics), stage.read_stats())


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, float]]:
    found = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found += _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            found.append((f"{prefix}{name}", float(value)))
    return found
