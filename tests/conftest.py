"""Tests run on eight fake CPU devices, with a cache so that no program is compiled twice."""

import os
from pathlib import Path

import pytest

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["EPATH_USE_TF"] = "false"  # as star_jax has it, before TFDS is imported
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache/compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory):
    """The directory of a small base model, pretrained once a session (tests/tiny.py)."""
    from tests import tiny  # imports JAX, which not every test needs

    return tiny.make_base(tmp_path_factory.mktemp("tiny"))
