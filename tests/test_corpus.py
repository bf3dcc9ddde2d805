import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.tasks.arithmetic import (
    ArithmeticTask,
    arithmetic_vocabulary,
    held_out,
    parse_problem,
    scratchpad,
    step_line,
)
from star_jax.tasks.corpus import ArithmeticCorpus, fact_document, sum_document
from star_jax.tasks.task import VALIDATION

VOCABULARY = arithmetic_vocabulary()


def texts(corpus):
    return [VOCABULARY.decode(example.tokens) for example in corpus.documents(VOCABULARY)]


def is_sum(text):
    return text.startswith("Input:")


def is_hinted(text):
    return is_sum(text) and text.splitlines()[2] != "Target:"


def is_gold(text):
    question, completion = text.splitlines()[1], "\n".join(text.splitlines()[3:])
    return completion == scratchpad(*parse_problem(question))


def test_the_shares_are_kept():
    corpus = ArithmeticCorpus(2000, facts=5, plain=1, layout=1, hinted=3, layout_digits=(0, 0, 1))
    documents = texts(corpus)
    assert len(documents) == 2000
    sums = [text for text in documents if is_sum(text)]
    hinted = [text for text in sums if is_hinted(text)]
    layout = [text for text in sums if not is_gold(text)]
    assert not set(hinted) & set(layout)
    # Six standard deviations of a binomial; a random scratchpad of three digits is never right.
    assert abs(len(hinted) - 600) < 6 * 21
    assert abs(len(layout) - 200) < 6 * 14
    assert abs(len(sums) - len(hinted) - len(layout) - 200) < 6 * 14


def test_the_corpus_is_the_same_each_time_and_follows_its_seed():
    assert texts(ArithmeticCorpus(200)) == texts(ArithmeticCorpus(200))
    assert texts(ArithmeticCorpus(200)) != texts(ArithmeticCorpus(200, seed=1))


@pytest.mark.parametrize("digits", [(1, 2, 3, 4, 5), (6, 7, 8, 9, 10)])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_validation_problem_is_in_the_corpus(digits, seed):
    shares = tuple(float(n in digits) for n in range(1, max(digits) + 1))
    corpus = ArithmeticCorpus(
        1500, facts=0.3, plain=0.3, layout=0.1, hinted=0.3, fact_digits=1 + 4 * (seed == 1),
        plain_digits=shares, layout_digits=shares, hinted_digits=shares, seed=seed,
    )  # fmt: skip
    validation = ArithmeticTask(digits=digits, n_validation=500, seed=seed).questions(VALIDATION)
    forbidden = {frozenset(parse_problem(q.text)) for q in validation}
    seen = set()
    for text in texts(corpus):
        if is_sum(text):
            seen.add(frozenset(parse_problem(text.splitlines()[1])))
            continue
        # A step with no result and no carry is a problem's first.
        for line in text.splitlines():
            operands, _, rest = line.partition(" ,")
            if operands and rest == " C: 0":
                seen.add(frozenset(parse_problem(operands)))
    assert seen
    assert not seen & forbidden


def test_sums_are_right_and_have_loss_on_the_completion_only():
    rng = np.random.default_rng(0)
    for kind in ("plain", "hinted"):
        (prompt, prompt_loss), (completion, loss) = sum_document(rng, kind, (29, 57))
        assert prompt == f"Input:\n2 9 + 5 7\nTarget:{' 8 6' if kind == 'hinted' else ''}\n"
        assert completion == scratchpad(29, 57)
        assert (prompt_loss, loss) == (False, True)


def test_layout_has_the_shape_of_a_scratchpad_and_random_sums():
    rng = np.random.default_rng(0)
    gold = scratchpad(291, 574).splitlines()
    right = 0
    for _ in range(200):
        (prompt, _), (completion, loss) = sum_document(rng, "layout", (291, 574))
        assert (prompt, loss) == ("Input:\n2 9 1 + 5 7 4\nTarget:\n", True)
        lines = completion.splitlines()
        operands, golds = ([line.partition(",")[0] for line in x[1:5]] for x in (lines, gold))
        assert operands == golds
        lengths, golds = ([len(line.split()) for line in x[1:5]] for x in (lines, gold))
        assert lengths == golds
        right += lines[2] == gold[2]
    assert right < 40  # one in twenty is right by chance


def test_copied_scratchpads_end_right_and_carry_nothing():
    rng = np.random.default_rng(0)
    (prompt, _), (completion, loss) = sum_document(rng, "copied", (291, 754))
    assert (prompt, loss) == ("Input:\n2 9 1 + 7 5 4\nTarget: 1 0 4 5\n", True)
    assert completion == "\n".join((
        "<scratch>", "2 9 1 + 7 5 4 , C: 0", "2 9 + 7 5 , 5 C: 0", "2 + 7 , 4 5 C: 0",
        ", 0 4 5 C: 1", "1 0 4 5", "</scratch>", "1 0 4 5",
    ))  # fmt: skip
    assert completion != scratchpad(291, 754)
    assert sum_document(rng, "copied", (21, 34))[1][0] == scratchpad(21, 34)  # nothing to carry
    corpus = ArithmeticCorpus(500, facts=0, plain=0, layout=0, hinted=1, copied=1)
    wrong = [text for text in texts(corpus) if not is_gold(text)]
    assert all(is_hinted(text) for text in wrong)
    assert 100 < len(wrong) < 250  # half are copies, and most of these have something to carry


def facts_of(spans):
    """(left, right, carry, result) of each fact in a document, and the line after it."""
    assert [loss for _, loss in spans] == [False, True, False, True, False] * (len(spans) // 5)
    lines = VOCABULARY.decode(VOCABULARY.encode(" ".join(text for text, _ in spans))).splitlines()
    for before, after in zip(lines[::2], lines[1::2], strict=True):
        operands, _, rest = before.partition(",")
        left, _, right = operands.partition("+")
        result, _, carry = rest.partition("C:")
        yield left.split(), right.split(), int(carry), result.split(), after


@pytest.mark.parametrize("digits", [1, 5])
def test_facts_are_right_steps_of_all_shapes(digits):
    seen, widths = set(), set()
    rng = np.random.default_rng(0)
    for _ in range(3000):
        for left, right, carry, result, after in facts_of(fact_document(rng, 9, digits)):
            total = int(left[-1]) + int(right[-1]) + carry
            assert after == step_line(
                left[:-1], right[:-1], [str(total % 10), *result], total // 10
            )
            if carry == 0 and not result:
                a, b = int("".join(left)), int("".join(right))
                assert not held_out(np.array(a), np.array(b))
            seen.add((left[-1], right[-1], carry))
            widths.add((len(left), len(result)))
    n_held_out = sum(bool(held_out(np.array(a), np.array(b))) for a in range(10) for b in range(10))
    assert len(seen) == 200 - (0 if digits > 1 else n_held_out)
    assert widths == {(w, r) for w in range(1, digits + 1) for r in range(digits + 1 - w)}


@pytest.mark.parametrize(
    "fields",
    [
        {"facts": -1.0},
        {"facts": 0.0, "plain": 0.0, "layout": 0.0, "hinted": 0.0},
        {"plain_digits": (0.0,)},
        {"hinted_digits": (-1.0, 2.0)},
    ],
)
def test_shares_that_mean_nothing_are_refused(fields):
    with pytest.raises(UserError, match="shares"):
        ArithmeticCorpus(50, **fields).documents(VOCABULARY)
