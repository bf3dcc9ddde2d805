"""What the report says: the paper's tables and figures, and what is counted in the attempts."""

import dataclasses
import json
import re
import shlex
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.records import to_json
from star_jax.reporting.cost import cost_section
from star_jax.reporting.digests import (
    IterationDigest,
    KeptDigest,
    changed,
    distinct,
    evenly,
    read_iterations,
)
from star_jax.reporting.figures import draw_accuracies
from star_jax.reporting.iterations import (
    draw_changes,
    draw_composition,
    draw_right_steps,
    iteration_sections,
)
from star_jax.reporting.paper_figures import (
    draw_figure4,
    draw_figure5,
    draw_figure6,
    figure_sections,
)
from star_jax.reporting.paper_tables import KNOWN_ROWS, paper_sections
from star_jax.reporting.report import sections
from star_jax.reporting.runs import TINY, RunReport, arms, load_run, load_runs
from star_jax.reporting.stage_files import ATTEMPT, KEPT, read_rows
from star_jax.run.metrics import IterationMetrics
from star_jax.run.run_dir import RunDir, RunFacts
from tests.attempts_data import attempt, kept, wrong
from tests.fake_runs import as_former_format, write_report, write_run

CONFIGS = Path(__file__).parent.parent / "gin_configs"
STAR = "table1/star_with_rationalization"


def line(iteration, accuracy, n=200, seed=0, groups=None, **more):
    groups = groups or {}
    more = {"kept": {"generate": 13, "rationalize": 7}, "n_questions": 40, **more}
    return IterationMetrics(
        iteration=iteration,
        accuracy=accuracy,
        n_eval=n,
        accuracy_by_group=groups,
        n_eval_by_group=dict.fromkeys(groups, n // max(1, len(groups))),
        seed=seed,
        rationalize=True,
        unparsable=0,
        dropped=0,
        **more,
    )


def run_of(row, *lines, name="run", digests=(), bindings=None, **facts):
    facts = RunFacts(row=row, command=f"star_jax --name={name}", **facts)
    digests = digests or tuple(IterationDigest() for _ in lines)
    return RunReport(name, Path("runs") / name, lines, facts, tuple(digests), bindings or {})


def write_lines(file, *records_):
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [to_json(x) if isinstance(x, IterationMetrics) else x for x in records_]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))


def rows_by_head(table):
    return {row[0]: dict(zip(table.header, row, strict=True)) for row in table.rows}


# Tables 1 and 2


def test_our_number_is_next_to_the_papers_with_interval_n_and_seed():
    runs = [run_of(STAR, line(0, 0.2), line(1, 0.65, n=100, seed=7))]
    table1, table2, *_ = paper_sections(runs)
    rows = rows_by_head(table1.tables[0])
    assert rows["STaR with rationalization"] == {
        "method": "STaR with rationalization",
        "paper %": "72.5",
        "paper train %": "86.7",
        "ours %": "65.0",
        "95 % interval": "55.3 to 73.6",
        "n": "100",
        "seed": "7",
        "iteration": "1",
        "train %": "50.0",
    }
    assert rows["few-shot CoT GPT-J"]["ours %"] == "not run"
    assert rows["few-shot CoT LaMDA 137B"]["ours %"] == "another model"
    assert {row["ours %"] for row in rows_by_head(table2.tables[0]).values()} == {"not run"}
    assert table1.text == ()  # the command is in the run's own section


def test_seeds_of_a_row_are_shown_as_mean_range_and_each():
    shares = (0.60, 0.66, 0.69)
    runs = [run_of(STAR, line(0, x, seed=i), name=f"s{i}") for i, x in enumerate(shares)]
    (table,) = paper_sections(runs)[0].tables
    rows = rows_by_head(table)
    together = rows["STaR with rationalization"]
    assert together["ours %"] == "65.0 (mean)"
    assert together["95 % interval"] == "60.0 to 69.0 (range)"
    assert (together["n"], together["seed"]) == ("200 + 200 + 200", "0, 1, 2")
    assert [rows[f"… s{i}"]["ours %"] for i in range(3)] == ["60.0", "66.0", "69.0"]


def test_a_tiny_twin_is_never_next_to_the_papers_number():
    runs = [run_of(STAR + TINY, line(0, 0.123))]
    paper, twins = paper_sections(runs)[0].tables
    assert rows_by_head(paper)["STaR with rationalization"]["ours %"] == "not run"
    assert not any("12.3" in cell for row in paper.rows for cell in row)
    assert "another task and model" in twins.title and "paper %" not in twins.header
    rows = rows_by_head(twins)
    assert rows["STaR with rationalization"]["ours %"] == "12.3"
    assert rows["few-shot CoT"]["ours %"] == "not run"  # of a model that is not GPT-J


def test_runs_of_no_row_have_no_paper_tables_and_unknown_rows_are_named():
    assert paper_sections([run_of("", line(0, 0.5))]) == []
    *_, last = paper_sections([run_of("table1/star_with_rationalisation", line(0, 0.5))])
    assert last.title == "Other rows" and "star_with_rationalisation." in last.text[0]


def test_every_row_of_the_gin_files_has_its_place_and_every_place_its_file():
    texts = [file.read_text() for file in CONFIGS.rglob("*.gin")]
    bound = {row for text in texts for row in re.findall(r'^ROW = "(.+)"$', text, re.MULTILINE)}
    assert {row.removesuffix(TINY) for row in bound} == KNOWN_ROWS


# Figures 4, 5 and 6


def seeds_of(row, *accuracies):
    """Runs of one row, each with the accuracy on two groups after iterations 0, 1, ..."""
    return [
        run_of(row, *(line(n, a, seed=i, groups={"1": a, "2": a / 2}) for n, a in enumerate(one)),
               name=f"{row}_{i}")
        for i, one in enumerate(accuracies)
    ]  # fmt: skip


def test_figure4_has_the_mean_and_the_range_of_its_seeds_and_the_direct_baseline():
    runs = [
        *seeds_of("figure4/with_rationalization", (0.1, 0.4), (0.1, 0.8), (0.1, 0.9)),
        *seeds_of("figure4/without_rationalization", (0.1, 0.2)),
        *seeds_of("figure4/direct_finetuned", (0.1, 0.6), (0.1, 0.7)),
    ]
    with_, without, overall = draw_figure4(arms(runs)).axes
    np.testing.assert_allclose(with_.lines[0].get_xydata(), [[0, 10], [1, 70]])
    band = with_.collections[0].get_paths()[0].vertices
    assert sorted({y for x, y in band if x == 1}) == pytest.approx([40, 90])
    assert len(without.lines) == 2 and not without.collections  # one seed has no band
    curves = {curve.get_label(): curve.get_ydata() for curve in overall.lines}
    np.testing.assert_allclose(curves["with rationalization"], [10, 70])
    np.testing.assert_allclose(curves["direct answers, fine-tuned"], [65, 65])
    (band,) = overall.patches  # of the direct arm, which does not iterate: from its own values
    np.testing.assert_allclose((band.get_y(), band.get_y() + band.get_height()), (60, 70))


def runs_with(*settings, seeds=(0, 1)):
    """Runs of no row, one per seed for each of `settings`, in a directory of its own."""
    runs = []
    for bindings in settings:
        for seed in seeds:
            name = f"run_{len(runs)}"
            own = {"SEED": str(seed), "MODEL_DIR": repr(name), "MODEL_CHECKPOINT": f"'base_{seed}'"}
            rows = (line(0, 0.1, seed=seed), line(1, 0.1 * len(runs), seed=seed))
            runs.append(run_of("", *rows, name=name, bindings={**own, **bindings}))
    return runs


def test_runs_that_differ_in_their_seeds_alone_are_one_arm_named_by_what_differs():
    common = {"STEPS": "700", "TASK/ArithmeticTask.digits": "(1, 2)"}
    runs = runs_with(
        {**common, "StarConfig.only_right_steps": "False"},
        {**common, "StarConfig.only_right_steps": "True"},
    )
    interleaved = [runs[0], runs[2], runs[1], runs[3]]
    found = arms(interleaved)
    assert [arm.label for arm in found] == [
        "StarConfig.only_right_steps = False", "StarConfig.only_right_steps = True"
    ]  # fmt: skip
    assert [[run.name for run in arm.runs] for arm in found] == [
        ["run_0", "run_1"], ["run_2", "run_3"]
    ]  # fmt: skip
    assert [panel.get_title() for panel in draw_accuracies(interleaved).axes] == [
        arm.label for arm in found
    ]
    assert [arm.label for arm in arms(runs[:2])] == ["run_0 and 1 more"]  # nothing that differs


def test_runs_of_one_seed_are_arms_of_their_own_and_so_are_those_without_bindings():
    twice = runs_with({"A": "1"}, {"A": "1"})  # other bases, say
    assert [arm.label for arm in arms(twice)] == ["run_0", "run_1", "run_2", "run_3"]
    bare = [run_of("", line(0, 0.1, seed=i), name=f"old_{i}") for i in range(2)]
    assert [arm.label for arm in arms(bare)] == ["old_0", "old_1"]
    many = runs_with(*({name: value for name in "ABCD"} for value in "12"))
    assert [arm.label for arm in arms(many)] == ["run_0 and 1 more", "run_2 and 1 more"]


def test_where_some_seeds_have_not_come_the_mean_is_dotted():
    runs = seeds_of("figure4/with_rationalization", (0.1, 0.4), (0.1, 0.8, 0.9))
    (arm,) = arms(runs)
    figure = draw_figure4([arm])
    with_, overall = figure.axes
    for panel, n_lines in ((with_, 2 * len(arm.groups)), (overall, 2)):
        assert len(panel.lines) == n_lines
        all_seeds, some = panel.lines[:2]
        np.testing.assert_allclose(all_seeds.get_xydata(), [[0, 10], [1, 60]])
        np.testing.assert_allclose(some.get_xydata(), [[1, 60], [2, 90]])
        assert (all_seeds.get_linestyle(), some.get_linestyle()) == ("-", ":")
    assert "dotted: some seeds" in with_.texts[0].get_text()
    _, of_lines = figure.legends
    assert [text.get_text() for text in of_lines.get_texts()] == ["with rationalization"]


def test_figure4_says_which_arms_were_not_run():
    (section,) = figure_sections(seeds_of("figure4/with_rationalization" + TINY, (0.1, 0.9)))
    assert "tiny twin" in section.title
    assert "Not run: without rationalization, direct answers, fine-tuned." in section.text
    (picture,) = section.pictures
    assert picture.name == "figure4_tiny.png"


@pytest.fixture
def late_run():
    accuracies = [(0.5, 0.0), (0.9, 0.02), (0.88, 0.6), (0.9, 0.8)]
    lines = [line(n, a, groups={"1": a, "6": b}) for n, (a, b) in enumerate(accuracies)]
    sampled = [None, {"1": 50}, {"1": 25, "6": 25}, {"1": 25, "6": 25}]
    return run_of("figure5", *lines, digests=[IterationDigest(questions=x) for x in sampled])


def test_figure5_has_accuracy_before_and_after_digits_enter(late_run):
    (section,) = figure_sections([late_run])
    rows = rows_by_head(section.tables[0])
    assert [*rows["6"].values()][:4] == ["6", "2", "100", "2.0"]
    assert (rows["6"]["then %"], rows["6"]["last %"]) == ("60.0", "80.0")
    assert (rows["1"]["enter in"], rows["1"]["before %"]) == ("the start", "90.0")
    (panel,) = draw_figure5(arms([late_run])).axes
    (rule,) = [x for x in panel.lines if x.get_linestyle() == "--"]
    assert rule.get_xdata() == [1.5, 1.5]  # between what was before and after


def test_figure6_counts_the_models_steps_against_the_data_sets():
    counts = {(2, 2, True): 6, (2, 3, False): 3, (14, 12, True): 1}
    run = run_of("figure6", line(0, 0.7), digests=[IterationDigest(steps=counts)])
    (section,) = figure_sections([run])
    every, right = section.tables[0].rows
    assert every[2:] == ("all", "10", "60.0", "31.3 to 83.2", "10.0", "30.0")
    assert right[2:5] == ("correct", "7", "85.7")
    all_answers, _ = draw_figure6(arms([run])).axes
    grid = all_answers.images[0].get_array()
    assert grid.shape == (11, 11) and grid.sum() == 10
    assert (grid[2, 2], grid[3, 2], grid[10, 10]) == (6, 3, 1)  # [the model's, the data set's]


# What is counted in the attempts


def test_an_iteration_is_counted_from_its_stages(tmp_path):
    """Question x has two samples, y two turns; only some of each are kept."""
    write_lines(tmp_path / "iter_000/eval.jsonl", attempt("a"), wrong("b"), wrong("a", sample=1))
    stage = tmp_path / "iter_001"
    x = [attempt("x", 5), attempt("x", 50, sample=1)]
    y = [wrong("y", 7), attempt("y", 100, turn=1)]
    write_lines(stage / "generations.jsonl", *x, *y, attempt("z", 9, group="2"))
    rationalized = attempt("y", 1000, hinted=True)
    write_lines(stage / "rationalizations.jsonl", rationalized)
    write_lines(
        stage / "train.jsonl",
        kept(x[1], "generated", completion="u v"),
        kept(y[1], "generated", completion="w v", steps_right=True),
        kept(rationalized, "rationalized", completion="u v", steps_right=False),
    )
    write_lines(
        stage / "eval.jsonl",
        wrong("a", n_steps=3, reference_steps=2),
        attempt("b", n_steps=3, reference_steps=2),
        attempt("a", sample=1, n_steps=3),
    )
    _, digest = (each for each, _ in zip(read_iterations(tmp_path), range(2), strict=False))
    assert digest.questions == {"1": 2, "2": 1}
    assert digest.kept == {
        "generated": KeptDigest(n=2, n_tokens=150, n_steps_checked=1, n_steps_right=1),
        "rationalized": KeptDigest(n=1, n_tokens=1000, n_steps_checked=1, n_steps_right=0),
        "resampled": KeptDigest(n=0, n_tokens=0, n_steps_checked=0, n_steps_right=0),
    }
    assert (digest.n_unique, digest.distinct_2) == (2, 2 / 3)
    assert (digest.newly_solved, digest.newly_lost) == (2, 1)
    assert digest.steps == {(2, 3, False): 1, (2, 3, True): 1}


def test_a_run_of_the_former_format_is_reported_as_one_of_this_format(tmp_path):
    old, new = (write_run(tmp_path / name / "run", 2, 30, steps=True) for name in ("old", "new"))
    as_former_format(old)
    old, new = load_run(old), load_run(new)
    assert old.iterations == new.iterations
    for was, now in zip(old.rows, new.rows, strict=True):
        counts = {
            stage: {name: n for name, n in of.items() if name != "attempts"}
            for stage, of in now.counts.items()
        }
        leaks = {"no_hint_leak": {"rationalize": 0}} if now.iteration else {}
        assert was == dataclasses.replace(now, counts=counts, filtered=leaks)


def test_direct_fine_tuning_of_the_former_format_trained_on_all_its_questions(tmp_path):
    run = write_run(tmp_path / "run", 1, 10)
    as_former_format(run)
    rows = [json.loads(row) for row in (run / "metrics.jsonl").read_text().splitlines()]
    rows[1].update(
        kept_generated=0, kept_rationalized=0, n_sampled=70, train_fraction=1.0,
        seconds_generate=0.0, seconds_rationalize=0.0,
    )  # fmt: skip
    write_lines(run / "metrics.jsonl", *rows)
    assert [row.train_fraction for row in load_run(run).rows] == [0.0, 1.0]
    assert load_run(run).rows[1].kept == {"finetune": 70}


def test_every_attempt_of_the_former_format_is_one_of_this_format(tmp_path):
    old, new = (write_run(tmp_path / name, 1, 10, steps=True) for name in ("old", "new"))
    as_former_format(old)
    for file in ("generations.jsonl", "eval.jsonl"):
        pairs = zip(
            *(read_rows(run / "iter_001" / file, ATTEMPT) for run in (old, new)), strict=True
        )
        for was, now in pairs:
            unknown = ("end", "steps_right", "hint_leaked")
            reading = {k: v for k, v in now["reading"].items() if k not in unknown}
            assert was == {k: v for k, v in now.items() if k not in ("reward", "source")} | {
                "reading": reading
            }


def test_a_run_without_its_attempts_is_still_reported(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", line(0, 0.1), line(1, 0.2))
    run = load_run(tmp_path)
    assert run.iterations == (IterationDigest(), IterationDigest())
    assert "`" not in run.command.split(";")[0] and "config.gin" in run.command
    assert len(sections([run])) >= 2


def test_questions_that_are_new_count_neither_as_solved_nor_as_lost():
    before = {"a": True, "b": False, "c": True, "e": False}
    now = {"a": False, "b": True, "d": True, "e": True}
    assert changed(before, now) == (2, 1)


@pytest.mark.parametrize(
    ("texts", "n", "share"),
    [
        (["a b c", "a b d"], 2, 3 / 4),
        (["a a a a"], 1, 1 / 4),
        (["a b", "c d"], 2, 1.0),
        (["a"], 2, None),
        ([], 2, None),
    ],
)
def test_distinct_n_is_the_share_of_different_ngrams(texts, n, share):
    assert distinct(texts, n) == share


def test_a_sample_is_spread_over_all():
    assert evenly(range(10), 5) == [0, 2, 4, 6, 8]
    assert evenly(range(3), 5) == [0, 1, 2]


def test_attempts_are_read_one_at_a_time(tmp_path):
    file = tmp_path / "eval.jsonl"
    file.write_text(json.dumps(attempt("a")) + "\nbroken\n")
    lines = read_rows(file, ATTEMPT)
    assert next(lines)["question_id"] == "a"  # though a later line is broken
    with pytest.raises(UserError, match=r"eval\.jsonl, line 2: .*restore the file"):
        next(lines)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (attempt("a", correct="yes"), "correct is 'yes', expected bool"),
        (attempt(3), "question_id is 3, expected str"),
        (attempt("a", turn=None), "turn is None, expected int"),
        ([], "expected a JSON object, found list"),
    ],
)
def test_a_malformed_attempt_is_one_line_of_what_to_do(tmp_path, bad, reason):
    write_lines(tmp_path / "metrics.jsonl", line(0, 0.1))
    write_lines(tmp_path / "iter_000/eval.jsonl", attempt("b"), bad)
    with pytest.raises(UserError) as caught:
        load_run(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/iter_000/eval.jsonl, line 2: {reason}; restore")
    assert "\n" not in message


# Training set, changes, right steps, cost


def test_a_half_character_that_a_model_wrote_is_no_malformed_line(tmp_path):
    file = tmp_path / "train.jsonl"
    example = kept(attempt("a", 3), "generated", completion="\ud83d")
    write_lines(file, example)
    del example["token_ids"]
    assert list(read_rows(file, KEPT)) == [{**example, "n_tokens": 3}]


def test_composition_has_each_source_and_their_sum():
    row = line(1, 0.5, n_questions=1000, kept={"generate": 600, "resample": 40})
    (section,) = iteration_sections([run_of("", line(0, 0.1), row)])
    assert section.tables[0].rows == (("1", "1,000", "600", "0", "40", "640", "64.0"),)


def test_bars_of_sources_are_stacked_means_over_seeds():
    def run(seed, *kept):
        rows = [line(n, 0.1, seed=seed, kept=k) for n, k in enumerate([{}, *kept])]
        return run_of("figure5", *rows, name=f"s{seed}")

    third = {"resample": 5}
    first = run(0, {"generate": 10, "rationalize": 4}, {"generate": 30, "rationalize": 2} | third)
    second = run(1, {"generate": 20, "rationalize": 8})
    (panel,) = draw_composition(arms([first, second])).axes
    bars = [[(b.get_y(), b.get_height()) for b in container] for container in panel.containers]
    assert bars == [[(0, 15), (0, 30)], [(15, 6), (30, 2)], [(21, 0), (32, 5)]]


def test_what_each_filter_dropped_is_shown_by_stage_and_is_in_the_json(tmp_path):
    filtered = {
        "right_answer": {"generate": 11, "rationalize": 5},
        "no_hint_leak": {"generate": 0, "rationalize": 3},
        "my_own": {"generate": 2},
    }
    row = line(
        1, 0.5, kept={"generate": 27, "rationalize": 1}, filtered=filtered,
        counts={"generate": {"attempts": 40}, "rationalize": {"attempts": 9}},
    )  # fmt: skip
    write_lines(tmp_path / "run/metrics.jsonl", line(0, 0.1, kept={}), row)
    write_report([str(tmp_path / "run")], str(tmp_path / "out"), "command")
    content = json.loads((tmp_path / "out/report.json").read_text())
    (section,) = [x for x in content["sections"] if x["title"] == "What the filters dropped"]
    (table,) = section["tables"]
    header = ["iteration", "stage", "attempts", "right_answer", "no_hint_leak", "my_own", "kept"]
    assert table["header"] == header
    assert table["rows"] == [
        ["1", "generate", "40", "11", "0", "2", "27"],
        ["1", "rationalize", "9", "5", "3", "-", "1"],
    ]
    assert content["runs"][0]["rows"][1]["filtered"] == filtered
    written = (tmp_path / "out/report.md").read_text()
    assert "## What the filters dropped" in written
    assert "| 1 | rationalize | 9 | 5 | 3 | - | 1 |" in written
    none = iteration_sections([run_of("", line(0, 0.1), line(1, 0.5))])
    assert [section.title for section in none] == ["Training set of each outer iteration"]


def test_length_and_diversity_are_of_the_kept_rationales():
    digest = IterationDigest(
        kept={"generated": KeptDigest(4, 100, 0, 0), "rationalized": KeptDigest(6, 300, 0, 0)},
        n_unique=8,
        distinct_2=0.25,
    )
    run = run_of("", line(0, 0.1), line(1, 0.5), digests=[IterationDigest(), digest])
    _, section = iteration_sections([run])
    (row,) = section.tables[0].rows
    assert row == ("1", "10", "25.0", "50.0", "-", "40.0", "80.0", "0.250")
    assert section.tables[0].header[-2:] == ("distinct %", "distinct-2")


def test_changes_are_counted_for_each_iteration():
    digests = [IterationDigest(), IterationDigest(newly_solved=30, newly_lost=1)]
    _, section = iteration_sections([run_of("", line(0, 0.1), line(1, 0.2), digests=digests)])
    assert section.tables[0].rows == (("1", "20.0", "200", "30", "1"),)


def steps_run():
    """Right steps: 45 of 50 and 10 of 40 right answers; 20 of 25 and 9 of 12 kept rationales."""
    counts = {
        "generate": {"attempts": 90, "right": 60, "checkable": 50, "right_steps": 45},
        "rationalize": {"attempts": 80, "right": 70, "checkable": 40, "right_steps": 10},
    }
    kept = {"generated": KeptDigest(30, 1, 25, 20), "rationalized": KeptDigest(15, 1, 12, 9)}
    rows = [line(0, 0.1), line(1, 0.5, counts=counts), line(2, 0.5)]
    return run_of("", *rows, digests=[IterationDigest(), *[IterationDigest(kept=kept)] * 2])


def test_right_steps_are_shares_of_the_checkable_before_and_after_the_filter():
    run = steps_run()
    *_, section = iteration_sections([run])
    assert section.tables[0].rows == (
        (
            "1",
            "50",
            "90.0",
            "78.6 to 95.7",
            "25",
            "80.0",
            "40",
            "25.0",
            "14.2 to 40.2",
            "12",
            "75.0",
        ),
        ("2", "-", "-", "-", "25", "80.0", "-", "-", "-", "12", "75.0"),
    )  # fmt: skip
    (section,) = iteration_sections([run_of("", line(0, 0.1), line(1, 0.5))])
    assert section.title == "Training set of each outer iteration"


def test_the_figure_of_right_steps_has_right_answers_or_the_kept_where_no_more_is_known():
    panels = draw_right_steps(arms([steps_run()])).axes
    assert [panel.get_title() for panel in panels] == ["generated", "rationalized"]
    (generated,), (rationalized,) = (panel.lines for panel in panels)
    np.testing.assert_allclose(generated.get_xydata(), [[1, 90], [2, 80]])
    np.testing.assert_allclose(rationalized.get_xydata(), [[1, 25], [2, 75]])


def test_changes_are_drawn_as_shares_of_all_held_out_questions():
    digests = [IterationDigest(), IterationDigest(newly_solved=30, newly_lost=12)]
    run = run_of("", line(0, 0.1, n=400), line(1, 0.2, n=400), digests=digests)
    (panel,) = draw_changes(arms([run])).axes
    heights = [[bar.get_height() for bar in container] for container in panel.containers]
    assert heights == [[7.5], [-3.0]]
    assert [bar.get_y() for container in panel.containers for bar in container] == [0, 0]


def test_the_last_line_of_the_cost_is_the_sum_of_all_iterations():
    """Every iteration has other numbers, so that no line is another's, or a mean, or the last."""
    sampling = [
        {"generate": dict.fromkeys(("prefix_tokens", "prompt_tokens"), 10 ** (i + 1))
         | {"new_tokens": 2 * 10**i, "prefill_seconds": 3.0 * 10**i, "decode_seconds": 4.0 * 10**i}}
        for i in range(3)
    ]  # fmt: skip
    stages = ("generate", "rationalize", "resample", "finetune", "evaluate")
    rows = [
        line(
            i,
            0.1,
            seconds={stage: (k + 1) * 10.0**i for k, stage in enumerate(stages)},
            training={"steps": 3 * i, "loss": 1.0, "packing_efficiency": 0.5},
        )
        for i in range(3)
    ]
    bindings = {"TrainerConfig.batch_size": "8", "TrainerConfig.row_length": "100"}
    digests = [IterationDigest(sampling=each) for each in sampling]
    (table,) = cost_section([run_of("", *rows, digests=digests, bindings=bindings)]).tables
    assert [row[0] for row in table.rows] == ["base", "1", "2", "all"]
    assert table.rows[2][1:12] == (
        "2,000", "200", "2,400", "100.0", "200.0", "300.0", "400.0", "500.0", "1,500.0", "700.0",
        "-",
    )  # fmt: skip
    assert table.rows[-1] == (
        "all", "2,220", "222", "3,600", "111.0", "222.0", "333.0", "444.0", "555.0", "1,665.0",
        "777.0", "-", "-",
    )  # fmt: skip


def test_a_sum_is_not_known_where_an_iteration_is_not():
    rows = [line(0, 0.1, seconds={"evaluate": 2.0}), line(1, 0.1, seconds={"evaluate": 3.0})]
    tokens = {"evaluate": {"prompt_tokens": 5, "new_tokens": 7}}
    digests = [IterationDigest(sampling=tokens), IterationDigest()]
    (table,) = cost_section([run_of("", *rows, digests=digests)]).tables
    assert table.rows[0][1:3] == ("5", "7")
    assert table.rows[-1][1:4] == ("-", "-", "-") and table.rows[-1][9] == "5.0"


def test_the_roofline_share_is_needed_flops_over_time_and_peak(tmp_path):
    """GPT-J has 6,050,882,784 parameters, a v3-8 a peak of 8 cores x 61.5 TFLOP/s."""
    run = load_run(write_run(tmp_path / "run", iterations=1, attempts=10))
    header, first = cost_section([run]).tables[0].header, cost_section([run]).tables[0].rows[1]
    cells = dict(zip(header, first, strict=True))
    peak, parameters = 8 * 61.5e12, 6_050_882_784
    sampled, trained = 3 * (1000 + 50_000 + 40_000), 40 * 8 * 1024 * 0.9
    assert (cells["prefilled"], cells["written"]) == ("153,000", "120,000")
    assert cells["trained on"] == f"{trained:,.0f}"
    share = 100 * 2 * parameters * sampled / (3 * 90.0 * peak)
    assert cells["sampling %"] == f"{share:.1f}"
    assert cells["training %"] == f"{100 * 6 * parameters * trained / (307 * peak):.1f}"


def test_no_roofline_where_the_peak_is_not_known(tmp_path):
    run = load_run(write_run(tmp_path / "run", iterations=1, attempts=10, device="cpu"))
    rows = cost_section([run]).tables[0].rows
    assert {row[-2:] for row in rows} == {("-", "-")}
    assert rows[1][1] == "153,000"


# Which row a run is


def test_a_run_says_which_row_it_is_and_how_it_was_started(tmp_path):
    write_lines(tmp_path / "metrics.jsonl", line(0, 0.1))
    RunDir(tmp_path).write_row("figure6_tiny")
    facts = load_run(tmp_path).facts
    assert (facts.row, facts.device, facts.n_devices) == ("figure6_tiny", "cpu", 8)
    assert facts.command == shlex.join(sys.orig_argv)
    (tmp_path / "row.json").write_text('{"row": "figure5"}')  # by hand
    assert load_run(tmp_path).facts == RunFacts("figure5")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"row": 3}', '{"n_devices": true}'])
def test_a_malformed_row_file_is_one_line_of_what_to_do(tmp_path, text):
    write_lines(tmp_path / "metrics.jsonl", line(0, 0.1))
    (tmp_path / "row.json").write_text(text)
    with pytest.raises(UserError, match=r"row\.json: .*remove the file$"):
        load_run(tmp_path)


# The files


def test_a_report_has_everything_with_n_seed_and_command(tmp_path):
    runs = [
        write_run(tmp_path / "with", 2, row="figure4/with_rationalization_tiny", seed=5),
        write_run(tmp_path / "gsm8k", 2, row="figure6", groups=(), steps=True),
    ]
    out = tmp_path / "out"
    text = write_report([*map(str, runs)], str(out), "the command").read_text()
    linked = re.findall(r"!\[[^\]]+\]\((.+?)\)", text)
    pictures = ["figure4_tiny", "figure6", "training_set", "rationales", "changes", "right_steps"]
    assert set(linked) == {f"{name}.png" for name in ("accuracy_by_group", *pictures)}
    assert all((out / name).read_bytes().startswith(b"\x89PNG") for name in linked)
    content = json.loads((out / "report.json").read_text())
    (with_,) = [run for run in content["runs"] if run["name"] == "with"]
    assert with_["row"] == "figure4/with_rationalization_tiny"
    assert with_["iterations"][2]["kept"]["generated"]["n"] == with_["rows"][2]["kept"]["generate"]
    assert [f"## {part['title']}" for part in content["sections"]] == re.findall(
        r"^## .+$", text, re.MULTILINE
    )
    for part in content["sections"]:
        rows = [row for table in part["tables"] for row in table["rows"]]
        if any({"not run", "another model"}.isdisjoint(row) for row in rows):
            written = json.dumps(part)
            assert "seed" in written, part["title"]
    page = (out / "report.html").read_text()
    for seed in (5, 0):  # in the section of the run, and nowhere else
        assert text.count(f"star_jax --gin.SEED={seed}") == 1
        assert page.count(f"star_jax --gin.SEED={seed}") == 1


def test_the_report_that_a_run_makes_of_itself_has_its_command_once(tmp_path):
    run = write_run(tmp_path / "run", 2, seed=5)
    text = write_report([str(run)], str(tmp_path / "out"), "star_jax --gin.SEED=5").read_text()
    assert text.count("star_jax --gin.SEED=5") == 1 == text.count("Command:")


def test_the_base_is_called_base_in_tables(tmp_path):
    row = "table1/few_shot_cot"
    (found,) = [x for x in paper_sections([run_of(row, line(0, 0.366))]) if "Table 1" in x.title]
    (cells,) = [dict(zip(t.header, r, strict=True)) for t in found.tables for r in t.rows
                if r[1] == "36.6"]  # fmt: skip
    assert cells["iteration"] == "base"
    late = write_run(tmp_path / "late", 3, late=("5",), late_from=2, row="figure5")
    text = write_report([str(late)], str(tmp_path / "out"), "star_jax").read_text()
    assert "before they enter (1 for those in from the start)" in text
    assert "iteration 0" not in text


def report_seconds(folder, runs, iterations, attempts):
    """CPU seconds of a report; the clock's would be the machine's other work, too."""
    for i in range(runs):
        write_run(folder / f"run_{i}", iterations, attempts, seed=i)
    start = time.process_time()
    directories = sorted(map(str, folder.glob("run_*")))
    write_report(directories, str(folder / "out"), "command")
    return time.process_time() - start


def test_a_small_report_is_fast(tmp_path):
    assert report_seconds(tmp_path, runs=2, iterations=3, attempts=100) < 15


@pytest.mark.slow
def test_twenty_runs_of_thirty_iterations_are_reported_within_a_minute(tmp_path):
    """Of 500 attempts a stage; 10,000 would be several GB."""
    assert report_seconds(tmp_path, runs=20, iterations=30, attempts=500) < 60
    assert (tmp_path / "out/report.html").stat().st_size < 20e6


def test_arms_are_runs_of_one_row_and_runs_of_none_each_alone():
    runs = [run_of("figure5", line(0, 0.1), name="a"), run_of("", line(0, 0.1), name="b")]
    runs += [run_of("figure5", line(0, 0.1), name="c"), run_of("", line(0, 0.1), name="d")]
    assert [[run.name for run in arm.runs] for arm in arms(runs)] == [["a", "c"], ["b"], ["d"]]


def test_no_run_at_all():
    with pytest.raises(UserError, match="has no runs; set"):
        load_runs([])
