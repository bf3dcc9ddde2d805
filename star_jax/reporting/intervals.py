"""The interval of a proportion, which every accuracy and share of this package is shown with."""

import math
import statistics


def wilson_interval(k: int, n: int) -> tuple[float, float]:
    """(low, high) of the 95 % interval of k successes in n trials (Wilson 1927, JASA 22:209)."""
    assert 0 <= k <= n and n > 0, (k, n)
    z = statistics.NormalDist().inv_cdf(0.975)
    center = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(k * (n - k) / n + z**2 / 4)
    return max(0.0, center - half), min(1.0, center + half)  # k = 0 or n: removes rounding errors


def interval_text(k: int, n: int) -> str:
    """The same in percent: 65 of 100 -> "55.3 to 73.6"."""
    low, high = wilson_interval(k, n)
    return f"{100 * low:.1f} to {100 * high:.1f}"
