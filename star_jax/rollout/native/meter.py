"""How long the device worked and how long it waited for the host while a stage was sampled."""

import dataclasses
import queue
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any, Self

import jax

PREFILL, DECODE = "prefill_seconds", "decode_seconds"  # where the time of a program is added
COMPILING = "/jax/core/compile/"  # prefix of JAX's events for tracing, lowering and compiling

# Event -> its seconds in this process so far; JAX reports events and keeps no count.
_compiling: defaultdict[str, float] = defaultdict(float)


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(COMPILING):
        _compiling[event] += duration_secs


jax.monitoring.register_event_duration_secs_listener(_count)


@dataclasses.dataclass
class Meter:
    """What sampling a stage cost; times are wall-clock seconds. Never makes the host wait.

    Programs run in the order in which they are dispatched. A thread waits for each one's end; it
    worked from then back to its dispatch, or to the end of the one before if that came later.
    """

    n_questions: int = 0
    prefix_tokens: int = 0  # of few-shot prefixes computed in this stage
    prompt_tokens: int = 0  # of the questions' own prompts
    new_tokens: int = 0  # written, EOS included
    decode_steps: int = 0
    slot_steps: int = 0  # decode steps times slots
    seconds: float = 0.0
    compile_seconds: float = 0.0
    prefill_seconds: float = 0.0  # the device spent on prefixes and prompts
    decode_seconds: float = 0.0  # ... and on writing

    def __enter__(self) -> Self:
        self._start = time.perf_counter()
        self._dispatched: queue.SimpleQueue = queue.SimpleQueue()
        self._watch = threading.Thread(target=self._wait_for_all, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._dispatched.put(None)
        self._watch.join()
        self.seconds = time.perf_counter() - self._start

    def run(self, kind: str, program: Callable[..., object], *args: Any) -> Any:
        """Dispatches `program(*args)`; the last leaf of its result must not be given up."""
        start, compiled = time.perf_counter(), sum(_compiling.values())
        result = program(*args)
        # A program within a program is traced within its time: the sum may exceed the clock.
        compiling = min(sum(_compiling.values()) - compiled, time.perf_counter() - start)
        self.compile_seconds += compiling
        self._dispatched.put((kind, start + compiling, jax.tree.leaves(result)[-1]))
        return result

    def summary(self) -> dict[str, float]:
        """All of it and the rates, JSON-ready."""
        seconds = max(1e-9, self.seconds - self.compile_seconds)
        # The share of the time, compiling apart, in which the device waited for the host.
        idle = max(0.0, 1 - (self.prefill_seconds + self.decode_seconds) / seconds)
        prefilled = self.prefix_tokens + self.prompt_tokens
        rates = {
            "questions_per_second": self.n_questions / seconds,
            "prefill_tokens_per_second": prefilled / max(1e-9, self.prefill_seconds),
            "decode_tokens_per_second": self.new_tokens / max(1e-9, self.decode_seconds),
            # Of the slots' steps, those that sampled a token; a row's first token is no step.
            "slot_occupancy": (self.new_tokens - self.n_questions) / max(1, self.slot_steps),
            "device_share": 1 - idle,
            "device_idle_share": idle,
        }
        return {name: round(x, 4) for name, x in {**dataclasses.asdict(self), **rates}.items()}

    def _wait_for_all(self) -> None:
        end = 0.0
        while (item := self._dispatched.get()) is not None:
            kind, start, leaf = item
            jax.block_until_ready(leaf)
            now = time.perf_counter()
            setattr(self, kind, getattr(self, kind) + max(0.0, now - max(start, end)))
            end = now
