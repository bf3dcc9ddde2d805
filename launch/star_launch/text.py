"""Sizes and times as people read them."""

from __future__ import annotations


def human_size(size: int) -> str:
    """3785890 -> "3.8 MB"."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"


def human_time(seconds: float) -> str:
    """Two units at most: 9 -> "9 s", 125 -> "2 min 5 s", 3780 -> "1 h 3 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def first_few(names: list[str], limit: int, separator: str = ", ") -> str:
    """(["a", "b", "c"], 2) -> "a, b and 1 more"."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return separator.join(names[:limit]) + more
