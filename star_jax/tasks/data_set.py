"""What the published data sets share: files or TFDS, exemplars, names in seqio."""

import abc
import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable
from typing import ClassVar

from star_jax.errors import UserError, check_types
from star_jax.records import Question
from star_jax.tasks import few_shot, rows
from star_jax.tasks import task as tasks
from star_jax.tasks.rows import Row


@dataclasses.dataclass(frozen=True)
class DataSetTask(tasks.ReasoningTask):
    """Questions of a published data set, from local files or from prepared TFDS folders.

    The direct form of a task asks for the answer alone, without a rationale.
    """

    train_file: str = ""  # JSON Lines as published; "" takes both splits from TFDS
    validation_file: str = ""
    held_out: int = 0  # this many of train_file's last questions are for validation instead
    data_dir: str = ""  # of TFDS; "" for its default
    exemplar_file: str = ""  # examples, blank lines between them; "" takes star_jax's own
    hinted_exemplar_file: str = ""  # the same with hints, checked if given; "" makes them
    exclude_exemplars: bool = False  # do not train on questions that are also exemplars
    direct: bool = False

    BASE: ClassVar[str]  # name in seqio, of the exemplars of our own, and of the TFDS builder
    TFDS_SPLITS: ClassVar[dict[str, str]]

    def __post_init__(self):
        """Raises UserError for settings that contradict each other."""
        check_types(self)
        kind = type(self).__name__
        if self.held_out < 0 or (self.held_out and (self.validation_file or not self.train_file)):
            raise UserError(
                f"{kind}.held_out = {self.held_out} takes validation questions from train_file: "
                f"give 0 or more, a train_file, and no validation_file"
            )
        if self.train_file and self.train_file == self.validation_file:
            raise UserError(
                f"{kind}.train_file and {kind}.validation_file are both {self.train_file!r}; a "
                f"model must not be tested on what it was trained on: give two files, or bind "
                f"{kind}.held_out and no validation_file"
            )
        if self.hinted_exemplar_file and not self.exemplar_file:
            raise UserError(
                f"{kind}.hinted_exemplar_file = {self.hinted_exemplar_file!r} needs its plain "
                f"version; bind {kind}.exemplar_file too"
            )

    @abc.abstractmethod
    def question_of(self, id_: str, row: Row) -> Question:
        """The question of a row of the published files; raises rows.BadRow if it is none."""

    @abc.abstractmethod
    def published(self, row: Row) -> Row:
        """A row of the TFDS builder in the layout of the published files."""

    def asked(self, question: Question) -> str:
        """The part of a question that identifies it, without its choices."""
        return question.text

    @property
    def name(self) -> str:
        """`BASE` or `BASE_direct`; other settings add a digest of them."""
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
    from_files = task.train_file or task.validation_file
    questions = _from_files(task, split) if from_files else _from_tfds(task, split)
    if split == tasks.TRAIN and task.exclude_exemplars:
        shown = {_words(task.asked(question)) for question, _ in _exemplars(task)}
        questions = [q for q in questions if _words(task.asked(q)) not in shown]
    return questions


def _from_files(task: DataSetTask, split: str) -> list[Question]:
    kind, field = type(task).__name__, f"{split}_file"
    file = getattr(task, field) or (task.train_file if task.held_out else "")
    if not file:
        ways = " or hold out questions of train_file with held_out" if task.train_file else ""
        raise UserError(
            f"{kind}.{field} is empty, and {split} questions are needed; bind {kind}.{field}{ways}"
        )
    origin = tasks.TRAIN if file == task.train_file else split
    questions = _checked(task, f"{file}, line", origin, rows.read_json_lines(file))
    n_first = len(questions) - task.held_out
    if n_first <= 0 < task.held_out:
        raise UserError(
            f"{kind}.held_out = {task.held_out}, but {file} has {len(questions)} questions; "
            f"hold out fewer"
        )
    return questions[n_first:] if task.held_out and split != tasks.TRAIN else questions[:n_first]


def _from_tfds(task: DataSetTask, split: str) -> list[Question]:
    kind = type(task).__name__
    otherwise = f"bind {kind}.train_file and {kind}.validation_file to local files"
    found = rows.read_tfds(task.BASE, task.data_dir, task.TFDS_SPLITS[split], otherwise)
    published = enumerate(map(task.published, found), start=1)
    return _checked(task, f"TFDS data set '{task.BASE}', row", split, published)


def _checked(
    task: DataSetTask, source: str, origin: str, numbered: Iterable[tuple[int, Row]]
) -> list[Question]:
    """Questions of (number, row), with distinct ids; `source` is for the error message."""
    questions: dict[str, Question] = {}
    for n, row in numbered:
        try:
            question = task.question_of(f"{origin}_{n:05d}", row)
        except rows.BadRow as reason:
            raise UserError(f"{source} {n}: {reason}; correct or remove the row") from reason
        if question.id in questions:
            raise UserError(f"{source} {n}: its id {question.id!r} is not unique; make ids differ")
        questions[question.id] = question
    return list(questions.values())


@functools.lru_cache(maxsize=16)
def _exemplars(task: DataSetTask) -> list[tuple[Question, str]]:
    if task.hinted_exemplar_file:
        few_shot.check_hinted(task.hinted_exemplar_file, task.exemplar_file, task)
    return few_shot.exemplars(task.exemplar_file or few_shot.OWN / f"{task.BASE}.txt", task)


@functools.lru_cache(maxsize=32)
def _few_shot_examples(task: DataSetTask, hinted: bool) -> tuple[str, ...]:
    return few_shot.few_shot_texts(_exemplars(task), task, hinted=hinted, direct=task.direct)


def _words(text: str) -> str:
    """A question's words, whatever their case and spacing; equal for equal questions."""
    return " ".join(re.findall(r"\w+", text.casefold()))
