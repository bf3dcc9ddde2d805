"""The nouns of STaR: one frozen record for every station of a question on its way round the loop.

    Question -> Prompt -> Completion -> Attempt -> KeptExample -> TokenizedExample -> PackedBatch

Text crosses the borders between rooms; arrays appear only in the last two.
"""

import dataclasses
from typing import Any, TypeAlias

import jax
import numpy as np

Params: TypeAlias = Any  # a tree of arrays, or of their shapes: weights, gradients, optimizer state

GENERATED = "generated"  # Algorithm 1, line 5: the model's own rationale was right
RATIONALIZED = "rationalized"  # Algorithm 1, line 6: right only with the answer as a hint
RESAMPLED = "resampled"  # right only when asked again at a higher temperature (an ablation)
SOURCES = (GENERATED, RATIONALIZED, RESAMPLED)


@dataclasses.dataclass(frozen=True)
class Question:
    """A question x with its right answer y."""

    id: str
    text: str
    answer: str
    group: str = ""  # the class accuracy is reported by, e.g. the digit count
    solution: str = ""  # the data set's own rationale with its answer, where it has one


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What the model is shown: the few-shot examples (shared by many prompts) and the question."""

    question_id: str
    text: str
    examples: tuple[str, ...] = ()  # oldest first, each with the blank line after it
    hinted: bool = False


@dataclasses.dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt, without the EOS token."""

    text: str
    token_ids: tuple[int, ...]
    ended: bool  # the model wrote EOS; False means it was cut at the token limit
    log_probability: float  # nats, summed over the written tokens, EOS included


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A completion with its verdict; `answer` is None when none could be parsed."""

    question_id: str
    group: str
    hinted: bool
    prompt: str
    completion: str
    answer: str | None
    correct: bool
    ended: bool
    log_probability: float
    n_tokens: int
    left_out: bool = False  # the question did not fit into the model's context and was not asked
    n_steps: int | None = None  # of the rationale, where the task can count them (Figure 6)
    reference_steps: int | None = None  # of the data set's own solution


@dataclasses.dataclass(frozen=True)
class KeptExample:
    """A rationale that reached the right answer, with the question as asked WITHOUT the hint."""

    question_id: str
    prompt: str
    completion: str
    source: str  # one of SOURCES
    steps_right: bool | None = None  # all steps of the rationale; None where nobody can check them


@dataclasses.dataclass(frozen=True)
class TokenizedExample:
    """One training document: prompt and completion ids joined, EOS last."""

    tokens: np.ndarray  # int32[T]
    loss_weights: np.ndarray  # float32[T], of predicting tokens[t]; tokens[0] is never predicted


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedBatch:
    """Documents packed into B rows of L tokens; padding has segment 0, whatever its token id.

    tokens        [p p r r a e | p p r a e . .]
    segment_ids   [1 1 1 1 1 1 | 2 2 2 2 2 0 0]
    positions     [0 1 2 3 4 5 | 0 1 2 3 4 0 0]
    loss_weights  [0 0 1 1 1 1 | 0 0 1 1 1 0 0]
    """

    tokens: np.ndarray  # int32[B, L]
    segment_ids: np.ndarray  # int32[B, L]
    positions: np.ndarray  # int32[B, L]
    loss_weights: np.ndarray  # float32[B, L], of predicting tokens[b, t]


def to_json(record: Any) -> dict[str, Any]:
    """The record's fields as a JSON-ready dict, in the order of their declaration."""
    return dataclasses.asdict(record)


def from_json(record_type: type, fields: dict[str, Any]) -> Any:
    """The record that `to_json` wrote; raises TypeError when a field is missing or unknown."""
    return record_type(**fields)
