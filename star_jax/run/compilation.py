"""JAX's persistent compilation cache, and how much has been compiled."""

import os
from collections import defaultdict

import jax

from star_jax.run.paths import path_of

SMALLEST_COMPILE_SECONDS = 0.3  # programs that compile faster are not cached
COMPILING = "/jax/core/compile/"  # prefix of JAX's events for tracing, lowering and compiling
COMPILED = f"{COMPILING}backend_compile_duration"

# Event -> its total seconds and how often it came; JAX reports events and keeps no count.
_seconds: defaultdict[str, float] = defaultdict(float)
_times: defaultdict[str, int] = defaultdict(int)


def use_cache(directory: str = "~/.cache/star_jax/compiled") -> None:
    """Keeps compiled programs in `directory` ("": none); JAX_COMPILATION_CACHE_DIR overrides it."""
    if directory and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        jax.config.update("jax_compilation_cache_dir", str(path_of(directory).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_COMPILE_SECONDS)


def compile_seconds() -> float:
    """Seconds that this process has spent on tracing, lowering and compiling so far."""
    return sum(_seconds.values())


def n_compiled() -> int:
    """Programs that this process has compiled, or read from the cache on disk, so far."""
    return _times[COMPILED]


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(COMPILING):
        _seconds[event] += duration_secs
        _times[event] += 1


jax.monitoring.register_event_duration_secs_listener(_count)
