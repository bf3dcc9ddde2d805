"""What the loop needs to know of a task, and how any task becomes a seqio Task."""

import abc
import functools
import re
from collections.abc import Callable, Sequence

import seqio
import tensorflow as tf

from star_jax.errors import UserError
from star_jax.records import Prompt, Question

TRAIN, VALIDATION = "train", "validation"
COLUMNS = {"id": "id", "text": "question", "answer": "answer", "group": "group",
           "solution": "solution"}  # fields of Question -> features of the data  # fmt: skip
HINT_IN_WORDS = re.compile(r"\b(?:the|this|given|your)\s+hint\b(?!\s+of)", re.IGNORECASE)


class ReasoningTask(abc.ABC):
    """Questions with checkable answers; the data come through the seqio Task called `name`."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name in `seqio.TaskRegistry`; made anew there if this configuration has none yet."""

    @abc.abstractmethod
    def source(self) -> seqio.DataSource:
        """Where the questions come from; read only when they are asked for."""

    @abc.abstractmethod
    def make_question(self, id_: str, text: str) -> Question:
        """A question of the user's, from its text; raises UserError if the task cannot read it."""

    @abc.abstractmethod
    def question_text(self, question: Question, hinted: bool) -> str:
        """The question as the model reads it, with the answer as a hint or without."""

    @abc.abstractmethod
    def bare_answer(self, question: Question) -> str:
        """The right answer as a completion without a rationale."""

    @abc.abstractmethod
    def gold_completion(self, question: Question) -> str | None:
        """A right rationale with its answer, or None where the data have no rationales."""

    @abc.abstractmethod
    def parse_answer(self, question: Question, completion: str) -> str | None:
        """The answer a completion ends in, or None if there is none to be read."""

    @abc.abstractmethod
    def trim(self, question: Question, completion: str) -> str:
        """A right completion up to the end of its answer; what was written after it is cut."""

    @abc.abstractmethod
    def few_shot_examples(self, group: str, hinted: bool) -> tuple[str, ...]:
        """The few-shot prompt set P for questions of `group`; hinted examples carry hints.

        Oldest first; each ends with the blank line that parts it from the next.
        """

    def choices(self, question: Question) -> dict[str, str]:
        """Answer -> text, as a completion would begin with it; {} where nothing is to choose."""
        return {}

    def open_text(self, question: Question) -> str:
        """The question as the model reads it where its choices are scored instead of shown."""
        return self.question_text(question, hinted=False)

    def prompt(self, question: Question, *, hinted: bool, few_shot: bool) -> Prompt:
        """Algorithm 1: x, or add_hint(x, y), behind the few-shot examples."""
        examples = self.few_shot_examples(question.group, hinted) if few_shot else ()
        return Prompt(question.id, self.question_text(question, hinted), examples, hinted)

    def is_correct(self, question: Question, answer: str | None) -> bool:
        """Whether a parsed answer equals the question's."""
        return answer is not None and answer == question.answer

    def steps_right(self, question: Question, completion: str) -> bool | None:
        """Whether every step of a completion's rationale is right; None: that cannot be checked."""
        return None

    def count_steps(self, completion: str) -> int | None:
        """How many steps a completion's rationale has; None where steps are not counted."""
        return None

    def leaks_hint(self, question: Question, completion: str) -> bool:
        """Whether a rationale gives its hint away: says its line again, or speaks of "the hint"."""
        plain = self.question_text(question, hinted=False).splitlines()
        hint = [x for x in self.question_text(question, hinted=True).splitlines() if x not in plain]
        return any(x in completion for x in hint) or bool(HINT_IN_WORDS.search(completion))

    def questions(self, split: str) -> list[Question]:
        """All questions of a split, in the order of the seqio Task's source.

        Raises:
          UserError: the split is unknown or empty, or its data are missing or malformed.
        """
        source = seqio.get_mixture_or_task(self.name).source
        if split not in source.splits:
            raise UserError(f"task {self.name} has no split {split!r}; it has {source.splits}")
        questions = [
            _question(dict(zip(batch, row, strict=True)))
            for batch in source.get_dataset(split, shuffle=False).batch(4096).as_numpy_iterator()
            for row in zip(*batch.values(), strict=True)
        ]
        if not questions:
            raise UserError(f"task {self.name}: the split {split!r} has no questions")
        return questions


def question_source(questions: Callable[[str], Sequence[Question]]) -> seqio.DataSource:
    """A source of the training and validation splits; `questions` makes one when it is read."""

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return questions_to_dataset(questions(split))

    return seqio.FunctionDataSource(dataset, splits=(TRAIN, VALIDATION))


def questions_to_dataset(questions: Sequence[Question]) -> tf.data.Dataset:
    """A data set of the raw features `id`, `question`, `answer`, `group` and `solution`."""
    return tf.data.Dataset.from_tensor_slices(
        {
            name: tf.constant([getattr(q, field) for q in questions], tf.string)
            for field, name in COLUMNS.items()
        }
    )


def register(
    task: ReasoningTask, name: str, source: seqio.DataSource, vocabulary: seqio.Vocabulary
) -> None:
    """Adds `task` to seqio's registry: inputs (question), targets (rationale and answer).

    The variant `<name>_hinted` has the answer as a hint in its inputs. Where the data have no
    rationale, the targets are the bare answer. Predictions are scored by `accuracy`, through the
    task's own answer parser. Tasks that share a vocabulary go into one mixture.
    """
    feature = seqio.Feature(vocabulary=vocabulary, add_eos=False)
    with_eos = seqio.Feature(vocabulary=vocabulary, add_eos=True)
    for variant, hinted in ((name, False), (f"{name}_hinted", True)):
        if variant in seqio.TaskRegistry.names():
            continue
        seqio.TaskRegistry.add(
            variant,
            source=source,
            preprocessors=[
                functools.partial(_inputs_and_targets, task=task, hinted=hinted),
                seqio.preprocessors.tokenize,
                seqio.preprocessors.append_eos,
            ],
            output_features={"inputs": feature, "targets": with_eos},
            postprocess_fn=functools.partial(_read_answer, task=task),
            metric_fns=[answer_accuracy],
        )


def answer_accuracy(targets: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
    """Seqio metric: accuracy (%) of parsed answers, and the share (%) that had none."""
    total = max(1, len(targets))
    right = sum(t == p for t, p in zip(targets, predictions, strict=True) if p is not None)
    return {
        "accuracy": 100.0 * right / total,
        "unparsable": 100.0 * sum(p is None for p in predictions) / total,
    }


def _read_answer(
    output: str, *, task: ReasoningTask, example: dict, is_target: bool = False
) -> str | None:
    """The answer as text; one that the task takes for right is written as the target is."""
    question = _question(example)
    answer = question.answer if is_target else task.parse_answer(question, output)
    return question.answer if task.is_correct(question, answer) else answer


def _inputs_and_targets(
    dataset: tf.data.Dataset, *, task: ReasoningTask, hinted: bool
) -> tf.data.Dataset:
    def texts(*fields: tf.Tensor) -> list[str]:
        question = _question(dict(zip(COLUMNS.values(), fields, strict=True)))
        targets = task.gold_completion(question)
        return [
            task.question_text(question, hinted),
            task.bare_answer(question) if targets is None else targets,
        ]

    def add(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        fields = [example[name] for name in COLUMNS.values()]
        inputs, targets = tf.py_function(texts, fields, [tf.string, tf.string])
        return {**example, "inputs": tf.ensure_shape(inputs, []),
                "targets": tf.ensure_shape(targets, [])}  # fmt: skip

    return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)


def _question(example: dict) -> Question:
    return Question(**{field: _text(example[name]) for field, name in COLUMNS.items()})


def _text(value: bytes | str | tf.Tensor) -> str:
    value = value.numpy() if isinstance(value, tf.Tensor) else value
    return value.decode() if isinstance(value, bytes) else str(value)
