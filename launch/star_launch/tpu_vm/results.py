"""Fetches the results of a run on a TPU VM."""

from __future__ import annotations

from pathlib import Path

from star_launch.tpu_vm.gcloud import GcloudError, LaunchError
from star_launch.tpu_vm.run import is_bucket
from star_launch.tpu_vm.status import run_state
from star_launch.tpu_vm.tpu import Node, Tpu
from star_launch.tpu_vm.worker import tpu_worker

# Below MODEL_DIR: what a report on the run needs, and its own report.
RESULTS = ("format.json", "config.gin", "row.json", tpu_worker.METRICS, "report")


def fetch(tpu: Tpu, node: Node | None, folder: Path, model_dir: str) -> None:
    """Copies the report, metrics and configuration from MODEL_DIR.

    Args:
      tpu: the TPU VM.
      node: its state, None if it is gone.
      folder: copied to.
      model_dir: the run directory; "" for that of the last run.

    Raises:
      LaunchError: there is nothing to fetch.
    """
    model_dir = model_dir or run_state(tpu, node).model_dir
    if not model_dir and tpu.gcloud.is_dry_run:
        model_dir = "MODEL_DIR"
    if not model_dir:
        raise LaunchError(f"{tpu.name}: no run is recorded here; give --model_dir")
    tpu.gcloud.step(f"Copy the results into {folder}")
    if node is None and not is_bucket(model_dir):
        raise LaunchError(f"{tpu.name}: there is no TPU VM, and {model_dir} was on its disk")
    if not tpu.gcloud.is_dry_run:
        folder.mkdir(parents=True, exist_ok=True)
    fetched = [name for name in RESULTS if fetch_one(tpu, f"{model_dir}/{name}", folder)]
    if not fetched:
        raise LaunchError(f"{tpu.name}: {model_dir} has none of {', '.join(RESULTS)} yet")
    tpu.say(f"{', '.join(fetched)} fetched into {folder}")


def fetch_one(tpu: Tpu, path: str, folder: Path) -> bool:
    """Copies one file or folder of MODEL_DIR into a folder here; returns whether it exists."""
    try:
        if is_bucket(path):
            command = ("storage", "cp", path, f"{folder}/", "--recursive")
            tpu.gcloud.call(*command, what=f"fetching {path}")
        else:
            home_path = path if path.startswith("/") else f"{tpu_worker.FOLDER}/{path}"
            tpu.bring(home_path, f"{folder}/")
    except GcloudError as error:
        if error.kind != "missing" and "No such file" not in str(error):
            raise
        return False
    return True


def fetch_log(tpu: Tpu, folder: Path, worker: int) -> str:
    """Copies a worker's log into a folder here; returns its file, or why there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        tpu.bring(tpu_worker.LOG_FILE, f"{folder}/", worker)
    except GcloudError as error:
        return f"not fetched ({error})"
    return str(folder / Path(tpu_worker.LOG_FILE).name)
