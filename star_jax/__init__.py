"""STaR, bootstrapping reasoning with reasoning (Zelikman et al. 2022), in JAX for TPU pods."""

__version__ = "0.1.0"
