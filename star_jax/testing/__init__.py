"""For those who write tasks, filters and loops: an engine without a model."""
