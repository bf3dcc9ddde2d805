"""Edits of star_jax/tasks/: questions, prompts, hints, answers and steps."""

from tests.mutation.edit import edits_of

EDITS = [
    *edits_of(
        "tasks/task.py",
        "test_arithmetic.py test_steps.py",
        (
            "self.question_text(question, hinted), examples, hinted, stop)",
            "self.question_text(question, hinted), examples, False, stop)",
            "a hinted prompt is not marked as one",
            "test_loop.py",
        ),
        (
            "self.few_shot_examples(question.group, hinted) if",
            "self.few_shot_examples(question.group, False) if",
            "hinted prompts stand behind plain examples",
            "test_loop.py::test_hint_never_reaches_kept_example",
        ),
        (
            "said = completion[:end]",
            "said = completion",
            "text after the answer is judged",
            "test_steps.py::test_only_what_belongs_to_the_answer_is_checked",
        ),
        (
            "any(x in said for x in hint) or bool(",
            "bool(",
            "a repeated hint line is no leak",
            "test_jsonl.py::test_a_repeated_hint_is_a_leak_and_the_answer_alone_is_none "
            "test_commonsense_qa.py",
        ),
        (
            "any(x in said for x in hint) or bool(HINT_IN_WORDS.search(said))",
            "any(x in said for x in hint)",
            "speaking of the hint is no leak",
            "test_commonsense_qa.py::test_rationales_that_repeat_the_hint_are_counted_and_not_kept "
            "test_jsonl.py",
        ),
    ),
    *edits_of(
        "tasks/arithmetic.py",
        "test_arithmetic.py",
        (
            "default_rng([self.seed, 2, int(group)])",
            "default_rng([2, int(group)])",
            "few-shot examples ignore the task's seed",
            "test_arithmetic.py::test_few_shot_examples",
        ),
        (
            "[self.seed, 0 if split == TRAIN else 1]",
            "[0 if split == TRAIN else 1]",
            "problems ignore the seed",
        ),
        ("drawn[~held_out(*drawn.T)]", "drawn", "held-out problems are trained on"),
        (
            "low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)",
            "low, high = a.astype(np.uint64), b.astype(np.uint64)",
            "a + b is trained on and b + a held out",
        ),
        (
            "str(len(str(max(a, b))))",
            "str(len(str(min(a, b))))",
            "group of the shorter number",
            "test_arithmetic.py::test_a_question_is_in_the_group_of_its_longer_number",
        ),
        (
            "for i in rng.permutation(len(pairs))]\n\n",
            "for i in range(len(pairs))]\n\n",
            "training problems are in the order of their digits",
            "test_arithmetic.py::test_digits_are_uniform_and_the_order_is_mixed",
        ),
        (
            "None if gold is None else said == gold",
            "None if gold is None else gold.startswith(said[:9])",
            "the first line alone decides",
            "test_steps.py",
        ),
        (
            "{self.question_text(q, hinted)}{self.gold_completion(q)}",
            "{self.question_text(q, False)}{self.gold_completion(q)}",
            "hinted examples have no hints",
            "test_arithmetic.py::test_few_shot_examples",
        ),
    ),
    *edits_of(
        "tasks/gsm8k.py",
        "test_gsm8k.py",
        (
            'answer_kind, answer_mark = "number"',
            'answer_kind, answer_mark = "text"',
            "numbers are read and compared as texts",
        ),
        ("{f' ({hint})' if hinted else ''}", "{f' ({hint})'}", "every prompt has the hint"),
        (
            "any(numbers.same_number(text, question.answer) for text in bracketed) or bool(",
            "bool(",
            "the answer in parentheses is no leak",
        ),
        (
            'TFDS_VALIDATION: ClassVar[str] = "test"',
            'TFDS_VALIDATION: ClassVar[str] = "train"',
            "training questions are held out",
        ),
    ),
    *edits_of(
        "tasks/commonsense_qa.py",
        "test_commonsense_qa.py",
        ("        if hinted:\n", "        if question.answer:\n", "every prompt has the hint"),
        (
            "bool(HINT_SAID_AGAIN.search(said)) or super()",
            "super()",
            "a choice that is marked as correct is no leak",
        ),
        ("line[-3:-2]", "line[-2:-1]", "the released code's position is off by one"),
        (
            'f"Q: {self.stem(question)}\\nA:"',
            'f"Q: {question.text}\\nA:"',
            "scored choices are shown in the prompt",
            "test_score.py test_commonsense_qa.py",
        ),
    ),
    *edits_of(
        "tasks/jsonl.py",
        "test_jsonl.py",
        (
            "template = self.hint_template if hinted else self.template",
            "template = self.hint_template",
            "every prompt has the hint",
        ),
        (
            "right = right or [i for",
            "right = [i for",
            "a letter that is another choice's text",
        ),
        (
            "dataclasses.replace(self, direct=False)",
            "self",
            "a direct task's rationale ends anywhere",
        ),
    ),
    *edits_of(
        "tasks/jsonl_file.py",
        "test_jsonl.py",
        ('f"{seed} {text}"', 'f"{text}"', "the split ignores the seed"),
    ),
    *edits_of(
        "tasks/rows.py",
        "test_jsonl.py",
        ("if question.id in found:", "if False:", "a second question of an id replaces the first"),
    ),
    *edits_of(
        "tasks/readers/choices.py",
        "test_grading.py",
        (
            "end = max(reading.end for reading in stated)",
            "end = min(reading.end for reading in stated)",
            "the first of several statements",
        ),
        ("if not found or found.text not in", "if not found or not", "letters of no choice"),
        (
            "            if stated:\n                break\n",
            "",
            "a later line replaces the stated answer",
        ),
        (
            "if reading and not (repeats and letter):",
            "if reading:",
            "the last of the repeated choices is the answer",
            "test_answers.py",
        ),
    ),
    *edits_of(
        "tasks/readers/numbers.py",
        "test_grading.py",
        ("or DIGIT.search(after)", "", "the first number of a sum is the answer"),
        (
            "        or SCALED.match(after)\n",
            "",
            "a million is one",
            "test_answers.py",
        ),
    ),
    *edits_of(
        "tasks/readers/reader.py",
        "test_grading.py",
        ("text.find(mark)", "text.rfind(mark)", "the last mark counts"),
    ),
    *edits_of(
        "tasks/readers/texts.py",
        "test_answers.py",
        ('unicodedata.normalize("NFC", text.casefold())', "text.casefold()", "accents differ"),
    ),
    *edits_of(
        "tasks/steps.py",
        "test_steps.py",
        ('split("\\n")) - 1)', 'split("\\n")))', "the first line is a step, too"),
        (
            "2 * abs(exact - number) <= unit",
            "abs(exact - number) <= unit",
            "any neighbour of a rounded number",
        ),
        (
            "return written is None or _agrees(written[0], value)",
            "return True",
            "the number after a mark is not checked",
        ),
    ),
    *edits_of(
        "tasks/text_task.py",
        "test_exemplars.py",
        (
            "self.question_text(question, hinted)\n",
            "self.question_text(question, False)\n",
            "hinted examples have no hints",
        ),
        (
            "(self.bare_answer(question) if self.direct else completion)",
            "completion",
            "direct examples have rationales",
            "test_exemplars.py "
            "test_baselines.py::test_the_papers_tasks_have_direct_examples_too "
            "test_baselines.py::test_direct_examples_are_questions_with_bare_answers",
        ),
        (
            'numbers.same_number if self.answer_kind == "number" else texts.same_text',
            "texts.same_text",
            "numbers are compared as texts",
            "test_gsm8k.py test_jsonl.py",
        ),
        (
            "return steps.marks_right(said) if",
            "return bool(steps.marks_right(said)) if",
            "a solution without marks is wrong",
            "test_steps.py test_gsm8k.py",
        ),
        (
            "found.end) if found else (None, len(text))",
            "found.end) if found else (None, 0)",
            "what has no answer is trimmed to nothing",
            "test_jsonl.py::test_what_has_no_answer_is_not_trimmed",
        ),
    ),
]
