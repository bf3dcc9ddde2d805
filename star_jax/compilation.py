"""JAX's persistent compilation cache, so that a second process compiles nothing."""

import os
from pathlib import Path

import jax

DEFAULT_CACHE = "~/.cache/star_jax/compiled"
SMALLEST_COMPILE_SECONDS = 0.3  # what compiles faster is not worth a file


def use_cache(directory: str) -> None:
    """Keeps compiled programs in `directory` ("" for nowhere).

    JAX_COMPILATION_CACHE_DIR in the environment wins.
    """
    if not directory or os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    jax.config.update("jax_compilation_cache_dir", str(Path(directory).expanduser()))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", SMALLEST_COMPILE_SECONDS)
