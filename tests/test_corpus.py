import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.tasks.arithmetic import (
    ArithmeticTask,
    arithmetic_vocabulary,
    held_out,
    parse_problem,
    scratchpad,
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


def test_the_shares_are_kept():
    documents = texts(ArithmeticCorpus(n_documents=2000, facts=6, plain=1, hinted=3))
    hinted = sum(map(is_hinted, documents))
    plain = sum(map(is_sum, documents)) - hinted
    assert len(documents) == 2000
    # Six standard deviations of a binomial.
    assert abs(hinted - 600) < 6 * 21
    assert abs(plain - 200) < 6 * 14


def test_the_corpus_is_the_same_each_time_and_follows_its_seed():
    assert texts(ArithmeticCorpus(200)) == texts(ArithmeticCorpus(200))
    assert texts(ArithmeticCorpus(200)) != texts(ArithmeticCorpus(200, seed=1))


@pytest.mark.parametrize("digits", [(1, 2, 3, 4, 5), (6, 7, 8, 9, 10)])
@pytest.mark.parametrize("seed", [0, 1, 7])
def test_no_validation_problem_is_in_the_corpus(digits, seed):
    shares = tuple(float(n in digits) for n in range(1, max(digits) + 1))
    corpus = ArithmeticCorpus(
        1500, facts=0.4, plain=0.3, hinted=0.3, plain_digits=shares, hinted_digits=shares,
        seed=seed,
    )  # fmt: skip
    validation = ArithmeticTask(digits=digits, n_validation=500, seed=seed).questions(VALIDATION)
    forbidden = {frozenset(parse_problem(q.text)) for q in validation}
    seen = set()
    for text in texts(corpus):
        if is_sum(text):
            seen.add(frozenset(parse_problem(text.splitlines()[1])))
            continue
        # A fact of one digit with no result and no carry is a whole problem.
        for line in text.splitlines():
            operands, _, rest = line.partition(" ,")
            if operands and rest == " C: 0":
                seen.add(frozenset(parse_problem(operands)))
    assert seen
    assert not seen & forbidden


def test_sums_are_right_and_have_loss_on_the_completion_only():
    for hinted in (False, True):
        (prompt, prompt_loss), (completion, loss) = sum_document(29, 57, hinted)
        assert prompt == f"Input:\n2 9 + 5 7\nTarget:{' 8 6' if hinted else ''}\n"
        assert completion == scratchpad(29, 57)
        assert (prompt_loss, loss) == (False, True)


def test_facts_are_right_steps():
    rng = np.random.default_rng(0)
    for _ in range(300):
        spans = fact_document(rng, 4)
        assert [loss for _, loss in spans] == [False, True] * 4
        for (before, _), (after, _) in zip(spans[::2], spans[1::2], strict=True):
            operands, _, rest = before.strip().partition(",")
            a, b = parse_problem(operands)
            result, _, carry = rest.partition("C:")
            total = a + b + int(carry)
            expected = " ".join([str(total % 10), *result.split()])
            assert after == f", {expected} C: {total // 10}\n"
            if held_out(np.array(a), np.array(b)):
                assert result.split() or int(carry)


def test_all_two_hundred_facts_can_occur():
    rng = np.random.default_rng(0)
    seen = set()
    for before, loss in fact_document(rng, 20_000):
        if not loss:
            operands, _, rest = before.partition(",")
            seen.add((*parse_problem(operands), int(rest.partition("C:")[2])))
    assert len(seen) == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"facts": -1.0},
        {"facts": 0.0, "plain": 0.0, "hinted": 0.0},
        {"plain_digits": (0.0,)},
        {"hinted_digits": (-1.0, 2.0)},
    ],
)
def test_shares_that_mean_nothing_are_refused(fields):
    with pytest.raises(UserError, match="shares"):
        ArithmeticCorpus(50, **fields).documents(VOCABULARY)
