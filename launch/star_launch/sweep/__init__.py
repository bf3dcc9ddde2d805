"""Runs every point of a sweep."""
