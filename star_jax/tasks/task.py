"""What the loop needs to know of a task, and how any task becomes a seqio Task."""

import abc
import functools
from collections.abc import Sequence

import seqio
import tensorflow as tf

from star_jax.errors import UserError
from star_jax.records import Prompt, Question

TRAIN, VALIDATION = "train", "validation"


class ReasoningTask(abc.ABC):
    """Questions with checkable answers; the data come through the seqio Task called `name`."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Name in `seqio.TaskRegistry`; made anew there if this configuration has none yet."""

    @abc.abstractmethod
    def make_question(self, id_: str, text: str) -> Question:
        """A question of the user's, from its text; raises UserError if the task cannot read it."""

    @abc.abstractmethod
    def question_text(self, question: Question, hinted: bool) -> str:
        """The question as the model reads it, with the answer as a hint or without."""

    @abc.abstractmethod
    def gold_completion(self, question: Question) -> str | None:
        """A right rationale with its answer, or None where the data have no rationales."""

    @abc.abstractmethod
    def parse_answer(self, completion: str) -> str | None:
        """The answer a completion ends in, or None if there is none to be read."""

    @abc.abstractmethod
    def trim(self, completion: str) -> str:
        """A right completion up to the end of its answer; what was written after it is cut."""

    @abc.abstractmethod
    def few_shot_prefix(self, group: str, hinted: bool) -> str:
        """The few-shot prompt set P for questions of `group`; hinted examples carry hints."""

    def prompt(self, question: Question, *, hinted: bool, few_shot: bool) -> Prompt:
        """Algorithm 1: x, or add_hint(x, y), behind the few-shot examples."""
        prefix = self.few_shot_prefix(question.group, hinted) if few_shot else ""
        return Prompt(question.id, self.question_text(question, hinted), prefix, hinted)

    def is_correct(self, question: Question, answer: str | None) -> bool:
        """Whether a parsed answer equals the question's."""
        return answer is not None and answer == question.answer

    def questions(self, split: str) -> list[Question]:
        """All questions of a split, in the order of the seqio Task's source.

        Raises:
          UserError: the split is unknown or empty.
        """
        source = seqio.get_mixture_or_task(self.name).source
        if split not in source.splits:
            raise UserError(f"task {self.name} has no split {split!r}; it has {source.splits}")
        questions = [
            question
            for batch in source.get_dataset(split, shuffle=False).batch(4096)
            for question in _from_batch(batch)
        ]
        if not questions:
            raise UserError(f"task {self.name}: the split {split!r} has no questions")
        return questions


def questions_to_dataset(questions: Sequence[Question]) -> tf.data.Dataset:
    """A data set of the raw fields `id`, `question`, `answer` and `group`."""
    columns = {
        "id": [q.id for q in questions],
        "question": [q.text for q in questions],
        "answer": [q.answer for q in questions],
        "group": [q.group for q in questions],
    }
    return tf.data.Dataset.from_tensor_slices(
        {name: tf.constant(values, tf.string) for name, values in columns.items()}
    )


def register(
    task: ReasoningTask, name: str, source: seqio.DataSource, vocabulary: seqio.Vocabulary
) -> None:
    """Adds `task` to seqio's registry: inputs (question), targets (rationale and answer).

    The variant `<name>_hinted` has the answer as a hint in its inputs. Predictions are scored
    by `accuracy`, through the task's own answer parser.
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
    output: str, *, task: ReasoningTask, example: dict | None = None, is_target: bool = False
) -> str | None:
    if is_target and example is not None:
        return _text(example["answer"])
    return task.parse_answer(output)


def _inputs_and_targets(
    dataset: tf.data.Dataset, *, task: ReasoningTask, hinted: bool
) -> tf.data.Dataset:
    def texts(id_: tf.Tensor, text: tf.Tensor, answer: tf.Tensor, group: tf.Tensor) -> list[str]:
        question = Question(*(_text(t) for t in (id_, text, answer, group)))
        return [task.question_text(question, hinted), task.gold_completion(question) or ""]

    def add(example: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        fields = [example[name] for name in ("id", "question", "answer", "group")]
        inputs, targets = tf.py_function(texts, fields, [tf.string, tf.string])
        return {**example, "inputs": tf.ensure_shape(inputs, []),
                "targets": tf.ensure_shape(targets, [])}  # fmt: skip

    return dataset.map(add, num_parallel_calls=tf.data.AUTOTUNE)


def _from_batch(batch: dict[str, tf.Tensor]) -> list[Question]:
    columns = (batch[name].numpy() for name in ("id", "question", "answer", "group"))
    return [Question(*(_text(field) for field in row)) for row in zip(*columns, strict=True)]


def _text(value: bytes | str | tf.Tensor) -> str:
    value = value.numpy() if isinstance(value, tf.Tensor) else value
    return value.decode() if isinstance(value, bytes) else str(value)
