"""Whose rationales are compared: attempts of a run, lines of a file, or the data set's own."""

from collections.abc import Mapping
from pathlib import Path

from star_jax.errors import UserError
from star_jax.loop.stages import EVALUATE
from star_jax.records import Key, Question
from star_jax.reporting.stage_files import WRITTEN, Row, key_of, lines_of
from star_jax.run.paths import bucket_errors, is_dir, path_of
from star_jax.tasks.task import ReasoningTask
from star_jax.tools.comparison.items import normalized

GOLD = "gold"  # in place of a path: the data set's own rationales


def read_rationales(
    where: str, questions: Mapping[str, Question], task: ReasoningTask, only_right: bool
) -> dict[Key, str]:
    """(question id, sample, turn) -> rationale of one source, trimmed and with normal spacing.

    The first of several with one key counts. Those that leak their hint are dropped.

    Args:
      where: an iteration's directory (its evaluation), a run's (its last one's), a file of
        attempts, of kept examples or of lines with `question_id` and `completion`; or "gold".
      questions: those that may be compared, by id.
      task: that they belong to.
      only_right: drop incorrect answers; lines without a verdict count as correct.

    Raises:
      UserError: it cannot be read, has no such questions, or their prompts differ.
    """
    found: dict[Key, str | None] = {}
    if where == GOLD:
        found = {(q.id, 0, 0): task.gold_completion(q) for q in questions.values()}
        if not any(found.values()):
            raise UserError(
                f"compare.sources has {GOLD!r}, but task {task.name} has no rationales of its own"
            )
    else:
        file, known = _attempts_file(where), False
        for line in lines_of(file):
            row = line.row(WRITTEN)
            if question := questions.get(row["question_id"]):
                known = True
                _check_prompt(line.place, row, question, task)
                rationale = _rationale(row, question, task, only_right)
                if rationale is not None:
                    found.setdefault(key_of(row), rationale)
        if not known:
            raise UserError(
                f"compare.sources: no question of {file} is in this split of task {task.name}; set "
                f"compare.split (an iteration's eval.jsonl has 'validation', its train.jsonl "
                f"'train')"
            )
    texts = {key: normalized(text or "") for key, text in found.items()}
    return {key: text for key, text in texts.items() if text}


def _attempts_file(where: str) -> Path:
    """The file of attempts that a path means; raises UserError if there is none."""
    path, name = path_of(where), f"{EVALUATE.file}.jsonl"
    files, missing = [path], f"{path} does not exist; check the path"
    if is_dir(path):
        with bucket_errors(path):
            iterations = sorted(path.glob("iter_*"), reverse=True)
        files = [folder / name for folder in (path, *iterations)]
        missing = (
            f"{path} has no {name}, and its iterations have none; name an iteration's directory, "
            f"or a file of attempts"
        )
    with bucket_errors(path):
        found = next((file for file in files if file.exists()), None)
    if found is None:
        raise UserError(f"compare.sources: {missing}")
    return found


def _check_prompt(place: str, row: Row, question: Question, task: ReasoningTask) -> None:
    """The same id may be another question under other settings of the task."""
    prompt = row.get("prompt")
    if row["turn"] or prompt is None:  # a later prompt contains the turns before it
        return
    if prompt not in [task.question_text(question, hinted=hinted) for hinted in (False, True)]:
        raise UserError(
            f"{place}: question {question.id} has the prompt {prompt[:80]!r}, which task "
            f"{task.name} does not write; bind the task as config.gin of that run has it"
        )


def _rationale(row: Row, question: Question, task: ReasoningTask, only_right: bool) -> str | None:
    """The completion up to the end of its answer, None if it is not to be compared."""
    reading = row.get("reading", {})
    if (only_right and not reading.get("correct", True)) or reading.get("answer", "") is None:
        return None
    if "end" not in reading:
        ours = task.read(question, row["completion"])
        reading = {"end": ours.end, "hint_leaked": ours.hint_leaked}
    leaks = row.get("hinted") and reading["hint_leaked"]
    return None if leaks or row.get("dropped") else row["completion"][: reading["end"]]
