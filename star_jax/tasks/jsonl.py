r"""A user's own questions from a JSON Lines file: fields, templates and answers as gin bindings.

{"question": "Which is wet?", "answer": "rain", "rationale": "Rain is water."}

Q: Which is wet?
(Hint: rain)               <- hinted only
A: Rain is water.          <- the completion begins with the space after "A:", and with
The answer is rain         <- nothing where the template ends in a space or a line break
"""

import dataclasses
import functools
import hashlib
import re
import string
from pathlib import Path
from typing import Any

from star_jax.errors import UserError, check_types, did_you_mean
from star_jax.records import Question
from star_jax.tasks import few_shot, grading, jsonl_file, rows, steps
from star_jax.tasks import task as tasks
from star_jax.tasks.commonsense_qa import HEADER, CommonsenseQATask, choices_of

KINDS = ("text", "number", "choice", "regex")
LONGEST_SEARCHED = 4_000  # characters at a completion's end that a user's pattern searches
AROUND_AN_ANSWER = " \t.,:;!?\"'*()[]\u201c\u201d\u2018\u2019"


@dataclasses.dataclass(frozen=True)
class JsonlTask(tasks.ReasoningTask):
    """Questions of one JSON Lines file, parted into training and validation, or of two files.

    Answer kinds, and what is read from a completion (None if there is nothing to be read):
      text    what follows the first `answer_mark` on its line; case, spacing and punctuation
              around it do not count
      number  the number after the first `answer_mark`: "1,000" equals "1000.0"
      choice  the letter of the conclusion, as `grading.read_choice` reads it
      regex   what the one group of `answer_pattern` found first in the last 4,000 characters; ^
              and $ match at lines. The limit keeps slow patterns bearable, but not those whose
              time grows exponentially, such as (a+)+$. Compared as texts are.
    """

    path: str  # looked for where you stand, then among star_jax's own examples
    validation_path: str = ""  # a second file with the validation questions, with held_out = 0
    held_out: float | int = 0.2  # for validation: a share below 1, or a number of questions
    question_field: str = "question"
    answer_field: str = "answer"
    id_field: str = ""  # "" names a question by its line: line_00001
    rationale_field: str = ""  # gold rationales, which only some of the lines need have
    choices_field: str = ""  # a list of texts, or {"a": text, ...}; for the kind "choice"
    group_field: str = ""  # accuracy is reported for each value of it
    answer_kind: str = "text"
    answer_mark: str = "The answer is"  # for text and number; "" reads the first line
    answer_pattern: str = ""  # for regex
    template: str = "Q: {question}\nA:"
    hint_template: str = "Q: {question}\n(Hint: {answer})\nA:"
    exemplar_file: str = ""  # Q: and A: examples parted by blank lines; "" for no few-shot prompt
    hinted_exemplar_file: str = ""  # the same with hints, checked if given; "" makes them
    tolerated_share: float = 0.0  # of a file's lines that may be malformed, and are left out
    direct: bool = False  # the answer alone, without a rationale
    seed: int = 0  # of the choice of held-out questions

    def __post_init__(self):
        """Raises UserError for settings that mean nothing or contradict each other."""
        if not isinstance(self.path, str) or not self.path:
            raise UserError(f"JsonlTask.path = {self.path!r} is no file; give your JSON Lines file")
        check_types(self)
        if self.answer_kind not in KINDS:
            hint = did_you_mean(str(self.answer_kind), KINDS, f"; it is one of {', '.join(KINDS)}")
            raise UserError(f"JsonlTask.answer_kind = {self.answer_kind!r} is unknown{hint}")
        for field, kind in (("choices_field", "choice"), ("answer_pattern", "regex")):
            if bool(getattr(self, field)) != (self.answer_kind == kind):
                raise UserError(
                    f"JsonlTask.answer_kind = {self.answer_kind!r} with {field} = "
                    f"{getattr(self, field)!r}: {field} goes with the kind {kind!r}; bind both"
                )
        if self.answer_pattern:
            _check_pattern(self.answer_pattern)
        _check_templates(self.template, self.hint_template)
        jsonl_file.check_split(self.held_out, self.validation_path)
        if not _is_number(self.tolerated_share) or not 0 <= self.tolerated_share <= 1:
            raise UserError(
                f"JsonlTask.tolerated_share = {self.tolerated_share!r} is not a share; give 0 to 1"
            )
        if self.hinted_exemplar_file and not self.exemplar_file:
            raise UserError(
                f"JsonlTask.hinted_exemplar_file = {self.hinted_exemplar_file!r} needs its plain "
                f"version; bind JsonlTask.exemplar_file too"
            )

    @property
    def name(self) -> str:
        """`jsonl_<file>` or `jsonl_<file>_direct`, and a digest of all settings."""
        stem = re.sub(r"\W", "_", Path(self.path).stem, flags=re.ASCII)
        settings = repr(dataclasses.astuple(self)).encode()
        digest = hashlib.blake2b(settings, digest_size=4).hexdigest()
        return f"jsonl_{stem}{'_direct' if self.direct else ''}_{digest}"

    def load_questions(self, split: str) -> list[Question]:
        """The questions of a split."""
        return _splits(self)[split]

    def make_question(self, id_: str, text: str) -> Question:
        """Any text, or one with choices: "Which is wet? (a) sand (b) rain"."""
        if self.answer_kind == "choice":
            return CommonsenseQATask().make_question(id_, text)
        if not text.strip():
            raise UserError("an empty text is no question; write one")
        return Question(id_, text.strip(), "")

    def question_of(self, id_: str, row: Any) -> Question:
        """The question of a line of the file.

        Raises:
          rows.BadRow: the line makes no question; the text says why.
        """
        text = self._value(row, "question_field")
        answer = rows.one_line(self._value(row, "answer_field"))
        if self.id_field:
            id_ = self._value(row, "id_field")
        if self.answer_kind == "choice":
            question = _choice_question(id_, text, row, self.choices_field, answer)
        elif self.answer_kind == "number":
            question = Question(id_, text, _canonical(answer, self.answer_field))
        else:
            question = Question(id_, text, answer)
        group = self._value(row, "group_field") if self.group_field else ""
        question = dataclasses.replace(question, group=group)
        return dataclasses.replace(question, solution=self._solution(question, row))

    def question_text(self, question: Question, hinted: bool) -> str:
        """The template with the question in it; hinted, the hint template and the answer."""
        values = {"question": question.text, "answer": question.answer}
        return _fill(self.hint_template if hinted else self.template, values)

    def bare_answer(self, question: Question) -> str:
        """The answer alone: " rain", or " (b)." of choices."""
        choice = self.answer_kind == "choice"
        return self._lead + (f"({question.answer})." if choice else question.answer)

    def gold_completion(self, question: Question) -> str | None:
        """The line's rationale with its answer, None if it has none; the answer if `direct`."""
        if self.direct:
            return self.bare_answer(question)
        return self._lead + question.solution if question.solution else None

    def choices(self, question: Question) -> dict[str, str]:
        """Letter -> a choice's text as a completion begins with it; {} for the other kinds."""
        found = choices_of(question.text) if self.answer_kind == "choice" else {}
        return {letter: self._lead + text for letter, text in found.items()}

    def open_text(self, question: Question) -> str:
        """The template with the question, but without its choices."""
        text = question.text
        if self.answer_kind == "choice":
            text = text.partition(HEADER)[0]
        return _fill(self.template, {"question": text})

    def find_answer(self, question: Question, completion: str) -> tuple[str | None, int]:
        """The answer as the class says for its kind; if `direct`, also the first line."""
        text = self._this_answer(completion)
        found = self._read(question, text)
        return (found.text, found.end) if found else (None, len(text))

    def is_correct(self, question: Question, answer: str | None) -> bool:
        """Whether the two are the same number, letter or text, whatever its case and spacing."""
        if answer is None or self.answer_kind == "choice":
            return answer == question.answer
        if self.answer_kind == "number":
            return grading.same_number(answer, question.answer)
        return _plain(answer) == _plain(question.answer)

    def steps_right(self, question: Question, said: str) -> bool | None:
        """Of the kind number: whether every calculator mark is right; None if there is none."""
        return steps.marks_right(said) if self._may_have_marks else None

    def count_steps(self, said: str) -> int | None:
        """Of the kind number: the calculator marks, as of GSM8K; None if there is none."""
        marks = steps.count_marks(said) if self._may_have_marks else 0
        return marks or None  # a file without marks has no steps to count

    def few_shot_examples(self, group: str, hinted: bool) -> tuple[str, ...]:
        """All examples of the exemplar file, the same for every question; none without one."""
        return _few_shot_examples(self, hinted) if self.exemplar_file else ()

    @property
    def _lead(self) -> str:
        return "" if self.template[-1].isspace() else " "

    def _value(self, row: Any, binding: str) -> str:
        return jsonl_file.value_of(row, getattr(self, binding), f"JsonlTask.{binding}")

    def _solution(self, question: Question, row: dict[str, Any]) -> str:
        """The line's rationale, which ends in the answer: its own, or one that is added."""
        if not self.rationale_field or row.get(self.rationale_field) in (None, ""):
            return ""
        solution = self._value(row, "rationale_field").strip()
        rationale = dataclasses.replace(self, direct=False)
        if rationale.find_answer(question, solution)[0] is None:
            mark = "The answer is" if self.answer_kind == "choice" else self.answer_mark
            solution += f"\n{mark} {self.bare_answer(question).strip()}"
        answer, _ = rationale.find_answer(question, solution)
        if not self.is_correct(question, answer):
            raise rows.BadRow(
                f"its rationale ends in the answer {answer!r}, its answer is {question.answer!r}"
            )
        return solution

    @property
    def _may_have_marks(self) -> bool:
        return self.answer_kind == "number" and not self.direct

    def _this_answer(self, completion: str) -> str:
        return grading.this_answer(_before_next(completion, self.template), blank_line_ends=False)

    def _read(self, question: Question, text: str) -> grading.Found | None:
        if self.answer_kind == "choice":
            return grading.read_choice(text, choices_of(question.text))
        if self.answer_kind == "regex":
            reading = _read_pattern(text, self.answer_pattern)
            return _read_text(text, "") if self.direct and not reading else reading
        read = grading.read_number if self.answer_kind == "number" else _read_text
        reading = read(text, self.answer_mark)
        return read(text, "") if self.direct and not reading else reading


@functools.lru_cache(maxsize=16)
def _splits(task: JsonlTask) -> dict[str, list[Question]]:
    read = functools.partial(
        jsonl_file.read_questions,
        question_of=task.question_of,
        tolerated_share=task.tolerated_share,
    )
    questions = read(task.path)
    if not task.validation_path:
        return jsonl_file.split(questions, task.held_out, task.seed, task.path)
    prefix = "" if task.id_field else "validation_"
    validation = [dataclasses.replace(q, id=prefix + q.id) for q in read(task.validation_path)]
    jsonl_file.check_apart(questions, validation, (task.path, task.validation_path))
    return {tasks.TRAIN: questions, tasks.VALIDATION: validation}


@functools.lru_cache(maxsize=16)
def _few_shot_examples(task: JsonlTask, hinted: bool) -> tuple[str, ...]:
    if task.hinted_exemplar_file:
        few_shot.check_hinted(task.hinted_exemplar_file, task.exemplar_file, task)
    pairs = [
        (question, task._lead + completion.strip())
        for question, completion in few_shot.exemplars(task.exemplar_file, task)
    ]
    return few_shot.few_shot_texts(pairs, task, hinted=hinted, direct=task.direct)


def _choice_question(id_: str, text: str, row: Any, field: str, answer: str) -> Question:
    """A question of CommonsenseQA's form; the answer is a letter, or the text of one choice."""
    choices = row.get(field)
    if isinstance(choices, list):
        choices = {chr(ord("a") + i): choice for i, choice in enumerate(choices[:26])}
    if not isinstance(choices, dict) or len(choices) < 2:
        raise rows.BadRow(
            f"has no list of at least two choices in its field {field!r} (JsonlTask.choices_field)"
        )
    named = [a for a, choice in choices.items() if _plain(str(choice)) == _plain(answer)]
    if answer.lower() not in choices and len(named) == 1:
        answer = named[0]
    labelled = [{"label": letter, "text": str(choice)} for letter, choice in choices.items()]
    return CommonsenseQATask().question_of(
        id_, {"id": id_, "answerKey": answer, "question": {"stem": text, "choices": labelled}}
    )


def _canonical(answer: str, field: str) -> str:
    value = grading.to_number(answer)
    if value is None:
        raise rows.BadRow(f"its field {field!r} is {answer[:60]!r}, which is no number")
    return grading.canonical(value)


def _read_text(text: str, mark: str) -> grading.Found | None:
    """What follows the first `mark` on its line; without a mark, the first line not blank."""
    if mark not in text:
        return None
    rest = text.partition(mark)[2] if mark else text.lstrip()
    line = rest.partition("\n")[0].rstrip()
    answer = line.strip(AROUND_AN_ANSWER) or line.strip()
    return grading.Found(answer, len(text) - len(rest) + len(line)) if answer else None


def _read_pattern(text: str, pattern: str) -> grading.Found | None:
    start = max(0, len(text) - LONGEST_SEARCHED)
    match = re.compile(pattern, re.MULTILINE).search(text[start:])
    answer = (match[1] or "").strip() if match else ""
    return grading.Found(answer, start + match.end()) if match and answer else None


def _before_next(completion: str, template: str) -> str:
    """The completion up to the next question in the template's own words, if it has any."""
    opening = template.partition("{")[0].strip()
    return completion.partition(f"\n{opening}")[0] if opening else completion


def _plain(text: str) -> str:
    words = " ".join(text.casefold().split())
    return words.strip(AROUND_AN_ANSWER) or words


def _check_pattern(pattern: str) -> None:
    try:
        groups = re.compile(pattern, re.MULTILINE).groups
    except (re.error, TypeError, RecursionError, OverflowError) as error:
        raise UserError(
            f"JsonlTask.answer_pattern = {pattern!r} is no regular expression: {error}"
        ) from error
    if groups != 1:
        raise UserError(
            f"JsonlTask.answer_pattern = {pattern!r} has {groups} groups; give it one, around the "
            f"answer, and write (?:...) for others"
        )


def _check_templates(template: str, hint_template: str) -> None:
    for name, text, wanted in (
        ("template", template, {"question"}),
        ("hint_template", hint_template, {"question", "answer"}),
    ):
        found = {field for _, field in _parts(name, text) if field is not None}
        if unknown := sorted(found - wanted):
            hint = did_you_mean(unknown[0], wanted)
            raise UserError(
                f"JsonlTask.{name}: unknown placeholder {{{unknown[0]}}} (it may have "
                f"{_braced(wanted)}; write {{{{ and }}}} for braces){hint}"
            )
        if missing := wanted - found:
            raise UserError(f"JsonlTask.{name} = {text!r} lacks {_braced(missing)}; add it")
    if any(line.strip() == "{answer}" for line in hint_template.splitlines()):
        raise UserError(
            "JsonlTask.hint_template has {answer} alone on a line, and every rationale that says "
            "the answer would repeat it; put words beside it, as in (Hint: {answer})"
        )
    if template[-1].isspace() != hint_template[-1].isspace():
        raise UserError(
            "JsonlTask.template and JsonlTask.hint_template must both end in a space or line "
            "break, or neither: completions begin alike after them"
        )


def _parts(name: str, template: str) -> list[tuple[str, str | None]]:
    """(text, placeholder after it or None); only bare names count as placeholders."""
    try:
        parts = list(string.Formatter().parse(template))
    except (ValueError, TypeError) as error:
        raise UserError(f"JsonlTask.{name} = {template!r}: {error}") from error
    return [
        (text, field if field is None else field + (f"!{how}" if how else "") + (form or ""))
        for text, field, form, how in parts
    ]


def _fill(template: str, values: dict[str, str]) -> str:
    """The template with its placeholders replaced; braces within a value stay as they are."""
    parts = _parts("template", template)
    return "".join(text + ("" if field is None else values[field]) for text, field in parts)


def _braced(names: set[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in sorted(names, reverse=True))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
