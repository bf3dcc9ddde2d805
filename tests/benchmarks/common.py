"""What the benchmarks share: command line, threads, rounds in alternating order, results.

A benchmark sets contenders beside each other. All get the same CPUs and as many threads. In every
round each contender does its whole work once; every second round goes backwards, so that a machine
that warms up or slows down favours nobody. What counts is the median of the rounds. Texts are
compared id by id, and the script ends with exit code 1 where any differs: a ratio between sides
that do different things means nothing.

A contender from outside is a process of its own (`peer.py`), stopped while the others work.
"""

import argparse
import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PEER = Path(__file__).with_name("peer.py")
VLLM_CACHE = "4"  # GiB for keys and values, twice what the benchmarks fill
PATIENCE = 20  # seconds that another process has to end by itself
VERSIONS = ("jax", "jaxlib", "torch", "transformers")


def arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parses what all benchmarks understand, and pins this process; call before JAX computes.

    Adds `cpus` to the result: those that every contender gets, one for each thread.
    """
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results there too")
    parser.add_argument("--seed", type=int, default=0, help="of weights and questions (0)")
    parser.add_argument("--threads", type=int, default=2, help="of each contender (2)")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; medians are taken (3)")
    parser.add_argument("--small", action="store_true", help="tiny sizes, to see that it works")
    args = parser.parse_args()
    allowed = sorted(os.sched_getaffinity(0))
    if not 1 <= args.threads <= len(allowed) or args.repeats < 1:
        parser.error(f"--threads must be 1 to {len(allowed)} here, --repeats 1 or more")
    args.cpus = allowed[: args.threads]
    # XLA makes as many threads as it has CPUs; eight fake devices would share them.
    os.sched_setaffinity(0, args.cpus)
    os.environ.update(JAX_PLATFORMS="cpu", XLA_FLAGS="", TF_CPP_MIN_LOG_LEVEL="3")
    script = f"tests/benchmarks/{Path(sys.argv[0]).name}"
    args.command = shlex.join(["python", script, *sys.argv[1:]])
    return args


@dataclasses.dataclass
class Contender:
    """One side: what it is called, what it does once, and how long that took in each round."""

    name: str
    run: Callable[[], "Pass"]
    units: int  # e.g. questions, that a pass deals with
    seconds: list[float] = dataclasses.field(default_factory=list)
    notes: list[dict[str, float]] = dataclasses.field(default_factory=list)

    @property
    def median(self) -> float:
        """Seconds of a pass."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float:
        """Units per second."""
        return self.units / self.median

    def note(self, name: str) -> float:
        """The median of a figure that each pass gave along."""
        return statistics.median(note[name] for note in self.notes)


@dataclasses.dataclass(frozen=True)
class Pass:
    """What one pass gave: its seconds, what was written (ids of every text, EOS too), figures."""

    seconds: float
    ids: Sequence[Sequence[int]]
    notes: Mapping[str, float] = dataclasses.field(default_factory=dict)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `work` took, and its result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def rounds(contenders: Sequence[Contender], repeats: int, wanted: Sequence[Sequence[int]]) -> None:
    """Lets all contenders run `repeats` times, backwards every second time, and notes the times.

    Each must write the first of the `wanted` texts, as many as it was asked for.
    """
    for turn in range(repeats):
        for contender in contenders[:: -1 if turn % 2 else 1]:
            result = contender.run()
            require_same_ids(contender.name, result.ids, wanted[: contender.units])
            contender.seconds.append(result.seconds)
            contender.notes.append(dict(result.notes))
            say(f"round {turn + 1}: {contender.name}: {result.seconds:.2f} s")


def best_batch(name: str, run: Callable[[int], Contender], sizes: Sequence[int]) -> int:
    """The batch size with the most units per second; ends at the first that is slower.

    `run(size)` makes the contender that works in batches of `size`.
    """
    best, best_rate = sizes[0], 0.0
    for size in sizes:
        contender = run(size)
        rate = contender.units / contender.run().seconds
        say(f"{name} of {size}: {rate:.3f}/s")
        if rate < best_rate:
            break
        best, best_rate = size, rate
    return best


def require_same_ids(
    name: str, got: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]
) -> None:
    """Ends the script with exit code 1 and one line unless `name` wrote just what was wanted."""
    if len(got) != len(wanted):
        raise SystemExit(f"{name} wrote {len(got)} texts instead of {len(wanted)}")
    for text, (ids, right) in enumerate(zip(got, wanted, strict=True)):
        if list(ids) != list(right):
            pairs = enumerate(zip(ids, right, strict=False))
            place = next((i for i, (a, b) in pairs if a != b), min(len(ids), len(right)))
            raise SystemExit(
                f"ids differ: {name}, text {text}, token {place}: "
                f"{list(ids[place : place + 3])} instead of {list(right[place : place + 3])}"
            )


class Peer:
    """Another process that does one thing at a time, asked in JSON lines; see `peer.py`.

    Between its turns it is stopped by a signal: it takes no time from the others. It is in a
    process group of its own, which the system wakes and ends if this process dies.
    """

    def __init__(self, process: subprocess.Popen, log: Path):
        self._process, self._log = process, log
        self.versions = self._read()
        self._signal(signal.SIGSTOP)

    def ask(self, **request: Any) -> dict[str, Any]:
        """The reply to a request; ends the script when the process has died."""
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        reply = self._read()
        self._signal(signal.SIGSTOP)
        return reply

    def _read(self) -> dict[str, Any]:
        line = self._process.stdout.readline()
        if not line:
            tail = "\n".join(self._log.read_text(errors="replace").splitlines()[-15:])
            raise SystemExit(f"{shlex.join(self._process.args)} died; it said last:\n{tail}")
        return json.loads(line)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


@contextlib.contextmanager
def peer(kind: str, folder: Path, args: argparse.Namespace, python: str) -> Iterator[Peer]:
    """A `peer.py` of `kind` that works on `folder` under the interpreter `python`.

    It has the CPUs of this process and as many threads.
    """
    log = folder / f"{kind}.log"
    threads = str(args.threads)
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, args.cpus)),
        "VLLM_CPU_KVCACHE_SPACE": VLLM_CACHE,
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    with log.open("w") as errors:
        process = subprocess.Popen(
            [python, str(PEER), kind, str(folder), threads],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            process_group=0,
        )
    try:
        yield Peer(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError, BrokenPipeError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGCONT)
            process.stdin.close()  # no more requests: it ends, and tidies up
            process.wait(PATIENCE)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@dataclasses.dataclass(frozen=True)
class Comparison:
    """A ratio that was measured, and the bar it has to reach."""

    name: str
    ratio: float
    bar: float
    at_most: bool = False  # the ratio must not pass the bar

    @property
    def met(self) -> bool:
        """Whether the bar is reached."""
        return self.ratio <= self.bar if self.at_most else self.ratio >= self.bar


def show_contenders(title: str, unit: str, contenders: Sequence[Contender]) -> None:
    """Prints seconds and rate of each contender."""
    width = max(len(contender.name) for contender in contenders)
    print(f"\n{title}\n{'':{width}}  {unit:>10}  {'seconds':>9}  {unit + '/s':>12}")
    for c in contenders:
        print(f"{c.name:{width}}  {c.units:>10,}  {c.median:>9.2f}  {c.rate:>12.3f}")


def finish(
    args: argparse.Namespace,
    benchmark: str,
    sizes: Mapping[str, Any],
    contenders: Sequence[Contender],
    comparisons: Sequence[Comparison],
    **more: Any,
) -> None:
    """Prints the ratios beside their bars and, if asked, writes everything as one JSON object."""
    width = max(len(comparison.name) for comparison in comparisons)
    print(f"\n{'ratio':{width}}  {'measured':>9}  {'bar':>9}")
    for c in comparisons:
        sign = "<=" if c.at_most else ">="
        print(
            f"{c.name:{width}}  {c.ratio:>9.3f}  {f'{sign} {c.bar:g}':>9}"
            f"  {'reached' if c.met else 'MISSED'}"
        )
    result = {
        "benchmark": benchmark,
        "command": args.command,
        "seed": args.seed,
        "threads": {"star_jax": args.threads, "others": args.threads},
        "cpus": args.cpus,
        "repeats": args.repeats,
        "machine": {"processor": platform.machine(), "cpus": os.cpu_count()},
        "versions": {name: _version(name) for name in VERSIONS},
        "sizes": dict(sizes),
        "contenders": {
            c.name: {
                "units": c.units,
                "seconds": c.seconds,
                "median_seconds": c.median,
                "units_per_second": c.rate,
                "notes": c.notes,
            }
            for c in contenders
        },
        "ratios": {c.name: c.ratio for c in comparisons},
        "bars": {c.name: {"bar": c.bar, "at_most": c.at_most, "met": c.met} for c in comparisons},
        **more,
    }
    if args.json:
        args.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def say(message: str) -> None:
    """Tells on standard error what goes on; standard output has the tables."""
    print(message, file=sys.stderr, flush=True)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
