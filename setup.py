"""Packaging of star_jax: version ranges, extras, the console script and the files that ship."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Returns `__version__` of star_jax without importing it."""
    source = (ROOT / "star_jax" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', source, re.MULTILINE).group(1)


def read_readme() -> str:
    """Returns the text of README.md, or "" while there is none."""
    readme = ROOT / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="star_jax",
    version=read_version(),
    description="STaR, bootstrapping reasoning with reasoning, in JAX for TPU pods",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # gin_configs/ stays at the top of the checkout, where T5X users look for it, and ships
    # inside the package, where an installed wheel finds it.
    packages=[*find_packages(include=["star_jax", "star_jax.*"]), "star_jax.gin_configs"],
    package_dir={"star_jax.gin_configs": "gin_configs"},
    package_data={
        "star_jax.gin_configs": ["*.gin", "**/*.gin"],
        "star_jax.reporting": ["assets/*"],
        "star_jax.tools.comparison": ["*.html", "*.txt"],
        "star_jax.tasks": ["exemplars/*.txt", "examples/*"],
        "star_jax.tasks.builders": ["*.tsv"],
        "star_jax.tasks.toy": ["*.txt"],
    },
    entry_points={"console_scripts": ["star_jax = star_jax.main:run"]},
    install_requires=[
        "absl-py>=2.3,<3",
        "clu>=0.0.12,<0.1",
        "etils[epath]>=1.15,<2",
        "flax>=0.12,<0.13",
        "gcsfs>=2026.10,<2028",  # MODEL_DIR and data at gs://
        "gin-config>=0.5,<0.6",
        "importlib_resources>=6,<8",  # tensorflow-datasets imports it and does not say so
        "jax>=0.10,<0.11",
        "jinja2>=3.1,<4",
        "markupsafe>=3,<4",
        "matplotlib>=3.10,<4",
        "ml_dtypes>=0.5,<1",
        "msgpack>=1.1,<2",
        "numpy>=2.1,<3",
        "optax>=0.2.8,<0.3",
        "orjson>=3.11,<4",  # reads the attempts of many runs
        "orbax-checkpoint>=0.12,<0.13",
        "psutil>=7,<8",
        "rich>=14,<16",
        "scipy>=1.15,<2",
        "seqio>=0.0.20,<0.1",
        "tensorboard>=2.20,<3",  # clu.metric_writers imports it and does not say so
        "tensorflow-datasets>=4.9.9,<5",
        "typing_extensions>=4.12,<5",  # Python 3.11 has no typing.override
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.11"],
        "precompile": ["libtpu>=0.0.40,<0.1"],
        "math": ["math-verify[antlr4_13_2]>=0.9,<0.10"],  # grades MATH's answers if it is bound
        "models": [
            "gguf>=0.17,<1",
            "huggingface_hub>=1,<3",  # shards of an export
            "safetensors>=0.8,<1",
            "sentencepiece>=0.2,<0.3",
            "tokenizers>=0.22,<1",
        ],
        "test": [
            "aiohttp>=3.12,<4",  # speaks with the browser below
            "accelerate>=1.10,<2",  # transformers reads GGUF with it
            "gcp-storage-emulator>=2026.7,<2028",
            "hypothesis>=6.140,<7",
            "mypy>=2,<3",
            "pyside6-webengine>=6.9,<7",  # the browser that the report's page is tested in
            "pytest>=9,<10",
            "pytest-xdist>=3.8,<4",
            "ruff>=0.17,<0.18",
            "torch>=2.9,<3",
            "transformers>=5,<6",
        ],
    },
)
