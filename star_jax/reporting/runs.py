"""What the report knows of a run, and the arms of an experiment: runs of different seeds."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from star_jax.loop.stages import SAMPLED
from star_jax.reporting.digests import IterationDigest
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import RunFacts
from star_jax.run.tables import group_names

OF_A_SEED = ("SEED", "MODEL_DIR", "MODEL_CHECKPOINT")  # bindings that differ between seeds
STAGE_OF = {stage.source: stage.name for stage in SAMPLED}  # source of kept examples -> stage
MOST_NAMED = 3  # settings in the label of an arm
TINY = "_tiny"  # ends the row of a run that replaces the paper's: another task and model
TWIN = "tiny twin: another task and model"


@dataclasses.dataclass(frozen=True)
class RunReport:
    """One run: row 0 is the base model, row n the model after outer iteration n."""

    name: str
    directory: Path
    rows: tuple[IterationMetrics, ...]
    facts: RunFacts = RunFacts()  # noqa: RUF009  frozen
    iterations: tuple[IterationDigest, ...] = ()  # one for each of `rows`
    bindings: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of its config.gin

    @property
    def label(self) -> str:
        """The name in tables; says which row of the paper it is, or that it did not rationalize."""
        if self.facts.row:
            return f"{self.name} ({self.facts.row})"
        without = not all(row.rationalize for row in self.rows)
        return f"{self.name} (no rationalization)" if without else self.name

    @property
    def last(self) -> IterationMetrics:
        """Its last row."""
        return self.rows[-1]

    @property
    def seed(self) -> int:
        """Of all its random draws."""
        return self.last.seed

    @property
    def trained(self) -> range:
        """Its outer iterations without the base model: 1, 2, ..."""
        return range(1, len(self.rows))

    @property
    def sample(self) -> str:
        """Sample size and seed, e.g. `n = 200 per digit count, seed 0`."""
        return Arm(self.label, (self,)).sample

    @property
    def command(self) -> str:
        """That started it, in backquotes, as far as it is known."""
        if self.facts.command:
            return f"`{self.facts.command}`"
        return f"not recorded; its configuration is `{self.directory / 'config.gin'}`"


@dataclasses.dataclass(frozen=True)
class Arm:
    """Runs that are equal except for their seeds."""

    label: str
    runs: tuple[RunReport, ...]

    @property
    def row(self) -> str:
        """Of the paper, "" for none."""
        return self.runs[0].facts.row

    @property
    def paper_row(self) -> str:
        """The same without the ending of a tiny twin."""
        return self.row.removesuffix(TINY)

    @property
    def groups(self) -> tuple[str, ...]:
        """Groups of its questions in order."""
        return groups_of(self.runs)

    @property
    def seeds(self) -> str:
        """E.g. `seed 0` or `seeds 0, 1`."""
        return f"seed{'s' * (len(self.runs) > 1)} {', '.join(str(run.seed) for run in self.runs)}"

    @property
    def sample(self) -> str:
        """Sample size and seeds, e.g. `n = 200 per digit count, seed 0`."""
        lasts = [run.last for run in self.runs]
        counts = [n for last in lasts for n in last.n_eval_by_group.values() or [last.n_eval]]
        low, high = min(counts), max(counts)
        size = f"{low:,}" if low == high else f"{low:,} to {high:,}"
        per_group = f" per {group_kind(self.groups)}" if self.groups else ""
        chance = f", chance {100 * lasts[0].chance:.1f} %" if lasts[0].chance else ""
        return f"n = {size}{per_group}, {self.seeds}{chance}"


def groups_of(runs: Iterable[RunReport]) -> tuple[str, ...]:
    """Groups of the questions of all runs in order, () if there are none."""
    return group_names(row for run in runs for row in run.rows)


def runs_of(shown: Iterable[Arm]) -> list[RunReport]:
    """The runs of all arms."""
    return [run for arm in shown for run in arm.runs]


def group_kind(groups: Iterable[str]) -> str:
    """What a group is: a digit count, or just a group."""
    return "digit count" if all(name.isdecimal() for name in groups) else "group"


def arms(runs: Sequence[RunReport]) -> list[Arm]:
    """The runs of one row of the paper together, and those that differ in their seeds alone.

    Runs of equal seed differ in something else (the base, say), and each is an arm of its own.
    In the order of appearance.
    """
    alike: dict[object, list[RunReport]] = {}
    for run in runs:
        key = run.facts.row or _settings(run) or f"/{run.directory}"
        alike.setdefault(key, []).append(run)
    split: list[tuple[RunReport, ...]] = []
    for members in alike.values():
        together = members[0].facts.row or len({run.seed for run in members}) == len(members)
        split += [tuple(members)] if together else [(run,) for run in members]
    several = [_settings(m[0]) for m in split if len(m) > 1 and not m[0].facts.row]
    varying = (bound - frozenset.intersection(*several) for bound in several)
    differing = sorted({name for bindings in varying for name, _ in bindings})
    return [Arm(_label(members, differing), members) for members in split]


def twins(shown: Sequence[Arm]) -> tuple[str, ...]:
    """A line that names the tiny twins among the arms, if there are any."""
    tiny = [arm.label for arm in shown if arm.row.endswith(TINY)]
    return (f"Each is a {TWIN}: {', '.join(tiny)}.",) if tiny else ()


def _settings(run: RunReport) -> frozenset[tuple[str, str]]:
    """The run's bindings without its seed, its directory and the base of its seed."""
    return frozenset((name, value) for name, value in run.bindings.items() if name not in OF_A_SEED)


def _label(members: Sequence[RunReport], differing: Sequence[str]) -> str:
    """Of an arm: its row, or its values of the settings that differ between arms."""
    first = members[0]
    if first.facts.row or len(members) == 1:
        return first.facts.row or first.label
    if not 0 < len(differing) <= MOST_NAMED:
        return f"{first.name} and {len(members) - 1} more"
    return ", ".join(
        f"{name.rpartition('/')[2]} = {first.bindings.get(name, 'unset')}" for name in differing
    )
