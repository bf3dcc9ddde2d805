"""Whose rationales are compared: attempts of a run, lines of a file, or the data set's own."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.run.paths import is_dir, path_of, read_if_there, told
from star_jax.tasks.task import ReasoningTask
from star_jax.tools.comparison.items import normalized

GOLD = "gold"  # in place of a path: the data set's own rationales
KINDS = {
    "question_id": str, "completion": str, "prompt": str, "correct": bool, "hinted": bool,
    "left_out": bool,
}  # fmt: skip


def read_rationales(
    where: str, questions: Mapping[str, Question], task: ReasoningTask, only_right: bool
) -> dict[str, str]:
    """Question id -> rationale of one source, each trimmed and spaced in the same way.

    Of several for a question the first counts. Those that give their hint away are left out.

    Args:
      where: an iteration's directory (its evaluation), a run's (its last one's), a file of
        attempts, of kept examples or of lines with `question_id` and `completion`; or "gold".
      questions: those that may be compared, by id.
      task: that they belong to.
      only_right: leave out what did not reach the right answer; what has no verdict is right.

    Raises:
      UserError: it cannot be read, has no such questions, or they were asked in another way.
    """
    if where == GOLD:
        found = {q.id: text for q in questions.values() if (text := task.gold_completion(q))}
        if not found:
            raise UserError(
                f"compare.sources has {GOLD!r}, but task {task.name} has no rationales of its own"
            )
    else:
        file = attempts_file(where)
        found = _of_records(file, questions, task, only_right)
    texts = {id_: normalized(task.trim(questions[id_], text)) for id_, text in found.items()}
    return {id_: text for id_, text in texts.items() if text}


def attempts_file(where: str) -> Path:
    """The file of attempts that a path stands for.

    Raises:
      UserError: there is none.
    """
    path = path_of(where)
    if not is_dir(path):
        return path
    with told(path):
        iterations = sorted(path.glob("iter_*"))
        files = [folder / "eval.jsonl" for folder in (path, *reversed(iterations))]
        for file in files:
            if file.exists():
                return file
    raise UserError(
        f"compare.sources: {path} has no eval.jsonl, nor has an iteration in it; name an "
        f"iteration's directory, or a file of attempts"
    )


def _of_records(
    file: Path, questions: Mapping[str, Question], task: ReasoningTask, only_right: bool
) -> dict[str, str]:
    found: dict[str, str] = {}
    known = 0
    for place, record in _records(file):
        question = questions.get(record["question_id"])
        if question is None:
            continue
        known += 1
        _check_prompt(place, record, question, task)
        if question.id not in found and _counts(record, question, task, only_right):
            found[question.id] = record["completion"]
    if not known:
        raise UserError(
            f"compare.sources: no question of {file} is in this split of task {task.name}; set "
            f"compare.split (an iteration's eval.jsonl has 'validation', its train.jsonl 'train')"
        )
    return found


def _records(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        data = read_if_there(file)
    except OSError as error:
        raise UserError(f"compare.sources: {file} cannot be read ({error.strerror})") from error
    if data is None:
        raise UserError(f"compare.sources: {file} is not there; check the path")
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{file}, line {number}"
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{place}: no JSON ({error})") from error
        _check_record(place, record)
        yield place, record


def _check_record(place: str, record: Any) -> None:
    if not isinstance(record, dict):
        raise UserError(f"{place}: expected a JSON object, found {type(record).__name__}")
    for name, kind in KINDS.items():
        if name in ("question_id", "completion") and name not in record:
            raise UserError(f"{place}: {name} is missing; a line needs question_id and completion")
        if not isinstance(record.get(name, kind()), kind):
            raise UserError(f"{place}: {name} is {str(record[name])[:60]!r}, no {kind.__name__}")


def _check_prompt(
    place: str, record: Mapping[str, Any], question: Question, task: ReasoningTask
) -> None:
    """The same id may be another question under other settings of the task."""
    asked = record.get("prompt")
    if asked not in (None, *(task.question_text(question, hinted=h) for h in (False, True))):
        raise UserError(
            f"{place}: question {question.id} was asked as {asked[:80]!r}, which task {task.name} "
            f"does not ask; bind the task as config.gin of that run has it"
        )


def _counts(
    record: Mapping[str, Any], question: Question, task: ReasoningTask, only_right: bool
) -> bool:
    if only_right and not record.get("correct", True):
        return False
    if record.get("left_out") or record.get("answer", "") is None:
        return False  # no answer is no rationale for it
    rationale = task.trim(question, record["completion"])
    return not (record.get("hinted") and task.leaks_hint(question, rationale))
