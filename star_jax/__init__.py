"""STaR, bootstrapping reasoning with reasoning (Zelikman et al. 2022), in JAX for TPU pods."""

import os

# Before anything else asks: epath reaches buckets through gcsfs, not through TensorFlow, whose
# errors are its own and which knows no emulator.
os.environ.setdefault("EPATH_USE_TF", "false")

__version__ = "0.1.0"
