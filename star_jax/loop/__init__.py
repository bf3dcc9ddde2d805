"""Algorithm 1: the outer loop, its stages, and the baselines that it is compared with."""
