"""What the quickstart ends with, over seeds and over orders in which floats are added.

    python tests/benchmarks/quickstart.py DIR [--seeds 0 1 2 ...] [--orders ...] [--json FILE]

Each run is launch/quickstart.sh, and then the same with --no_rationalization. One thread, two
threads and two devices add the same floats in another order, so the same seed gives three bases:
what differs between machines differs here. Finished runs in DIR are read, begun ones resumed;
--show runs nothing. With one thread, --cpu names the CPU, so that two calls can share a machine.

Bars of a run: 85 % over 1-5 digits, 80 % at 4, and at 2 and 3 digits more than without
rationalization. The table has the worst run first, and the exit code is 1 if one misses a bar.
"""

import argparse
import dataclasses
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # to be run by its path
from star_jax.reporting.tables import interval_text
from star_jax.run.progress import aligned

ROOT = Path(__file__).parents[2]
ORDERS = {"1 thread": (1, 1), "2 threads": (2, 1), "2 devices": (2, 2)}  # CPUs and devices
ARMS = {"star": (), "star_no_rationalization": ("--no_rationalization",)}  # options of each
LEAST, LEAST_OF_FOUR = 0.85, 0.80


@dataclasses.dataclass(frozen=True)
class Run:
    """A quickstart with both arms: where it is, and how floats are added."""

    folder: Path
    seed: int
    order: str
    cpu: int = 0  # the first that it may use
    options: tuple[str, ...] = ()  # more of launch/quickstart.sh, for a short trial

    @property
    def dir(self) -> Path:
        """The quickstart's --dir."""
        return self.folder / f"seed_{self.seed}_{self.order.replace(' ', '_')}"

    @property
    def path(self) -> Path:
        """Of the base and the two arms, as launch/quickstart.sh places them."""
        return self.dir if self.seed == 0 else self.dir / f"seed_{self.seed}"

    def make(self) -> None:
        """Runs what is not finished; raises CalledProcessError if something fails."""
        for arm, options in ARMS.items():
            if not self._seconds(arm).exists():
                self._call(arm, *options, *self.options)

    def _call(self, arm: str, *options: str) -> None:
        n_cpus, n_devices = ORDERS[self.order]
        cpus = f"{self.cpu}-{self.cpu + n_cpus - 1}"
        command = [ROOT / "launch/quickstart.sh", "--dir", self.dir, "--seed", str(self.seed)]
        xla = f"--xla_force_host_platform_device_count={n_devices}"
        start = time.monotonic()
        subprocess.run(
            ["taskset", "-c", cpus, *command, *options],
            env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla},
            check=True,
            stdout=sys.stderr,
        )
        self._seconds(arm).write_text(f"{time.monotonic() - start:.0f}\n")

    def _seconds(self, arm: str) -> Path:
        return self.path / f"{arm}.seconds"

    def result(self) -> dict[str, object] | None:
        """Seed, order, seconds of each arm, and its iterations; None if unfinished."""
        if not all(self._seconds(arm).exists() for arm in ARMS):
            return None
        lines = {
            arm: [json.loads(x) for x in (self.path / arm / "metrics.jsonl").open()] for arm in ARMS
        }
        seconds = {arm: int(self._seconds(arm).read_text()) for arm in ARMS}
        return {"seed": self.seed, "order": self.order, "seconds": seconds, **lines}


def misses(result: dict) -> list[str]:
    """The bars that a run misses, in words."""
    last, without = (result[arm][-1] for arm in ARMS)
    by_group, of_without = last["accuracy_by_group"], without["accuracy_by_group"]
    found = []
    if last["accuracy"] < LEAST:
        found.append(f"below {100 * LEAST:.0f} %")
    if by_group["4"] < LEAST_OF_FOUR:
        found.append(f"4 digits below {100 * LEAST_OF_FOUR:.0f} %")
    found += [f"not ahead at {n} digits" for n in "23" if by_group[n] <= of_without[n]]
    return found


def table(results: Sequence[dict]) -> list[str]:
    """One line for a run, the worst first; accuracies are percents after the last iteration."""
    head = ["seed", "order", "base", "with", "95 %", *(f"{n} dig" for n in range(1, 6)),
            "without", "2 dig", "3 dig", "minutes", "misses"]  # fmt: skip
    rows = [head]
    for result in sorted(results, key=lambda result: result["star"][-1]["accuracy"]):
        last, without = (result[arm][-1] for arm in ARMS)
        shares = [result["star"][0]["accuracy"], last["accuracy"]]
        base, with_hints = (f"{100 * share:.1f}" for share in shares)
        n = last["n_eval"]
        rows.append([
            str(result["seed"]), result["order"], base, with_hints,
            interval_text(round(last["accuracy"] * n), n),
            *(f"{100 * share:.1f}" for share in last["accuracy_by_group"].values()),
            f"{100 * without['accuracy']:.1f}",
            *(f"{100 * without['accuracy_by_group'][n]:.1f}" for n in "23"),
            f"{result['seconds']['star'] / 60:.1f}",
            ", ".join(misses(result)) or "-",
        ])  # fmt: skip
    return aligned(rows, left=(1, -1))


def main() -> int:
    """Runs, prints and writes; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="DIR", help="of the runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(8)), help="(0 to 7)")
    parser.add_argument("--orders", nargs="+", choices=ORDERS, default=list(ORDERS))
    parser.add_argument("--cpu", type=int, default=0, help="the first CPU to use (0)")
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--gin", action="append", default=[], help="NAME=VALUE for both arms")
    args = parser.parse_args()
    options = tuple(f"--gin.{binding}" for binding in args.gin)
    runs = [
        Run(args.folder.absolute(), seed, order, args.cpu, options)
        for order in args.orders
        for seed in args.seeds
    ]
    for run in () if args.show else runs:
        run.make()
    results = [result for run in runs if (result := run.result())]
    command = shlex.join(["python", "tests/benchmarks/quickstart.py", *sys.argv[1:]])
    print(f"{command}: {len(results)} of {len(runs)} runs are finished")
    if results:
        print("\n".join(table(results)))
    if args.json:
        document = {"command": command, "runs": results}
        args.json.write_text(json.dumps(document, indent=1) + "\n")
    return int(len(results) < len(runs) or any(misses(result) for result in results))


if __name__ == "__main__":
    sys.exit(main())
