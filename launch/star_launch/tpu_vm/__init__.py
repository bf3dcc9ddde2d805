"""Runs star_jax on a Cloud TPU VM, through gcloud."""

PROG = "tpu_vm.py"  # begins what it reports; launch/sweep.py looks for it in logs
