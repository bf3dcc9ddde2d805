"""Stand-alone measurements: `python tests/benchmarks/NAME.py --help`."""
