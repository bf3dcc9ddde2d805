"""What the published data sets share: files or TFDS, and names in seqio."""

import abc
import dataclasses
import functools
from collections.abc import Iterable
from typing import ClassVar

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.run.paths import is_dir, path_of
from star_jax.tasks import rows
from star_jax.tasks.readers.texts import words
from star_jax.tasks.rows import Row
from star_jax.tasks.task import TRAIN
from star_jax.tasks.text_task import TextTask


@dataclasses.dataclass(frozen=True)
class DataSetTask(TextTask):
    """Questions of a published data set, from local files or from prepared TFDS folders."""

    train_file: str = ""  # JSON Lines as published; "" takes both splits from TFDS
    validation_file: str = ""
    held_out: int = 0  # this many of train_file's last questions are for validation instead
    data_dir: str = ""  # of TFDS; "" for its default
    exemplar_file: str = ""  # "" takes star_jax's own
    hinted_exemplar_file: str = ""
    exclude_exemplars: bool = False  # do not train on questions that are also exemplars
    direct: bool = False

    TFDS_VALIDATION: ClassVar[str] = "validation"  # the builder's split of this use; "" for none

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

    @property
    def name(self) -> str:
        """`BASE` or `BASE_direct`; other settings add a digest of them."""
        name = f"{self.BASE}_direct" if self.direct else self.BASE
        default = self == type(self)(direct=self.direct)
        return name if default else f"{name}_{self.settings_digest()}"

    @functools.lru_cache(maxsize=16)  # noqa: B019  of few tasks, equal ones share it
    def load_questions(self, split: str) -> list[Question]:
        """The questions of a split."""
        kind = type(self).__name__
        if self.train_file or self.validation_file or not self.TFDS_VALIDATION:
            questions = self._from_files(kind, split)
        else:
            way_out = f"bind {kind}.train_file and {kind}.validation_file to local files"
            tfds_split = split if split == TRAIN else self.TFDS_VALIDATION
            found = rows.read_tfds(self.BASE, self.data_dir, tfds_split, way_out)
            published = enumerate(map(self.published, found), start=1)
            questions = self._checked(f"TFDS data set '{self.BASE}', row", split, published)
        if split == TRAIN and self.exclude_exemplars:
            # Equal whatever their case, spacing and punctuation.
            shown = [words(self.stem(question)) for question, _ in self.exemplars()]
            questions = [q for q in questions if words(self.stem(q)) not in shown]
        return questions

    def _from_files(self, kind: str, split: str) -> list[Question]:
        binding = f"{kind}.{split}_file"
        own = self.train_file if split == TRAIN else self.validation_file
        file = own or (self.train_file if self.held_out else "")
        if not file:
            ways = " or hold out questions of train_file with held_out" if self.train_file else ""
            raise UserError(
                f"{binding} is empty, and {split} questions are needed; bind {binding}{ways}"
            )
        origin = TRAIN if file == self.train_file else split
        if is_dir(path_of(file)):
            questions = self._checked(f"{file}, file", origin, rows.read_folder(file))
        else:
            questions = self._checked(f"{file}, line", origin, rows.read_lines(file))
        n_first = len(questions) - self.held_out
        if n_first <= 0 < self.held_out:
            raise UserError(
                f"{kind}.held_out = {self.held_out}, but {file} has {len(questions)} questions; "
                f"hold out fewer"
            )
        return questions[n_first:] if self.held_out and split != TRAIN else questions[:n_first]

    def _checked(
        self, source: str, origin: str, numbered: Iterable[tuple[int | str, str | Row]]
    ) -> list[Question]:
        questions, malformed = rows.questions_of(numbered, self.question_of, origin)
        if malformed:
            raise UserError(f"{source} {malformed[0]}; correct or remove the row")
        return questions
