import dataclasses
import os
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from star_jax.loop.filters import NoHintLeak, RightAnswer, RightSteps, keep, step_counts
from star_jax.records import GENERATED, RATIONALIZED, Question
from star_jax.tasks import steps
from star_jax.tasks.arithmetic import ArithmeticTask, make_question, scratchpad
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.jsonl import JsonlTask
from star_jax.tasks.task import TRAIN, VALIDATION
from tests.tiny import attempt_of

SUMS, GSM = ArithmeticTask(), GSM8KTask()
SUM = make_question("29+57", 29, 57)
GOLD = "<scratch>\n2 9 + 5 7 , C: 0\n2 + 5 , 6 C: 1\n, 8 6 C: 0\n0 8 6\n</scratch>\n8 6"
PROBLEM = Question(
    "p", "Ann has 3 boxes of 8 pens. How many?", "24", solution="<<3*8=24>>24\n#### 24"
)


# Scratchpads.


@pytest.mark.parametrize(
    "completion",
    [
        GOLD,
        GOLD + "\n",
        GOLD + "\n\nInput:\n1 + 1\nTarget:\n<scratch>\n1 + 1 , C: 0\n, 7 C: 0",  # is cut off
    ],
)
def test_the_methods_own_scratchpad_is_right(completion):
    assert SUMS.read(SUM, completion).steps_right is True
    assert SUMS.read(SUM, completion).n_steps == 2


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("2 9 + 5 7 ,", "5 7 + 2 9 ,"),  # operands in the other order
        ("2 9 + 5 7 ,", "2 9 + 5 8 ,"),  # operands of another problem
        (", C: 0\n2", ", C: 1\n2"),  # a carry before the first digit
        ("2 + 5 , 6 C: 1", "2 + 6 , 6 C: 1"),  # an operand that changed
        ("2 + 5 , 6 C: 1", "2 + 5 , 5 C: 1"),  # a wrong digit, right afterwards
        ("2 + 5 , 6 C: 1", "2 + 5 , 6 C: 0"),  # a lost carry, right afterwards
        ("2 + 5 , 6 C: 1\n", ""),  # a step left out
        ("2 + 5 , 6 C: 1\n", "2 + 5 , 6 C: 1\n2 + 5 , 6 C: 1\n"),  # a step taken twice
        (", 8 6 C: 0", ", 6 8 C: 0"),  # digits in the wrong place
        (", 8 6 C: 0", ", 8 6 C: 0 "),  # not as the method writes it
        ("0 8 6\n", "8 6\n"),  # the last carry is not written out
        ("0 8 6\n", "0 8 7\n"),  # not the digits that were found
        ("0 8 6\n", ""),
        ("</scratch>\n", ""),
        ("<scratch>\n", ""),
        ("\n8 6", "\n8 7"),  # an answer that is not the scratchpad's
        (GOLD, "8 6"),
        (GOLD, "<scratch>\n</scratch>\n8 6"),
        (GOLD, ""),
    ],
)
def test_one_wrong_line_makes_a_scratchpad_wrong(right, wrong):
    assert GOLD.count(right) >= 1
    assert SUMS.read(SUM, GOLD.replace(right, wrong, 1)).steps_right is False


def test_a_flawless_scratchpad_of_another_problem_is_wrong():
    other = scratchpad(57, 29)  # ends in the same answer
    assert SUMS.is_correct(SUM, SUMS.read(SUM, other).answer)
    assert SUMS.read(SUM, other).steps_right is False
    assert SUMS.read(make_question("", 57, 29), other).steps_right is True


@st.composite
def pairs(draw):
    n = draw(st.integers(1, 8))
    numbers = st.integers(10 ** (n - 1) if n > 1 else 0, 10**n - 1)
    return draw(numbers), draw(numbers)


@given(pairs())
@settings(deadline=None)
def test_gold_scratchpads_are_right_and_none_of_their_digits_may_change(pair):
    question, gold = make_question("", *pair), scratchpad(*pair)
    assert SUMS.read(question, gold).steps_right is True
    assert SUMS.read(SUM, gold).n_steps == len(str(pair[0]))
    for i, character in enumerate(gold):
        for other in "0123456789" if character.isdigit() else "":
            changed = gold[:i] + other + gold[i + 1 :]
            assert SUMS.read(question, changed).steps_right is (other == character)


@pytest.mark.parametrize(
    ("completion", "n"),
    [
        (scratchpad(99_999, 1_0000), 5),
        ("<scratch>\n2 9 + 5 7 , C: 0\n2 + 5 , 6 C: 1\n, 8", 1),  # cut at the token limit
        (
            "<scratch>\n1 + 1 , C: 0\n, 3 C: 0\n, 3 C: 0\n0 3\n</scratch>\n3",
            2,
        ),  # wrong, yet counted
        ("<scratch>\n2 9 + 5 7 , C: 0", 0),
        ("8 6", 0),
        ("", 0),
    ],
)
def test_digit_steps_are_counted_right_or_wrong(completion, n):
    assert SUMS.read(SUM, completion).n_steps == n


def test_what_has_no_scratchpad_cannot_be_checked():
    direct = ArithmeticTask(direct=True)
    assert direct.read(SUM, "8 6").steps_right is None and direct.read(SUM, "8 6").n_steps is None
    uneven = SUMS.make_question("u", "129+5")  # a user's; the method's layout wants equal lengths
    assert SUMS.read(uneven, GOLD).steps_right is None
    made = attempt_of(SUMS, uneven, GOLD)
    assert (made.reading.n_steps, made.reference_steps) == (2, None)


# Calculations.


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("48/2", 24),
        ("560//10", 56),
        ("180//3*2", 120),
        ("2+3*4", 14),
        ("(2+3)*4", 20),
        ("10-2-3", 5),
        ("100/5/2", 10),
        ("-3+5", 2),
        ("2*-3", -6),
        ("-(2-5)*2", 6),
        ("--4", 4),
        ("+30+46", 76),
        ("3*+6", 18),
        (".5*3.", Fraction(3, 2)),
        ("1/3", Fraction(1, 3)),
        ("1/3*3", 1),
        ("0.1+0.2", Fraction(3, 10)),
        ("20%*1,500", 300),
        ("1,234,567.5*2", 2_469_135),
        ("(10+10)%", Fraction(1, 5)),
        ("-5%", Fraction(-1, 20)),
        ("8+50%*4", 10),
        (" 3 * ( 4 + 5 ) ", 27),
        ("7", 7),
        ("0042", 42),
        ("(" * 99 + "7" + ")" * 99, 7),
    ],
)
def test_calculations_have_their_exact_value(text, value):
    assert steps.evaluate(text) == value


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "()", "+", "-", "%", "3+", "*3", "3 4", "3(4)", "(3)(4)", "(3", "3)", ")3(",
        "1)+(2", "2**3", "7//2", "7%2", "%5", "2^3", "5!", "1/0", "1/(3-3)", "0/0", "x", "3x4",
        "3 x 4", "$5*3", "1,00", "1,0000", "12345,678", "1,2,3", "1.2.3", "1e3", "0x10", "1_000",
        "\u0663+\u0663", "3\u00d74", "inf", "nan", "1=1", "__import__('os')", "().__class__",
        "9" * 201, "(" * 201, "\x00", "3;4",
    ],
)  # fmt: skip
def test_what_is_no_calculation_has_no_value(text):
    assert steps.evaluate(text) is None


def leaf():
    digits = st.integers(0, 99_999)
    return st.one_of(
        digits.map(lambda n: (str(n), Fraction(n), 4)),
        digits.map(lambda n: (f"{n:,}", Fraction(n), 4)),
        st.tuples(digits, st.integers(0, 99)).map(
            lambda p: (f"{p[0]}.{p[1]:02d}", p[0] + Fraction(p[1], 100), 4)
        ),
        digits.map(lambda n: (f"{n}%", Fraction(n, 100), 4)),
    )


def node(children):
    """(text, value, how firmly it holds together), rendered with only the parentheses needed."""

    def within(child, firmness):
        return child[0] if child[2] >= firmness else f"({child[0]})"

    def binary(made):
        left, sign, right, space = made
        firmness = 1 if sign in "+-" else 2
        text = f"{within(left, firmness)}{space}{sign}{space}{within(right, firmness + 1)}"
        x, y = left[1], right[1]
        if sign == "/":
            return (text, None if y == 0 or None in (x, y) else x / y, 2)
        value = (
            None if None in (x, y) else {"+": x.__add__, "-": x.__sub__, "*": x.__mul__}[sign](y)
        )
        return (text, value, firmness)

    def negative(child):
        return (f"-{within(child, 3)}", None if child[1] is None else -child[1], 3)

    spaces = st.sampled_from(["", " "])
    operations = st.tuples(children, st.sampled_from("+-*/"), children, spaces)
    return st.one_of(operations.map(binary), children.map(negative))


@given(st.recursive(leaf(), node, max_leaves=12))
@settings(deadline=None, max_examples=300)
def test_any_expression_has_the_value_that_fractions_give(made):
    text, value, _ = made
    assert steps.evaluate(text) == (value if len(text) <= steps.LONGEST else None)


# Calculator marks.


@pytest.mark.parametrize(
    "rationale",
    [
        "<<48/2=24>>24",
        "Half: 48/2 = $<<48/2=24>>24 clips",
        "<<48/2=24>>",  # nothing behind it
        "<<48/2=24>> clips",
        "<<48/2=24>>\n7 more",  # the next line is another matter
        "<<48/2=24.0>>24",
        "<<500*2=1,000>>1000",
        "<<500*2=1000>>$1,000.00",
        "<<1,000,000*1,000,000=1,000,000,000,000>>1,000,000,000,000",
        "<<1.5*3=4.50>>4.5",
        "<< 48 / 2 = 24 >>24",
        "<<3-8=-5>>-5",
        "<<10*12=$120>>$120",
        "<<24=24>>24",
        "<<3/4=.75>>3/4",
        "<<21/2=10.5>>10 1/2",
        # rounded, or cut off, to the decimals that are written
        "<<10/3=3.33>>3.33",
        "<<20/3=6.67>>6.7",
        "<<20/3=6.66>>6.66",
        "<<-20/3=-6.66>>-6.66",
        "<<1/8=0.13>>0.12",
        "<<1/8=0.12>>0.13",
        # percents: a unit or hundredths
        "<<20/40*100=50>>50%",
        "<<20/40*100=50%>>50%",
        "<<20/40=50%>>50%",
        "<<20/40=0.5>>50%",
        "<<1/3=33.3%>>33.3%",
        "<<3*8=24>>24 and <<24/2=12>>12\n<<12-2=10>>10",
    ],
)
def test_right_marks(rationale):
    assert steps.marks_right(rationale) is True


@pytest.mark.parametrize(
    "rationale",
    [
        "<<48/2=25>>25",
        "<<48/2=25>>24",
        "<<48/2=24>>25",  # what is said is not what was calculated
        "<<48/2=24>> 25",
        "<<48/2=24>>$25",
        "<<48/2=24>>-24",
        "<<48/2=24>>24.5",
        "<<48/2=24>>240",
        "<<48/2=24>>1/0",
        "<<3-8=5>>5",
        "<<10/3=3>>3",  # a whole number is not rounded
        "<<10/3=4>>4",
        "<<7/2=3>>3",
        "<<10/3=3.34>>3.34",
        "<<10/3=3.32>>3.32",
        "<<20/3=6.65>>6.65",
        "<<2.1*1.2=2.6>>2.6",  # neither rounded nor cut off
        "<<-20/3=-6.68>>-6.68",
        "<<-1/100=0.1>>0.1",
        "<<-5/9=0.5>>0.5",
        "<<1.2+1.2=2.3>>2.3",
        "<<1/3=33%>>33%",
        "<<20/40=5%>>5%",
        "<<20/40=50>>50",
        # broken
        "<<48/2>>24",
        "<<=24>>24",
        "<<48/2=>>24",
        "<<>>24",
        "<<48/2=24",
        "<<48/2=24>24",
        "<<48/2=24\n>>24",
        "<<48/2==24>>24",
        "<<48/2=24=24>>24",
        "<<48/2=12*2>>24",
        "<<48/2=x>>24",
        "<<half of 48=24>>24",
        "<<<<48/2=24>>>>24",
        "<<5/0=0>>0",
        "<<7//2=3>>3",
        f"<<{'1+' * 100}1=101>>101",  # too long to be looked at
        # one wrong among right ones
        "<<3*8=24>>24\n<<24/2=13>>13\n<<13-3=10>>10",
        "<<3*8=24>>24 <<",
    ],
)
def test_wrong_and_broken_marks(rationale):
    assert steps.marks_right(rationale) is False


@pytest.mark.parametrize(
    ("rationale", "n"),
    [
        ("", 0),
        ("48/2 = 25 clips, 3 < 4 and 4 > 3", 0),
        ("<<48/2=24>>24", 1),
        ("<<48/2=24>>24 <<oh>> <<1+1=2", 3),
        ("<<a\n<<b", 2),
    ],
)
def test_marks_are_counted_and_without_any_there_is_no_verdict(rationale, n):
    assert steps.count_marks(rationale) == n
    assert (steps.marks_right(rationale) is None) is (n == 0)


def test_only_what_belongs_to_the_answer_is_checked():
    right = " <<3*8=24>>24\n#### 24"
    for more in ("\n<<1+1=3>>3", "\n\nQ: And?\nA: <<1+1=3>>3\n#### 3", " <<1+1=3>>3"):
        assert GSM.read(PROBLEM, right + more).steps_right is True
        assert GSM.read(PROBLEM, right + more).n_steps == 1
    unfinished = " <<3*8=24>>24\n\nQ: And?\nA: <<1+1=3>>3"
    assert (
        GSM.read(PROBLEM, unfinished).steps_right is True
        and GSM.read(PROBLEM, unfinished).n_steps == 1
    )
    assert GSM.read(PROBLEM, " <<3*8=25>>24\n#### 24").steps_right is False
    assert GSM.read(PROBLEM, " 24, of course\n#### 24").steps_right is None
    assert GSM.read(PROBLEM, " 24, of course\n#### 24").n_steps == 0
    direct = GSM8KTask(direct=True)
    assert (
        direct.read(PROBLEM, right).steps_right is None
        and direct.read(PROBLEM, right).n_steps is None
    )


HOSTILE = [
    "<<" * 50_000,
    "<<>>" * 25_000,
    "<<" + "(" * 100_000 + "=1>>",
    "<<" + "-" * 150 + "1=1>>" + "1" * 100_000,
    ("<<" + "(" * 90 + "1" + ")" * 90 + "=1>>1") * 500,
    ("<<" + "1/7+" * 45 + "1=1>>1") * 500,
    ("<<" + "9" * 98 + "*" + "9" * 98 + "=1>>1") * 500,
    "<<1=1>>1" * 3_000,
    "<<1=1>>" + "1," * 50_000,
    "<<1=" + "." * 100_000 + ">>",
    "<<1=" + "1" * 100_000 + ">>",
    "<<1=" + "1,111" * 20_000 + " " * 50_000 + ">>",
    "<<" + "=" * 100_000 + ">>",
    "<<9%" + "%" * 190 + "=1>>",
    "<scratch>\n" + "C: " * 30_000,
    "<scratch>" + "\n" * 100_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_is_judged_quickly(text):
    start = time.process_time()
    steps.count_marks(text), steps.count_digit_steps(text)
    assert steps.marks_right(text) in (False, None, True)
    assert steps.evaluate(text) is None
    assert time.process_time() - start < 5  # half a second at most; quadratic, it takes minutes


@given(st.one_of(st.text(), st.text("<>=0123456789+-*/().,% $\nC:eE", max_size=300)))
@example("<<=>>")
@settings(deadline=None, max_examples=200)
def test_any_text_gets_a_verdict(text):
    steps.evaluate(text)
    for rationale in (text, f"<<{text}>>", f"<<1=1>>{text}", f"<<{text}=1>>1"):
        n = steps.count_marks(rationale)
        assert (steps.marks_right(rationale) is None) is (n == 0)
        assert GSM.read(PROBLEM, rationale).steps_right in (True, False, None)
        assert SUMS.read(SUM, rationale).steps_right is False


# The other tasks.


def test_tasks_without_a_checker_have_no_verdict():
    task = CommonsenseQATask()
    question = task.make_question("q", "Which is wet? (a) sand (b) rain")
    assert task.read(question, " Rain is. (b).").steps_right is None
    assert task.read(question, " Rain is. (b).").n_steps is None


def test_a_users_numbers_may_have_marks_and_need_not(tmp_path):
    task = JsonlTask(path="mine.jsonl", answer_kind="number")
    question = Question("q", "3 boxes of 8?", "24")
    end = "\nThe answer is 24"
    assert task.read(question, f" <<3*8=24>>24{end}\n<<1=2>>2").steps_right is True
    assert task.read(question, f" <<3*8=25>>24{end}").steps_right is False
    assert task.read(question, f" 3*8 is 24{end}").steps_right is None
    assert task.read(question, f" <<3*8=24>>24 <<24=24>>24{end} <<1=1>>").n_steps == 2
    assert task.read(question, f" 3*8 is 24{end}").n_steps is None
    shifts = dataclasses.replace(task, answer_kind="text")  # "<<" may mean anything in a text
    for other in (shifts, dataclasses.replace(task, direct=True)):
        assert other.read(question, f" cout << 3{end}").steps_right is None
        assert other.read(question, f" cout << 3{end}").n_steps is None


# Reading and the filter.

PAPER = (RightAnswer(), NoHintLeak())


def test_an_attempt_has_its_steps_and_the_references():
    made = attempt_of(GSM, PROBLEM, " <<2*8=16>>16 <<16+8=24>>24\n#### 24")
    assert (made.reading.n_steps, made.reference_steps) == (2, 1)
    made = attempt_of(SUMS, SUM, "<scratch>\n2 9 + 5 7 , C: 0\n, 8 6 C: 0\n0 8 6\n</scratch>\n8 6")
    assert (made.reading.n_steps, made.reference_steps) == (1, 2)
    users = GSM.make_question("u", "How many?")  # has no solution to compare with
    assert attempt_of(GSM, users, " 1\n#### 1").reference_steps is None
    dropped = attempt_of(GSM, PROBLEM, None)
    assert (dropped.reading.n_steps, dropped.reference_steps) == (None, 1)


def test_wrong_steps_are_marked_and_dropped_only_by_their_filter():
    wrong = GOLD.replace("6 C: 1", "7 C: 1")  # a right answer from wrong steps
    attempts = [
        attempt_of(SUMS, SUM, GOLD),
        attempt_of(SUMS, SUM, wrong),
        attempt_of(SUMS, SUM, wrong, hinted=True),
        attempt_of(SUMS, SUM, GOLD, hinted=True),
        attempt_of(SUMS, SUM, wrong.replace("\n8 6", "\n8 7"), hinted=True),  # wrong, never kept
    ]
    kept, _ = keep(attempts, PAPER)
    assert [(k.source, k.reading.steps_right) for k in kept] == [
        (GENERATED, True), (GENERATED, False), (RATIONALIZED, False), (RATIONALIZED, True),
    ]  # fmt: skip
    assert [k.trimmed for k in kept] == [GOLD, wrong, wrong, GOLD]
    strict, dropped = keep(attempts, (*PAPER, RightSteps()))
    assert strict == [kept[0], kept[3]]
    assert dropped["right_steps"] == {"generate": 1, "rationalize": 1}
    assert step_counts(attempts) == {
        "generate": {"attempts": 2, "right": 2, "checkable": 2, "right_steps": 1},
        "rationalize": {"attempts": 3, "right": 2, "checkable": 2, "right_steps": 1},
    }


def test_the_filter_keeps_what_cannot_be_checked_and_counts_it_apart():
    attempts = [
        attempt_of(GSM, PROBLEM, " Three eights.\n#### 24"),
        attempt_of(GSM, PROBLEM, " <<3*8=24>>24\n#### 24"),
        attempt_of(GSM, PROBLEM, " <<3*8=26>>24\n#### 24"),
    ]
    assert [a.reading.steps_right for a in attempts] == [None, True, False]
    assert keep(attempts, (*PAPER, RightSteps()))[0] == attempts[:2]
    assert step_counts(attempts)["generate"] == {
        "attempts": 3, "right": 3, "checkable": 2, "right_steps": 1,
    }  # fmt: skip


# The data.


def test_every_step_of_our_exemplars_is_right():
    exemplars = GSM.exemplars()
    assert len(exemplars) >= 6
    assert all(GSM.read(question, completion).steps_right for question, completion in exemplars)


@pytest.mark.slow
@pytest.mark.skipif(
    "STAR_JAX_DATA" not in os.environ, reason="STAR_JAX_DATA is not set to the folder of the data"
)
def test_the_published_solutions_are_right_in_every_step():
    """All but two, which have Python's "//" in a mark: "<<560//10=56>>"."""
    file = Path(os.environ["STAR_JAX_DATA"]) / "gsm8k/train.jsonl"
    task = GSM8KTask(train_file=str(file), held_out=473)
    questions = task.questions(TRAIN) + task.questions(VALIDATION)
    attempts = [attempt_of(task, q, task.gold_completion(q)) for q in questions]
    counts = step_counts(attempts)["generate"]
    assert (counts["right"], counts["checkable"], counts["right_steps"]) == (7473, 7378, 7376)
    wrong = [a for a in attempts if a.reading.steps_right is False]
    assert all("//" in attempt.completion for attempt in wrong)
    assert sum(a.reading.n_steps for a in attempts) == 23_716
    assert all(a.reading.n_steps == a.reference_steps for a in attempts)
