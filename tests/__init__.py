"""Tests of star_jax."""
