"""Asks a model questions and grades what it says: questions in, attempts out."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from star_jax.progress import progress
from star_jax.records import Attempt, Completion, Prompt, Question
from star_jax.sampling.sampler import Sampler, row_key
from star_jax.tasks.task import ReasoningTask


@dataclasses.dataclass(frozen=True)
class Asking:
    """How the questions of one stage are put."""

    sampler: Sampler
    task: ReasoningTask
    few_shot: bool  # put the few-shot examples P before each question
    seed: int
    iteration: int  # outer iteration; draws differ from one to the next


def ask(
    params: Any, questions: Sequence[Question], asking: Asking, *, hinted: bool, stage: str
) -> list[Attempt]:
    """One graded attempt a question, in the order of the questions.

    Args:
      params: of the model that answers.
      questions: to be asked.
      asking: sampler, task and seed.
      hinted: show the right answer as a hint (Algorithm 1, add_hint).
      stage: name of the work for the progress bar.
    """
    task = asking.task
    prompts = [task.prompt(q, hinted=hinted, few_shot=asking.few_shot) for q in questions]
    keys = [
        row_key(asking.seed, asking.iteration, f"{q.id}{' hinted' if hinted else ''}")
        for q in questions
    ]
    with progress(stage, len(prompts), "questions") as advance:
        completions = asking.sampler.sample(params, prompts, keys, advance)
    return [grade(task, *triple) for triple in zip(questions, prompts, completions, strict=True)]


def grade(
    task: ReasoningTask, question: Question, prompt: Prompt, completion: Completion | None
) -> Attempt:
    """Reads the completion's answer and compares it with the question's; None: left out, wrong."""
    left_out = completion is None
    if left_out:
        completion = Completion("", (), ended=False, log_probability=0.0)
    answer = task.parse_answer(question, completion.text)
    return Attempt(
        question_id=question.id,
        group=question.group,
        hinted=prompt.hinted,
        prompt=prompt.text,
        completion=completion.text,
        answer=answer,
        correct=task.is_correct(question, answer),
        ended=completion.ended,
        log_probability=completion.log_probability,
        n_tokens=len(completion.token_ids),
        left_out=left_out,
    )
