"""A blind comparison: raters cannot see whose a rationale is, and the scorer finds out."""

import csv
import dataclasses
import html.parser
import io
import json
import re

import gin
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from star_jax.errors import UserError
from star_jax.main import main
from star_jax.records import to_json
from star_jax.reporting.tables import wilson_interval
from star_jax.tasks.arithmetic import ArithmeticTask
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.tools.comparison.items import draw_items, normalized
from star_jax.tools.comparison.scores import fleiss_kappa, majority, score, tally
from star_jax.tools.comparison.sheets import (
    COLUMNS,
    FORMULA,
    AnswerKey,
    as_csv,
    as_html,
    as_key,
    as_written,
    harmless,
    read_answers,
)
from tests.attempts_data import attempt, kept
from tests.browser import running_browser

TASK = ArithmeticTask(digits=(1, 2), n_train=30, n_validation=15, n_few_shot=1)
TASK_FLAGS = (
    "--gin_file=tasks/arithmetic_tiny.gin", "--gin.ArithmeticTask.digits=(1, 2)",
    "--gin.ArithmeticTask.n_train=30", "--gin.ArithmeticTask.n_validation=15",
)  # fmt: skip
TEXTS = {f"id{i}": f"How much is {i} + 1?" for i in range(40)}
OURS = {(id_, 0, 0): f"We add one. Marvellous, {i}." for i, id_ in enumerate(TEXTS)}
THEIRS = {(id_, 0, 0): f"= {i} and one more." for i, id_ in enumerate(TEXTS)}


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def rows_of(data):
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def key_of(items, sources=("few_shot", "star")):
    return AnswerKey(
        sources, {item.name: {"A": item.source_a, "B": item.source_b} for item in items}
    )


# The draw.


def test_two_sources_that_change_places_leave_the_raters_files_as_they_are():
    for seed in range(5):
        one = draw_items({"few_shot": OURS, "star": THEIRS}, TEXTS, 30, seed)
        other = draw_items({"few_shot": THEIRS, "star": OURS}, TEXTS, 30, seed)
        assert as_csv(one) == as_csv(other)
        assert as_html(one) == as_html(other)
        assert {(i.source_a, i.source_b) for i in one} == {
            ("few_shot", "star"),
            ("star", "few_shot"),
        }
        for a, b in zip(one, other, strict=True):
            assert (a.source_a, a.source_b) == (b.source_b, b.source_a)
            assert a.rationale_a == {"few_shot": OURS, "star": THEIRS}[a.source_a][a.key]


def test_three_sources_may_change_places_too():
    three = {"x": OURS, "y": THEIRS, "z": {(id_, 0, 0): f"{id_}: so be it." for id_ in TEXTS}}
    swapped = {"x": three["z"], "y": three["x"], "z": three["y"]}
    items = draw_items(three, TEXTS, 10, 0)
    assert as_csv(items) == as_csv(draw_items(swapped, TEXTS, 10, 0))
    counts = {}
    for item in items:
        two = tuple(sorted((item.source_a, item.source_b)))
        counts[two] = counts.get(two, 0) + 1
    assert counts == {("x", "y"): 10, ("x", "z"): 10, ("y", "z"): 10}


def test_sides_and_order_do_not_depend_on_the_source():
    """THEIRS come before OURS as texts: without the flip they would all be on the left."""
    lefts = np.array(
        [
            [item.source_a == "star" for item in draw_items({"few_shot": OURS, "star": THEIRS},
                                                            TEXTS, 30, seed)]
            for seed in range(200)
        ]
    )  # fmt: skip
    assert stats.binomtest(int(lefts.sum()), lefts.size).pvalue > 1e-3
    assert abs(lefts.mean(axis=0) - 0.5).max() < 0.18  # 200 draws a place: 5 deviations
    first = [draw_items({"a": OURS, "b": THEIRS}, TEXTS, 30, seed)[0].key
             for seed in range(60)]  # fmt: skip
    assert len(set(first)) > 20


def test_the_raters_files_name_no_source_question_id_or_file(tmp_path):
    items = draw_items({"few_shot": OURS, "star": THEIRS}, TEXTS, 30, 3)
    sources = {"few_shot": "runs/secret/iter_000", "star": "runs/secret/iter_016"}
    key = as_key(items, sources, {"seed": 3}).decode()
    for data in (as_csv(items).decode(), as_html(items).decode()):
        for word in ("few_shot", "star", "secret", "iter_", "hint", *TEXTS):
            assert not re.search(rf"\b{word}(?!\w)", data), word
    words = (*sources, *sources.values(), items[0].key[0])
    assert all(word in key for word in words)


def test_the_same_seed_draws_the_same_and_another_another():
    draw = {seed: as_csv(draw_items({"a": OURS, "b": THEIRS}, TEXTS, 9, seed)) for seed in (0, 1)}
    assert draw[0] == as_csv(draw_items({"a": OURS, "b": THEIRS}, TEXTS, 9, 0)) != draw[1]


def test_equal_rationales_are_no_pair():
    theirs = {**OURS, ("id3", 0, 0): "Otherwise.", ("id4", 0, 0): "Otherwise too."}
    items = draw_items({"a": OURS, "b": theirs}, TEXTS, 30, 0)
    assert sorted(item.key[0] for item in items) == ["id3", "id4"]
    with pytest.raises(UserError, match="none of them with two different rationales"):
        draw_items({"a": OURS, "b": OURS}, TEXTS, 30, 0)


def test_samples_and_turns_of_a_question_are_pairs_of_their_own():
    places = [("id1", sample, turn) for sample in (0, 1) for turn in (0, 1)]
    ours, theirs = ({key: f"{word} {key}" for key in places} for word in ("Ours", "Theirs"))
    del theirs["id1", 1, 0]
    items = draw_items({"few_shot": ours, "star": theirs}, TEXTS, 9, 0)
    assert sorted(item.key for item in items) == [("id1", 0, 0), ("id1", 0, 1), ("id1", 1, 1)]
    for item in items:
        assert {item.rationale_a, item.rationale_b} == {ours[item.key], theirs[item.key]}
    written = json.loads(as_key(items, {}, {}))["items"].values()
    assert sorted((x["question_id"], x["sample"], x["turn"]) for x in written) == sorted(
        item.key for item in items
    )


# What a rater sees.


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("  2 +  2\r\n\n\n= 4 ", "2 + 2\n\n= 4"),
        ("a\tb\u00a0c\u200b\ufeff\x07", "a b c"),
        ("cafe\u0301", "caf\u00e9"),
        ("cafe\u200d\u0301", "caf\u00e9"),
        ("\n \n", ""),
    ],
)
def test_spacing_is_the_same_for_all(text, seen):
    assert normalized(text) == seen


@given(st.text())
def test_normalizing_twice_is_normalizing_once(text):
    assert normalized(normalized(text)) == normalized(text)


@given(st.text(alphabet="=+-@'\t\r\uff1da1 ", max_size=5) | st.text())
def test_no_cell_begins_as_a_formula_and_each_comes_back(cell):
    assert not harmless(cell).startswith(FORMULA)
    assert as_written(harmless(cell)) == cell


def test_the_table_holds_what_was_drawn_and_no_formula():
    items = draw_items({"a": OURS, "b": THEIRS}, TEXTS, 30, 0)
    rows = rows_of(as_csv(items))
    assert tuple(rows[0]) == COLUMNS
    assert any(row["rationale_a"].startswith("'= ") for row in rows)
    for row, item in zip(rows, items, strict=True):
        assert as_written(row["rationale_a"]) == item.rationale_a
        assert as_written(row["rationale_b"]) == item.rationale_b
        assert (row["item"], row["preference"]) == (item.name, "")


class Page(html.parser.HTMLParser):
    """The page's items, their radio buttons, their texts, and all tags."""

    def __init__(self, data):
        super().__init__()
        self.items, self.radios, self.texts, self.tags = [], [], [], []
        self.feed(data.decode())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag == "section":
            self.items.append(attrs["data-item"])
        if attrs.get("type") == "radio":
            self.radios.append((attrs["name"], attrs["value"]))
        if attrs.get("class") == "text":
            self.texts.append("")

    def handle_data(self, data):
        if self.tags and self.tags[-1][1].get("class") == "text":
            self.texts[-1] += data


def test_the_page_shows_each_item_and_runs_nothing_of_its_texts():
    theirs = {key: f"<script>alert({i})</script> & $name %%" for i, key in enumerate(OURS)}
    items = draw_items({"a": OURS, "b": theirs}, TEXTS, 7, 0)
    data = as_html(items)
    page = Page(data)
    assert page.items == [item.name for item in items]
    assert page.radios == [(item.name, x) for item in items for x in ("A", "B", "tie")]
    shown = [text for i in items for text in (i.question, i.rationale_a, i.rationale_b)]
    assert page.texts == shown
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert not [attrs for _, attrs in page.tags if {"src", "href"} & attrs.keys()]
    assert b"http" not in data.replace(b"http-equiv", b"")


# The scorer.


def filled(items, choose):
    """A rater's table with `choose(item)` as the preferences."""
    rows = [{**row, "preference": choose(item)}
            for row, item in zip(rows_of(as_csv(items)), items, strict=True)]  # fmt: skip
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def side_of(item, source):
    return "A" if item.source_a == source else "B"


@pytest.mark.parametrize("planted", [0.3, 0.5, 0.8])
def test_planted_preferences_are_recovered(planted):
    texts = {f"q{i}": f"Question {i}" for i in range(300)}
    ours, theirs = ({(i, 0, 0): f"{word} {i}" for i in texts} for word in ("By reason", "As known"))
    items = draw_items({"few_shot": ours, "star": theirs}, texts, 300, 0)
    key, draws = key_of(items), np.random.default_rng(0)

    def choose(item):
        if draws.random() < 0.1:
            return "tie"
        return side_of(item, "star" if draws.random() < planted else "few_shot")

    answers = {f"r{i}": read_answers("r.csv", filled(items, choose), key) for i in range(5)}
    scores = score(answers, key)
    [pair] = scores["pairs"]
    assert pair["sources"] == ["few_shot", "star"]
    low, high = pair["ratings"]["interval_95"]
    assert low < 1 - planted < high and high - low < 0.06
    assert 100 < pair["ratings"]["ties"] < 200
    assert (pair["majority"]["p_value"] < 1e-6) == (planted != 0.5)
    assert (pair["majority"]["share"] < 0.5) == (planted > 0.5) or planted == 0.5
    assert scores["agreement"]["n_items"] == 300


def test_raters_who_all_see_the_same_agree_though_one_source_always_wins():
    items = draw_items({"few_shot": OURS, "star": THEIRS}, TEXTS, 40, 0)
    key = key_of(items)
    data = filled(items, lambda item: side_of(item, "star"))
    scores = score({f"r{i}": read_answers("r.csv", data, key) for i in range(3)}, key)
    assert scores["agreement"]["fleiss_kappa"] == pytest.approx(1.0)
    assert scores["pairs"][0]["majority"]["preferred"] == {"few_shot": 0, "star": 40}
    left = sum(item.source_a == "star" for item in items)
    assert scores["raters"]["r0"]["left"] == left and 5 < left < 35


def test_kappa_is_that_of_fleiss_own_kind_of_table():
    """Ten items, 14 raters, five categories: the worked example of the literature, 0.210."""
    table = [
        (0, 0, 0, 0, 14), (0, 2, 6, 4, 2), (0, 0, 3, 5, 6), (0, 3, 9, 2, 0), (2, 2, 8, 1, 1),
        (7, 7, 0, 0, 0), (3, 2, 6, 3, 0), (2, 5, 3, 2, 2), (6, 5, 2, 1, 0), (0, 2, 2, 3, 7),
    ]  # fmt: skip
    ratings = [[str(c) for c, n in enumerate(row) for _ in range(n)] for row in table]
    found = fleiss_kappa(ratings)
    assert found["observed"] == pytest.approx(0.378, abs=5e-4)
    assert found["by_chance"] == pytest.approx(0.213, abs=5e-4)
    assert found["fleiss_kappa"] == pytest.approx(0.210, abs=5e-4)


def test_agreement_that_is_not_defined_is_none():
    assert fleiss_kappa([["A"], ["B"], []])["fleiss_kappa"] is None  # no item has two ratings
    assert fleiss_kappa([["A", "A"], ["A", "A"]])["fleiss_kappa"] is None


def test_a_tally_is_counted_by_hand():
    found = tally(["x"] * 8 + ["y"] * 2 + ["tie"] * 5, ("x", "y"))
    assert (found["n"], found["preferred"], found["ties"]) == (15, {"x": 8, "y": 2}, 5)
    assert found["share"] == 0.8
    assert found["p_value"] == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert found["interval_95"] == pytest.approx(wilson_interval(8, 10))
    assert tally(["tie"], ("x", "y"))["p_value"] is None


@pytest.mark.parametrize(
    ("chosen", "winner"),
    [("xxy", "x"), ("xy", "tie"), (["tie", "tie", "y"], "y"), (["tie"], "tie"), ("yyxx", "tie")],
)
def test_the_majority_of_an_items_raters(chosen, winner):
    assert majority(list(chosen)) == winner


def test_missing_and_invalid_entries_are_named_by_file_and_line():
    items = [
        dataclasses.replace(item, rationale_a="one\ntwo\nthree", name=f"kxbf-{i}")
        for i, item in enumerate(draw_items({"a": OURS, "b": THEIRS}, TEXTS, 6, 0), start=1)
    ]
    said = dict(zip([i.name for i in items], ["A", " b ", "", "C", "TIE", "B"], strict=True))
    rows = filled(items[:5], lambda item: said[item.name]) + b"zzzz-9,,,,A\r\nkxbf-1,,,,B\r\n"
    answers = read_answers("ann.csv", rows, key_of(items, ("a", "b")))
    assert answers.preferences == {"kxbf-1": "A", "kxbf-2": "B", "kxbf-5": "tie"}
    assert answers.missing == (  # an item takes three lines
        "ann.csv, line 8: item kxbf-3 has no preference",
        "ann.csv: item kxbf-6 is missing",
    )
    assert answers.invalid == (
        "ann.csv, line 11: preference 'C' is not one of A, B, tie",
        "ann.csv, line 17: the key has no item 'zzzz-9'",
        "ann.csv, line 18: item kxbf-1 occurs twice; the first counts",
    )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_spreadsheets_and_the_page_write_is_read(delimiter, mark):
    text = "Preference,item,x\r\nA,kxbf-1,\r\ntie,kxbf-2\r\n,,\r\n".replace(",", delimiter)
    key = AnswerKey(("a", "b"), {f"kxbf-{i}": {"A": "a", "B": "b"} for i in (1, 2)})
    answers = read_answers("ann.csv", mark + text.encode(), key)
    assert answers.preferences == {"kxbf-1": "A", "kxbf-2": "tie"}
    assert answers.missing == answers.invalid == ()


# The command line.


QUESTIONS = {q.id: q for split in (TRAIN, VALIDATION) for q in TASK.questions(split)}


def written(row, completion, **changes):
    """The row of an attempt with another completion, read as the loop does."""
    reading = to_json(TASK.read(QUESTIONS[row["question_id"]], completion))
    return {**row, "completion": completion, "reading": reading, **changes}


def attempts(split, wrong=(), **changes):
    """A right attempt at each question, but for those in `wrong`."""
    found = []
    for question in TASK.questions(split):
        right = question.id not in wrong
        completion = TASK.gold_completion(question) if right else "<scratch>\n</scratch>\n0"
        row = attempt(question.id, prompt=TASK.question_text(question, hinted=False))
        found.append({**written(row, completion), **changes})
    return found


def write_lines(file, records):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture
def run(tmp_path):
    """A run whose first model pads its rationales, rambles on after them, and errs twice."""
    ids = [question.id for question in TASK.questions(VALIDATION)]
    base = [
        written(
            row,
            row["completion"].replace("<scratch>", "<scratch>\r\n so") + "\n\nInput:\nsecret",
        )
        for row in attempts(VALIDATION, wrong=ids[:2])
    ]
    write_lines(tmp_path / "run/iter_000/eval.jsonl", base)
    write_lines(tmp_path / "run/iter_001/eval.jsonl", attempts(VALIDATION, wrong=ids[5:6]))
    trained_on = [kept(row, "generated") for row in attempts(TRAIN)]
    write_lines(tmp_path / "run/iter_001/train.jsonl", trained_on)
    return tmp_path / "run"


def compare(output, sources, *more):
    return main(
        [
            "--run_mode=compare", *TASK_FLAGS, "--gin_file=runs/compare.gin",
            f"--gin.SOURCES={sources}", f"--gin.OUTPUT_DIR={str(output)!r}", *more,
        ]
    )  # fmt: skip


def test_from_two_iterations_to_scores(tmp_path, run, capsys):
    output = tmp_path / "out"
    sources = {"few_shot": str(run / "iter_000"), "star": str(run)}  # a run: its last iteration
    assert compare(output, sources, "--gin.N=100") == 0
    key = json.loads((output / "key.json").read_text())
    rows = rows_of((output / "raters/comparison.csv").read_bytes())
    wrong = {question.id for question in TASK.questions(VALIDATION)[:6]}
    drawn = {item["question_id"] for item in key["items"].values()}
    assert len(rows) == len(drawn) == 27 and len(drawn & wrong) == 3
    assert {path.name for path in (output / "raters").iterdir()} == {
        "comparison.csv", "comparison.html", "instructions.txt"
    }  # fmt: skip
    for file in (output / "raters").iterdir():
        text = file.read_bytes().decode()
        for word in ("few_shot", "secret", "iter_0", str(tmp_path), *drawn):
            assert not re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text), (file.name, word)
    for row in rows:  # trimmed and spaced alike: they differ in the planted word alone
        padded, plain = sorted((row["rationale_a"], row["rationale_b"]), key=len, reverse=True)
        assert padded.replace("<scratch>\nso", "<scratch>") == plain
    for rater, wins in (("ann", 27), ("bo", 20)):
        table = ["item,preference"]
        for i, (name, item) in enumerate(key["items"].items()):
            source = "star" if i < wins else "few_shot"
            table.append(f"{name},{'A' if item['A'] == source else 'B'}")
        (tmp_path / "answers").mkdir(exist_ok=True)
        (tmp_path / f"answers/{rater}.csv").write_text("\n".join(table))
    capsys.readouterr()
    assert score_with(output / "key.json", [str(tmp_path / "answers")]) == 0
    printed = capsys.readouterr().out
    assert "47" in printed and "Fleiss' kappa" in printed
    scores = json.loads((output / "scores.json").read_text())
    assert scores["pairs"][0]["ratings"]["preferred"] == {"few_shot": 7, "star": 47}
    assert scores["pairs"][0]["majority"]["ties"] == 7
    assert scores["raters"]["bo"]["preferred"] == {"few_shot": 7, "star": 20}


def score_with(key, answers, *more):
    flags = [f"--gin.KEY={str(key)!r}", f"--gin.ANSWERS={answers}"]
    return main(
        ["--run_mode=score_comparison", "--gin_file=runs/score_comparison.gin", *flags, *more]
    )


def test_wrong_ones_are_compared_on_demand_and_leaked_hints_never(tmp_path, run):
    hinted = [written(row, f"Well. {row['completion']}", hinted=True) for row in attempts(TRAIN)]
    leaking = hinted[0]["question_id"]
    hinted[0]["reading"]["hint_leaked"] = True
    hinted[1]["hinted"] = False
    hinted[1]["reading"]["hint_leaked"] = True  # of no hint
    write_lines(tmp_path / "rationalizations.jsonl", hinted)
    sources = {"own": str(run / "iter_001/train.jsonl"),
               "hinted": str(tmp_path / "rationalizations.jsonl")}  # fmt: skip
    assert compare(tmp_path / "out", sources, "--gin.SPLIT='train'") == 0
    drawn = (tmp_path / "out/key.json").read_text()
    assert f'"{leaking}"' not in drawn and drawn.count('"question_id"') == 29
    both = {"few_shot": str(run / "iter_000"), "star": str(run / "iter_001")}
    assert compare(tmp_path / "all", both, "--gin.compare.only_right=False") == 0
    assert (tmp_path / "all/key.json").read_text().count('"question_id"') == 30


def test_the_data_sets_own_rationales_are_a_source_and_so_are_written_ones(tmp_path, run):
    human = [{"question_id": q.id, "completion": f"Easy: {q.answer}"}
             for q in TASK.questions(VALIDATION)]  # fmt: skip
    file = write_lines(tmp_path / "human.jsonl", human)
    sources = {"few_shot": str(run / "iter_000"), "data": "gold", "human": str(file)}
    assert compare(tmp_path / "out", sources, "--gin.N=4") == 0
    key = json.loads((tmp_path / "out/key.json").read_text())
    sides = [{item["A"], item["B"]} for item in key["items"].values()]
    assert all(sides.count(two) == 4 for two in ({"few_shot", "data"}, {"data", "human"}))


def test_a_leak_is_found_in_lines_that_do_not_record_it(tmp_path, run):
    own = str(run / "iter_001/train.jsonl")
    lines = [
        {"question_id": q.id, "completion": f"Well. {TASK.gold_completion(q)}", "hinted": True}
        for q in TASK.questions(TRAIN)
    ]
    lines[0]["completion"] = f"The hint says so. {lines[0]['completion']}"
    sources = {"own": own, "hinted": str(write_lines(tmp_path / "hinted.jsonl", lines))}
    assert compare(tmp_path / "out", sources, "--gin.SPLIT='train'") == 0
    key = (tmp_path / "out/key.json").read_text()
    assert f'"{lines[0]["question_id"]}"' not in key and key.count('"question_id"') == 29


def test_attempts_of_the_former_format_are_compared(tmp_path, run):
    former = [
        {"question_id": row["question_id"], "prompt": row["prompt"], "hinted": False,
         "completion": f"Well. {row['completion']}", "answer": "0", "correct": i > 4,
         "left_out": i == 9}
        for i, row in enumerate(attempts(VALIDATION))
    ]  # fmt: skip
    file = write_lines(tmp_path / "old/iter_000/eval.jsonl", former)
    sources = {"old": str(file), "star": str(run)}
    assert compare(tmp_path / "out", sources) == 0
    items = json.loads((tmp_path / "out/key.json").read_text())["items"].values()
    wrong = {row["question_id"] for row in former[:5] + former[9:10]}
    right = {q.id for q in TASK.questions(VALIDATION)} - wrong - {former[5]["question_id"]}
    assert {item["question_id"] for item in items} == right


def test_two_samples_of_two_turns_are_compared_each_with_its_own(tmp_path, run):
    places = [(sample, turn) for sample in (0, 1) for turn in (0, 1)]
    for name, word in (("a", "First,"), ("b", "So,")):
        rows = [
            written(
                row,
                f"{word} {sample} {turn} {row['completion']}",
                sample=sample,
                turn=turn,
                prompt=f"{'Again. ' * turn}{row['prompt']}",
            )
            for row in attempts(VALIDATION)[:3]
            for sample, turn in places
        ]
        write_lines(tmp_path / f"{name}.jsonl", rows)
    sources = {name: str(tmp_path / f"{name}.jsonl") for name in "ab"}
    assert compare(tmp_path / "out", sources) == 0
    items = json.loads((tmp_path / "out/key.json").read_text())["items"]
    rows = rows_of((tmp_path / "out/raters/comparison.csv").read_bytes())
    assert len(rows) == len(items) == 3 * len(places)
    for row in rows:
        item = items[row["item"]]
        words = {f"{row[side].split(',')[1][:4]}" for side in ("rationale_a", "rationale_b")}
        assert words == {f" {item['sample']} {item['turn']}"}
    found = {(item["question_id"], item["sample"], item["turn"]) for item in items.values()}
    assert len(found) == 3 * len(places)


def error_of(capsys, code):
    assert code == 2
    lines = capsys.readouterr().err.splitlines()
    found = [line for line in lines if line.startswith("star_jax: error: ")]
    assert len(found) == 1 and "Traceback" not in "".join(lines)
    return found[0]


def test_the_key_of_a_comparison_that_is_under_way_is_never_lost(tmp_path, run, capsys):
    sources = {"few_shot": str(run / "iter_000"), "star": str(run / "iter_001")}
    assert compare(tmp_path / "out", sources) == 0
    key = (tmp_path / "out/key.json").read_bytes()
    assert compare(tmp_path / "out", sources) == 0  # the same once more
    message = error_of(capsys, compare(tmp_path / "out", sources, "--gin.SEED=1"))
    assert "key.json" in message and "compare.output_dir" in message
    assert (tmp_path / "out/key.json").read_bytes() == key


def bad_sources(run):
    """What is wrong -> the sources, and words of the message."""
    folder, good = run.parent, str(run / "iter_001")
    broken = write_lines(folder / "broken.jsonl", [{"question_id": "x"}])
    text = folder / "text.jsonl"
    text.write_text("[1]\n")
    other = write_lines(folder / "other.jsonl", attempts(VALIDATION, prompt="Input:\n9\nTarget:\n"))
    (folder / "empty").mkdir()
    return {
        "one": ({"star": good}, ["two or more"]),
        "nowhere": ({"a": good, "b": "/nowhere/x.jsonl"}, ["/nowhere/x.jsonl", "does not exist"]),
        "empty": ({"a": good, "b": str(folder / "empty")}, ["eval.jsonl"]),
        "broken": ({"a": good, "b": str(broken)}, ["line 1", "completion is missing"]),
        "text": ({"a": good, "b": str(text)}, ["line 1", "JSON object", "list"]),
        "task": ({"a": good, "b": str(other)}, ["line 1", "has the prompt", "config.gin"]),
        "split": ({"a": good, "b": f"{good}/train.jsonl"}, ["compare.split", "train"]),
        "same": ({"a": good, "b": "gold"}, ["none of them with two different"]),
        "n": ({"a": good, "b": good}, ["compare.n = 0"]),
    }


@pytest.mark.parametrize(
    "mistake", ["one", "nowhere", "empty", "broken", "text", "task", "split", "same", "n"]
)
def test_a_mistake_in_a_comparison_is_one_line(tmp_path, run, capsys, mistake):
    sources, words = bad_sources(run)[mistake]
    more = ["--gin.N=0"] if mistake == "n" else []
    message = error_of(capsys, compare(tmp_path / "out", sources, *more))
    assert all(word in message for word in words), message
    assert not (tmp_path / "out").exists()


BAD_ANSWERS = {
    "nowhere": (None, ["does not exist"]),
    "other": ("item,preference\nzzzz-1,A\n", ["another comparison"]),
    "header": ("name,choice\nx,A\n", ["line 1", "item and preference"]),
    "bytes": (b"item,preference\n\xff\xfe,A\n", ["UTF-8"]),
    "long": ("item,preference\n" + "x" * 200_000 + ",A\n", ["line 2", "field"]),
    "blank": ("item,preference\nkxbf-1,\n", ["no file has a valid preference"]),
}


@pytest.mark.parametrize("mistake", BAD_ANSWERS)
def test_a_mistake_in_the_answers_is_one_line(tmp_path, capsys, mistake):
    content, words = BAD_ANSWERS[mistake]
    items = {"kxbf-1": {"question_id": "1", "A": "a", "B": "b"}}
    (tmp_path / "key.json").write_text(json.dumps({"sources": {"a": "", "b": ""}, "items": items}))
    file = tmp_path / "ann.csv"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    message = error_of(capsys, score_with(tmp_path / "key.json", [str(file)]))
    assert all(word in message for word in [*words]), message
    assert not (tmp_path / "scores.json").exists()


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"sources": {"a": ""}, "items": {"k": {"A": "a", "B": "b"}}}']
)
def test_what_is_no_key_is_one_line(tmp_path, capsys, content):
    (tmp_path / "key.json").write_text(content)
    (tmp_path / "ann.csv").write_text("item,preference\n")
    message = error_of(capsys, score_with(tmp_path / "key.json", [str(tmp_path / "ann.csv")]))
    assert "is not the key of a comparison" in message


# The page, in a browser.


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with running_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_what_a_rater_chooses_on_the_page_is_what_the_scorer_reads(tmp_path, browser):
    items = draw_items({"few_shot": OURS, "star": THEIRS}, TEXTS, 4, 0)
    (tmp_path / "comparison.html").write_bytes(as_html(items))
    address = (tmp_path / "comparison.html").as_uri()
    browser.open(address)
    chosen = dict(zip([item.name for item in items], ("B", "tie", "A"), strict=False))
    for name, preference in chosen.items():
        browser.js(f'document.querySelector(\'[name="{name}"][value="{preference}"]\').click()')
    browser.open(address)  # the choices are still there
    assert browser.js("document.getElementById('done').textContent") == "3 of 4 done"
    browser.js(
        "document.getElementById('rater').value = ' Zoë / 2 ';"
        "URL.createObjectURL = blob => { saved = blob; return '#' };"
        "HTMLAnchorElement.prototype.click = function() { file = this.download };"
        "document.getElementById('save').click()"
    )
    assert browser.js("file") == "Zoë_2.csv"
    answers = read_answers("zoe.csv", browser.js("saved.text()").encode(), key_of(items))
    assert answers.preferences == chosen
    assert answers.missing == (f"zoe.csv, line 5: item {items[3].name} has no preference",)
    assert (browser.complaints(), browser.requests()) == ([], [])
