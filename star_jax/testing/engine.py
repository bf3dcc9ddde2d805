"""An engine without a model: it answers as a function says, and remembers what it was given.

engine = FakeEngine(lambda prompt: "The answer is 8", vocabulary)
run_star(Star(StarConfig(...), my_task, engine, ...), Recorder(...))
engine.calls[0].model       # the digest of the weights that answered
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Self

import jax
import numpy as np
import seqio
from typing_extensions import override

from star_jax.errors import UserError
from star_jax.records import Completion, Params, Prompt
from star_jax.rollout.engine import Engine, Stats, before_stop


@dataclasses.dataclass(frozen=True)
class Call:
    """One prompt as it was sampled."""

    model: str  # digest of the weights
    prompt: Prompt
    key: bytes
    temperature: float | None


@dataclasses.dataclass(frozen=True)
class FakeEngine(Engine):
    """Writes what `says` returns, up to a stop text; None is for a prompt that exceeds the context.

    Completions come in reverse order: a loop must not count on the order of the prompts. Engines
    made of this one by `at_temperature` and `for_prompts` share its `calls`. Two prompts with one
    key are refused. The continuation that `says` writes is likely, all others are not.
    """

    says: Callable[..., str | None]  # of a prompt, and of the temperature where there is one
    vocabulary: seqio.Vocabulary
    temperature: float | None = None
    calls: list[Call] = dataclasses.field(default_factory=list)

    @override
    def load(self, params: Params) -> str:
        return digest(params)

    @override
    def generate(
        self,
        model: str,
        prompts: Sequence[Prompt],
        keys: Sequence[np.ndarray],
        *,
        on_stats: Callable[[Stats], None] = lambda stats: None,
    ) -> Iterator[tuple[int, Completion | None]]:
        texts = [np.asarray(key).tobytes() for key in keys]
        assert len(set(texts)) == len(prompts), "every prompt needs a key of its own"
        self.calls.extend(
            Call(model, prompt, key, self.temperature)
            for prompt, key in zip(prompts, texts, strict=True)
        )
        warm = () if self.temperature is None else (self.temperature,)
        said = [self.says(prompt, *warm) for prompt in prompts]
        for i, text in reversed(list(enumerate(said))):
            yield i, None if text is None else self._completion(text, prompts[i].stop)
        on_stats({})

    @override
    def score(
        self,
        model: str,
        prompts: Sequence[Prompt],
        continuations: Sequence[Sequence[str]],
        on_progress: Callable[[int], None] = lambda n: None,
    ) -> list[list[float] | None]:
        on_progress(len(prompts))
        said = [self.says(prompt) for prompt in prompts]
        return [
            None if text is None else [-1.0 if text == other else -100.0 for other in others]
            for text, others in zip(said, continuations, strict=True)
        ]

    @override
    def for_prompts(self, texts: Sequence[str]) -> Self:
        return self

    @override
    def at_temperature(self, temperature: float) -> Self:
        return dataclasses.replace(self, temperature=temperature)

    def _completion(self, text: str, stop: Sequence[str] = ()) -> Completion:
        before = before_stop(text, stop)
        text = text if before is None else before
        try:
            ids = tuple(self.vocabulary.encode(text))
        except UserError:  # it may say what no model could: then there are no ids
            ids = ()
        return Completion(text, ids, True, -1.0)


def digest(params: Params) -> str:
    """What tells weights apart: a hash of all their values."""
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(params):
        content.update(np.asarray(leaf).tobytes())
    return content.hexdigest()
