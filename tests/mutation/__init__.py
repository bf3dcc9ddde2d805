"""Plausible mistakes in the core, applied one at a time: which of them do the tests notice?

Run by hand with `python -m tests.mutation`; the score is in CONTRIBUTING.md.
"""
