"""Attempts as the page carries them: columns of numbers and one list of texts, deflated, base64.

The page unpacks them with the browser's own DecompressionStream (Chrome 80, Firefox 113, Safari
16.4 and later). There is no second copy for older browsers, which would make the page four times
as long: they show the tables and figures, and say why the attempts are missing.
"""

import base64
import json
import re
import zlib

from star_jax.reporting.attempts import HINT, KEPT_WORDS, STAGES, STEPS, VERDICTS, AttemptsData

# The filters whose choices are the same in every report.
FIXED = {"stage": (*STAGES,), "verdict": VERDICTS, "hint": HINT, "kept": KEPT_WORDS, "steps": STEPS}

FILTERS = ("run", "iteration", *FIXED, "group", "sample", "turn")  # columns of indices of values
TEXTS = ("id", "question", "rationale", "answer")  # columns of indices of the list of texts
NUMBERS = ("tokens", "ended")  # columns of the numbers themselves


def pack(attempts: AttemptsData, most_bytes: int) -> tuple[str, AttemptsData]:
    """(the attempts as base64 text of at most `most_bytes`, those that are in it).

    Where they do not fit, the last attempts of every stage are dropped; one at least stays.
    """
    longest = max((len(sample.attempts) for sample in attempts.samples), default=0)
    while True:
        text = base64.b64encode(zlib.compress(as_json(attempts))).decode()
        if len(text) <= most_bytes or longest <= 1:
            return text, attempts
        longest = max(1, int(longest * min(0.9, most_bytes / len(text))))
        attempts = attempts.at_most(longest)


def as_json(attempts: AttemptsData) -> bytes:
    """The attempts as JSON, a number for every attempt and column.

    `columns` has indices of `values` of the same name, of `texts` (-1: there is none), or the
    numbers of tokens and whether EOS was written (0, 1). `samples` has run, iteration and stage as
    indices of `values`, then the number of attempts here, and of those on disk.
    """
    rows = [
        {"run": s.run, "iteration": str(s.iteration), "stage": s.stage, **vars(attempt)}
        for s in attempts.samples
        for attempt in s.attempts
    ]
    values: dict[str, list[str]] = {name: list(FIXED.get(name, ())) for name in FILTERS}
    values["run"] = list(dict.fromkeys(sample.run for sample in attempts.samples))
    values["iteration"] = [str(n) for n in sorted({s.iteration for s in attempts.samples})]
    for name in ("group", "sample", "turn"):
        values[name] = sorted({row[name] for row in rows}, key=_natural)
    index = {name: {value: i for i, value in enumerate(of)} for name, of in values.items()}
    texts: dict[str | int | None, int] = {None: -1}
    columns = {
        **{name: [index[name][row[name]] for row in rows] for name in FILTERS},
        **{name: [texts.setdefault(row[name], len(texts) - 1) for row in rows] for name in TEXTS},
        **{name: [row[name] for row in rows] for name in NUMBERS},
    }
    counts = [
        [
            index["run"][s.run],
            index["iteration"][str(s.iteration)],
            index["stage"][s.stage],
            len(s.attempts),
            s.total,
        ]
        for s in attempts.samples
    ]
    content = {"values": values, "samples": counts, "columns": columns, "texts": [*texts][1:]}
    return json.dumps(content, separators=(",", ":")).encode()


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts "2" before "10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(p), "") if i % 2 else (0, 0, p) for i, p in enumerate(parts)]
