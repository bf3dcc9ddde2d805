"""Runs star_jax on a Cloud TPU VM, through gcloud."""
