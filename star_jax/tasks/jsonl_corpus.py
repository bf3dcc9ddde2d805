"""What a small base model learns from a user's own questions: words and worked examples."""

import dataclasses

import seqio

from star_jax.errors import UserError
from star_jax.records import TokenizedExample
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.tokenizers.vocabularies import WordVocabulary, encode_example


@dataclasses.dataclass(frozen=True)
class JsonlCorpus:
    """The training questions that have a rationale, each with it: plain, hinted or both."""

    task: JsonlTask
    plain: bool = True
    hinted: bool = True

    def __post_init__(self):
        """Raises UserError for a corpus of neither."""
        if not (self.plain or self.hinted):
            raise UserError("JsonlCorpus: plain and hinted are both False; make one of them True")

    def documents(self, vocabulary: seqio.Vocabulary) -> list[TokenizedExample]:
        """The tokenized documents in the file's order; loss on the completion.

        Raises:
          UserError: no training question has a rationale, or the vocabulary lacks a word.
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
