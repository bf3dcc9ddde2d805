"""What a TPU VM costs per hour.

Dollars per chip and hour, on demand, in us-central1 (v4: us-central2), as SkyPilot's catalog of
Google's price API had them on 2026-11-28 (github.com/skypilot-org/skypilot-catalog, commit 006059e,
catalogs/v8/gcp/vms.csv). Other regions cost up to 45 % more, spot TPUs less. Prices change:
PRICE_LIST has the current ones.
"""

from __future__ import annotations

PRICE_LIST = "https://cloud.google.com/tpu/pricing"
READ = "2026-11-28"
PER_CHIP = {"v2": 1.50, "v3": 2.00, "v4": 3.22, "v5litepod": 1.20, "v5p": 4.20, "v6e": 2.70}
EXCEPTIONS = {"v2-8": 4.50}  # dollars per hour
CORES_PER_CHIP = {"v5litepod": 1, "v6e": 1}  # else 2; what the number of a type counts


def chips(accelerator_type: str) -> int:
    """Returns the number of chips: "v3-8" -> 4, "v5litepod-8" -> 8."""
    family, _, number = accelerator_type.partition("-")
    return max(1, int(number) // CORES_PER_CHIP.get(family, 2))


def per_hour(accelerator_type: str) -> float:
    """Returns the price of an accelerator type in dollars."""
    family = accelerator_type.partition("-")[0]
    usual = PER_CHIP[family] * chips(accelerator_type)
    return EXCEPTIONS.get(accelerator_type, usual)


def rate(accelerator_type: str) -> str:
    """Returns the price of an accelerator type in words."""
    return f"about {per_hour(accelerator_type):.2f} dollars per hour"


def cost_line(accelerator_type: str, spot: bool, max_hours: float) -> str:
    """Returns what a TPU VM costs per hour and at most, in one line."""
    most = per_hour(accelerator_type) * max_hours
    return (
        f"{accelerator_type}: {rate(accelerator_type)}{' or less (spot)' if spot else ''} while it "
        f"exists, {most:.2f} dollars in {max_hours:g} h; US on-demand prices of {READ}, not "
        f"verified for your zone and day: {PRICE_LIST}"
    )
