"""The training text of a tiny base model of a toy world, and its vocabulary.

The paper's base models were trained on the web; these on documents of five kinds:
  facts    facts of this world, some of them far more often than others
  reading  lists of choices, and the letter of each; a model learns it from short lists
  plain    questions with rationales, alone or after others as in a few-shot prompt
  hinted   the same with the right answer as a hint
  direct   questions with bare answers
None has a question that STaR trains on or that is held out.
"""

import dataclasses

import numpy as np
import seqio

from star_jax.errors import UserError, check_one_of, check_positive
from star_jax.records import TokenizedExample
from star_jax.tasks.corpus import normalized
from star_jax.tasks.toy import CORPUS, Fact, World, stories, things
from star_jax.tokenizers.vocabularies import WordVocabulary, encode_spans

WORLDS = {"commonsense_qa": things.WORLD, "gsm8k": stories.WORLD}
KINDS = ("facts", "reading", "plain", "hinted", "direct")
Spans = list[tuple[str, bool]]  # (text, has loss)


@dataclasses.dataclass(frozen=True)
class ToyCorpus:
    """The number of documents of each kind."""

    world: str  # "commonsense_qa" or "gsm8k"
    n_documents: int = 20_000
    facts: float = 0.4  # shares of the documents, in any unit
    reading: float = 0.0
    plain: float = 0.3
    hinted: float = 0.2
    direct: float = 0.1
    facts_per_document: int = 8
    fact_skew: float = 1.0  # the frequency of the n-th fact is proportional to 1 / n ** fact_skew
    in_context: tuple[float, ...] = (1, 1, 1, 1)  # shares of 1, 2, ... questions in a document
    lists: tuple[float, ...] = (1, 1, 1, 1)  # shares of 2, 3, ... choices in a `reading` list
    seed: int = 0

    def __post_init__(self):
        """Raises UserError for an unknown world and wrong shares."""
        world = world_of(self.world)
        for shares in (self._shares(), self.in_context, self.lists):
            normalized(shares, self)
        if len(self.lists) > things.N_CHOICES - 1:
            raise UserError(
                f"ToyCorpus.lists = {self.lists}: lists have 2 to {things.N_CHOICES} choices; give "
                f"{things.N_CHOICES - 1} shares at most"
            )
        if self.reading and not world.reading:
            raise UserError(f"ToyCorpus.reading = {self.reading}: {self.world!r} has none; give 0")
        check_positive(self, "n_documents", "facts_per_document")

    def documents(self, vocabulary: seqio.Vocabulary) -> list[TokenizedExample]:
        """The tokenized documents, the same for equal fields; loss on what follows a prompt."""
        rng, world = np.random.default_rng([self.seed, 7]), world_of(self.world)
        facts, n = world.facts(), self.n_documents
        often = rng.permutation(1 / np.arange(1, len(facts) + 1) ** self.fact_skew)
        kinds = rng.choice(KINDS, n, p=normalized(self._shares(), self)).tolist()
        sizes = 1 + rng.choice(len(self.in_context), n, p=normalized(self.in_context, self))
        lists = 2 + rng.choice(len(self.lists), n, p=normalized(self.lists, self))
        shown = rng.choice(len(facts), (n, self.facts_per_document), p=often / np.sum(often))

        def document(kind: str, size: int, n_choices: int, some: np.ndarray) -> Spans:
            if kind == "facts":
                return _lines([facts[i] for i in some])
            if kind == "reading" and world.reading:
                return _lines(world.reading(rng, n_choices))
            return _worked_document(rng, world, kind, size)

        return [
            encode_spans(vocabulary, document(*drawn))
            for drawn in zip(kinds, sizes.tolist(), lists.tolist(), shown, strict=True)
        ]

    def _shares(self) -> tuple[float, ...]:
        return tuple(getattr(self, kind) for kind in KINDS)


def world_of(name: str) -> World:
    """The world of this name; raises UserError if there is none."""
    check_one_of("toy world", name, WORLDS)
    return WORLDS[name]


def _lines(facts: list[Fact]) -> Spans:
    """One fact per line; loss on its second part."""
    return [
        span
        for i, (start, end) in enumerate(facts)
        for span in ((f"\n{start}" if i else start, False), (end, True))
    ]


def _worked_document(rng: np.random.Generator, world: World, kind: str, n: int) -> Spans:
    """`n` questions as in a few-shot prompt; loss on all completions."""
    spans: Spans = []
    for i in range(n):
        worked = world.draw(rng, CORPUS)
        question = world.question(worked)
        text = world.task.question_text(question, hinted=kind == "hinted")
        answer = world.task.bare_answer(question) if kind == "direct" else worked.completion
        spans += [(f"\n\n{text}" if i else text, False), (answer, True)]
    return spans


def toy_vocabulary(world: str) -> WordVocabulary:
    """One id for each word of a world's questions, hints, rationales and answers, sorted."""
    return WordVocabulary.of_texts(world_of(world).texts())
