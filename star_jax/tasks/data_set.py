"""What the published data sets share: files or TFDS, and names in seqio."""

import abc
import dataclasses
import functools
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.tasks import grading, rows
from star_jax.tasks.few_shot import ExemplarTask
from star_jax.tasks.rows import Row
from star_jax.tasks.task import TRAIN

EXEMPLARS = Path(__file__).parent / "exemplars"


@dataclasses.dataclass(frozen=True)
class DataSetTask(ExemplarTask):
    """Questions of a published data set, from local files or from prepared TFDS folders."""

    train_file: str = ""  # JSON Lines as published; "" takes both splits from TFDS
    validation_file: str = ""
    held_out: int = 0  # this many of train_file's last questions are for validation instead
    data_dir: str = ""  # of TFDS; "" for its default
    exemplar_file: str = ""  # "" takes star_jax's own
    hinted_exemplar_file: str = ""
    exclude_exemplars: bool = False  # do not train on questions that are also exemplars
    direct: bool = False

    BASE: ClassVar[str]  # name in seqio, of the exemplars of our own, and of the TFDS builder
    TFDS_VALIDATION: ClassVar[str] = "validation"  # the builder's split of this use

    def __post_init__(self):
        """Raises UserError for settings that contradict each other."""
        super().__post_init__()
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

    @abc.abstractmethod
    def question_of(self, id_: str, row: Row) -> Question:
        """The question of a row of the published files; raises rows.BadRow if it is none."""

    def published(self, row: Row) -> Row:
        """A row of the TFDS builder in the layout of the published files."""
        return row

    def stem(self, question: Question) -> str:
        """The part of a question that identifies it, without its choices."""
        return question.text

    @property
    def name(self) -> str:
        """`BASE` or `BASE_direct`; other settings add a digest of them."""
        name = f"{self.BASE}_direct" if self.direct else self.BASE
        default = self == type(self)(direct=self.direct)
        return name if default else f"{name}_{self.settings_digest()}"

    @property
    def exemplar_path(self) -> str | Path:
        """The user's file of exemplars, or our own."""
        return self.exemplar_file or EXEMPLARS / f"{self.BASE}.txt"

    def load_questions(self, split: str) -> list[Question]:
        """The questions of a split."""
        return _questions(self, split)


@functools.lru_cache(maxsize=16)
def _questions(task: DataSetTask, split: str) -> list[Question]:
    from_files = task.train_file or task.validation_file
    questions = _from_files(task, split) if from_files else _from_tfds(task, split)
    if split == TRAIN and task.exclude_exemplars:
        # Equal whatever their case, spacing and punctuation.
        shown = [grading.words(task.stem(question)) for question, _ in task.exemplars()]
        questions = [q for q in questions if grading.words(task.stem(q)) not in shown]
    return questions


def _from_files(task: DataSetTask, split: str) -> list[Question]:
    kind, field = type(task).__name__, f"{split}_file"
    file = getattr(task, field) or (task.train_file if task.held_out else "")
    if not file:
        ways = " or hold out questions of train_file with held_out" if task.train_file else ""
        raise UserError(
            f"{kind}.{field} is empty, and {split} questions are needed; bind {kind}.{field}{ways}"
        )
    origin = TRAIN if file == task.train_file else split
    questions = _checked(task, f"{file}, line", origin, rows.read_lines(file))
    n_first = len(questions) - task.held_out
    if n_first <= 0 < task.held_out:
        raise UserError(
            f"{kind}.held_out = {task.held_out}, but {file} has {len(questions)} questions; "
            f"hold out fewer"
        )
    return questions[n_first:] if task.held_out and split != TRAIN else questions[:n_first]


def _from_tfds(task: DataSetTask, split: str) -> list[Question]:
    kind = type(task).__name__
    otherwise = f"bind {kind}.train_file and {kind}.validation_file to local files"
    tfds_split = split if split == TRAIN else task.TFDS_VALIDATION
    found = rows.read_tfds(task.BASE, task.data_dir, tfds_split, otherwise)
    published = enumerate(map(task.published, found), start=1)
    return _checked(task, f"TFDS data set '{task.BASE}', row", split, published)


def _checked(
    task: DataSetTask, source: str, origin: str, numbered: Iterable[tuple[int, str | Row]]
) -> list[Question]:
    questions, malformed = rows.questions_of(numbered, task.question_of, origin)
    if malformed:
        raise UserError(f"{source} {malformed[0]}; correct or remove the row")
    return questions
