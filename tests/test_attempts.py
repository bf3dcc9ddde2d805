"""The attempts that the report's page shows: which ones, what it says of them, their packing."""

import base64
import collections
import dataclasses
import json
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from star_jax.errors import UserError
from star_jax.reporting import attempts as module
from star_jax.reporting.attempts import (
    EVALUATION,
    MOST_CHARACTERS,
    AttemptsData,
    ShownAttempt,
    StageSample,
    collect_attempts,
)
from star_jax.reporting.page import as_json, pack
from star_jax.run.metrics import iteration_name
from tests.attempts_data import attempt, kept, write_iteration, write_small_run, wrong
from tests.fake_runs import as_former_format, write_run

GENERATED, RATIONALIZED, RESAMPLED = "generated", "rationalized", "resampled"
KEPT_Q = kept(attempt("q"), GENERATED)


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
        (wrong("q", answer=None, dropped=True), "dropped"),
    ],
)
def test_an_attempt_has_one_of_four_verdicts(tmp_path, record, verdict):
    write_iteration(tmp_path, 0, eval=[record])
    shown = one(collect_attempts({"run": tmp_path}))
    assert (shown.verdict, shown.question, shown.rationale) == (
        verdict,
        record["prompt"],
        record["completion"],
    )


def test_what_was_trained_on_is_found_by_question_sample_turn_and_source(tmp_path):
    """Two samples, each of two turns, that are equal in everything else."""
    places = [(sample, turn) for sample in (0, 1) for turn in (0, 1)]
    generated = [attempt("a", sample=sample, turn=turn) for sample, turn in places]
    write_iteration(
        tmp_path,
        1,
        generations=[*generated, wrong("b")],
        rationalizations=[attempt("a", hinted=True)],
        resamplings=generated,
        train=[
            kept(generated[1], GENERATED, completion="trimmed", steps_right=True),
            kept(generated[2], GENERATED, steps_right=False),
            kept(generated[0], RESAMPLED, steps_right=None),
        ],
        eval=generated,
    )
    data = collect_attempts({"run": tmp_path})
    shown = {
        sample.stage: {
            (a.id, int(a.sample), int(a.turn)): (a.kept, a.steps) for a in sample.attempts
        }
        for sample in data.samples
    }
    none, unchecked = ("not kept", "not checked"), "not checked"
    a = [("a", *place) for place in places]
    assert shown == {
        GENERATED: {
            a[0]: none,
            a[1]: ("kept", "all steps correct"),
            a[2]: ("kept", "a wrong step"),
            a[3]: none,
            ("b", 0, 0): none,
        },
        RATIONALIZED: {a[0]: none},
        RESAMPLED: {a[0]: ("kept", unchecked), a[1]: none, a[2]: none, a[3]: none},
        EVALUATION: dict.fromkeys(a, ("not for training", unchecked)),
    }
    assert data.n_shown == data.n_total == 14


def test_what_is_kept_is_not_known_before_the_filters_have_run(tmp_path):
    write_iteration(tmp_path, 1, generations=[attempt("a")])
    assert one(collect_attempts({"run": tmp_path})).kept == "not for training"


def test_the_same_held_out_questions_are_shown_in_every_iteration_and_run(tmp_path):
    names = [f"validation_{i:05d}" for i in range(200)]
    for run, n, order in (("a", 0, 1), ("a", 1, -1), ("b", 0, 1)):
        write_iteration(tmp_path / run, n, eval=[attempt(name) for name in names[::order]])
    runs = {"a": tmp_path / "a", "b": tmp_path / "b"}
    data = collect_attempts(runs, most=90)
    shown = [[a.id for a in sample.attempts] for sample in data.samples]
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


def test_a_long_text_is_truncated_and_says_so(tmp_path):
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


def test_token_ids_are_counted(tmp_path):
    lines = [attempt(f"q{n}", n, prompt='"token_ids": [7, 7], ') for n in (0, 1, 2, 300)]
    write_iteration(tmp_path, 0, eval=lines)
    (sample,) = collect_attempts({"run": tmp_path}).samples
    assert {a.id: a.tokens for a in sample.attempts} == {"q0": 0, "q1": 1, "q2": 2, "q300": 300}
    assert {a.question for a in sample.attempts} == {'"token_ids": [7, 7], '}


def test_attempts_of_the_former_format_are_shown_as_those_of_this_one(tmp_path):
    old, new = (write_run(tmp_path / name, 2, 40, steps=True) for name in ("old", "new"))
    as_former_format(old)
    data = collect_attempts({"run": new})
    assert collect_attempts({"run": old}) == data and data.n_shown > 200


def test_rows_of_the_former_format_without_its_newer_fields_are_read(tmp_path):
    run = write_run(tmp_path / "run", 1, 1, groups=())
    as_former_format(run)
    file = run / "iter_000/eval.jsonl"
    row = json.loads(file.read_text())
    for newer in ("left_out", "n_steps", "reference_steps"):
        del row[newer]
    file.write_text(json.dumps(row) + "\n\n")
    sample, *_ = collect_attempts({"run": run}).samples
    assert (sample.total, sample.attempts[0].verdict) == (1, "wrong")


Q = attempt("q")


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("generations", "{", "line 1: "),
        ("generations", "[]", "found list"),
        ("generations", '{"question_id": "q"}', "group is missing"),
        ("generations", json.dumps({**Q, "completion": 3}), "completion is 3, expected str"),
        ("generations", json.dumps({**Q, "token_ids": None}), "n_tokens is missing"),
        ("generations", json.dumps({**Q, "sample": "0"}), "sample is '0', expected int"),
        ("generations", json.dumps({**Q, "reading": {}}), "answer is missing"),
        ("train", json.dumps({**KEPT_Q, "steps_right": "yes"}), "steps_right is 'yes'"),
        ("train", json.dumps({**KEPT_Q, "completion": None}), "completion is None"),
        ("train", '{"question_id": "q", "completion"', "line 1: "),
    ],
)
def test_a_malformed_line_is_reported_with_its_file(tmp_path, name, line, said):
    write_iteration(tmp_path, 1, generations=[Q], train=[KEPT_Q])
    (tmp_path / f"iter_001/{name}.jsonl").write_text(line + "\n")
    with pytest.raises(UserError) as error:
        collect_attempts({"run": tmp_path})
    assert f"{tmp_path}/iter_001/{name}.jsonl, line 1: " in str(error.value)
    assert said in str(error.value) and "\n" not in str(error.value)


# How they travel

texts = st.text(st.characters(), max_size=20) | st.sampled_from(["</script>", "\ud800", "\0"])
small = st.integers(0, 12).map(str)
shown_attempts = st.builds(
    ShownAttempt,
    id=texts,
    sample=small,
    turn=small,
    question=texts,
    rationale=texts,
    answer=texts | st.none(),
    expected=texts | st.none(),
    group=texts,
    verdict=st.sampled_from(module.VERDICTS),
    hint=st.sampled_from(module.HINT),
    kept=st.sampled_from(module.KEPT_WORDS),
    steps=st.sampled_from(module.STEPS),
    tokens=st.integers(0, 9999),
    ended=st.integers(0, 1),
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
            "iteration": iteration_name(sample.iteration),
            "stage": sample.stage,
            **dataclasses.asdict(a),
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
    assert store["values"]["kept"] == [*module.KEPT_WORDS]
