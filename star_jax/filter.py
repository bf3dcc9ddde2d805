"""Algorithm 1, lines 5-6: keep the rationales that reached the right answer, without hints."""

import dataclasses
from collections.abc import Sequence

from star_jax.records import GENERATED, RATIONALIZED, Attempt, KeptExample, Question
from star_jax.tasks.task import ReasoningTask


@dataclasses.dataclass(frozen=True)
class RightAnswers:
    """How many right rationales of one source there are, and how many are right in every step."""

    answers: int = 0  # what the paper keeps
    checkable: int = 0  # of these, those whose steps the task can check
    steps: int = 0  # of these, those whose every step is right


def keep_correct(
    attempts: Sequence[Attempt],
    questions: Sequence[Question],
    task: ReasoningTask,
    *,
    only_right_steps: bool = False,
) -> list[KeptExample]:
    """D_n or D_n^rat: the right attempts, each stored with its question as asked WITHOUT a hint.

    Those whose rationale repeats the hint are left out: what is kept never contains one.

    Args:
      attempts: generated or rationalized.
      questions: every question of the outer iteration.
      task: writes the question without the hint and cuts off what follows the answer.
      only_right_steps: leave out those with a wrong step, too. What cannot be checked stays: it is
        not known to be wrong, and a task without a checker would have nothing left.
    """
    by_id = {question.id: question for question in questions}
    kept = [
        _kept(attempt, by_id[attempt.question_id], task)
        for attempt in attempts
        if attempt.correct and not _leaks(attempt, by_id[attempt.question_id], task)
    ]
    return [k for k in kept if not (only_right_steps and k.steps_right is False)]


def count_right(kept: Sequence[KeptExample]) -> dict[str, RightAnswers]:
    """Source -> counts, of what `keep_correct` gives without `only_right_steps`."""
    return {
        source: RightAnswers(
            answers=len(verdicts),
            checkable=sum(verdict is not None for verdict in verdicts),
            steps=sum(verdict is True for verdict in verdicts),
        )
        for source in sorted({k.source for k in kept})
        if (verdicts := [k.steps_right for k in kept if k.source == source])
    }


def hint_leaks(
    attempts: Sequence[Attempt], questions: Sequence[Question], task: ReasoningTask
) -> list[Attempt]:
    """The right attempts that `keep_correct` leaves out since their rationale repeats the hint."""
    by_id = {question.id: question for question in questions}
    return [a for a in attempts if a.correct and _leaks(a, by_id[a.question_id], task)]


def _kept(attempt: Attempt, question: Question, task: ReasoningTask) -> KeptExample:
    return KeptExample(
        question_id=attempt.question_id,
        prompt=task.question_text(question, hinted=False),
        completion=task.trim(question, attempt.completion),
        source=RATIONALIZED if attempt.hinted else GENERATED,
        steps_right=task.steps_right(question, attempt.completion),
    )


def _leaks(attempt: Attempt, question: Question, task: ReasoningTask) -> bool:
    rationale = task.trim(question, attempt.completion)
    return attempt.hinted and task.leaks_hint(question, rationale)
