"""The attempts that the report's page shows: which ones, what is told of them, how they travel."""

import base64
import collections
import dataclasses
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_jax.errors import UserError
from star_jax.records import GENERATED, RATIONALIZED, RESAMPLED, to_json
from star_jax.reporting import attempts as module
from star_jax.reporting.attempts import (
    EVALUATION,
    MOST_CHARACTERS,
    AttemptsData,
    ShownAttempt,
    StageSample,
    collect_attempts,
)
from star_jax.reporting.page_data import KEPT, as_json, pack
from tests.attempts_data import attempt, kept, write_iteration, write_small_run, wrong

WHOLE = (
    '{"question_id": "q", "completion": %s, "prompt": "", "answer": "", "group": "", '
    '"correct": true, "hinted": false, "ended": true, "n_tokens": %s}'
)
KEPT_Q = to_json(kept(attempt("q"), GENERATED))


def unpacked(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def one(data):
    (sample,) = data.samples
    (shown,) = sample.attempts
    return shown


@pytest.mark.parametrize(
    ("record", "verdict"),
    [
        (attempt("q"), "right"),
        (wrong("q"), "wrong"),
        (wrong("q", answer=None), "unparsed"),
        (wrong("q", answer=None, left_out=True), "left out"),
    ],
)
def test_an_attempt_has_one_of_four_verdicts(tmp_path, record, verdict):
    write_iteration(tmp_path, 0, eval=[record])
    shown = one(collect_attempts({"run": tmp_path}))
    assert (shown.verdict, shown.question, shown.rationale) == (
        verdict,
        record.prompt,
        record.completion,
    )


def test_what_was_trained_on_is_told_apart_by_question_source_and_text(tmp_path):
    first, second = attempt("a", completion="one\nmore"), attempt("a", completion="two")
    hinted = attempt("a", hinted=True)
    write_iteration(
        tmp_path,
        1,
        generations=[first, wrong("b")],
        rationalizations=[hinted],
        resamplings=[first, second],
        train=[
            kept(dataclasses.replace(first, completion="one"), GENERATED, steps_right=True),
            kept(second, RESAMPLED, steps_right=False),
        ],
        eval=[attempt("a")],
    )
    told = {
        sample.stage: {
            (a.question_id, a.rationale): (a.kept, a.steps_right) for a in sample.attempts
        }
        for sample in collect_attempts({"run": tmp_path}).samples
    }
    assert told == {
        GENERATED: {
            ("a", "one\nmore"): (True, True),
            ("b", wrong("b").completion): (False, None),
        },
        RATIONALIZED: {("a", hinted.completion): (False, None)},
        RESAMPLED: {("a", "one\nmore"): (False, None), ("a", "two"): (True, False)},
        EVALUATION: {("a", attempt("a").completion): (None, None)},
    }


def test_nobody_knows_what_is_kept_before_the_filter_has_run(tmp_path):
    write_iteration(tmp_path, 1, generations=[attempt("a")])
    assert one(collect_attempts({"run": tmp_path})).kept is None


def test_the_same_held_out_questions_are_shown_in_every_iteration_and_run(tmp_path):
    names = [f"validation_{i:05d}" for i in range(200)]
    for run, n, order in (("a", 0, 1), ("a", 1, -1), ("b", 0, 1)):
        write_iteration(tmp_path / run, n, eval=[attempt(name) for name in names[::order]])
    runs = {"a": tmp_path / "a", "b": tmp_path / "b"}
    data = collect_attempts(runs, most=90)
    shown = [[a.question_id for a in sample.attempts] for sample in data.samples]
    assert shown[0] == shown[1] == shown[2] and len({*shown[0]}) == 30
    assert (data.n_shown, data.n_total) == (90, 600)
    assert data == collect_attempts(runs, most=90)
    fewer = collect_attempts(runs, most=1)  # never below LEAST_OF_A_STAGE
    assert fewer == data.at_most(module.LEAST_OF_A_STAGE)


def test_the_sample_is_fair_to_groups_that_follow_one_another(tmp_path):
    write_iteration(
        tmp_path, 0, eval=[attempt(f"train_{i:06d}", group=str(i // 1000)) for i in range(5000)]
    )
    (sample,) = collect_attempts({"run": tmp_path}, most=500).samples
    counts = collections.Counter(a.group for a in sample.attempts)
    # 100 each are expected; 3.5 standard deviations of a draw without replacement are 30.
    assert all(70 <= counts[str(group)] <= 130 for group in range(5)), counts


def test_a_question_with_several_attempts_keeps_them_together_in_their_order(tmp_path):
    write_iteration(
        tmp_path, 1, resamplings=[attempt(f"q{i % 40}", completion=str(i)) for i in range(80)]
    )
    (sample,) = collect_attempts({"run": tmp_path}, most=20).samples
    texts = [int(a.rationale) for a in sample.attempts]
    assert texts[1::2] == [n + 40 for n in texts[::2]]


def test_a_long_text_is_cut_and_says_so(tmp_path):
    long = "x" * (MOST_CHARACTERS + 1)
    write_iteration(tmp_path, 0, eval=[attempt("q", completion=long, prompt=long[1:])])
    shown = one(collect_attempts({"run": tmp_path}))
    assert shown.question == long[1:]
    assert shown.rationale.startswith(long[1:] + " […]") and "4,001 characters" in shown.rationale


def test_runs_without_attempts_give_none(tmp_path):
    (tmp_path / "iter_000").mkdir()
    (tmp_path / "report").mkdir()
    assert collect_attempts({"run": tmp_path}) == AttemptsData()
    assert collect_attempts({}) == AttemptsData()


def test_older_records_without_the_newer_fields_are_read(tmp_path):
    write_iteration(tmp_path, 1, generations=[attempt("q")], train=[kept(attempt("q"), GENERATED)])
    for name in ("generations", "train"):
        file = tmp_path / f"iter_001/{name}.jsonl"
        row = json.loads(file.read_text())
        for newer in ("left_out", "n_steps", "reference_steps", "steps_right"):
            row.pop(newer, None)
        file.write_text(json.dumps(row) + "\n\n")
    shown = one(collect_attempts({"run": tmp_path}))
    assert (shown.verdict, shown.kept, shown.steps_right) == ("right", True, None)


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("generations", "{", "line 1: "),
        ("generations", "[]", "found list"),
        ("generations", '{"question_id": "q"}', "KeyError"),
        ("generations", WHOLE % ("3", "1"), "3 is no text"),
        ("generations", WHOLE % ('"x"', "null"), "TypeError"),
        ("train", json.dumps({**KEPT_Q, "steps_right": "yes"}), "steps_right is 'yes'"),
        ("train", json.dumps({**KEPT_Q, "completion": None}), "TypeError"),
        ("train", '{"question_id": "q", "completion"', "line 1: "),
    ],
)
def test_a_malformed_line_is_told_with_its_file(tmp_path, name, line, said):
    write_iteration(tmp_path, 1, generations=[attempt("q")], train=[kept(attempt("q"), GENERATED)])
    (tmp_path / f"iter_001/{name}.jsonl").write_text(line + "\n")
    with pytest.raises(UserError) as error:
        collect_attempts({"run": tmp_path})
    assert str(tmp_path / "iter_001") in str(error.value) and said in str(error.value)
    assert "\n" not in str(error.value)


# How they travel

texts = st.text(st.characters(), max_size=20) | st.sampled_from(["</script>", "\ud800", "\0"])
shown_attempts = st.builds(
    ShownAttempt,
    question_id=texts,
    question=texts,
    rationale=texts,
    answer=texts | st.none(),
    group=texts,
    verdict=st.sampled_from(module.VERDICTS),
    hinted=st.booleans(),
    kept=st.none() | st.booleans(),
    steps_right=st.none() | st.booleans(),
    ended=st.booleans(),
    n_tokens=st.integers(0, 9999),
)
samples = st.builds(
    StageSample,
    run=texts,
    iteration=st.integers(0, 30),
    stage=st.sampled_from([*module.STAGES]),
    attempts=st.lists(shown_attempts, max_size=4).map(tuple),
    total=st.integers(4, 9),
)


@given(st.lists(samples, max_size=4).map(tuple))
def test_every_attempt_arrives_as_it_was(many):
    data = AttemptsData(many)
    store = json.loads(as_json(data))
    columns, values = store["columns"], store["values"]
    arrived = [
        {
            name: values[name][column[row]]
            if name in values
            else column[row]
            if name in ("tokens", "ended")
            else (None, *store["texts"])[column[row] + 1]
            for name, column in columns.items()
        }
        for row in range(len(columns["id"]))
    ]
    assert arrived == [
        {
            "run": sample.run,
            "iteration": str(sample.iteration),
            "stage": sample.stage,
            "verdict": a.verdict,
            "hint": "with hint" if a.hinted else "without hint",
            "kept": {None: "not for training", True: "kept", False: "not kept"}[a.kept],
            "steps": {None: "not checked", True: "every step right", False: "a wrong step"}[
                a.steps_right
            ],
            "group": a.group,
            "id": a.question_id,
            "question": a.question,
            "rationale": a.rationale,
            "answer": a.answer,
            "tokens": a.n_tokens,
            "ended": int(a.ended),
        }
        for sample in many
        for a in sample.attempts
    ]
    assert len(set(store["texts"])) == len(store["texts"])  # each text once
    assert [(s[3], s[4]) for s in store["samples"]] == [(len(s.attempts), s.total) for s in many]


def test_what_does_not_fit_gives_up_the_last_questions_of_every_stage(tmp_path):
    write_small_run(tmp_path)
    data = collect_attempts({"run": tmp_path})
    whole, all_of_them = pack(data, 10**6)
    assert all_of_them == data
    text, fewer = pack(data, len(whole) - 200)
    assert len(text) <= len(whole) - 200
    most = max(len(sample.attempts) for sample in fewer.samples)
    assert fewer == data.at_most(most) and 0 < fewer.n_shown < data.n_shown
    assert len(unpacked(text)["columns"]["id"]) == fewer.n_shown
    assert fewer.n_total == data.n_total
    assert max(len(sample.attempts) for sample in pack(data, 1)[1].samples) == 1


def test_groups_are_in_the_order_of_their_numbers(tmp_path):
    write_iteration(tmp_path, 0, eval=[attempt(f"q{n}", group=n) for n in ("10", "9", "2", "x")])
    store = json.loads(as_json(collect_attempts({"run": tmp_path})))
    assert store["values"]["group"] == ["2", "9", "10", "x"]
    assert store["values"]["kept"] == [*KEPT]
