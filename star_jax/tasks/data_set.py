"""What the published data sets have in common: files or TFDS, exemplars, names in seqio."""

import abc
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable
from typing import Any, ClassVar

from star_jax.errors import UserError, check_types
from star_jax.records import Question
from star_jax.tasks import few_shot, rows
from star_jax.tasks import task as tasks


@dataclasses.dataclass(frozen=True)
class DataSetTask(tasks.ReasoningTask):
    """Questions of a published data set, from local files or from prepared TFDS folders.

    The direct form of a task asks for the answer alone, without a rationale.
    """

    train_file: str = ""  # JSON Lines as published; "" takes both splits from TFDS
    validation_file: str = ""
    held_out: int = 0  # the last so many of train_file are for validation, and not trained on
    data_dir: str = ""  # of TFDS; "" for its default
    exemplar_file: str = ""  # examples parted by blank lines; "" takes star_jax's own
    hinted_exemplar_file: str = ""  # the same with hints, checked if given; "" makes them
    exclude_exemplars: bool = False  # leave questions that are also exemplars out of training
    direct: bool = False

    BASE: ClassVar[str]  # name in seqio, of the exemplars of our own, and of the TFDS builder
    TFDS_SPLITS: ClassVar[dict[str, str]]

    def __post_init__(self):
        """Raises UserError for settings that contradict each other."""
        check_types(self)
        kind = type(self).__name__
        if self.held_out < 0 or (self.held_out and (self.validation_file or not self.train_file)):
            raise UserError(
                f"{kind}.held_out = {self.held_out} splits validation questions off train_file: "
                f"give 0 or more, a train_file, and no validation_file"
            )
        if self.train_file and self.train_file == self.validation_file:
            raise UserError(
                f"{kind}.train_file and {kind}.validation_file are both {self.train_file!r}, and "
                f"nothing is tested on what it was trained on; give two files, or bind "
                f"{kind}.held_out and no validation_file"
            )
        if self.hinted_exemplar_file and not self.exemplar_file:
            raise UserError(
                f"{kind}.hinted_exemplar_file = {self.hinted_exemplar_file!r} needs its plain "
                f"version; bind {kind}.exemplar_file too"
            )

    @abc.abstractmethod
    def question_of(self, id_: str, row: dict[str, Any]) -> Question:
        """The question of a row of the published files; raises rows.BadRow if it makes none."""

    @abc.abstractmethod
    def published(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of the TFDS builder in the layout of the published files."""

    def asked(self, question: Question) -> str:
        """The part of a question by which it is known again, whatever its choices."""
        return question.text

    @property
    def name(self) -> str:
        """`BASE` or `BASE_direct`; other settings add a digest of theirs."""
        name = f"{self.BASE}_direct" if self.direct else self.BASE
        if self != type(self)(direct=self.direct):
            settings = repr(dataclasses.astuple(self)).encode()
            name += "_" + hashlib.blake2b(settings, digest_size=4).hexdigest()
        return name

    def load_questions(self, split: str) -> list[Question]:
        """The questions of a split."""
        return _questions(self, split)

    def few_shot_examples(self, group: str, hinted: bool) -> tuple[str, ...]:
        """All examples of the exemplar file, the same for every question."""
        return _few_shot_examples(self, hinted)


@functools.lru_cache(maxsize=16)
def _questions(task: DataSetTask, split: str) -> list[Question]:
    if task.train_file or task.validation_file:
        questions = _from_files(task, split)
    else:
        questions = _from_tfds(task, split)
    if split == tasks.TRAIN and task.exclude_exemplars:
        shown = {_words(task.asked(question)) for question, _ in _exemplars(task)}
        questions = [q for q in questions if _words(task.asked(q)) not in shown]
    return questions


def _from_files(task: DataSetTask, split: str) -> list[Question]:
    kind, field = type(task).__name__, f"{split}_file"
    file = getattr(task, field) or (task.train_file if task.held_out else "")
    if not file:
        ways = " or hold questions of train_file out by held_out" if task.train_file else ""
        raise UserError(
            f"{kind}.{field} is empty, and {split} questions are needed; bind {kind}.{field}{ways}"
        )
    origin = tasks.TRAIN if file == task.train_file else split
    lines = ((f"{file}, line {n}", f"{origin}_{n:05d}", x) for n, x in rows.read_json_lines(file))
    questions = _checked(task, lines)
    if task.held_out and task.held_out >= len(questions):
        raise UserError(
            f"{kind}.held_out = {task.held_out}, but {file} has {len(questions)} questions; "
            f"hold fewer out"
        )
    if not task.held_out:
        return questions
    cut = len(questions) - task.held_out
    return questions[:cut] if split == tasks.TRAIN else questions[cut:]


def _from_tfds(task: DataSetTask, split: str) -> list[Question]:
    kind = type(task).__name__
    otherwise = f"bind {kind}.train_file and {kind}.validation_file to local files"
    read = rows.read_tfds(task.BASE, task.data_dir, task.TFDS_SPLITS[split], otherwise)
    return _checked(
        task,
        (
            (f"TFDS data set '{task.BASE}', row {n}", f"{split}_{n:05d}", task.published(row))
            for n, row in enumerate(read, start=1)
        ),
    )


def _checked(task: DataSetTask, found: Iterable[tuple[str, str, Any]]) -> list[Question]:
    """Questions of (place, id, row), ids all different."""
    questions: dict[str, Question] = {}
    for where, id_, row in found:
        try:
            question = task.question_of(id_, row)
        except rows.BadRow as reason:
            raise UserError(f"{where}: {reason}; mend the row or leave it out") from reason
        if question.id in questions:
            raise UserError(f"{where}: its id {question.id!r} was there before; make ids differ")
        questions[question.id] = question
    return list(questions.values())


@functools.lru_cache(maxsize=16)
def _exemplars(task: DataSetTask) -> list[tuple[Question, str]]:
    file = task.exemplar_file or few_shot.OWN / f"{task.BASE}.txt"
    if task.hinted_exemplar_file:
        few_shot.check_hinted(task.hinted_exemplar_file, task.exemplar_file, task)
    return few_shot.exemplars(file, task)


@functools.lru_cache(maxsize=32)
def _few_shot_examples(task: DataSetTask, hinted: bool) -> tuple[str, ...]:
    return few_shot.few_shot_texts(_exemplars(task), task, hinted=hinted, direct=task.direct)


def _words(text: str) -> str:
    """What makes two writings of a question the same: its words, whatever case and spacing."""
    return " ".join(re.findall(r"\w+", text.casefold()))
