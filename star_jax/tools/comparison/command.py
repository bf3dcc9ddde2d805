"""The run modes `compare` and `score_comparison`."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from star_jax.errors import UserError
from star_jax.reporting.intervals import interval_text
from star_jax.run.files import write_together
from star_jax.run.paths import path_of, read_if_there
from star_jax.run.tables import NOTHING, aligned
from star_jax.tasks.task import VALIDATION, ReasoningTask
from star_jax.tools.comparison.answers import read_all_answers, read_key
from star_jax.tools.comparison.items import draw_items, normalized
from star_jax.tools.comparison.scores import Scores, score
from star_jax.tools.comparison.sheets import as_csv, as_html, as_key, as_text
from star_jax.tools.comparison.sources import read_rationales

SHOWN = 10  # missing and invalid entries on the screen; the JSON has all of them


def compare(
    sources: Mapping[str, str],
    task: ReasoningTask,
    output_dir: str,
    n: int = 50,
    seed: int = 0,
    split: str = VALIDATION,
    only_right: bool = True,
) -> None:
    """Writes a blind comparison of rationales: raters/ for the raters, key.json for you alone.

    Args:
      sources: name -> an iteration's or a run's directory, a file of attempts, or "gold".
      task: that the attempts belong to.
      output_dir: where the comparison goes.
      n: pairs of rationales for each two sources.
      seed: of the draw, the order and the sides.
      split: of the questions.
      only_right: only questions that both answered correctly, as in the paper.

    Raises:
      UserError: invalid settings or files, no question to compare, or another comparison's key.
    """
    _check(sources, n, seed)
    questions = {question.id: question for question in task.questions(split)}
    paths = {name: str(where) for name, where in sources.items()}
    rationales = {
        name: read_rationales(path, questions, task, only_right) for name, path in paths.items()
    }
    texts = {id_: normalized(task.question_text(q, hinted=False)) for id_, q in questions.items()}
    items = draw_items(rationales, texts, n, seed)
    output = path_of(output_dir)
    drawn = {"task": task.name, "split": split, "only_right": only_right, "n": n, "seed": seed}
    key = as_key(items, paths, drawn)
    known = read_if_there(output / "key.json")
    if known not in (None, key):
        raise UserError(
            f"{output / 'key.json'} is the key of another comparison, which its raters' answers "
            f"need; give another compare.output_dir"
        )
    tables = {"comparison.html": as_html(items), "comparison.csv": as_csv(items)}
    raters = {"instructions.txt": as_text(), **tables}
    _write(output, {"key.json": key}, "compare.output_dir")
    _write(output / "raters", raters, "compare.output_dir")
    for name, found in rationales.items():
        print(f"{name}: {len(found)} rationales to compare, of {len(questions)} questions")
    print(f"{len(items)} items for the raters: {output / 'raters'}")
    print(f"the key: {output / 'key.json'} (do not give it to the raters)")


def score_comparison(key: str, answers: Sequence[str], output_file: str = "") -> None:
    """Prints what raters preferred, and writes it as JSON.

    Args:
      key: the key.json of the comparison.
      answers: filled-in CSV files, one per rater, or folders of them.
      output_file: of the JSON; "" for scores.json in the directory of the key.

    Raises:
      UserError: a file cannot be read or is of another comparison, or there is no valid answer.
    """
    known = read_key(key)
    given = read_all_answers([answers] if isinstance(answers, str) else list(answers), known)
    scores = score(given, known)
    print(*_tables(scores), sep="\n")
    if not scores["pairs"]:
        raise UserError("score_comparison.answers: no file has a valid preference in it")
    output = path_of(output_file) if output_file else path_of(key).with_name("scores.json")
    text = json.dumps(scores, indent=1, ensure_ascii=False) + "\n"
    _write(output.parent, {output.name: text.encode()}, "score_comparison.output_file")
    print(output)


def _check(sources: object, n: object, seed: object) -> None:
    if not isinstance(sources, Mapping) or len(sources) < 2 or not all(sources):
        raise UserError(
            f"compare.sources = {str(sources)[:200]!r}: give two or more, as "
            f"{{'few_shot': 'runs/a/iter_000', 'star': 'runs/a/iter_016'}}"
        )
    for name, value, least in (("n", n, 1), ("seed", seed, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise UserError(f"compare.{name} = {value!r}: give a whole number of at least {least}")


def _write(directory: Path, contents: Mapping[str, bytes], binding: str) -> None:
    try:
        write_together(directory, contents)
    except OSError as error:
        raise UserError(
            f"{binding}: cannot write to {directory} ({os.strerror(error.errno or 0)}); give "
            f"another one"
        ) from error


def _tables(scores: Scores) -> list[str]:
    sources = [*next(iter(scores["raters"].values()))["preferred"]]
    pairs = [["first", "second", "counted by", "n", "first", "second", "ties", "share of first",
              "95 % interval", "p"]]  # fmt: skip
    pairs += [
        [*pair["sources"], unit, *_tally_cells(pair[unit])]
        for pair in scores["pairs"]
        for unit in ("ratings", "majority")
    ]
    raters = [["rater", "n", *sources, "ties", "chose A", "missing", "invalid"]]
    for name, x in scores["raters"].items():
        cells = [x["n"], *x["preferred"].values(), x["ties"], x["left"], x["missing"], x["invalid"]]
        raters.append([name, *map(str, cells)])
    lines = [
        "Preferences (share without ties, 95 % Wilson interval, two-sided sign test)",
        *aligned(pairs),
        "",
        *aligned(raters),
        "",
        _agreement(scores["agreement"]),
    ]
    for kind in ("missing", "invalid"):
        found = scores[kind]
        lines += [f"{kind}: {line}" for line in found[:SHOWN]]
        if len(found) > SHOWN:
            lines.append(f"{kind}: and {len(found) - SHOWN} more")
    return lines


def _tally_cells(tally: Scores) -> list[str]:
    first, second = tally["preferred"].values()
    counts = [str(x) for x in (tally["n"], first, second, tally["ties"])]
    if tally["share"] is None:
        return [*counts, NOTHING, NOTHING, NOTHING]
    interval = interval_text(first, first + second)
    return [*counts, f"{100 * tally['share']:.1f} %", interval, f"{tally['p_value']:.2g}"]


def _agreement(agreement: Scores) -> str:
    n = agreement["n_items"]
    if agreement["fleiss_kappa"] is None:
        return f"Agreement: not defined ({n} items with two ratings or more)"
    return (
        f"Agreement on {n} items with two ratings or more: Fleiss' kappa "
        f"{agreement['fleiss_kappa']:.2f} ({100 * agreement['observed']:.1f} % of pairs agree, "
        f"{100 * agreement['by_chance']:.1f} % would by chance)"
    )
