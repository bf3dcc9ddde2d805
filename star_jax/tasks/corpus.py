"""The training texts of base models: of tiny ones that add, and of a user's own questions.

The paper's base model was trained on the web; our tiny M on the arithmetic corpus. It must be weak
but not hopeless: STaR needs a few correct rationales to begin with, and a base that can already add
shows nothing. There are five kinds of documents, and no problem of the validation split is in them:
  fact    single steps of scratchpads, several per document: a digit sum with its carry
          "3 + 8 , C: 1" -> ", 2 C: 1", alone or among other digits ("4 3 + 1 8 , 7 C: 1").
          They teach single-digit addition.
  plain   a question with its gold scratchpad
  layout  a question with a scratchpad whose sums and carries are random: it teaches the form and
          nothing about adding, which keeps the base weak
  hinted  a question with the answer after "Target:" and its gold scratchpad: what a hint is for
  copied  the same with a scratchpad that only copies the answer from the hint, digit by digit,
          without carries: correct for the wrong reasons. None by default; used to test a filter
"""

import dataclasses

import numpy as np
import seqio

from star_jax.errors import UserError
from star_jax.records import TokenizedExample
from star_jax.tasks import arithmetic
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.tokenizers.vocabularies import WordVocabulary, encode_example, encode_spans

KINDS = ("fact", "plain", "layout", "hinted", "copied")
SPANS_PER_FACT = 5


@dataclasses.dataclass(frozen=True)
class ArithmeticCorpus:
    """The number of documents of each kind, and their digit counts."""

    n_documents: int = 20_000
    facts: float = 0.6  # shares of the documents, in any unit
    plain: float = 0.05
    layout: float = 0.05
    hinted: float = 0.3
    copied: float = 0.0
    facts_per_document: int = 9  # at most
    fact_digits: int = 1  # a fact is a step of a sum of 1 to so many digits, each as often
    plain_digits: tuple[float, ...] = (1,)  # shares of 1, 2, ... digits, in any unit
    layout_digits: tuple[float, ...] = (0, 1, 1, 1, 1)
    hinted_digits: tuple[float, ...] = (1, 2, 2, 2, 2)
    copied_digits: tuple[float, ...] = (0, 1, 1, 1, 1)
    seed: int = 0

    def documents(self, vocabulary: seqio.Vocabulary) -> list[TokenizedExample]:
        """The tokenized documents, the same for equal fields; loss on what follows a prompt."""
        rng = np.random.default_rng([self.seed, 3])
        of_kinds = (self.facts, self.plain, self.layout, self.hinted, self.copied)
        kinds = rng.choice(KINDS, self.n_documents, p=normalized(of_kinds, self)).tolist()
        sums = {}
        for kind in KINDS[1:]:
            shares = enumerate(normalized(getattr(self, f"{kind}_digits"), self), start=1)
            sums[kind] = iter(arithmetic.draw_problems(rng, kinds.count(kind), dict(shares)))
        spans = [
            fact_document(rng, self.facts_per_document, self.fact_digits)
            if kind == "fact"
            else sum_document(rng, kind, next(sums[kind]))
            for kind in kinds
        ]
        return [encode_spans(vocabulary, document) for document in spans]


@dataclasses.dataclass(frozen=True)
class JsonlCorpus:
    """A user's training questions that have a rationale, each with it: plain, hinted or both."""

    task: JsonlTask
    plain: bool = True
    hinted: bool = True

    def __post_init__(self):
        """Raises UserError for a corpus of neither."""
        if not (self.plain or self.hinted):
            raise UserError("JsonlCorpus: plain and hinted are both False; make one of them True")

    def documents(self, vocabulary: seqio.Vocabulary) -> list[TokenizedExample]:
        """The tokenized documents in the file's order; loss on the completion.

        Raises UserError if no training question has a rationale or the vocabulary lacks a word.
        """
        pairs = [(q, self.task.gold_completion(q)) for q in self.task.questions(TRAIN)]
        documents = [
            encode_example(vocabulary, self.task.question_text(question, hinted), gold)
            for hinted, wanted in ((False, self.plain), (True, self.hinted))
            for question, gold in pairs
            if wanted and gold is not None
        ]
        if not documents:
            raise UserError(
                f"{self.task.path}: no training question has a rationale for a base model to learn "
                f"from; write some, and bind JsonlTask.rationale_field to their field"
            )
        return documents


def jsonl_vocabulary(task: JsonlTask) -> WordVocabulary:
    """One id for each word of the task's questions, answers, rationales and templates, sorted."""
    texts = []
    for question in [*task.questions(TRAIN), *task.questions(VALIDATION)]:
        texts += [task.question_text(question, hinted) for hinted in (False, True)]
        texts += [task.bare_answer(question), task.gold_completion(question) or ""]
    return WordVocabulary.of_texts(texts)


def sum_document(
    rng: np.random.Generator, kind: str, numbers: tuple[int, int]
) -> list[tuple[str, bool]]:
    """A question of a sum and a scratchpad of `kind`, as spans of (text, has loss)."""
    a, b = numbers

    def guess(*_: int) -> tuple[int, int]:
        return int(rng.integers(2)), int(rng.integers(10))

    to_copy = list(str(a + b).zfill(1 + len(str(a))))  # from the right; the first has no step

    def copy(*_: int) -> tuple[int, int]:
        digit = int(to_copy.pop())
        return int(to_copy[0]) if len(to_copy) == 1 else 0, digit

    question = arithmetic.make_question("corpus", a, b)
    prompt = arithmetic.ArithmeticTask().question_text(
        question, hinted=kind in ("hinted", "copied")
    )
    add = {"layout": guess, "copied": copy}.get(kind, arithmetic.add_digits)
    return [(prompt, False), (arithmetic.scratchpad(a, b, add), True)]


def fact_document(
    rng: np.random.Generator, max_facts: int, max_digits: int = 1
) -> list[tuple[str, bool]]:
    """Up to `max_facts` steps of sums, each adding two digits and a carry; loss on sum and carry.

    A step is any one of a sum of 1 to `max_digits` digits: of the others, some are still to be
    added, and stand to the left of its two; the rest are in the result. No held-out problem is
    here at its first step.
    """
    spans: list[tuple[str, bool]] = []
    n_facts = int(rng.integers(1, max_facts + 1))
    while len(spans) < SPANS_PER_FACT * n_facts:
        a, b, carry = (int(x) for x in rng.integers(0, (10, 10, 2)))
        n_others = int(rng.integers(0, max_digits))
        n_result = int(rng.integers(0, n_others + 1))
        n_left = n_others - n_result
        left, right = _digits(rng, n_left), _digits(rng, n_left)
        result, total = _digits(rng, n_result), a + b + carry
        problem = [*left, str(a)], [*right, str(b)]
        numbers = (np.array(int("".join(digits))) for digits in problem)
        if carry == 0 and not result and arithmetic.held_out(*numbers):
            continue
        before = arithmetic.step_line(*problem, result, carry)
        operands = " ".join([*left, "+", *right, ","] if left else [","])
        spans += [
            (f"{before}\n{operands}", False),
            (str(total % 10), True),
            (" ".join([*result, "C:"]), False),
            (str(total // 10), True),
            ("\n", False),
        ]
    return spans


def _digits(rng: np.random.Generator, n: int) -> list[str]:
    return [str(d) for d in rng.integers(0, 10, n)]


def normalized(shares: tuple[float, ...], corpus: object) -> np.ndarray:
    """Shares in any unit as shares of 1; raises UserError if one is negative or none positive."""
    if not shares or min(shares) < 0 or sum(shares) == 0:
        raise UserError(
            f"{type(corpus).__name__}: shares {shares} must be 0 or more, one of them positive"
        )
    return np.array(shares, float) / sum(shares)
