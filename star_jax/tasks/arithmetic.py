"""n-digit addition with a scratchpad (Nye et al. 2021), the paper's section 4.2.

A question and its gold completion, for 29 + 57:

    Input:
    2 9 + 5 7
    Target:              <- hinted: "Target: 8 6"
    <scratch>            <- the completion begins here
    2 9 + 5 7 , C: 0
    2 + 5 , 6 C: 1
    , 8 6 C: 0
    0 8 6
    </scratch>
    8 6
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import numpy as np

from star_jax.errors import UserError, check_positive
from star_jax.records import Question
from star_jax.tasks import steps
from star_jax.tasks.task import TRAIN, ReasoningTask
from star_jax.tokenizers.vocabularies import WordVocabulary

WORDS = (*"0123456789", "+", ",", "C:", "Input:", "Target:", "<scratch>", "</scratch>")
DIGITS = set("0123456789")
END_OF_RATIONALE = "\n</scratch>\n"
HELD_OUT = 5  # every fifth unordered pair, by hash, is for validation and never trained on


@dataclasses.dataclass(frozen=True)
class ArithmeticTask(ReasoningTask):
    """Additions of two numbers with the same digit count, uniform over `digits`.

    No validation problem, nor its mirror image b + a, is ever drawn for training.
    """

    digits: tuple[int, ...] = (1, 2, 3, 4, 5)
    n_train: int = 50_000
    n_validation: int = 500  # problems per digit count; fewer where there are no more
    n_few_shot: int = 10  # random examples per digit count, 0 for none
    direct: bool = False  # answer at once, without a scratchpad (the baseline)
    seed: int = 0  # of the problems and the few-shot examples

    def __post_init__(self):
        """Raises UserError for digit counts or sizes that make no data."""
        digits = tuple(int(n) for n in self.digits)
        object.__setattr__(self, "digits", digits)
        if not digits or min(digits) < 1 or max(digits) > 18 or len(set(digits)) < len(digits):
            raise UserError(
                f"ArithmeticTask.digits = {digits}: give different digit counts in 1..18"
            )
        check_positive(self, "n_train", "n_validation")
        if self.n_few_shot < 0 or self.seed < 0:
            raise UserError(
                f"ArithmeticTask: n_few_shot = {self.n_few_shot} and seed = {self.seed} must not "
                f"be negative"
            )

    @property
    def name(self) -> str:
        """`arithmetic` for the paper's setting; other settings are spelled out."""
        settings, default = (
            f"_{'_'.join(map(str, x.digits))}_n{x.n_train}_v{x.n_validation}_s{x.seed}"
            for x in (self, ArithmeticTask())
        )
        direct = "_direct" if self.direct else ""
        return f"arithmetic{direct}{'' if settings == default else settings}"

    @functools.lru_cache(maxsize=8)  # noqa: B019  of few tasks, equal ones share it
    def load_questions(self, split: str) -> list[Question]:
        """Problems drawn by `seed`."""
        rng = np.random.default_rng([self.seed, 0 if split == TRAIN else 1])
        if split == TRAIN:
            shares = dict.fromkeys(self.digits, 1 / len(self.digits))
            pairs = draw_problems(rng, self.n_train, shares)
        else:
            pairs = [p for n in self.digits for p in _draw_held_out(rng, n, self.n_validation)]
        return [make_question(f"{split}_{i:06d}", a, b) for i, (a, b) in enumerate(pairs)]

    def make_question(self, id_: str, text: str) -> Question:
        """Reads "29+57" or "2 9 + 5 7"; raises UserError for anything else."""
        return make_question(id_, *parse_problem(text))

    def question_text(self, question: Question, hinted: bool) -> str:
        """The lines up to Target:, after which the hinted form has the answer."""
        hint = f" {question.answer}" if hinted else ""
        return f"Input:\n{question.text}\nTarget:{hint}\n"

    def bare_answer(self, question: Question) -> str:
        """The answer itself: "8 6"."""
        return question.answer

    def gold_completion(self, question: Question) -> str | None:
        """The scratchpad with right steps and the answer, or only the answer if `direct`.

        None if a user's numbers have different digit counts, for which there is no scratchpad.
        """
        if self.direct:
            return question.answer
        a, b = parse_problem(question.text)
        return scratchpad(a, b) if len(str(a)) == len(str(b)) else None

    def find_answer(self, question: Question, completion: str) -> tuple[str | None, int]:
        r"""The line after </scratch>: "...\n</scratch>\n8 6" -> "8 6"; not digits -> None."""
        rest = completion if self.direct else completion.partition(END_OF_RATIONALE)[2]
        if not self.direct and END_OF_RATIONALE not in completion:
            return None, len(completion)
        line = rest.partition("\n")[0]
        is_answer = line and all(d in DIGITS for d in line.split(" "))
        return line if is_answer else None, len(completion) - len(rest) + len(line)

    def steps_right(self, question: Question, said: str) -> bool | None:
        """Whether it is the one right scratchpad of this question, line by line, with its answer.

        The method leaves no choice: each line follows from the one before, the first from the
        question. So a flawless scratchpad of another problem is wrong.
        """
        gold = None if self.direct else self.gold_completion(question)
        return None if gold is None else said == gold

    def count_steps(self, said: str) -> int | None:
        """The digits added in the scratchpad; None if `direct`."""
        scratchpad, _, _ = said.partition(END_OF_RATIONALE)
        return None if self.direct else steps.count_digit_steps(scratchpad)

    def opening(self, hinted: bool) -> str:
        """The first line."""
        return "Input:"

    @functools.lru_cache(maxsize=64)  # noqa: B019  of few tasks, equal ones share it
    def few_shot_examples(self, group: str, hinted: bool) -> tuple[str, ...]:
        """`n_few_shot` random training problems with `group` digits, a blank line after each."""
        rng = np.random.default_rng([self.seed, 2, int(group)])
        shown = [make_question("", *p) for p in _draw_problems(rng, int(group), self.n_few_shot)]
        return tuple(f"{self.question_text(q, hinted)}{self.gold_completion(q)}\n\n" for q in shown)


def arithmetic_vocabulary() -> WordVocabulary:
    """The words of the scratchpad format, one id each."""
    return WordVocabulary(WORDS)


def spell(number: int) -> str:
    """86 -> "8 6"."""
    return " ".join(str(number))


def parse_problem(text: str) -> tuple[int, int]:
    """Reads "2 9 + 5 7" as (29, 57); raises UserError for anything else."""
    left, plus, right = text.replace(" ", "").partition("+")
    if not (plus and left.isdecimal() and right.isdecimal()):
        raise UserError(f"{text!r} is not an addition such as '2 9 + 5 7'")
    return int(left), int(right)


def make_question(id_: str, a: int, b: int) -> Question:
    """The question a + b; its group is the digit count."""
    return Question(id_, f"{spell(a)} + {spell(b)}", spell(a + b), str(len(str(max(a, b)))))


def add_digits(a: int, b: int, carry: int) -> tuple[int, int]:
    """Carry and digit of one step: 8 + 7 with carry 1 -> (1, 6)."""
    return divmod(a + b + carry, 10)


def scratchpad(a: int, b: int, add: Callable[[int, int, int], tuple[int, int]] = add_digits) -> str:
    """The gold completion of a + b: one line for each digit, from the right, with its carry.

    Another `add` fills the same layout with other steps, and with the answer they lead to.
    """
    left, right = list(str(a)), list(str(b))
    assert len(left) == len(right), "both numbers have the same digit count"
    carry = 0
    result: list[str] = []
    lines = ["<scratch>", step_line(left, right, result, carry)]
    while left:
        carry, digit = add(int(left.pop()), int(right.pop()), carry)
        result = [str(digit), *result]
        lines.append(step_line(left, right, result, carry))
    last = [str(carry), *result]
    answer = spell(int("".join(last)))
    return "\n".join([*lines, " ".join(last), "</scratch>", answer])


def step_line(left: list[str], right: list[str], result: list[str], carry: int) -> str:
    """One line of a scratchpad: "2 + 5 , 6 C: 1".

    Args:
      left: the first number's digits that are still to be added.
      right: the second number's.
      result: the digits of the result so far.
      carry: 0 or 1.
    """
    operands = [*left, "+", *right] if left else []
    return " ".join([*operands, ",", *result, "C:", str(carry)])


def held_out(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """bool: which pairs are for validation; a + b and b + a are on one side.

    A fixed hash (the finalizer of splitmix64) of the unordered pair, so that no seed, split
    size or digit range moves a problem to the other split.
    """
    low, high = np.minimum(a, b).astype(np.uint64), np.maximum(a, b).astype(np.uint64)
    with np.errstate(over="ignore"):
        x = _mix(low + np.uint64(0x9E3779B97F4A7C15)) ^ high
        return _mix(x + np.uint64(0x9E3779B97F4A7C15)) % np.uint64(HELD_OUT) == 0


def draw_problems(
    rng: np.random.Generator, n: int, shares: Mapping[int, float]
) -> list[tuple[int, int]]:
    """`n` random training problems in random order; `shares` is digit count -> share, sum 1."""
    counts = rng.multinomial(n, list(shares.values())).tolist()
    pairs = [p for k, n in zip(shares, counts, strict=True) for p in _draw_problems(rng, k, n)]
    return [pairs[i] for i in rng.permutation(len(pairs))]


def _draw_problems(rng: np.random.Generator, n_digits: int, n: int) -> list[tuple[int, int]]:
    """`n` random training problems, both numbers with exactly `n_digits` digits."""
    found: list[tuple[int, int]] = []
    while len(found) < n:
        drawn = rng.integers(*_range(n_digits), (2 * n, 2))
        found += _pairs(drawn[~held_out(*drawn.T)])
    return found[:n]


def _draw_held_out(rng: np.random.Generator, n_digits: int, n: int) -> list[tuple[int, int]]:
    """At most `n` different validation problems of `n_digits` digits; all if there are fewer."""
    low, high = _range(n_digits)
    if (high - low) ** 2 <= 20 * HELD_OUT * n:  # few enough to look at all of them
        every = np.stack(np.meshgrid(np.arange(low, high), np.arange(low, high)), -1).reshape(-1, 2)
        pairs = every[held_out(*every.T)]
        return _pairs(pairs[rng.permutation(len(pairs))[:n]])
    found: dict[tuple[int, int], None] = {}
    while len(found) < n:
        drawn = rng.integers(low, high, (HELD_OUT * n, 2))
        found |= dict.fromkeys(_pairs(drawn[held_out(*drawn.T)]))
    return list(found)[:n]


def _range(n_digits: int) -> tuple[int, int]:
    """The least number of `n_digits` digits, and the first that has more."""
    return (0 if n_digits == 1 else 10 ** (n_digits - 1)), 10**n_digits


def _pairs(rows: np.ndarray) -> list[tuple[int, int]]:
    return [(a, b) for a, b in rows.tolist()]


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
