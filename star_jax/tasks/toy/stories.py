"""The toy GSM8K: word problems of one to three steps, with calculator marks at every step.

Q: Ann has 3 boxes of 4 pens . Ann loses 5 pens . How many pens has Ann ?
A: Ann has << 3 * 4 = 12 >> 12 pens .
Ann has << 12 - 5 = 7 >> 7 pens .
#### 7
"""

import functools

import numpy as np

from star_jax.tasks import rows
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.toy import CORPUS, TRAIN, VALIDATION, Fact, Worked, World

NAMES = ("Ann", "Ben", "Cora", "Dan", "Eve", "Finn", "Gus", "Hal")
THINGS = ("pens", "apples", "coins", "stamps", "marbles", "shells", "cards", "beads")
GAINS = ("buys", "finds", "wins")
LOSSES = ("loses", "sells", "breaks")
MOST = 40  # no number is larger
OPERANDS = range(2, 13)  # of sums and differences
BOXES, IN_A_BOX, BAGS = range(2, 7), range(2, 10), range(2, 6)
STEPS = (0.3, 0.4, 0.3)  # shares of problems of 1, 2 and 3 steps
CORPUS_STEPS = (0.6, 0.3, 0.1)  # the base sees fewer long ones
SHARES = {CORPUS: 0.8, TRAIN: 0.12, VALIDATION: 0.08}  # of all possible stories, by hash


@functools.cache
def facts() -> list[Fact]:
    """Every sum, difference, product and quotient that a solution can have, with its mark."""
    numbers = range(1, MOST + 1)
    sums = [("+", a, b, a + b) for a in numbers for b in OPERANDS if a + b <= MOST]
    differences = [("-", a, b, a - b) for a in numbers for b in OPERANDS if a - b >= 1]
    products = [("*", a, b, a * b) for a in BOXES for b in IN_A_BOX if a * b <= MOST]
    quotients = [("/", a, b, a // b) for a in numbers for b in BAGS if a % b == 0 and a > b]
    return [
        (f"<< {a} {sign} {b} =", f" {c} >> {c}")
        for sign, a, b, c in sums + differences + products + quotients
    ]


def draw(rng: np.random.Generator, part: str) -> Worked:
    """A problem of `part` with its solution."""
    shares = CORPUS_STEPS if part == CORPUS else STEPS
    while True:
        n_steps = 1 + int(rng.choice(len(shares), p=shares))
        worked = story(rng, n_steps)
        if part_of(worked.row["question"]) == part:
            return worked


def part_of(text: str) -> str:
    """The part of a problem, by the hash of its words."""
    place = rows.hashed_share(text)
    if place < SHARES[CORPUS]:
        return CORPUS
    return TRAIN if place < SHARES[CORPUS] + SHARES[TRAIN] else VALIDATION


def story(rng: np.random.Generator, n_steps: int) -> Worked:
    """A problem of `n_steps` steps: first boxes or a number, then gains and losses, or bags."""
    name, thing = str(rng.choice(NAMES)), str(rng.choice(THINGS))
    text, steps, total = _beginning(rng, name, thing, boxes=rng.random() < 0.4)
    wanted = f"How many {thing} has {name} ?"
    while len(steps) < n_steps:
        bags = [b for b in BAGS if total % b == 0 and total > b]
        if len(steps) == n_steps - 1 and bags and rng.random() < 0.4:
            b = int(rng.choice(bags))
            text += f" {name} fills {b} bags ."
            steps.append(f"A bag has << {total} / {b} = {total // b} >> {total // b} {thing} .")
            wanted, total = f"How many {thing} has a bag ?", total // b
            continue
        b = int(rng.choice(OPERANDS))
        gains = total + b <= MOST and (total - b < 1 or rng.random() < 0.5)
        after, sign = (total + b, "+") if gains else (total - b, "-")
        text += f" {name} {rng.choice(GAINS if gains else LOSSES)} {b} {thing} ."
        steps.append(f"{name} has << {total} {sign} {b} = {after} >> {after} {thing} .")
        total = after
    solution = "\n".join([*steps, f"#### {total}"])
    return Worked({"question": f"{text} {wanted}", "answer": solution}, f" {solution}")


def _beginning(
    rng: np.random.Generator, name: str, thing: str, boxes: bool
) -> tuple[str, list[str], int]:
    """The first sentence, the steps to solve it, and the number of things."""
    if not boxes:
        number = int(rng.integers(MOST // 8, MOST * 3 // 4))
        return f"{name} has {number} {thing} .", [], number
    while (n := int(rng.choice(BOXES))) * (each := int(rng.choice(IN_A_BOX))) > MOST:
        pass
    total = n * each
    step = f"{name} has << {n} * {each} = {total} >> {total} {thing} ."
    return f"{name} has {n} boxes of {each} {thing} .", [step], total


def _texts() -> list[str]:
    numbers = [f"{n} ({n})" for n in range(1, MOST + 1)]
    other = "Q: has boxes of . fills bags . How many has a bag ?\nA: A bag has << >> .\n####"
    return [*map("".join, facts()), *numbers, other, *NAMES, *THINGS, *GAINS, *LOSSES]


WORLD = World(GSM8KTask(), facts, draw, _texts)
