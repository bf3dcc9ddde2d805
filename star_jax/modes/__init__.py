"""What `--run_mode` can run."""
