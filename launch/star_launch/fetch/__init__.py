"""Downloads data sets, prompts and weights."""
