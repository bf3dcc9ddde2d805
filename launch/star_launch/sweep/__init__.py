"""Runs every point of a sweep."""

from pathlib import Path

PROG = "sweep.py"  # begins what it reports
SWEEPS = Path("runs/sweeps")  # ignored by git
