"""A run on disk: its directory, checkpoints, paths, and what it reports while it works."""
