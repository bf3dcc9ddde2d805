#!/usr/bin/env python3
"""Downloads the data sets, the paper's prompts and GPT-J: see `python launch/fetch.py --help`."""

from star_launch.command_line import run
from star_launch.fetch.command import main

if __name__ == "__main__":
    run(main)
