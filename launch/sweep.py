#!/usr/bin/env python3
"""Runs every point of a sweep: see `python launch/sweep.py --help`."""

import sys

from star_launch.sweep.command import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
