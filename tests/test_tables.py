"""Tables as text, and the table of a run's metrics as the run prints it."""

import dataclasses

from star_jax.reporting.page import render_markdown
from star_jax.reporting.tables import Section, table_of
from star_jax.run.metrics import (
    IterationMetrics,
    group_names,
    live_table,
    row_cells,
)
from star_jax.run.progress import aligned

ROW = IterationMetrics(
    iteration=3,
    seed=0,
    rationalize=True,
    accuracy=0.25,
    accuracy_by_group={"1": 0.5, "2": 0.0},
    n_eval=20,
    n_eval_by_group={"1": 10, "2": 10},
    n_questions=10_000,
    kept={"generate": 1200, "rationalize": 34},
    unparsable=7,
    dropped=0,
    training={"steps": 57, "loss": 0.98765, "packing_efficiency": 0.9},
    seconds={"generate": 2.0, "rationalize": 1.5, "finetune": 3.0, "evaluate": 5.0},
)
BASE = dataclasses.replace(
    ROW, iteration=0, accuracy=1, n_questions=0, kept={}, seconds={},
    training={"steps": 0, "loss": None, "packing_efficiency": None},
)  # fmt: skip


def test_columns_are_aligned_right_or_left():
    cells = [["a", "n", "b"], ["long", "10", "c"]]
    assert aligned(cells) == ["   a   n  b", "long  10  c"]
    assert aligned(cells, left=(0, -1)) == ["a      n  b", "long  10  c"]
    assert aligned(cells, widths=(1, 4, 2)) == ["   a     n   b", "long    10   c"]


def test_a_bar_in_a_cell_does_not_end_it():
    table = table_of([["a|b", "n"], ["c|", "1"]])
    text = render_markdown("star_jax", [Section("Title", tables=(table,))])
    assert text.endswith("## Title\n\n| a\\|b | n |\n| ---: | ---: |\n| c\\| | 1 |\n")


def test_a_row_is_aligned_with_its_header():
    assert live_table([ROW]) == [
        "  iter   acc %   1 dig   2 dig  kept gen  kept rat  train %  unparsed   steps    loss"
        "  seconds",
        "     3    25.0    50.0     0.0      1200        34     12.3         7      57  0.9877"
        "     11.5",
    ]


def test_base_row_has_no_training_values_and_missing_groups_are_dashes():
    cells = ["base", "100.0", "50.0", "-", *["-"] * 3, "7", "-", "-", "0.0"]
    assert row_cells(BASE, ("1", "3")) == cells


def test_a_stage_that_did_not_run_has_a_dash():
    cells = row_cells(dataclasses.replace(ROW, kept={"generate": 1200}), ())
    assert cells[2:5] == ["1200", "-", "12.0"]


def test_groups_are_sorted_as_numbers_then_names_over_all_rows():
    groups = ({"2": 0, "b": 0}, {"10": 0, "1": 0})
    rows = [dataclasses.replace(ROW, accuracy_by_group=each) for each in groups]
    assert group_names(rows) == ("1", "2", "10", "b")
