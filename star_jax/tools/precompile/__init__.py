"""Does a run fit a TPU that is not there, and how long would it take."""
