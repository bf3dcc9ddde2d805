"""What real-looking outputs of models are read as, right and wrong and unreadable ones."""

import random
import time
from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from star_jax.tasks.readers import numbers
from star_jax.tasks.readers.choices import ChoiceReader
from star_jax.tasks.readers.conclusions import BoxReader, ConclusionReader
from star_jax.tasks.readers.numbers import NumberReader, canonical, same_number, to_number

CHOICES = {
    "a": "shirt pocket", "b": "calligrapher's hand", "c": "inkwell", "d": "desk drawer",
    "e": "blotter",
}  # fmt: skip
BECAUSE = " The answer must be used to absorb extra ink. Blotters are made to absorb liquids."
THEREFORE = BECAUSE + " Therefore, the answer is"


def read_choice(output, choices):
    return ChoiceReader(choices).read(output)


def read_number(output, mark=numbers.MARK):
    return NumberReader(mark).read(output)


# An output, and the letter it concludes with.
CHOICE_OUTPUTS = [
    # As in the paper's prompts, and small departures from them.
    (f"{THEREFORE} blotter (e).", "e"),
    (f"{THEREFORE} blotter (e)", "e"),
    (f"{THEREFORE} blotter (E).", "e"),
    (f"{THEREFORE} blotter ( e ).", "e"),
    (f"{THEREFORE} blotter(e).", "e"),
    (f"{THEREFORE} blotter (e)!", "e"),
    (f'{THEREFORE} "blotter (e)."', "e"),
    (f"{THEREFORE} blotter **(e)**.", "e"),
    (f"{THEREFORE} blotter (e). ", "e"),
    (f"{THEREFORE} blotter (e).\n", "e"),
    (f"{THEREFORE} (e).", "e"),
    (f"{THEREFORE} (e) blotter.", "e"),
    (f"{THEREFORE} (e) blotter", "e"),
    (f"{THEREFORE} option (e).", "e"),
    (f"{THEREFORE} the choice (d) desk drawer.", "d"),
    (f"{THEREFORE}: (b)", "b"),
    (f"{BECAUSE} So the correct choice is inkwell (c).", "c"),
    (f"{BECAUSE} THEREFORE, THE ANSWER IS INKWELL (C).", "c"),
    (f"{BECAUSE} Of the above choices, inkwell holds ink (c).", "c"),
    (f"{BECAUSE} It must be the desk drawer (d).", "d"),
    ("The answer should be a thing for ink (c).", "c"),
    ("Therefore, the answer is shirt pocket (a).", "a"),
    ("Therefore, the correct answer to this question is (d).", "d"),
    ("Therefore, the answer is calligrapher's hand (b).", "b"),
    # The letter comes before the reason.
    ("The answer is (c) because an inkwell holds ink.", "c"),
    ("The answer is inkwell (c), since it holds ink, and ink is", "c"),
    ("The answer is (c). An inkwell holds ink, while a shirt pocket does not", "c"),
    ("Answer: (d). A desk drawer holds pens.", "d"),
    ("The answer is C because an inkwell holds ink.", "c"),
    ("Option (b) is the correct answer.", "b"),
    ("I believe (b) calligrapher's hand is the right choice, as it writes.", "b"),
    # Nothing but a letter, as direct answers are.
    (" (e).", "e"),
    (" (e)", "e"),
    ("(E)", "e"),
    (" e", "e"),
    (" E.", "e"),
    ("a", "a"),
    (" A)", "a"),
    (" (a) shirt pocket", "a"),
    (" c) Inkwell.", "c"),
    (" d. desk drawer\nThe drawer is where pens lie.", "d"),
    ("(e)\n(e)\n(e)\n(e)", "e"),
    # Letters without parentheses, after "the answer is".
    ("The answer is e.", "e"),
    ("the answer is: D", "d"),
    ("Answer: b", "b"),
    ("The answer is A.", "a"),
    ("The answer is a) shirt pocket.", "a"),
    ("The answer is option a.", "a"),
    ("Answer = C", "c"),
    # Other letters come before.
    ("A pocket (a) gets dirty and a drawer (d) is dry. So the answer is blotter (e).", "e"),
    ("Between (a) or (b), the answer is (b).", "b"),
    ("It is not (a). It is not (b). The answer is (c).", "c"),
    ("The answer is not shirt pocket (a) but blotter (e).", "e"),
    ("The answer is blotter (e), not shirt pocket (a).", "e"),
    ("The answer is blotter (e) rather than the inkwell (c).", "e"),
    ("The answer is (a) at first sight. The answer is (e) at the second, since", "e"),
    ("The answer is (c), which is better than (d) as the ink", "c"),
    ("The answer is C, not (d).", "c"),
    ("The answer is (e), (e), (e).", "e"),
    ("One might say the answer is (a). But ink stains, so the answer is (e).", "e"),
    ("Shirt pocket (a) is too small.\nInkwell (c) is full.\nSo it is blotter (e).", "e"),
    # What comes after this answer is not read.
    (f"{THEREFORE} blotter (e).\n\nQ: What is wet?\nA: The answer is (b).", "e"),
    (f"{THEREFORE} blotter (e).\nQ: What is wet?\nA: The answer is (b).", "e"),
    (f"{THEREFORE} blotter (e). Q: What is wet? (a) sand (b) water A: (b).", "e"),
    (f"{THEREFORE} blotter (e).\n \nTherefore, the answer is inkwell (c).", "e"),
    (f"{THEREFORE} blotter (e).\nTherefore, the answer is inkwell (c).", "e"),
    (f"{THEREFORE} blotter (e).<|endoftext|>The answer is (a).", "e"),
    (f"{THEREFORE} blotter (e).</s> (a).", "e"),
    (f"{THEREFORE} blotter (e). The answer must be used to ab", "e"),
    ("The answer is (d).\nAnswer Choices:\n(a) sand\n(b) water", "d"),
    # No conclusion.
    ("", None),
    (" ", None),
    ("\n", None),
    ("\n\nTherefore, the answer is (c).", None),
    ("Q: What is wet? The answer is (c).", None),
    (BECAUSE, None),
    (f"{THEREFORE} blotter.", None),
    (f"{THEREFORE} a blotter.", None),
    (f"{THEREFORE} a", None),
    (f"{THEREFORE} a.", None),
    (f"{THEREFORE} the", None),
    (f"{THEREFORE} blotter (e", None),
    (f"{THEREFORE} e.g. a blotter.", None),
    (" blotter", None),
    ("He dried the page with a", None),
    ("They need ink and a. ", None),
    ("This is called a.", None),
    ("Plan b is what I would do", None),
    ("I", None),
    ("(c) ink pot", None),
    ("(a) is wrong because it gets dirty", None),
    ("(a) is not the correct answer.", None),
    ("The answer is not (a).", None),
    ("The options are (a) and (b) and more of th", None),
    ("The answer is (a) or (b).", None),
    ("The answer is either shirt pocket (a) or blotter (e).", None),
    ("All of them: (a), (b), (c), (d) and (e).", None),
    ("Both (c) and (e).", None),
    ("It could be (a)/(b).", None),
    ("Answer Choices:\n(a) sand\n(b) water", None),
    ("Answer Choices: (a) sand (b) water", None),
    ("I don't know.", None),
    ("The answer is 3.", None),
    ("#### 12", None),
    # A letter that is no choice's.
    ("Therefore, the answer is blotter (f).", None),
    ("Therefore, the answer is (x).", None),
    ("Z", None),
    ("The answer is F.", None),
]


def test_there_are_enough_real_looking_outputs():
    for table in (CHOICE_OUTPUTS, NUMBER_OUTPUTS):
        assert len({output for output, _ in table}) == len(table) >= 80
        assert sum(answer is None for _, answer in table) >= 20


@pytest.mark.parametrize(("output", "letter"), CHOICE_OUTPUTS)
def test_a_choice_is_the_letter_of_the_conclusion(output, letter):
    reading = read_choice(output, CHOICES)
    assert (reading.text if reading else None) == letter


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        (f"{THEREFORE} blotter (e).\n\nQ: What", f"{THEREFORE} blotter (e)."),
        (f"{THEREFORE} blotter (e).\nQ: What", f"{THEREFORE} blotter (e)."),
        (f"{THEREFORE} blotter (e). It is also", f"{THEREFORE} blotter (e)."),
        (f"{THEREFORE} (e) blotter. It is also", f"{THEREFORE} (e) blotter."),
        (f"{THEREFORE} (e) because blo", f"{THEREFORE} (e)"),
        (f"{THEREFORE} blotter (e).\nSo it is inkwell (c).", f"{THEREFORE} blotter (e)."),
        (" (e)\nA blotter absorbs", " (e)"),
        (" e", " e"),
    ],
)
def test_a_choice_ends_with_its_sentence(output, kept):
    assert output[: read_choice(output, CHOICES).end] == kept


def test_letters_beyond_the_questions_choices_are_no_answers():
    two = {"a": "sand", "b": "water"}
    assert read_choice("The answer is (b).", two).text == "b"
    assert read_choice("The answer is (c).", two) is None
    assert read_choice("g) water", {**CHOICES, "g": "water"}).text == "g"


@pytest.mark.parametrize(
    ("output", "letter"),
    [
        ("Therefore, the answer is did not understand (a).", "a"),
        ("Therefore, the answer is Did Not Understand (a).", "a"),
        ("Therefore, the answer is not did not understand (a) but cannot swim (b).", "b"),
        ("Therefore, the answer is cannot swim (b), not did not understand (a).", "b"),
        ("The answer is not cannot swim (b).", None),
        ("The answer is not to swim (b).", None),
    ],
)
def test_a_not_within_a_choice_denies_nothing(output, letter):
    reading = read_choice(output, {"a": "did not understand", "b": "cannot swim"})
    assert (reading.text if reading else None) == letter


# Numbers.

SUM = " She sold 48/2 = <<48/2=24>>24 clips in May.\nIn all 48+24 = <<48+24=72>>72 clips.\n"

# An output, and the number it ends in.
NUMBER_OUTPUTS = [
    # As in the gold solutions, and small departures from them.
    (f"{SUM}#### 72", "72"),
    (f"{SUM}#### 72\n", "72"),
    (f"{SUM}#### 72.", "72"),
    (f"{SUM}####72", "72"),
    (f"{SUM}####  72  ", "72"),
    (f"{SUM}#### $72", "72"),
    (f"{SUM}#### $72.00", "72"),
    (f"{SUM}#### 72.0", "72"),
    (f"{SUM}#### 072", "72"),
    (f"{SUM}#### +72", "72"),
    (f"{SUM}#### 72 clips", "72"),
    (f"{SUM}#### 72 clips in April and May.", "72"),
    (f"{SUM}#### The answer is 72.", "72"),
    (f"{SUM}#### Answer: 72", "72"),
    (f"{SUM}#### x = 72", "72"),
    (f"{SUM}#### **72**", "72"),
    (f"{SUM}#### \\$72", "72"),
    (f"{SUM}#### $72$", "72"),
    (f"{SUM}#### \\boxed{{72}}", "72"),
    (f"{SUM}#### (72)", "72"),
    (f"{SUM}#### 72%", "72"),
    (f"{SUM}#### 72 %", "72"),
    (f"{SUM}#### 72 percent", "72"),
    (f"{SUM}#### €72", "72"),
    (f"{SUM}#### 72kg", "72"),
    (f"{SUM}#### <<48+24=72>>72", "72"),
    (f"{SUM}##### 72", "72"),
    (f"{SUM[:-1]} #### 72", "72"),
    ("#### 0", "0"),
    ("#### -0", "0"),
    ("#### 7.2e1", "72"),
    ("#### 3E3", "3000"),
    # Thousands, signs, decimals, fractions.
    ("#### 1,080", "1080"),
    ("#### $1,234,567.50", "1234567.5"),
    ("#### 1,000.", "1000"),
    ("#### 2,500,000", "2500000"),
    ("#### -5", "-5"),
    ("#### - 5", "-5"),
    ("#### \u22125", "-5"),
    ("#### -$5", "-5"),
    ("#### $-5", "-5"),
    ("#### minus 5", "-5"),
    ("#### negative 5 degrees", "-5"),
    ("#### 0.5", "0.5"),
    ("#### .5", "0.5"),
    ("#### 3.140", "3.14"),
    ("#### 1/2", "0.5"),
    ("#### 1/3", "1/3"),
    ("#### 2 / 6", "1/3"),
    ("#### -3/4", "-0.75"),
    ("#### 1 1/2", "1.5"),
    ("#### 2 3/4 cups", "2.75"),
    ("#### 10/5", "2"),
    # Only this answer, and in it the first mark.
    (f"{SUM}#### 72\n#### 73", "72"),
    (f"{SUM}#### 72 #### 73", "72"),
    (f"{SUM}#### 72\n\nQ: Ann has 3 pens.\nA: 3\n#### 3", "72"),
    (f"{SUM}#### 72\nQ: Ann has 3 pens.", "72"),
    (f"{SUM}#### 72<|endoftext|>#### 3", "72"),
    (f"{SUM}\n#### 72", "72"),  # four gold solutions have blank lines
    (f"{SUM}#### 72\nThat is 3 dozen and 36.", "72"),
    # No answer.
    ("", None),
    (" ", None),
    (SUM, None),
    (" 72", None),
    ("The answer is 72.", None),
    ("### 72", None),
    ("#### ", None),
    ("####", None),
    ("####\n72", None),
    ("#### seventy-two", None),
    ("#### $", None),
    ("#### -", None),
    ("#### .", None),
    ("#### ,", None),
    ("#### none", None),
    ("#### \n#### 72", None),
    ("Q: Ann has 3 pens.\nA: 3\n#### 3", None),
    ("She sold 72.\nQ: Ann has 3 pens.\n#### 3", None),
    ("#### 5/0", None),
    ("#### x1", None),
    # More than one number, or none that is well formed.
    ("#### 72 or 73", None),
    ("#### 72, 73", None),
    ("#### 70-72", None),
    ("#### 5 to 7", None),
    ("#### 48+24=72", None),
    ("#### 48 + 24", None),
    ("#### 3 x 24 = 72", None),
    ("#### 12:30", None),
    ("#### 1,00", None),
    ("#### 1,0000", None),
    ("#### 1 000", None),
    ("#### 1.2.3", None),
    ("#### 3/4/2020", None),
    ("#### \\frac{3}{4}", None),
    ("#### 1e999", None),
    ("#### 1e-999", None),
]


@pytest.mark.parametrize(("output", "number"), NUMBER_OUTPUTS)
def test_a_number_stands_after_the_first_mark(output, number):
    reading = read_number(output)
    assert (reading.text if reading else None) == number


@pytest.mark.parametrize(
    ("output", "kept"),
    [
        ("x\n#### 72\n\nQ: What", "x\n#### 72"),
        ("x\n#### 72.", "x\n#### 72"),
        ("x\n#### 72 clips.", "x\n#### 72"),
        ("x\n#### 72 % of", "x\n#### 72 %"),
        ("x\n#### <<1+1=2>>2 and", "x\n#### <<1+1=2>>2"),
        ("####1,000.50.", "####1,000.50"),
    ],
)
def test_a_number_ends_with_its_last_digit(output, kept):
    assert output[: read_number(output).end] == kept


@pytest.mark.parametrize(
    ("output", "number"),
    [
        (" 72", "72"),
        ("72 clips", "72"),
        (" $1,000.\nQ: What", "1000"),
        ("\n72", "72"),
        ("The answer is 72.", "72"),
        ("She has 3 boxes of 24", None),
        ("Ann\n72", None),
        ("", None),
    ],
)
def test_without_a_mark_the_first_line_must_have_one_number(output, number):
    reading = read_number(output, mark="")
    assert (reading.text if reading else None) == number


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        ("1,000", "1000", True),
        ("1000.0", "1,000.", True),
        ("$5", "5", True),
        ("50%", "50", True),
        ("1/2", "0.5", True),
        ("1 1/2", "3/2", True),
        ("-3", "3", False),
        ("0.333", "1/3", False),
        ("100000000000000000001", "100000000000000000000", False),
        ("0.1", "0.10000000000000000001", False),
        ("five", "5", False),
        ("five", "five", False),
        ("", "", False),
        ("1 and 2", "1", False),
    ],
)
def test_numbers_are_compared_as_numbers(left, right, same):
    assert same_number(left, right) is same_number(right, left) is same


@given(st.fractions(max_denominator=10**6) | st.decimals(-(10**9), 10**9, places=4).map(Fraction))
def test_a_canonical_number_is_read_as_what_it_was(value):
    text = canonical(value)
    assert to_number(text) == value
    assert canonical(to_number(text)) == text
    assert read_number(f"#### {text}").text == text


@given(st.integers(-(10**15), 10**15))
def test_thousands_are_read_with_and_without_commas(number):
    assert read_number(f"#### {number:,}").text == read_number(f"#### {number}.00").text
    assert read_number(f"#### {number:,}").text == str(number)


# Whatever the text.

SCRAPS = [
    "the answer is",
    " ", "\n", "\n\n", "(", ")", "(a)", "(e).", "(F)", "[c]", "a", "A", "e", ".", ",",
    "The answer must be", "Answer:", "Answer Choices:", "not", "or", "and", "Q:", "A:", "####", "#",
    "<<", ">>", "=", "$", "%", "-", "\u2212", "+", "/", "0", "7", "12", "1,000", "3.50", "e9", "½",
    "٣", "\u2028", "\x00", "\r\n", "é", "😀", "<|endoftext|>", "blotter", "is the correct answer",
    "option", "because", "(CORRECT)", "n't", "\\frac{1}{2}",
    "\\boxed{", "\\boxed{7}", "}", "**7**", "**", "\\]",
]  # fmt: skip


def mutated(output, rng):
    """A real-looking output with a few characters lost, doubled, moved or replaced by scraps."""
    for _ in range(rng.randrange(1, 6)):
        i, j = sorted(rng.randrange(len(output) + 1) for _ in range(2))
        output = rng.choice(
            [
                output[:i] + output[j:],
                output[:j] + output[i:],
                output[j:] + output[:i],
                output[:i] + rng.choice(SCRAPS) + output[i:],
                output[:i] + rng.choice(SCRAPS) + output[j:],
                output.swapcase(),
            ]
        )[:600]
    return output


def check(output):
    """Reading never raises, reads what is allowed, and reads the same of what is kept."""
    concludes, boxed = ConclusionReader().read, BoxReader().read
    assert not (found := boxed(output)) or boxed(output[: found.end]) == found
    choice = lambda x: read_choice(x, CHOICES)  # noqa: E731
    for read in (choice, read_number, lambda x: read_number(x, mark=""), concludes):
        reading = read(output)
        if reading is None:
            continue
        assert 0 < reading.end <= len(output)
        assert read(output[: reading.end]) == reading
        assert reading.text in CHOICES or canonical(to_number(reading.text)) == reading.text


def test_17_500_mutated_outputs_never_raise():
    rng = random.Random(0)
    outputs = [output for output, _ in CHOICE_OUTPUTS + NUMBER_OUTPUTS]
    for _ in range(17_500):
        check(mutated(rng.choice(outputs), rng))


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(SCRAPS), max_size=20).map("".join))
def test_1_500_outputs_of_scraps_never_raise(output):
    check(output)


@settings(max_examples=1000, deadline=None)
@given(st.text())
@example("#### " + "9" * 5000)
@example("#### 1/" + "9" * 5000)
@example("#### 1e99")
@example("#### \ud800")
def test_a_thousand_random_texts_never_raise(output):
    check(output)


LONG = [
    "#### " + "1" * 10_000,
    "#### " + "1," * 10_000,
    "#### " + "1,000" * 5_000,
    "#### 1e" + "9" * 10_000,
    "#### 1/" + "3" * 10_000,
    "#### " + "- " * 10_000,
    "#### " + "<<" * 10_000,
    "#" * 20_000,
    "(a) or " * 3_000,
    "the answer is " * 2_000,
    "answer" + " word" * 5_000,
    "the answer is not " * 1_000 + "(a)",
    "answer" + " " * 20_000,
    "!" + "'" * 10_000,
    "not " + "word " * 5_000 + "(a)",
    "(a) is " * 3_000,
    "((((a" * 5_000,
    "\n " * 10_000,
    "Q" * 20_000,
    "\\boxed{" * 3_000,
    "\\boxed{7} " * 2_000,
    "Answer: 7\n" * 1_000,
    "Answer:" + "\n" * 10_000 + "7",
    "answer" + " word" * 3_000 + ":",
    "**7" * 5_000,
]


@pytest.mark.parametrize("output", LONG, ids=lambda output: repr(output[:20]))
def test_long_outputs_do_not_take_long(output):
    start = time.process_time()
    check(output)
    assert time.process_time() - start < 2.0


def test_a_number_too_long_to_be_meant_is_no_answer():
    assert read_number("#### " + "9" * numbers.LONGEST).text
    assert read_number("#### " + "9" * (numbers.LONGEST + 1)) is None
    assert to_number("9" * 10_000) is None
