"""The command line of launch/fetch.py."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from star_launch.command_line import Parser, fail
from star_launch.fetch.download import FetchError, fetch
from star_launch.fetch.table import TABLE, Artefact, Bundle, stated_size

PROG = "fetch.py"


def parse(argv: Sequence[str], table: Mapping[str, Bundle]) -> argparse.Namespace:
    """Reads the command line; ends the program if it is wrong."""
    width = max(map(len, table))
    bundles = "\n".join(f"  {what:{width}}  {bundle.about}" for what, bundle in table.items())
    parser = Parser(
        PROG,
        "python launch/fetch.py WHAT [WHAT ...] [--dir DIR] [--dry_run]",
        "Downloads data sets, prompts and weights, and verifies their checksums.",
        f"WHAT is one or more of:\n{bundles}\n\n"
        "Existing files are verified and not downloaded again. An interrupted download resumes.",
    )
    parser.add_argument("what", metavar="WHAT", nargs="+", choices=list(table), help="see below")
    parser.add_argument("--dir", default="data", help="download folder (default: data)")
    parser.add_argument("--dry_run", action="store_true", help="print what would be downloaded")
    return parser.parse_args(argv)


def main(argv: Sequence[str], table: Mapping[str, Bundle] = TABLE) -> int:
    """Runs one command line; returns 0, 1 if a download failed, 130 for Ctrl-C."""
    options = parse(argv, table)
    folder = Path(options.dir).expanduser()
    artefacts = list(dict.fromkeys(file for what in options.what for file in table[what].files))
    try:
        if options.dry_run:
            print(plan(artefacts, folder))
            return 0
        for artefact in artefacts:
            print(fetch(artefact, folder), flush=True)
            if artefact.hint:
                path = folder / artefact.path
                print(artefact.hint.format(path=path, folder=path.parent), flush=True)
    except FetchError as error:
        return fail(PROG, str(error), 1)
    except BrokenPipeError:
        raise  # see command_line.run
    except OSError as error:
        where = error.filename or folder
        way_out = "free disk space, or choose another folder with --dir"
        return fail(PROG, f"{where}: {error.strerror or error}; {way_out}", 1)
    except KeyboardInterrupt:
        return fail(PROG, "interrupted; the same command resumes", 130)
    return 0


def plan(artefacts: Sequence[Artefact], folder: Path) -> str:
    """Returns what `--dry_run` prints: size, target and address of each file."""
    lines = []
    for artefact in artefacts:
        target = folder / artefact.path
        if target.exists():
            state = " (exists)"
        else:
            state = "" if artefact.sha256 else " (no published checksum)"
        lines.append(f"{stated_size(artefact):>18}  {target}  from {artefact.url}{state}")
    return "\n".join(["would download:", *lines, "nothing was downloaded"])
