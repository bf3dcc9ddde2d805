"""What the loop wants of whatever samples: weights in, completions and likelihoods of texts out.

`rollout.native` is ours; `testing.engine` has a fake one for those who write tasks and loops.
Another one needs these methods and nothing else: the loop, the trainer and few-shot evaluation see
no more of it.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import seqio

from star_jax.records import Completion, Params, Prompt

Loaded = Any  # weights as an engine keeps them; only the engine that made it looks inside
Stats = Mapping[str, float]  # what sampling a stage cost: numbers by name, JSON-ready


class Engine(Protocol):
    """Samples completions of prompts and scores texts; holds no weights itself."""

    vocabulary: seqio.Vocabulary  # how texts become the ids of completions

    def load(self, params: Params) -> Loaded:
        """Takes weights in the layout of training.

        What it returns goes into the other methods; keep it from stage to stage.
        """

    def generate(
        self,
        model: Loaded,
        prompts: Sequence[Prompt],
        keys: Sequence[np.ndarray],
        *,
        on_stats: Callable[[Stats], None] = lambda stats: None,
    ) -> Iterator[tuple[int, Completion | None]]:
        """Each prompt's place and completion as they are finished, in any order.

        A completion ends at EOS or with the prompt's first stop text (`before_stop`), unless the
        engine's own settings say otherwise.

        Args:
          model: made by `load`.
          prompts: those with the same few-shot examples may share the work on them.
          keys: `prompt_key` of each; the same key, prompt and weights give the same completion
            whatever else is sampled with it.
          on_stats: called once, at the end, with what it cost.

        Yields:
          None instead of a completion for a prompt that exceeds the context length.

        Raises:
          UserError: a prompt is empty, or none fits into the model's context together with its
            completion.
        """

    def score(
        self,
        model: Loaded,
        prompts: Sequence[Prompt],
        continuations: Sequence[Sequence[str]],
        on_progress: Callable[[int], None] = lambda n: None,
    ) -> list[list[float] | None]:
        """Log-probabilities (nats, summed over tokens, EOS apart) of each prompt's continuations.

        Args:
          model: made by `load`.
          prompts: what comes before.
          continuations: texts to score, of each prompt.
          on_progress: called with the number of prompts just finished.

        Returns:
          A list for each prompt; None for one that exceeds the context length.

        Raises:
          UserError: a prompt or a continuation is empty, or no prompt fits the model's context.
        """

    def for_prompts(self, texts: Sequence[str]) -> Self:
        """The same engine, prepared for prompts with these texts, so that it compiles once."""

    def at_temperature(self, temperature: float) -> Self:
        """The same engine at another temperature; it takes what the first one loaded."""


def prompt_key(seed: int, iteration: int, question_id: str, sample: int = 0) -> np.ndarray:
    """The random key (uint32[2]) of one completion, the same in any batch on any machine.

    Args:
      seed: of the run.
      iteration: outer iteration; draws differ from one to the next.
      question_id: of the question, and whatever else tells its prompts apart.
      sample: which draw of the same prompt it is.
    """
    name = f"{seed}/{iteration}/{question_id}/{sample}".encode()
    return np.frombuffer(hashlib.blake2b(name, digest_size=8).digest(), np.uint32)


def before_stop(text: str, stop: Sequence[str]) -> str | None:
    """What precedes the stop text that is complete first; None if the text has none of them."""
    found = [(at + len(each), at) for each in stop if (at := text.find(each)) >= 0]
    return text[: min(found)[1]] if found else None
