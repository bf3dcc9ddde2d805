"""The nouns of STaR: one frozen record for every station of a question on its way round the loop.

    Question -> Prompt -> Completion -> Attempt -> KeptExample -> TokenizedExample -> PackedBatch

Text crosses the borders between rooms; arrays appear only in the last two.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import jax
import numpy as np

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Record = TypeVar("Record", bound="DataclassInstance")
Params: TypeAlias = Any  # a tree of arrays, or of their shapes: weights, gradients, optimizer state

GENERATED = "generated"  # Algorithm 1, line 5: the model's own rationale was right
RATIONALIZED = "rationalized"  # Algorithm 1, line 6: right only with the answer as a hint
RESAMPLED = "resampled"  # right only when sampled again at a higher temperature (an ablation)
SOURCES = (GENERATED, RATIONALIZED, RESAMPLED)


def groups_in(group: str) -> list[str]:
    """The groups that a question belongs to: "Algebra; Level 5" is in two; "" in none."""
    return [name.strip() for name in group.split(";") if name.strip()]


@dataclasses.dataclass(frozen=True)
class Question:
    """A question x with its right answer y."""

    id: str
    text: str
    answer: str
    group: str = ""  # accuracy is reported for each, e.g. the digit count; see `groups_in`
    solution: str = ""  # the data set's own rationale with its answer, where it has one


@dataclasses.dataclass(frozen=True)
class Prompt:
    """What the model is shown: the few-shot examples (shared by many prompts) and the question."""

    question_id: str
    text: str
    examples: tuple[str, ...] = ()  # oldest first, each with the blank line after it
    hinted: bool = False
    stop: tuple[str, ...] = ()  # texts that end its completion, which does not include them


@dataclasses.dataclass(frozen=True)
class Completion:
    """What the model wrote after a prompt, without the EOS token or stop text that ended it."""

    text: str
    token_ids: tuple[int, ...]  # as sampled; encoded anew if the stop text begins inside a token
    ended: bool  # with EOS or a stop text; False means truncated at the token limit
    log_probability: float  # nats, summed over the sampled tokens, EOS or stop text included


@dataclasses.dataclass(frozen=True)
class Reading:
    """What a completion says, read once by `task.read`."""

    answer: str | None  # None where no answer could be read
    end: int  # characters of the completion up to the end of its answer; what follows is trimmed
    correct: bool
    steps_right: bool | None = None  # all steps of the rationale; None where they cannot be checked
    n_steps: int | None = None  # of the rationale, where the task can count them (Figure 6)
    hint_leaked: bool = False  # the rationale repeats the hint, or speaks of one


Key = tuple[str, int, int]  # question_id, sample, turn: what tells attempts of one stage apart


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A completion with its reading."""

    question_id: str
    sample: int  # which draw of the same prompt; 0 where there is one
    turn: int  # which turn of a conversation; 0 where there is one
    group: str
    source: str  # the stage that drew it: one of SOURCES, or "evaluated"
    hinted: bool
    prompt: str  # without the few-shot examples
    completion: str
    token_ids: tuple[int, ...]  # as in Completion
    ended: bool  # as in Completion
    log_probability: float  # as in Completion
    reading: Reading
    reward: float = 0.0  # 1 for a right answer unless StarConfig.reward says otherwise
    dropped: bool = False  # the question exceeds the context length and was not sampled
    reference_steps: int | None = None  # of the data set's own solution
    expected: str = ""  # the right answer; "" if it is not known, as in files of former versions

    @property
    def key(self) -> Key:
        """What tells this attempt from the others of its stage."""
        return self.question_id, self.sample, self.turn

    @property
    def correct(self) -> bool:
        """Whether the answer is right."""
        return self.reading.correct

    @property
    def trimmed(self) -> str:
        """The completion up to the end of its answer."""
        return self.completion[: self.reading.end]


@dataclasses.dataclass(frozen=True)
class KeptExample:
    """A rationale that is trained on, text for text: examples, prompt, completion, then EOS."""

    question_id: str
    sample: int
    turn: int
    source: str  # one of SOURCES
    prompt: str  # the question, WITHOUT the hint unless hint_kept
    completion: str  # up to the end of the answer
    examples: tuple[str, ...] = ()  # few-shot texts before the prompt (an ablation)
    token_ids: tuple[int, ...] | None = None  # the completion's, as sampled; None encodes the text
    weight: float = 1.0  # factor on the loss of this example's tokens
    hint_kept: bool = False  # the prompt shows the answer as a hint
    steps_right: bool | None = None  # as in Reading

    @property
    def key(self) -> Key:
        """What tells this example from the others."""
        return self.question_id, self.sample, self.turn


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


def to_json(record: Any) -> dict[str, object]:
    """The record's fields by name, JSON-ready, in the order of their declaration."""
    values = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    return {k: to_json(v) if dataclasses.is_dataclass(v) else v for k, v in values.items()}


def from_json(record_type: type[Record], fields: Mapping[str, Any]) -> Record:
    """The record that `to_json` wrote; raises TypeError when a field is missing or unknown."""
    nested: dict[str, Any] = {f.name: f.type for f in dataclasses.fields(record_type)}
    values = {
        name: from_json(nested[name], value)
        if dataclasses.is_dataclass(nested.get(name))
        else tuple(value)
        if isinstance(value, list)
        else value
        for name, value in fields.items()
    }
    return record_type(**values)
