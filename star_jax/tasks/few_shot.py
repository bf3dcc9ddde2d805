"""The few-shot prompt set P from a file: examples as the model reads them, split at blank lines.

    Q: What is ...?
    A: Because ... Therefore, the answer is ...

Only the plain file is needed: the hinted examples are made from it, so the two cannot disagree. A
hinted file, if given, is only checked.
"""

import itertools
import re
from pathlib import Path

from star_jax.errors import UserError
from star_jax.records import Question
from star_jax.run.paths import open_text
from star_jax.tasks.rows import located
from star_jax.tasks.task import ReasoningTask

OWN = Path(__file__).parent / "exemplars"


def read_examples(file: str | Path) -> list[str]:
    """The texts of a file; raises UserError if it has none or cannot be read."""
    try:
        with open_text(located(file)) as lines:
            text = lines.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the exemplar file {file}: {error}") from error
    examples = list(filter(None, map(str.strip, re.split(r"\n[^\S\n]*\n", text))))
    if not examples:
        raise UserError(f"the exemplar file {file} has no examples; write at least one into it")
    return examples


def exemplars(file: str | Path, task: ReasoningTask) -> list[tuple[Question, str]]:
    """(question, completion) of each example; the question has the completion's answer.

    Raises:
      UserError: an example is not a question and a completion whose answer `task` can read.
    """
    found = []
    for i, text in enumerate(read_examples(file), start=1):
        where = f"exemplar {i} of {file}"
        body, has_answer, completion = text.partition("\nA:")
        if not has_answer or not body.startswith("Q:"):
            raise UserError(
                f"{where} begins {text[:40]!r}; it must have a line that begins with 'Q:' and "
                f"after it one that begins with 'A:'"
            )
        try:
            question = task.make_question(f"exemplar_{i}", body.removeprefix("Q:").strip())
        except UserError as error:
            raise UserError(f"{where}: {error.message}") from error
        answer, _ = task.find_answer(question, completion)
        if answer is None:
            raise UserError(f"{where}: no answer can be read from {completion.strip()[-60:]!r}")
        found.append((Question(question.id, question.text, answer, question.group), completion))
    return found


def check_hinted(hinted_file: str, file: str, task: ReasoningTask) -> None:
    """Raises UserError unless a hinted file is the plain one with the answers as hints."""
    plain, hinted = exemplars(file, task), read_examples(hinted_file)
    if len(plain) != len(hinted):
        raise UserError(
            f"the exemplar files disagree: {file} has {len(plain)} examples, {hinted_file} has "
            f"{len(hinted)}; give both the same ones, in the same order"
        )
    for i, ((question, completion), text) in enumerate(zip(plain, hinted, strict=True), start=1):
        expected = (task.question_text(question, hinted=True) + completion).splitlines()
        for wanted, found in itertools.zip_longest(expected, text.splitlines(), fillvalue=""):
            if wanted.split() != found.split():
                raise UserError(
                    f"exemplar {i} of {hinted_file} does not agree with exemplar {i} of {file}: "
                    f"it has the line {found!r} where the other, with its hint, has {wanted!r}"
                )


def few_shot_texts(
    pairs: list[tuple[Question, str]], task: ReasoningTask, *, hinted: bool, direct: bool
) -> tuple[str, ...]:
    """The examples as they appear in a prompt, each with the blank line after it.

    Args:
      pairs: of `exemplars`.
      task: writes the questions.
      hinted: whether the questions have hints.
      direct: whether the answers have no rationales.
    """
    return tuple(
        task.question_text(question, hinted)
        + (task.bare_answer(question) if direct else completion)
        + "\n\n"
        for question, completion in pairs
    )
