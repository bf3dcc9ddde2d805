r"""A user's own questions from a JSON Lines file: fields, templates and answers as gin bindings.

{"question": "Which is wet?", "answer": "rain", "rationale": "Rain is water."}

Q: Which is wet?
(Hint: rain)               <- hinted only
A: Rain is water.          <- the completion begins with the space after "A:" (also if the
The answer is rain            template ends in it), and with nothing after a line break
"""

import dataclasses
import functools
import re
import string
from pathlib import Path

from star_jax.errors import UserError, check_one_of, check_share, did_you_mean
from star_jax.records import Question
from star_jax.tasks import jsonl_file, rows
from star_jax.tasks.commonsense_qa import CommonsenseQATask, labelled
from star_jax.tasks.readers import numbers
from star_jax.tasks.readers.texts import same_text
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.tasks.text_task import KINDS, TextTask

SPACES = " \t"


@dataclasses.dataclass(frozen=True)
class JsonlTask(TextTask):
    """Questions of one JSON Lines file, split into training and validation, or of two files."""

    path: str  # looked for in the working directory, then among star_jax's own examples
    validation_path: str = ""  # a second file with the validation questions, with held_out = 0
    held_out: float | int = 0.2  # for validation: a share below 1, or a number of questions
    question_field: str = "question"
    answer_field: str = "answer"
    id_field: str = ""  # "" names a question by its line: line_00001
    rationale_field: str = ""  # gold rationales, which only some of the lines need have
    choices_field: str = ""  # a list of texts, or {"a": text, ...}; for the kind "choice"
    group_field: str = ""  # accuracy is reported for each value of it; "a; b" has two
    answer_kind: str = "text"  # or "number", "choice", "regex"; see TextTask
    answer_mark: str = "The answer is"
    answer_pattern: str = ""
    template: str = "Q: {question}\nA:"
    hint_template: str = "Q: {question}\n(Hint: {answer})\nA:"
    exemplar_file: str = ""  # "" for no few-shot prompt
    hinted_exemplar_file: str = ""
    encoding: str = "utf-8"  # of the files, which may be compressed by gzip
    tolerated_share: float = 0.0  # of a file's lines that may be malformed, and are dropped
    direct: bool = False  # the answer alone, without a rationale
    seed: int = 0  # of the choice of held-out questions

    def __post_init__(self):
        """Raises UserError for settings that mean nothing or contradict each other."""
        if not isinstance(self.path, str) or not self.path:
            raise UserError(f"JsonlTask.path = {self.path!r} is no file; give your JSON Lines file")
        super().__post_init__()
        check_one_of("JsonlTask.answer_kind", self.answer_kind, KINDS)
        for field, kind in (("choices_field", "choice"), ("answer_pattern", "regex")):
            if bool(getattr(self, field)) != (self.answer_kind == kind):
                raise UserError(
                    f"JsonlTask.answer_kind = {self.answer_kind!r} with {field} = "
                    f"{getattr(self, field)!r}: {field} is for the kind {kind!r}; bind both"
                )
        if self.answer_pattern:
            _check_pattern(self.answer_pattern)
        _check_template("template", self.template, {"question"})
        _check_template("hint_template", self.hint_template, {"question", "answer"})
        if any(line.strip() == "{answer}" for line in self.hint_template.splitlines()):
            raise UserError(
                "JsonlTask.hint_template has {answer} alone on a line, and every rationale that "
                "says the answer would repeat it; put words next to it, as in (Hint: {answer})"
            )
        if self.lead != _lead(self.hint_template):
            raise UserError(
                "JsonlTask.template and JsonlTask.hint_template must both end in a line break, or "
                "neither, and in as many spaces: completions begin alike after them"
            )
        jsonl_file.check_split(self.held_out, self.validation_path)
        check_share(self, "tolerated_share")

    @property
    def name(self) -> str:
        """`jsonl_<file>` or `jsonl_<file>_direct`, and a digest of all settings."""
        stem = re.sub(r"\W", "_", Path(self.path).stem, flags=re.ASCII)
        return f"jsonl_{stem}{'_direct' if self.direct else ''}_{self.settings_digest()}"

    @property
    def lead(self) -> str:
        """What completions begin with: the template's last spaces, which prompts lack, or one.

        Tokens of words begin with their space, so a prompt that ends in one has other tokens.
        """
        return _lead(self.template)

    def load_questions(self, split: str) -> list[Question]:
        """The questions of a split."""
        return self._splits()[split]

    def make_question(self, id_: str, text: str) -> Question:
        """Any text, or one with choices: "Which is wet? (a) sand (b) rain"."""
        if self.answer_kind == "choice":
            return CommonsenseQATask().make_question(id_, text)
        if not text.strip():
            raise UserError("an empty text is no question; write one")
        return Question(id_, text.strip(), "")

    def question_of(self, id_: str, row: rows.Json) -> Question:
        """The question of a line of the file; raises rows.BadRow if it makes none."""
        text = self._value(row, "question_field")
        answer = rows.one_line(self._value(row, "answer_field"))
        id_ = self._value(row, "id_field") if self.id_field else id_
        if self.answer_kind == "choice":
            choice_row = {"id": id_, **_choice_row(row, self.choices_field, text, answer)}
            question = CommonsenseQATask().question_of(id_, choice_row)
        elif self.answer_kind != "number":
            question = Question(id_, text, answer)
        elif (value := numbers.to_number(answer)) is not None:
            question = Question(id_, text, numbers.canonical(value))
        else:
            raise rows.BadRow(
                f"its field {self.answer_field!r} is {answer[:60]!r}, which is no number"
            )
        group = self._value(row, "group_field") if self.group_field else ""
        return dataclasses.replace(question, group=group, solution=self._solution(question, row))

    def question_text(self, question: Question, hinted: bool) -> str:
        """The template with the question in it; hinted, the hint template and the answer."""
        template = self.hint_template if hinted else self.template
        return template.rstrip(SPACES).format(question=question.text, answer=question.answer)

    def open_text(self, question: Question) -> str:
        """The template with the question, but without its choices."""
        return self.template.rstrip(SPACES).format(question=self.stem(question))

    def find_answer(self, question: Question, completion: str) -> tuple[str | None, int]:
        """As of every task in words, in what precedes the next question in the template's words."""
        opening = self.opening(hinted=False)
        this = completion.partition(f"\n{opening}")[0] if opening else completion
        return super().find_answer(question, this)

    def opening(self, hinted: bool) -> str:
        """The template's words before the question."""
        return (self.hint_template if hinted else self.template).partition("{")[0].strip()

    def count_steps(self, said: str) -> int | None:
        """As of every task in words; a file without marks has no steps to count."""
        return super().count_steps(said) or None

    def exemplars(self) -> list[tuple[Question, str]]:
        """As of every task, with the completions after the template."""
        return [(question, self.lead + text.strip()) for question, text in super().exemplars()]

    @functools.lru_cache(maxsize=16)  # noqa: B019  of few tasks, equal ones share it
    def _splits(self) -> dict[str, list[Question]]:
        settings = self.question_of, self.tolerated_share, self.encoding
        questions = jsonl_file.read_questions(self.path, *settings)
        other = self.validation_path
        if not other:
            return jsonl_file.split(questions, self.held_out, self.seed, self.path)
        found = jsonl_file.read_questions(other, *settings)
        prefix = "" if self.id_field else "validation_"
        validation = [dataclasses.replace(q, id=prefix + q.id) for q in found]
        if both := jsonl_file.shared(questions, validation):
            raise UserError(
                f"{self.path} has {len(both)} of the {len(validation)} questions of {other} too, "
                f"such as {both[0].id}: {both[0].text[:60]!r}; a question is for training or for "
                f"validation"
            )
        return {TRAIN: questions, VALIDATION: validation}

    def _value(self, row: rows.Json, binding: str) -> str:
        """The text or number in a field of the row; `binding` is the setting with its name."""
        field = getattr(self, binding)
        if not isinstance(row, dict):
            raise rows.BadRow("is not an object with fields")
        if field not in row:
            hint = did_you_mean(field, row, f"; it has {', '.join(row) or 'none at all'}")
            raise rows.BadRow(f"has no field {field!r} (JsonlTask.{binding}){hint}")
        return rows.text_of(row, field, or_number=True).strip()

    def _solution(self, question: Question, row: rows.Row) -> str:
        """The line's rationale, which ends in the answer: its own, or one that is added."""
        if not self.rationale_field or row.get(self.rationale_field) in (None, ""):
            return ""
        solution = self._value(row, "rationale_field").strip()
        task = dataclasses.replace(self, direct=False)
        if task.find_answer(question, solution)[0] is None:
            mark = "The answer is" if self.answer_kind == "choice" else self.answer_mark
            solution += f"\n{mark} {self.bare_answer(question).strip()}"
        answer, _ = task.find_answer(question, solution)
        if not self.is_correct(question, answer):
            raise rows.BadRow(
                f"its rationale ends in the answer {answer!r}, its answer is {question.answer!r}"
            )
        return solution


def _choice_row(row: rows.Row, field: str, text: str, answer: str) -> rows.Row:
    """A row of CommonsenseQA's form; the answer is a label, or the text of one choice."""
    choices = labelled(row.get(field))
    if not 2 <= len(choices) <= 26:
        raise rows.BadRow(
            f"has no list of 2 to 26 choices in its field {field!r} (JsonlTask.choices_field)"
        )
    read = functools.partial(rows.text_of, or_number=True)
    labels = [read({field: x}, field, "label").strip().lower() for x in choices]
    texts = [read({field: x}, field, "text") for x in choices]
    right = [i for i, label in enumerate(labels) if label == answer.lower()]
    right = right or [i for i, choice in enumerate(texts) if same_text(choice, answer)]
    if len(right) != 1:
        raise rows.BadRow(f"has the answer {answer!r}, which is none of its choices {labels}")
    if labels == [str(i) for i in range(1, len(labels) + 1)]:  # as some of ARC's questions
        labels = list(string.ascii_lowercase[: len(labels)])
    choices = labelled({"label": labels, "text": texts})
    return {"answerKey": labels[right[0]], "question": {"stem": text, "choices": choices}}


def _lead(template: str) -> str:
    spaces = template[len(template.rstrip(SPACES)) :]
    return spaces or ("" if template[-1].isspace() else " ")


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


def _check_template(name: str, template: str, wanted: set[str]) -> None:
    """Raises UserError unless the placeholders are exactly `wanted`, each a bare name."""
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UserError(f"JsonlTask.{name} = {template!r}: {error}") from error
    found = {
        field + (f"!{conversion}" if conversion else "") + (form or "")
        for _, field, form, conversion in parts
        if field is not None
    }
    if unknown := sorted(found - wanted):
        raise UserError(
            f"JsonlTask.{name}: unknown placeholder {{{unknown[0]}}} (it may have "
            f"{_braced(wanted)}; write {{{{ and }}}} for braces){did_you_mean(unknown[0], wanted)}"
        )
    if missing := wanted - found:
        raise UserError(f"JsonlTask.{name} = {template!r} lacks {_braced(missing)}; add it")


def _braced(names: set[str]) -> str:
    return " and ".join(f"{{{name}}}" for name in sorted(names, reverse=True))
