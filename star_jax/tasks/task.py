"""What the loop needs to know of a task: questions, prompts, hints, and how answers are read."""

import abc
import re
from collections.abc import Sequence

from star_jax.errors import UserError
from star_jax.records import Prompt, Question, Reading

TRAIN, VALIDATION = "train", "validation"
SPLITS = (TRAIN, VALIDATION)
HINT_IN_WORDS = re.compile(r"\b(?:the|this|given|your)\s+hint\b(?!\s+of)", re.IGNORECASE)


class ReasoningTask(abc.ABC):
    """Questions with checkable answers. `seqio_tasks.register` makes a seqio Task of one."""

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """The task's name in messages and in seqio; other settings have another name."""

    @abc.abstractmethod
    def load_questions(self, split: str) -> Sequence[Question]:
        """The questions of one of SPLITS, for `questions`; may raise UserError."""

    @abc.abstractmethod
    def make_question(self, id_: str, text: str) -> Question:
        """A question of the user's, from its text; raises UserError if the task cannot read it."""

    @abc.abstractmethod
    def question_text(self, question: Question, hinted: bool) -> str:
        """The question as the model reads it, with the answer as a hint or without."""

    @abc.abstractmethod
    def bare_answer(self, question: Question) -> str:
        """The right answer as a completion without a rationale."""

    @abc.abstractmethod
    def gold_completion(self, question: Question) -> str | None:
        """A right rationale with its answer, or None where the data have no rationales."""

    @abc.abstractmethod
    def find_answer(self, question: Question, completion: str) -> tuple[str | None, int]:
        """(the answer a completion ends in, None if there is none; where it ends, in characters).

        What follows is no part of the completion. Where there is no answer, the end is that of what
        was written for this question.
        """

    @abc.abstractmethod
    def few_shot_examples(self, group: str, hinted: bool) -> tuple[str, ...]:
        """The few-shot prompt set P for `group`, oldest first, each with its blank line."""

    def opening(self, hinted: bool) -> str:
        """What every question begins with, such as "Q:"; "" for nothing.

        Behind few-shot examples, a completion ends before a line that begins so.
        """
        return ""

    def read(self, question: Question, completion: str) -> Reading:
        """All that a completion says, computed once; the methods below say how."""
        answer, end = self.find_answer(question, completion)
        said = completion[:end]
        return Reading(
            answer=answer,
            end=end,
            correct=self.is_correct(question, answer),
            steps_right=self.steps_right(question, said),
            n_steps=self.count_steps(said),
            hint_leaked=self.leaks_hint(question, said),
        )

    def is_correct(self, question: Question, answer: str | None) -> bool:
        """Whether an answer equals the question's."""
        return answer is not None and answer == question.answer

    def steps_right(self, question: Question, said: str) -> bool | None:
        """Whether every step up to the end of the answer is right; None where it is unknown."""
        return None

    def count_steps(self, said: str) -> int | None:
        """How many steps a rationale has (Figure 6); None where the task cannot count them."""
        return None

    def leaks_hint(self, question: Question, said: str) -> bool:
        """Whether a rationale repeats its hint: the hint's line, or words such as "the hint"."""
        plain = self.question_text(question, hinted=False).splitlines()
        hint = [x for x in self.question_text(question, hinted=True).splitlines() if x not in plain]
        return any(x in said for x in hint) or bool(HINT_IN_WORDS.search(said))

    def choices(self, question: Question) -> dict[str, str]:
        """Answer -> text, as a completion would begin with it; {} without choices."""
        return {}

    def open_text(self, question: Question) -> str:
        """The question as the model reads it where its choices are scored instead of shown."""
        return self.question_text(question, hinted=False)

    def prompt(self, question: Question, *, hinted: bool, few_shot: bool) -> Prompt:
        """Algorithm 1: x, or add_hint(x, y), after the few-shot examples and up to the next one."""
        examples = self.few_shot_examples(question.group, hinted) if few_shot else ()
        opening = self.opening(hinted) if examples else ""
        stop = (f"\n\n{opening}", f"\n{opening}") if opening else ()
        return Prompt(question.id, self.question_text(question, hinted), examples, hinted, stop)

    def questions(self, split: str) -> Sequence[Question]:
        """All questions of a split, in a fixed order.

        Raises UserError if the split is unknown or empty, or its data are missing or malformed.
        """
        if split not in SPLITS:
            raise UserError(f"task {self.name} has no split {split!r}; it has {SPLITS}")
        questions = list(self.load_questions(split))
        if not questions:
            raise UserError(f"task {self.name}: the split {split!r} has no questions")
        return questions
