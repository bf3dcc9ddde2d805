"""Which prompts fit into the model's context, and with how many of their few-shot examples."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import seqio

from star_jax.errors import UserError, some
from star_jax.records import Prompt
from star_jax.run.progress import log
from star_jax.tokenizers.vocabularies import document_start

NAMED = 5  # dropped questions that a warning names


@dataclasses.dataclass(frozen=True)
class Group:
    """Prompts with the same examples and stop texts, short ones first: they end about together."""

    prefix_ids: tuple[int, ...]  # the document's start and the examples
    members: tuple[int, ...]  # places among the prompts
    stop: tuple[str, ...] = ()


def fit_prompts(
    prompts: Sequence[Prompt],
    encoded: Sequence[Sequence[int]],
    vocabulary: seqio.Vocabulary,
    n_new: int,
    context: int,
) -> list[Group]:
    """Groups the prompts by their few-shot examples and stop texts.

    A prompt that exceeds the context length loses whole examples, oldest first; one that exceeds it
    without any is in no group. Two warnings count them.

    Args:
      prompts: to be grouped.
      encoded: ids of each prompt's own text.
      vocabulary: encodes the examples.
      n_new: tokens that must fit after each prompt.
      context: tokens that the model can hold.

    Raises:
      UserError: a prompt is empty, or none of them fits.
    """
    start = document_start(vocabulary)
    texts = {text for prompt in prompts for text in prompt.examples}
    ids = {text: tuple(vocabulary.encode(text)) for text in texts}
    groups: dict[tuple[tuple[str, ...], ...], list[int]] = {}
    too_long: dict[int, int] = {}  # -> tokens that it exceeds the context by
    n_dropped: list[int] = []
    for i, prompt in enumerate(prompts):
        if not encoded[i]:
            raise UserError(f"question {prompt.question_id} has an empty text; give it one")
        lengths = [len(ids[text]) for text in prompt.examples]
        room = context - n_new - len(encoded[i]) - len(start)
        n_kept = newest_that_fit(lengths, room)
        if n_kept is None:
            too_long[i] = -room
            continue
        n_dropped.append(len(lengths) - n_kept)
        groups.setdefault((prompt.examples[len(lengths) - n_kept :], prompt.stop), []).append(i)
    if too_long:
        _warn_of_dropped_questions(prompts, too_long, n_new, context)
    warn_of_dropped_examples(n_dropped, "prompts", f"the context length of {context} tokens")
    return [
        Group(
            start + tuple(id_ for text in examples for id_ in ids[text]),
            tuple(sorted(members, key=lambda i: (len(encoded[i]), i))),
            stop,
        )
        for (examples, stop), members in groups.items()
    ]


def newest_that_fit(lengths: Sequence[int], room: int) -> int | None:
    """How many of the last `lengths` fit into `room` together; None when room is negative."""
    if room < 0:
        return None
    return sum(total <= room for total in itertools.accumulate(reversed(lengths)))


def warn_of_dropped_examples(n_dropped: Sequence[int], what: str, limit: str) -> None:
    """Logs how many few-shot examples of the items (`what`) exceed the limit, if any do."""
    n_items = sum(n > 0 for n in n_dropped)
    if n_items:
        log(
            f"warning: {n_items} of {len(n_dropped)} {what} exceed {limit}; {sum(n_dropped)} of "
            f"their few-shot examples were dropped in all (at most {max(n_dropped)} each, oldest "
            f"first)"
        )


def _warn_of_dropped_questions(
    prompts: Sequence[Prompt], too_long: Mapping[int, int], n_new: int, context: int
) -> None:
    names = some((prompts[i].question_id for i in too_long), NAMED)
    message = (
        f"{len(too_long)} of {len(prompts)} questions exceed the context length of {context} "
        f"tokens even without examples, with {n_new} new tokens: {names}; set "
        f"DecoderConfig.context_length to {context + max(too_long.values())} or more, or lower "
        f"SamplerConfig.max_new_tokens"
    )
    if len(too_long) == len(prompts):
        raise UserError(message)
    log(f"warning: {message}; they were dropped and count as wrong")
