"""Algorithm 1, lines 5-6: keep the rationales that reached the right answer, without hints."""

from collections.abc import Sequence

from star_jax.records import GENERATED, RATIONALIZED, Attempt, KeptExample, Question
from star_jax.tasks.task import ReasoningTask


def keep_correct(
    attempts: Sequence[Attempt], questions: Sequence[Question], task: ReasoningTask
) -> list[KeptExample]:
    """D_n or D_n^rat: the right attempts, each stored with its question as asked WITHOUT a hint.

    Those whose rationale repeats the hint are left out: what is kept never contains one.

    Args:
      attempts: generated or rationalized.
      questions: every question of the outer iteration.
      task: writes the question without the hint and cuts off what follows the answer.
    """
    by_id = {question.id: question for question in questions}
    return [
        KeptExample(
            question_id=attempt.question_id,
            prompt=task.question_text(by_id[attempt.question_id], hinted=False),
            completion=task.trim(by_id[attempt.question_id], attempt.completion),
            source=RATIONALIZED if attempt.hinted else GENERATED,
        )
        for attempt in attempts
        if attempt.correct and not _leaks(attempt, by_id[attempt.question_id], task)
    ]


def hint_leaks(
    attempts: Sequence[Attempt], questions: Sequence[Question], task: ReasoningTask
) -> list[Attempt]:
    """The right attempts that `keep_correct` leaves out since their rationale repeats the hint."""
    by_id = {question.id: question for question in questions}
    return [a for a in attempts if a.correct and _leaks(a, by_id[a.question_id], task)]


def _leaks(attempt: Attempt, question: Question, task: ReasoningTask) -> bool:
    rationale = task.trim(question, attempt.completion)
    return attempt.hinted and task.leaks_hint(question, rationale)
