"""Writes the toy worlds' files: `python -m tests.toy_files [FOLDER]`."""

import json
import sys
from pathlib import Path

import numpy as np

from star_jax.tasks import rows
from star_jax.tasks.toy import CORPUS, PARTS, TRAIN, VALIDATION, Worked, stories, things

N_STORIES = {TRAIN: 520, VALIDATION: 320}
SHOWN_STEPS = (1, 3)  # numbers of steps of the exemplars of stories
SHOWN_THINGS = ("lark_0", "rose_4")  # ids of the exemplars of things


def example_files() -> dict[str, str]:
    """Name -> text of the questions of both worlds and of their few-shot examples."""
    files = {}
    for name, world, worked_of in (
        ("commonsense_qa", things.WORLD, _things),
        ("gsm8k", stories.WORLD, _stories),
    ):
        for part in (TRAIN, VALIDATION):
            rows_of_part = (json.dumps(worked.row) for worked in worked_of(part))
            files[f"toy_{name}_{part}.jsonl"] = "".join(f"{row}\n" for row in rows_of_part)
        files[f"toy_{name}_exemplars.txt"] = "\n".join(
            f"{world.task.question_text(world.question(x), hinted=False)}{x.completion}\n"
            for x in worked_of(CORPUS)
        )
    return files


def _things(part: str) -> list[Worked]:
    rng = np.random.default_rng([1, PARTS.index(part)])
    found = [things.question(rng, pair) for pair in things.pairs(part)]
    return [x for x in found if part != CORPUS or x.row["id"] in SHOWN_THINGS]


def _stories(part: str) -> list[Worked]:
    if part == CORPUS:
        return _shown_stories()
    rng = np.random.default_rng([2, PARTS.index(part)])
    found: dict[str, Worked] = {}
    while len(found) < N_STORIES[part]:
        worked = stories.draw(rng, part)
        found.setdefault(worked.row["question"], worked)
    return list(found.values())


def _shown_stories() -> list[Worked]:
    rng = np.random.default_rng(3)
    found: dict[int, Worked] = {}
    while not found.keys() >= set(SHOWN_STEPS):
        worked = stories.draw(rng, CORPUS)
        found.setdefault(worked.completion.count("<<"), worked)
    return [found[n] for n in SHOWN_STEPS]


def main(folder: str = str(rows.EXAMPLES)) -> None:
    """Writes them into `folder`."""
    for name, text in example_files().items():
        Path(folder, name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:2])
