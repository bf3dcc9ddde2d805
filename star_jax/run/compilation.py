"""JAX's persistent compilation cache, and how much has been compiled."""

import os

import jax

from star_jax.run.paths import path_of

DEFAULT_CACHE = "~/.cache/star_jax/compiled"
SMALLEST_COMPILE_SECONDS = 0.3  # programs that compile faster are not cached
COMPILING = "/jax/core/compile/"  # prefix of JAX's events for tracing, lowering and compiling
COMPILED = f"{COMPILING}backend_compile_duration"


def use_cache(directory: str = DEFAULT_CACHE) -> None:
    """Keeps compiled programs in `directory` ("" for nowhere).

    JAX_COMPILATION_CACHE_DIR in the environment wins.
    """
    if not directory or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", str(path_of(directory).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_COMPILE_SECONDS)


class _Count:
    """What this process has compiled; JAX reports events and keeps no count."""

    seconds = 0.0
    programs = 0


def compile_seconds() -> float:
    """Seconds that this process has spent on tracing, lowering and compiling so far."""
    return _Count.seconds


def n_compiled() -> int:
    """Programs that this process has compiled, or read from the cache on disk, so far."""
    return _Count.programs


def _count(event: str, duration_secs: float, **_: str | int) -> None:
    if event.startswith(COMPILING):
        _Count.seconds += duration_secs
    _Count.programs += event == COMPILED


jax.monitoring.register_event_duration_secs_listener(_count)
