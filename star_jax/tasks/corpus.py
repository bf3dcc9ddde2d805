"""The synthetic corpus that gives the tiny arithmetic base model M its start.

The paper's base model has read the web; ours has read this. It must be weak but not hopeless:
STaR needs a few right rationales to begin with, and a base that can already add shows nothing.

Three kinds of documents, no problem of the validation split among them:
  fact    single steps of a scratchpad, several in a document: a digit sum with its carry
          "3 + 8 , C: 1" -> ", 2 C: 1". This is where single-digit addition comes from.
  plain   a question with its gold scratchpad: the layout, and a thin tail of long sums
  hinted  the same with the answer after "Target:": what a hint is good for
"""

import dataclasses

import numpy as np
import seqio

from star_jax.errors import UserError
from star_jax.records import TokenizedExample
from star_jax.tasks.arithmetic import (
    ArithmeticTask,
    draw_problems,
    held_out,
    make_question,
    step_line,
)
from star_jax.vocabularies import encode_spans

SPANS_PER_FACT = 5


@dataclasses.dataclass(frozen=True)
class ArithmeticCorpus:
    """How many documents of which kind, with which digit counts."""

    n_documents: int = 20_000
    facts: float = 0.6  # shares of the documents, in any unit
    plain: float = 0.1
    hinted: float = 0.3
    facts_per_document: int = 9
    held_out_facts: bool = False  # whether facts show held-out one-digit pairs, as part of a sum
    plain_digits: tuple[float, ...] = (0.25, 0.45, 0.18, 0.08, 0.04)  # shares of 1, 2, ... digits
    hinted_digits: tuple[float, ...] = (0.2, 0.2, 0.2, 0.2, 0.2)
    seed: int = 0

    def documents(self, vocabulary: seqio.Vocabulary) -> list[TokenizedExample]:
        """The tokenized documents, the same for the same fields; loss on what follows a prompt.

        Raises:
          UserError: the shares are negative or all zero.
        """
        rng = np.random.default_rng([self.seed, 3])
        kinds = rng.choice(3, self.n_documents, p=_shares(self.facts, self.plain, self.hinted))
        n_plain, n_hinted = int(np.sum(kinds == 1)), int(np.sum(kinds == 2))
        sums = {
            1: iter(_sums(rng, n_plain, self.plain_digits)),
            2: iter(_sums(rng, n_hinted, self.hinted_digits)),
        }
        spans = [
            fact_document(rng, self.facts_per_document, self.held_out_facts)
            if kind == 0
            else sum_document(*next(sums[kind]), hinted=kind == 2)
            for kind in kinds.tolist()
        ]
        return [encode_spans(vocabulary, document) for document in spans]


def sum_document(a: int, b: int, hinted: bool) -> list[tuple[str, bool]]:
    """A question and its gold scratchpad as spans of (text, has loss)."""
    task, question = ArithmeticTask(), make_question("corpus", a, b)
    prompt = task.question_text(question, hinted)
    return [(prompt, False), (task.gold_completion(question), True)]


def fact_document(
    rng: np.random.Generator, n_facts: int, held_out_facts: bool = False
) -> list[tuple[str, bool]]:
    """`n_facts` last steps of sums, each adding two digits and a carry; loss on sum and carry.

    A one-digit problem that is held out never stands here as the whole of a sum. Without a carry
    its two digits are left out, or, with `held_out_facts`, are the last step of a two-digit sum.
    (Doing so from the start makes all facts hard to learn: the digit there looks like a clue.)
    """
    spans: list[tuple[str, bool]] = []
    while len(spans) < SPANS_PER_FACT * n_facts:
        a, b, carry = (int(x) for x in rng.integers(0, (10, 10, 2)))
        whole = carry == 1 or not bool(held_out(np.array(a), np.array(b)))
        if not (whole or held_out_facts):
            continue
        result = [] if whole else [str(rng.integers(0, 10))]
        total = a + b + carry
        spans += [
            (step_line([str(a)], [str(b)], result, carry) + "\n,", False),
            (str(total % 10), True),
            (" ".join([*result, "C:"]), False),
            (str(total // 10), True),
            ("\n", False),
        ]
    return spans


def _sums(rng: np.random.Generator, n: int, shares: tuple[float, ...]) -> list[tuple[int, int]]:
    """`n` training problems in random order, digit counts 1, 2, ... by `shares`."""
    counts = rng.multinomial(n, _shares(*shares))
    pairs = [
        pair
        for n_digits, count in enumerate(counts.tolist(), start=1)
        if count
        for pair in draw_problems(rng, n_digits, count)
    ]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _shares(*weights: float) -> np.ndarray:
    if min(weights) < 0 or sum(weights) == 0:
        raise UserError(f"ArithmeticCorpus: shares {weights} must be positive, one at least")
    return np.array(weights, float) / sum(weights)
