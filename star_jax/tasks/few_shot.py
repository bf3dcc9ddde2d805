"""The few-shot prompt set P from a file: examples as the model reads them, parted by blank lines.

    Q: What is ...?
    A: Because ... Therefore, the answer is ...

Only the plain file is needed. The hinted examples are made from it, so the two cannot disagree;
a hinted file that is given all the same is only checked.
"""

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
    examples = [example.strip() for example in re.split(r"\n[^\S\n]*\n", text)]
    if not any(examples):
        raise UserError(f"the exemplar file {file} has no examples; put at least one into it")
    return [example for example in examples if example]


def exemplars(file: str | Path, task: ReasoningTask) -> list[tuple[Question, str]]:
    """Each example's question, with the answer that its completion gives, and its completion.

    Raises:
      UserError: an example is not a question and a completion whose answer `task` can read.
    """
    return [
        _exemplar(example, i, file, task) for i, example in enumerate(read_examples(file), start=1)
    ]


def check_hinted(hinted_file: str, file: str, task: ReasoningTask) -> None:
    """Refuses a hinted file that is not the plain one with the answers as hints.

    Raises:
      UserError: the numbers of examples differ, or an example does.
    """
    plain, hinted = exemplars(file, task), read_examples(hinted_file)
    if len(plain) != len(hinted):
        raise UserError(
            f"the exemplar files disagree: {file} has {len(plain)} examples, {hinted_file} has "
            f"{len(hinted)}; give both the same ones, in the same order"
        )
    for i, ((question, completion), text) in enumerate(zip(plain, hinted, strict=True), start=1):
        expected = (task.question_text(question, hinted=True) + completion).splitlines()
        lines = [*text.splitlines(), *[""] * len(expected)]
        wrong = [(a, b) for a, b in zip(expected, lines, strict=False) if a.split() != b.split()]
        if wrong or len(text.splitlines()) != len(expected):
            wanted, found = wrong[0] if wrong else ("", text.splitlines()[len(expected)])
            raise UserError(
                f"exemplar {i} of {hinted_file} does not agree with exemplar {i} of {file}: it "
                f"has the line {found!r} where the other, with its hint, has {wanted!r}"
            )


def few_shot_texts(
    pairs: list[tuple[Question, str]], task: ReasoningTask, *, hinted: bool, direct: bool
) -> tuple[str, ...]:
    """The examples as they stand in a prompt, each with the blank line after it."""
    return tuple(
        task.question_text(question, hinted)
        + (task.bare_answer(question) if direct else completion)
        + "\n\n"
        for question, completion in pairs
    )


def _exemplar(text: str, i: int, file: str | Path, task: ReasoningTask) -> tuple[Question, str]:
    body, found, completion = text.partition("\nA:")
    if not found or not body.startswith("Q:"):
        raise UserError(
            f"exemplar {i} of {file} begins {text[:40]!r}; it must have a line that begins with "
            f"'Q:' and after it one that begins with 'A:'"
        )
    try:
        question = task.make_question(f"exemplar_{i}", body.removeprefix("Q:").strip())
    except UserError as error:
        raise UserError(f"exemplar {i} of {file}: {error.message}") from error
    answer, _ = task.find_answer(question, completion)
    if answer is None:
        raise UserError(
            f"exemplar {i} of {file}: no answer can be read from {completion.strip()[-60:]!r}"
        )
    return Question(question.id, question.text, answer, question.group), completion
