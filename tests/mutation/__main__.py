"""Applies the edits and prints which of them the tests notice.

A whole run takes an hour or more of a CPU. With --json, an interrupted run is resumed: edits that
were noticed before are not run again.
"""

import argparse
import concurrent.futures
import dataclasses
import json
import queue
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.mutation.checkout import ROOT, Checkout, Outcome, checkouts
from tests.mutation.edit import Edit, Stale
from tests.mutation.edits import EDITS

NOTICED, TIMED_OUT, SURVIVED, STALE, BROKEN = "noticed", "timed out", "SURVIVED", "STALE", "BROKEN"


class Result(NamedTuple):
    """What became of an edit."""

    edit: Edit
    verdict: str
    by: str = ""  # the test that noticed, or what is wrong with the edit
    seconds: float = 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the edits; returns 1 if an edit does not apply or tests fail without any edit."""
    args = _parser().parse_args(arguments)
    words = args.k.casefold().split()
    chosen = [
        edit
        for edit in EDITS
        if not words or any(word in f"{edit} {' '.join(edit.tests)}".casefold() for word in words)
    ]
    if args.list:
        print(*chosen, sep="\n")
    if args.list or args.check:
        stale = _stale(chosen)
        print(f"{len(chosen)} edits, {len(stale)} do not apply", *stale, sep="\n")
        return int(bool(stale))
    file = Path(args.json) if args.json else None
    known = _noticed_before(file)
    left = [edit for edit in chosen if edit not in known]
    cache = Path(args.cache) if args.cache else None
    with checkouts(args.jobs, cache, args.seconds) as copies:
        if not args.no_first_run and not _passes(copies[0], chosen):
            return 1
        for result in _run(left, copies):
            known[result.edit] = result
            end = f" ({result.by})" if result.by else ""
            print(f"{result.verdict:9} {result.seconds:4.0f} s  {result.edit}{end}", flush=True)
            if file:
                _write(file, known)
    return _report([known[edit] for edit in chosen])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.mutation", description=__doc__)
    parser.add_argument("-k", default="", help="run edits whose text has one of these words")
    parser.add_argument("--jobs", type=int, default=1, help="copies that are tested in parallel")
    parser.add_argument("--seconds", type=float, default=240.0, help="time limit per edit")
    parser.add_argument("--json", default="", help="file of results, written and resumed")
    parser.add_argument("--cache", default="", help="directory of JAX's compiled programs")
    parser.add_argument("--list", action="store_true", help="only print the edits")
    parser.add_argument("--check", action="store_true", help="only check that all edits apply")
    parser.add_argument(
        "--no-first-run", action="store_true", help="do not run the tests without any edit first"
    )
    return parser


def _stale(edits: Sequence[Edit]) -> list[str]:
    """What is wrong with the edits that do not apply to this checkout."""
    found = []
    for edit in edits:
        try:
            edit.applied(ROOT)
        except (Stale, OSError) as error:
            found.append(str(error))
    return found


def _passes(copy: Checkout, edits: Sequence[Edit]) -> bool:
    """Whether the tests of all edits pass without any edit; prints what fails."""
    selection = sorted({test for edit in edits for test in edit.selection})
    outcome = copy.test(selection, seconds=3600.0)
    print(f"without an edit: {outcome.seconds:.0f} s, {'passed' if outcome.passed else 'FAILED'}")
    if not outcome.passed:
        print(outcome.output)
    return outcome.passed


def _noticed_before(file: Path | None) -> dict[Edit, Result]:
    """Results in a file that need not be repeated: an edit that was noticed still is."""
    if file is None or not file.exists():
        return {}
    stored = {
        (line["edit"]["file"], line["edit"]["old"], line["edit"]["new"]): line
        for line in json.loads(file.read_text())
        if line["verdict"] in (NOTICED, TIMED_OUT)
    }
    lines = {edit: stored.get((edit.file, edit.old, edit.new)) for edit in EDITS}
    return {edit: Result(**{**line, "edit": edit}) for edit, line in lines.items() if line}


def _write(file: Path, results: Mapping[Edit, Result]) -> None:
    lines = [{**result._asdict(), "edit": dataclasses.asdict(e)} for e, result in results.items()]
    file.write_text(json.dumps(lines, indent=1))


def _run(edits: Sequence[Edit], copies: Sequence[Checkout]) -> Iterator[Result]:
    """Yields the results in the order of the edits."""
    free: queue.SimpleQueue[Checkout] = queue.SimpleQueue()
    for copy in copies:
        free.put(copy)

    def one(edit: Edit) -> Result:
        copy = free.get()
        try:
            return _result(edit, copy.test_edited(edit))
        except (Stale, OSError) as error:
            return Result(edit, STALE, str(error))
        finally:
            free.put(copy)

    with concurrent.futures.ThreadPoolExecutor(len(copies)) as pool:
        yield from pool.map(one, edits)


def _result(edit: Edit, outcome: Outcome) -> Result:
    if outcome.code is None:
        verdict = TIMED_OUT
    elif outcome.passed:
        verdict = SURVIVED
    else:
        verdict = NOTICED if outcome.failed else BROKEN
    by = outcome.output[-300:] if verdict == BROKEN else outcome.by
    return Result(edit, verdict, by, round(outcome.seconds, 1))


def _report(results: Sequence[Result]) -> int:
    """Prints the score and the survivors; a time-out counts as noticed."""
    counts = {
        verdict: sum(result.verdict == verdict for result in results)
        for verdict in (NOTICED, TIMED_OUT, SURVIVED, STALE, BROKEN)
    }
    found, valid = counts[NOTICED] + counts[TIMED_OUT], len(results)
    valid -= counts[STALE] + counts[BROKEN]
    print(
        f"\n{valid} edits, {found} noticed ({counts[TIMED_OUT]} of them by the time limit): "
        f"{100 * found / max(1, valid):.1f} %"
    )
    for result in results:
        if result.verdict in (SURVIVED, STALE, BROKEN):
            print(f"{result.verdict}: {result.edit} {result.by}")
    return int(counts[STALE] + counts[BROKEN] > 0)


if __name__ == "__main__":
    sys.exit(main())
