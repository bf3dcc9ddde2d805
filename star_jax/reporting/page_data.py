"""Attempts as the page carries them: columns of numbers and one list of texts, deflated, base64.

The page unpacks them with the browser's own DecompressionStream (Chrome 80, Firefox 113, Safari
16.4 and later). There is no second copy for older browsers, which would make the page four times
as long: they show the tables and figures, and say why the attempts are missing.
"""

import base64
import json
import re
import zlib
from typing import Any

from star_jax.reporting.attempts import STAGES, VERDICTS, AttemptsData, ShownAttempt, StageSample

# What can be chosen from where the choice is the same in every report.
HINT = ("without hint", "with hint")
KEPT = ("not kept", "kept", "not for training")
STEPS = ("a wrong step", "every step right", "not checked")

TEXTS = ("id", "question", "rationale", "answer")  # columns of places in the list of texts
NUMBERS = ("tokens", "ended")  # columns of the numbers themselves


def pack(attempts: AttemptsData, most_bytes: int) -> tuple[str, AttemptsData]:
    """The attempts as base64 text of at most `most_bytes`, and which of them these are.

    Where they do not fit, every stage gives up the last of its attempts, down to one.
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

    `columns` has places in `values` of the same name, in `texts` (-1: there is none), or the
    numbers of tokens and whether EOS was written (0, 1). `samples` has run, iteration and stage as
    places in `values`, then the number of attempts here, and of those on disk.
    """
    samples = attempts.samples
    values: dict[str, list[str]] = {
        "run": [*dict.fromkeys(sample.run for sample in samples)],
        "iteration": [str(n) for n in sorted({sample.iteration for sample in samples})],
        "stage": [*STAGES],
        "verdict": [*VERDICTS],
        "hint": [*HINT],
        "kept": [*KEPT],
        "steps": [*STEPS],
        "group": sorted({a.group for s in samples for a in s.attempts}, key=_natural),
    }
    places = {name: {value: i for i, value in enumerate(of)} for name, of in values.items()}
    texts: dict[str | None, int] = {None: -1}
    columns: dict[str, list[int]] = {name: [] for name in (*values, *TEXTS, *NUMBERS)}
    for sample in samples:
        for attempt in sample.attempts:
            for name, value in _row(sample, attempt).items():
                if name in places:
                    value = places[name][value]
                elif name in TEXTS:
                    value = texts.setdefault(value, len(texts) - 1)
                columns[name].append(value)
    counts = [
        [
            places["run"][s.run],
            places["iteration"][str(s.iteration)],
            places["stage"][s.stage],
            len(s.attempts),
            s.total,
        ]
        for s in samples
    ]
    content = {"values": values, "samples": counts, "columns": columns, "texts": [*texts][1:]}
    return json.dumps(content, separators=(",", ":")).encode()


def _row(sample: StageSample, attempt: ShownAttempt) -> dict[str, Any]:
    """Every column of one attempt, in words."""
    return {
        "run": sample.run,
        "iteration": str(sample.iteration),
        "stage": sample.stage,
        "verdict": attempt.verdict,
        "hint": HINT[attempt.hinted],
        "kept": KEPT[2 if attempt.kept is None else attempt.kept],
        "steps": STEPS[2 if attempt.steps_right is None else attempt.steps_right],
        "group": attempt.group,
        "id": attempt.question_id,
        "question": attempt.question,
        "rationale": attempt.rationale,
        "answer": attempt.answer,
        "tokens": attempt.n_tokens,
        "ended": int(attempt.ended),
    }


def _natural(name: str) -> list[tuple[int, int, str]]:
    """A key that sorts "2" before "10"."""
    parts = re.split(r"([0-9]+)", name)
    return [(1, int(p), "") if i % 2 else (0, 0, p) for i, p in enumerate(parts)]
