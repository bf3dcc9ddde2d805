"""How long the device worked and how long it waited for the host while a stage was sampled."""

import dataclasses
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import jax

PREFILL, DECODE = "prefill", "decode"
COMPILING = "/jax/core/compile/"  # prefix of JAX's events for tracing, lowering and compiling

# Event -> its seconds in this process so far; JAX reports events and keeps no count.
_compiling: defaultdict[str, float] = defaultdict(float)


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(COMPILING):
        _compiling[event] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_count)


@dataclasses.dataclass(frozen=True)
class SamplingStats:
    """What sampling a stage cost; times are wall-clock seconds."""

    n_questions: int
    prefix_tokens: int  # of few-shot prefixes computed in this stage
    prompt_tokens: int  # of the questions' own prompts
    new_tokens: int  # written, EOS included
    decode_steps: int
    slot_steps: int  # decode steps times slots
    seconds: float
    compile_seconds: float
    prefill_seconds: float  # the device spent on prefixes and prompts
    decode_seconds: float  # ... and on writing

    @property
    def device_seconds(self) -> float:
        """In which the device worked."""
        return self.prefill_seconds + self.decode_seconds

    @property
    def device_idle_share(self) -> float:
        """Of the stage's time, compiling apart, in which the device waited for the host."""
        return max(0.0, 1 - self.device_seconds / self._seconds)

    @property
    def occupancy(self) -> float:
        """Share of the slots' steps that sampled a token; a row's first token is no step."""
        return (self.new_tokens - self.n_questions) / max(1, self.slot_steps)

    def summary(self) -> dict[str, float]:
        """All of it and the rates, JSON-ready."""
        rates = {
            "questions_per_second": self.n_questions / self._seconds,
            "prefill_tokens_per_second": (self.prefix_tokens + self.prompt_tokens)
            / max(1e-9, self.prefill_seconds),
            "decode_tokens_per_second": self.new_tokens / max(1e-9, self.decode_seconds),
            "slot_occupancy": self.occupancy,
            "device_share": 1 - self.device_idle_share,
            "device_idle_share": self.device_idle_share,
        }
        return {name: round(x, 4) for name, x in {**dataclasses.asdict(self), **rates}.items()}

    @property
    def _seconds(self) -> float:
        return max(1e-9, self.seconds - self.compile_seconds)


class Meter:
    """Times the programs of one stage without making the host wait for them.

    Programs run in the order in which they are dispatched. A thread waits for each one's end; it
    worked from then back to its dispatch, or to the end of the one before if that came later.
    """

    def __init__(self):
        """Starts the clock of the stage."""
        self.seconds = {PREFILL: 0.0, DECODE: 0.0}
        self.compile_seconds = 0.0
        self._start = time.perf_counter()
        self._dispatched: queue.SimpleQueue = queue.SimpleQueue()
        self._watch = threading.Thread(target=self._wait_for_all, daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._dispatched.put(None)
        self._watch.join()

    def run(self, kind: str, program: Callable[..., object], *args: Any) -> Any:
        """Dispatches `program(*args)`; the last leaf of its result must not be given up."""
        start, compiled = time.perf_counter(), sum(_compiling.values())
        result = program(*args)
        # A program within a program is traced within its time: the sum may exceed the clock.
        compiling = min(sum(_compiling.values()) - compiled, time.perf_counter() - start)
        self.compile_seconds += compiling
        self._dispatched.put((kind, start + compiling, jax.tree.leaves(result)[-1]))
        return result

    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    def _wait_for_all(self) -> None:
        end = 0.0
        while (item := self._dispatched.get()) is not None:
            kind, start, leaf = item
            jax.block_until_ready(leaf)
            now = time.perf_counter()
            self.seconds[kind] += max(0.0, now - max(start, end))
            end = now
