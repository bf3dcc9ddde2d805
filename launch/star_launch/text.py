"""Sizes, times and commands as people read them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

WIDTH = 100  # columns


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


def command_text(words: Sequence[str]) -> str:
    """Returns a command for a shell, in lines of WIDTH where its words allow that."""
    lines = [quoted(words[0])]
    for word in map(quoted, words[1:]):
        if len(lines[-1]) + 1 + len(word) + len(" \\") <= WIDTH:
            lines[-1] += f" {word}"
        else:
            lines.append(f"    {word}")
    return " \\\n".join(lines)


def quoted(word: str) -> str:
    """Quotes a word for a shell: --a=b, --a='b c', --a="'b'"."""
    flag, value = re.fullmatch(r"(--[\w.-]+=)?(.*)", word, re.ASCII | re.DOTALL).groups("")
    is_simple = "'" in value and not re.search(r'["$`\\!]', value)
    if flag and not value:
        return flag
    return flag + (f'"{value}"' if is_simple else shlex.quote(value))
