"""Counts what JAX compiles."""

import jax

COMPILED = "/jax/core/compile/backend_compile_duration"
_seconds = []


def n_compiled():
    """Programs that this process has compiled, or read from the cache on disk, so far."""
    return len(_seconds)


@jax.monitoring.register_event_duration_secs_listener
def _count(event, duration_secs, **_):
    if event == COMPILED:
        _seconds.append(duration_secs)
