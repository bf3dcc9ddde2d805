"""From kept attempts to what is trained on: texts first, as train.jsonl has them, then ids."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
import seqio

from star_jax.errors import UserError
from star_jax.records import RATIONALIZED, Attempt, KeptExample, Question, TokenizedExample
from star_jax.rollout.fitting import newest_that_fit, warn_of_dropped_examples
from star_jax.tasks.task import ReasoningTask
from star_jax.tokenizers.vocabularies import encode_spans


def examples_of(
    kept: Sequence[Attempt],
    questions: Sequence[Question],
    task: ReasoningTask,
    *,
    hinted_share: float = 0.0,
    seed: tuple[int, ...] = (0,),
) -> list[KeptExample]:
    """Kept attempts as examples, WITHOUT hints, up to the answer's end; a share keeps its hint.

    A model trained on hint-free examples alone forgets what a hint is, and the next outer
    iteration's rationalizations dry up. `hinted_share` of the rationalized examples, drawn by
    `seed`, therefore train with the hint in the prompt, where there is no loss. The paper
    stores all of them without (0.0); its released code has a switch of this kind too. Raises
    UserError for another number than a share.

    Args:
      kept: what the filters left.
      questions: those that were sampled.
      task: writes the questions.
      hinted_share: from 0 to 1.
      seed: of the choice.
    """
    if not 0 <= hinted_share <= 1:
        raise UserError(f"hinted_share = {hinted_share} is not a share; give 0 to 1")
    by_id = {question.id: question for question in questions}
    draws = np.random.default_rng([*seed, len(kept)]).random(len(kept))
    examples = []
    for attempt, draw in zip(kept, draws, strict=True):
        hinted = attempt.source == RATIONALIZED and bool(draw < hinted_share)
        question = by_id[attempt.question_id]
        examples.append(
            KeptExample(
                *attempt.key,
                attempt.source,
                prompt=task.question_text(question, hinted=hinted),
                completion=attempt.trimmed,
                token_ids=attempt.token_ids if attempt.trimmed == attempt.completion else None,
                hint_kept=hinted,
                steps_right=attempt.reading.steps_right,
            )
        )
    return examples


def with_few_shot(
    examples: Sequence[KeptExample],
    groups: Sequence[str],
    task: ReasoningTask,
    vocabulary: seqio.Vocabulary,
    row_length: int,
) -> list[KeptExample]:
    """The examples after the few-shot prompts they were sampled after (the paper's ablation).

    Few-shot texts that exceed `row_length` are dropped, oldest first, with a warning that counts
    them.

    Args:
      examples: without few-shot texts.
      groups: of each example's question.
      task: has the few-shot texts.
      vocabulary: encodes them.
      row_length: tokens that a training row has.
    """
    n_tokens = functools.cache(lambda text: len(vocabulary.encode(text)))
    n_dropped: list[int] = []
    shown = []
    for example, group in zip(examples, groups, strict=True):
        texts = task.few_shot_examples(group, example.hint_kept)
        room = row_length - len(tokenized(example, vocabulary).tokens)
        n_shown = newest_that_fit([n_tokens(text) for text in texts], room) or 0
        n_dropped.append(len(texts) - n_shown)
        shown.append(dataclasses.replace(example, examples=texts[len(texts) - n_shown :]))
    limit = f"TrainerConfig.row_length = {row_length}"
    warn_of_dropped_examples(n_dropped, "training examples", limit)
    return shown


def tokenized(
    example: KeptExample, vocabulary: seqio.Vocabulary, loss_on_prompt: bool = False
) -> TokenizedExample:
    """The ids of an example and where it has loss; nothing but the example decides on them.

    Few-shot texts, prompt and completion are encoded apart, as in sampling. A completion keeps the
    ids that were sampled, unless they would decode to another text after this prompt.
    """
    prompt = vocabulary.encode(example.prompt)
    completion = example.token_ids
    if completion is None or not _read_the_same(vocabulary, prompt, completion, example.completion):
        completion = vocabulary.encode(example.completion)
    before = [(vocabulary.encode(text), loss_on_prompt) for text in example.examples]
    spans = [*before, (prompt, loss_on_prompt), (completion, True)]
    return encode_spans(vocabulary, spans, weight=example.weight)


def _read_the_same(
    vocabulary: seqio.Vocabulary, prompt: Sequence[int], sampled: Sequence[int], text: str
) -> bool:
    """Whether the sampled ids after the prompt's decode to the prompt and then `text`."""
    return vocabulary.decode([*prompt, *sampled]) == vocabulary.decode(prompt) + text
