"""Any task as a seqio Task, for T5X and seqio's tools.

    register(GSM8KTask(), vocabulary)      # or register_paper_tasks() for all of the paper's
    seqio.get_mixture_or_task("gsm8k")

Nothing is registered by an import or by looking at a task; star_jax's own loop does not need it.
"""

import functools
from collections.abc import Mapping, Sequence

import seqio
import tensorflow as tf

from star_jax.records import Question
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.task import SPLITS, ReasoningTask

COLUMNS = {"id": "id", "text": "question", "answer": "answer", "group": "group",
           "solution": "solution"}  # fields of Question -> features of the data  # fmt: skip


def register(task: ReasoningTask, vocabulary: seqio.Vocabulary, name: str = "") -> str:
    """Adds `task` to seqio's registry as inputs (question) and targets (rationale and answer).

    The variant `<name>_hinted` has the answer as a hint in its inputs. Where the data have no
    rationale, the targets are the bare answer. Predictions are scored by `answer_accuracy`, through
    the task's own reading. Tasks that share a vocabulary go into one mixture. A name that is there
    already is left as it is. Returns the name, which is the task's own unless another is given.
    """
    name = name or task.name
    feature = seqio.Feature(vocabulary=vocabulary, add_eos=False)
    with_eos = seqio.Feature(vocabulary=vocabulary, add_eos=True)
    for variant, hinted in ((name, False), (f"{name}_hinted", True)):
        if variant in seqio.TaskRegistry.names():
            continue
        dataset = functools.partial(_dataset, task=task, hinted=hinted)
        seqio.TaskRegistry.add(
            variant,
            source=seqio.FunctionDataSource(dataset, splits=SPLITS),
            preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
            output_features={"inputs": feature, "targets": with_eos},
            postprocess_fn=functools.partial(_read_answer, task=task),
            metric_fns=[answer_accuracy],
        )
    return name


def register_paper_tasks() -> list[str]:
    """Registers arithmetic, CommonsenseQA and GSM8K, each also direct; returns their names.

    Arithmetic has its own vocabulary, the others the bytes of their text; bring your model's with
    `register`.
    """
    own, text = arithmetic_vocabulary(), seqio.ByteVocabulary()
    kinds = ((ArithmeticTask, own), (CommonsenseQATask, text), (GSM8KTask, text))
    return [register(kind(direct=d), words) for kind, words in kinds for d in (False, True)]


def answer_accuracy(targets: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
    """Seqio metric: `accuracy` (%) of parsed answers, and `unparsable`, the share (%) of none."""
    total = max(1, len(targets))
    right = sum(t == p for t, p in zip(targets, predictions, strict=True) if p is not None)
    return {
        "accuracy": 100.0 * right / total,
        "unparsable": 100.0 * sum(p is None for p in predictions) / total,
    }


def _read_answer(
    output: str, *, task: ReasoningTask, example: Mapping, is_target: bool = False
) -> str | None:
    """The answer as text; one that the task takes for right is written as the target is."""
    question = _question(example)
    answer = question.answer if is_target else task.find_answer(question, output)[0]
    return question.answer if task.is_correct(question, answer) else answer


def _dataset(
    split: str, shuffle_files: bool, seed: int | None = None, *, task: ReasoningTask, hinted: bool
) -> tf.data.Dataset:
    """The questions of a split with the features of COLUMNS, `inputs` and `targets`."""
    questions = task.questions(split)
    columns = {name: [getattr(q, field) for q in questions] for field, name in COLUMNS.items()}
    columns["inputs"] = [task.question_text(q, hinted) for q in questions]
    golds = zip(questions, map(task.gold_completion, questions), strict=True)
    columns["targets"] = [task.bare_answer(q) if gold is None else gold for q, gold in golds]
    return tf.data.Dataset.from_tensor_slices(columns)


def _question(example: Mapping[str, bytes | str | tf.Tensor]) -> Question:
    values = {field: example[name] for field, name in COLUMNS.items()}
    return Question(**{field: tf.compat.as_text(value) for field, value in values.items()})
