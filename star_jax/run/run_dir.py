"""MODEL_DIR: whose run it is, in which format, and the directories of its iterations.

MODEL_DIR/format.json, config.gin, row.json, metrics.jsonl, iter_000/, iter_001/, ...
"""

import dataclasses
import itertools
import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from star_jax.errors import UserError, some
from star_jax.parallel import processes
from star_jax.records import to_json
from star_jax.run.metrics import IterationMetrics, OnMetrics, live_table
from star_jax.run.paths import bucket_errors, path_of, read_if_there, write_atomically
from star_jax.run.progress import log
from star_jax.run.stage_dir import StageDir

FORMAT = 2  # of what is in a run directory; 1 had one attempt a question and no format.json
# What may change between a run and its continuation, since finished stages do not depend on it.
FREE_BINDINGS = re.compile(
    r"(MODEL_DIR|ITERATIONS|ROW|.*\.(model_dir|iterations|checkpoint_every|row)|"
    r"(MeshConfig|compilation_cache|track)\..*)$"
)


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What row.json says of a run: which row of the paper it is, its command, its devices."""

    row: str = ""
    command: str = ""  # the last one, if the run was resumed
    device: str = ""  # as JAX names its kind, e.g. "TPU v3"
    n_devices: int = 0


@dataclasses.dataclass(frozen=True)
class RunDir:
    """MODEL_DIR, which `claim` makes one run's own."""

    path: Path

    def claim(self, config: str) -> None:
        """Makes the directory this run's, or raises UserError if it is another run's.

        `config` is the operative gin configuration. One that led to no result may be replaced.
        """
        processes.from_lead(lambda: self._claim(config))
        if read_if_there(self.path / "config.gin") is None:
            raise UserError(
                f"MODEL_DIR {self.path} is another directory for process {processes.index()} than "
                f"for process 0; give one that all of them see"
            )

    def _claim(self, config: str) -> None:
        file = self.path / "config.gin"
        ours = read_if_there(file)
        if ours is not None:
            if self.format() != FORMAT and self._has_results():
                reads = (
                    " (--run_mode=report still reads this one)" if self.format() < FORMAT else ""
                )
                raise UserError(
                    f"MODEL_DIR {self.path} has format {self.format()} of another version of "
                    f"star_jax, and this one resumes only format {FORMAT}; give another "
                    f"MODEL_DIR{reads}"
                )
            differing = differing_bindings(ours.decode(), config)
            if differing and self._has_results():
                raise UserError(
                    f"MODEL_DIR {self.path} belongs to a run with another configuration: "
                    f"{some(differing, separator='; ')}; give another MODEL_DIR, or the "
                    f"configuration of {file}"
                )
            log(f"{self.path}: resuming where the run stopped")
        elif self._any("iter_*"):
            raise UserError(
                f"MODEL_DIR {self.path} has iterations but no config.gin, so it is unknown whose "
                f"they are; give another MODEL_DIR"
            )
        try:
            write_atomically(self.path / "format.json", json.dumps({"format": FORMAT}).encode())
            write_atomically(file, config.encode())
        except OSError as error:
            raise UserError(
                f"MODEL_DIR {self.path} is no directory that can be written to ({error.strerror}); "
                f"give another MODEL_DIR"
            ) from error

    def format(self) -> int:
        """The format number of what is in the directory; 1 had none."""
        stored = read_if_there(self.path / "format.json")
        try:
            return 1 if stored is None else int(json.loads(stored)["format"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(
                f'{self.path / "format.json"} is damaged; write {{"format": {FORMAT}}} into it if '
                f"this version of star_jax made the directory"
            ) from error

    def _has_results(self) -> bool:
        """Whether a stage is finished, or one that can be resumed is begun."""
        names = ("*.done", "training/step_*")
        return self._any(*names, *(f"iter_*/{name}" for name in names))

    def _any(self, *patterns: str) -> bool:
        with bucket_errors(self.path):
            found = (any(self.path.glob(pattern)) for pattern in patterns)
            return self.path.is_dir() and any(found)

    def write_row(self, row: str) -> None:
        """Writes row.json; `row` is of the paper's tables and figures, "table1/few_shot_cot"."""
        if not isinstance(row, str):
            raise UserError(f"ROW = {row!r} names no row; give a text such as 'figure5'")
        device = jax.devices()[0].device_kind
        facts = RunFacts(row, shlex.join(sys.orig_argv), device, jax.device_count())
        write_atomically(self.path / "row.json", (json.dumps(to_json(facts)) + "\n").encode())

    def iteration(self, n: int) -> StageDir:
        """The directory of outer iteration `n`."""
        return StageDir(self.path / f"iter_{n:03d}")

    def write_metrics_lines(self) -> None:
        """Rewrites metrics.jsonl from iterations 0, 1, ... up to the first without metrics."""
        if processes.is_lead():
            stored = (self.iteration(n).read_metrics() for n in itertools.count())
            finished = itertools.takewhile(lambda metrics: metrics is not None, stored)
            lines = "".join(json.dumps(to_json(metrics)) + "\n" for metrics in finished)
            write_atomically(self.path / "metrics.jsonl", lines.encode())


@dataclasses.dataclass
class Recorder:
    """Sends a run's results to MODEL_DIR, to trackers, and to the table on the screen."""

    model_dir: str  # made by `claim` if it is not there
    config_text: Callable[[], str] = str  # a run is resumed only with the one it began with
    row: str = ""  # as in `RunDir.write_row`
    on_metrics: OnMetrics = lambda metrics: None  # gets old ones too, once they are on disk
    _shown: bool = False

    @property
    def directory(self) -> RunDir:
        """MODEL_DIR; raises UserError if it is no path."""
        return RunDir(path_of(self.model_dir))

    def claim(self) -> RunDir:
        """The directory, which is this run's from now on; raises UserError as `RunDir.claim`."""
        self.directory.claim(self.config_text())
        self.directory.write_row(self.row)
        return self.directory

    def publish(self, metrics: IterationMetrics) -> IterationMetrics:
        """Writes an iteration's metrics, for the trackers too, and adds a row to the table."""
        self.directory.iteration(metrics.iteration).write_metrics(metrics)
        self.directory.write_metrics_lines()
        self.on_metrics(metrics)
        for line in live_table([metrics])[self._shown :]:  # the header comes once
            log(line)
        self._shown = True
        return metrics


def differing_bindings(ours: str, theirs: str) -> list[str]:
    """What two gin texts bind differently, as sentences; FREE_BINDINGS do not count."""
    old, new = gin_bindings(ours), gin_bindings(theirs)
    return [
        f"{name} is {old.get(name, 'not bound')} there and {new.get(name, 'not bound')} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not FREE_BINDINGS.match(name)
    ]


def gin_bindings(text: str) -> dict[str, str]:
    """What gin text binds, as text: {"MODEL/DecoderConfig.d_model": "128", ...}."""
    joined = re.sub(r"\\\n\s*", "", text)
    logical = re.sub(r"\n(?=[ \t)\]}])\s*", " ", joined)  # gin wraps long values
    pairs = (line.partition("=") for line in logical.splitlines() if not line.startswith("#"))
    return {name.strip(): value.strip() for name, equals, value in pairs if equals}
