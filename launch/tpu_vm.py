#!/usr/bin/env python3
"""Runs star_jax on a Cloud TPU VM: see `python3 launch/tpu_vm.py --help` and launch/README.md."""

from star_launch.command_line import run
from star_launch.tpu_vm.command import main

if __name__ == "__main__":
    run(main)
