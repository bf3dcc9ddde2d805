"""Asks a model questions and grades what it says: questions in, attempts out."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from star_jax.records import Attempt, Completion, Prompt, Question
from star_jax.rollout.native.meter import SamplingStats
from star_jax.rollout.native.sampler import Sampler, row_key
from star_jax.rollout.native.weights import DecodingModel
from star_jax.run.progress import progress
from star_jax.tasks.task import ReasoningTask


@dataclasses.dataclass(frozen=True)
class Asking:
    """How the questions of one stage are put."""

    sampler: Sampler
    task: ReasoningTask
    few_shot: bool  # put the few-shot examples P before each question
    seed: int
    iteration: int  # outer iteration; draws differ from one to the next
    on_stats: Callable[[str, SamplingStats], None] = lambda stage, stats: None


def ask(
    model: DecodingModel,
    questions: Sequence[Question],
    asking: Asking,
    *,
    hinted: bool,
    stage: str,
    sample: int = 0,
) -> list[Attempt]:
    """One graded attempt a question, in the order of the questions.

    Args:
      model: that answers, as `Sampler.prepare` makes it.
      questions: to be asked.
      asking: sampler, task and seed.
      hinted: show the right answer as a hint (Algorithm 1, add_hint).
      stage: name of the work for the progress bar.
      sample: which draw of the same question it is, where there are several.
    """
    task = asking.task
    prompts = [task.prompt(q, hinted=hinted, few_shot=asking.few_shot) for q in questions]
    keys = [
        row_key(asking.seed, asking.iteration, f"{q.id}{' hinted' if hinted else ''}", sample)
        for q in questions
    ]
    attempts: dict[int, Attempt] = {}
    with progress(stage, len(prompts), "questions") as advance:
        said = asking.sampler.stream(
            model, prompts, keys, on_stats=functools.partial(asking.on_stats, stage)
        )
        for i, completion in said:  # graded while the devices write the next ones
            attempts[i] = grade(task, questions[i], prompts[i], completion)
            advance(1)
    return [attempts[i] for i in range(len(questions))]


def grade(
    task: ReasoningTask, question: Question, prompt: Prompt, completion: Completion | None
) -> Attempt:
    """Reads the completion's answer and compares it with the question's; None: left out, wrong."""
    left_out = completion is None
    if left_out:
        completion = Completion("", (), ended=False, log_probability=0.0)
    answer = task.parse_answer(question, completion.text)
    reference = task.gold_completion(question)
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
        n_steps=None if left_out else task.count_steps(completion.text),
        reference_steps=None if reference is None else task.count_steps(reference),
    )
