#!/usr/bin/env python3
"""Runs every point of a sweep: see `python launch/sweep.py --help`."""

from star_launch.command_line import run
from star_launch.sweep.command import main

if __name__ == "__main__":
    run(main)
