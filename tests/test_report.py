"""Tables, figure and files of the report, from hand-written metrics."""

import io
import json
import os

import numpy as np
import pytest
from matplotlib.image import imread

from star_jax.errors import UserError
from star_jax.reporting import figures
from star_jax.reporting.figures import draw_accuracies, picture
from star_jax.reporting.report import report
from star_jax.reporting.runs import load_run
from star_jax.reporting.tables import comparison_table, wilson_interval
from star_jax.run import run_dir
from star_jax.run.metrics import live_table
from tests.fake_runs import write_report

COMMAND = "python -m star_jax.main --gin_file=runs/star.gin"


def make_row(iteration, by_group, *, overall=None, n_per_group=50, rationalize=True, seed=3):
    """A line of metrics.jsonl; `overall` is for tasks without groups (200 questions)."""
    seconds = {"generate": 1.5, "rationalize": 0.5, "finetune": 10.0, "evaluate": 2.0}
    kept = {"generate": 100 * iteration, "rationalize": 7}
    trained = iteration > 0
    return {
        "iteration": iteration,
        "seed": seed,
        "rationalize": rationalize,
        "accuracy": sum(by_group.values()) / len(by_group) if by_group else overall,
        "accuracy_by_group": by_group,
        "n_eval": n_per_group * len(by_group) or 200,
        "n_eval_by_group": dict.fromkeys(by_group, n_per_group),
        "unparsable": 4,
        "dropped": 0,
        "chance": None,
        "n_questions": 250 if trained else 0,
        "kept": kept if trained else {},
        "seconds": seconds if trained else {"evaluate": 2.0},
        "counts": {},
        "filtered": {},
        "training": {"steps": 40, "loss": 1.5, "packing_efficiency": 0.9}
        if trained
        else {"steps": 0, "loss": None, "packing_efficiency": None},
    }


def arithmetic_rows(**kwargs):
    accuracies = [(0.1, 0.0), (0.5, 0.1), (0.9, 0.4)]
    return [make_row(i, {"1": a, "2": b}, **kwargs) for i, (a, b) in enumerate(accuracies)]


def write_run(directory, rows):
    directory.mkdir(parents=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (directory / "metrics.jsonl").write_text(text)
    return str(directory)


@pytest.fixture
def with_rationalization(tmp_path):
    return write_run(tmp_path / "star", arithmetic_rows())


@pytest.fixture
def without_rationalization(tmp_path):
    return write_run(tmp_path / "plain", arithmetic_rows(rationalize=False))


@pytest.fixture
def no_groups(tmp_path):
    rows = [make_row(i, {}, overall=accuracy) for i, accuracy in enumerate((0.03, 0.06, 0.1))]
    return write_run(tmp_path / "gsm8k", rows)


# Numbers


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, Table I, method 3.
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_equals_published_values(k, n, low, high):
    assert wilson_interval(k, n) == pytest.approx((low, high), abs=5e-5)


def test_wilson_interval_is_symmetric_and_stays_within_a_proportion():
    for n in (1, 7, 1000, 10**6):
        assert wilson_interval(0, n)[0] == 0 and wilson_interval(n, n)[1] == 1
        low, high = wilson_interval(n // 3, n)
        assert wilson_interval(n - n // 3, n) == pytest.approx((1 - high, 1 - low))


def test_metrics_table_has_the_metrics(with_rationalization):
    header, *lines = live_table(load_run(with_rationalization).rows)
    assert header.split()[:7] == ["iter", "acc", "%", "1", "dig", "2", "dig"]
    assert [line.split() for line in lines] == [
        ["base", "5.0", "10.0", "0.0", "-", "-", "-", "4", "-", "-", "2.0"],
        ["1", "30.0", "50.0", "10.0", "100", "7", "42.8", "4", "40", "1.5000", "14.0"],
        ["2", "65.0", "90.0", "40.0", "200", "7", "82.8", "4", "40", "1.5000", "14.0"],
    ]


def test_comparison_has_the_last_iteration_of_each_run(with_rationalization, no_groups):
    table = comparison_table([load_run(with_rationalization), load_run(no_groups)])
    assert table == [
        ["run", "iter", "acc %", "1 dig", "2 dig", "95 % interval", "n", "seed"],
        ["star", "2", "65.0", "90.0", "40.0", "55.3 to 73.6", "100", "3"],
        ["gsm8k", "2", "10.0", "-", "-", "6.6 to 14.9", "200", "3"],
    ]


# The figure


def test_figure_shows_each_group_of_each_run(with_rationalization, without_rationalization):
    runs = [load_run(with_rationalization), load_run(without_rationalization)]
    figure = draw_accuracies(runs)
    left, right = figure.axes
    for panel in (left, right):
        lines = {line.get_label(): line for line in panel.lines}
        assert lines.keys() == {"1", "2"}
        np.testing.assert_allclose(lines["1"].get_xydata(), [[0, 10], [1, 50], [2, 90]])
        np.testing.assert_allclose(lines["2"].get_xydata(), [[0, 0], [1, 10], [2, 40]])
    assert left.get_title() == "star"
    assert right.get_title() == "plain\n(no rationalization)"
    assert left.get_ylim() == right.get_ylim() == (-2, 102)
    assert [left.lines[i].get_color() for i in (0, 1)] == [
        right.lines[i].get_color() for i in (0, 1)
    ]
    assert left.lines[0].get_color() != left.lines[1].get_color()
    assert "n = 50 per digit count, seed 3" in [text.get_text() for text in left.texts]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["1", "2"]


def test_iteration_zero_is_labelled_base(with_rationalization):
    (panel,) = draw_accuracies([load_run(with_rationalization)]).axes
    labels = panel.xaxis.get_major_formatter().format_ticks([0, 1, 2])
    assert labels == ["base", "1", "2"]


def test_figure_without_groups_has_overall_line_and_wilson_band(no_groups):
    figure = draw_accuracies([load_run(no_groups)])
    (panel,) = figure.axes
    (line,) = panel.lines
    np.testing.assert_allclose(line.get_xydata(), [[0, 3], [1, 6], [2, 10]])
    band = panel.collections[0].get_paths()[0].vertices
    low, high = wilson_interval(20, 200)
    at_last = band[band[:, 0] == 2][:, 1]
    assert (at_last.min(), at_last.max()) == pytest.approx((100 * low, 100 * high))
    assert panel.get_ylim()[1] > 100 * high
    assert not figure.legends


def test_group_that_enters_later_starts_later(tmp_path):
    rows = [make_row(0, {"1": 0.5}), make_row(1, {"1": 0.6, "10": 0.1, "2": 0.2})]
    run = load_run(write_run(tmp_path / "run", rows))
    (panel,) = draw_accuracies([run]).axes
    assert [line.get_label() for line in panel.lines] == ["1", "2", "10"]
    np.testing.assert_allclose(panel.lines[2].get_xydata(), [[1, 10]])


def test_many_runs_wrap_to_more_lines_of_panels(tmp_path):
    runs = [load_run(write_run(tmp_path / f"run{i}", arithmetic_rows())) for i in range(6)]
    figure = draw_accuracies(runs)
    assert [panel.get_title() for panel in figure.axes] == [f"run{i}" for i in range(6)]
    assert len({panel.get_subplotspec().rowspan.start for panel in figure.axes}) == 2


def test_a_picture_is_a_png_of_150_dpi(with_rationalization):
    run = load_run(with_rationalization)
    content = picture("figure.png", "", draw_accuracies([run])).png
    assert content.startswith(b"\x89PNG\r\n\x1a\n")
    pixels = imread(io.BytesIO(content))
    width, height = draw_accuracies([run]).get_size_inches()
    assert pixels.shape[:2] == (round(150 * height), round(150 * width))
    assert pixels.std() > 0.01  # something is drawn


# The files


def test_report_has_command_tables_comparison_and_figure(
    with_rationalization, without_rationalization, tmp_path
):
    out = tmp_path / "out"
    path = write_report([with_rationalization, without_rationalization], str(out), COMMAND)
    assert path == out / "report.md"
    files = ["accuracy_by_group.png", "report.html", "report.json", "report.md", "training_set.png"]
    assert sorted(os.listdir(out)) == files
    text = path.read_text()
    assert f"    {COMMAND}\n" in text
    assert "(accuracy_by_group.png)" in text
    assert "## Last iteration of each run" in text
    assert "## plain (no rationalization)" in text
    row = "| 2 | 65.0 | 55.3 to 73.6 | 100 | 90.0 | 40.0 | 200 | 7 | 82.8 | 4 | 40 | 1.5000 |"
    assert text.count(f"{row} 14.0 | 3 |\n") == 2


def test_report_json_has_the_same_numbers(with_rationalization, tmp_path):
    write_report([with_rationalization], str(tmp_path / "out"), COMMAND)
    content = json.loads((tmp_path / "out" / "report.json").read_text())
    assert content["command"] == COMMAND
    (run,) = content["runs"]
    assert run["name"] == "star"
    intervals = [row.pop("accuracy_interval_95") for row in run["rows"]]
    assert run["rows"] == arithmetic_rows()
    assert intervals[2] == pytest.approx(wilson_interval(65, 100))


def test_single_run_has_no_comparison(with_rationalization, tmp_path):
    path = write_report([with_rationalization], str(tmp_path / "out"), COMMAND)
    assert "Last iteration" not in path.read_text()


def test_run_with_the_base_line_only(tmp_path):
    directory = write_run(tmp_path / "run", arithmetic_rows()[:1])
    path = write_report([directory], str(tmp_path / "out"), COMMAND)
    assert "| base | 5.0 |" in path.read_text()


def test_bar_in_a_name_does_not_break_the_markdown_table(tmp_path):
    runs = [write_run(tmp_path / name, arithmetic_rows()) for name in ("a|b", "c")]
    text = write_report(runs, str(tmp_path / "out"), COMMAND).read_text()
    assert "| a\\|b | 2 |" in text


def test_runs_of_equal_name_are_named_by_path(tmp_path):
    runs = [write_run(tmp_path / arm / "run", arithmetic_rows()) for arm in ("a", "b")]
    text = write_report(runs, str(tmp_path / "out"), COMMAND).read_text()
    assert f"## {runs[0]}\n" in text and f"## {runs[1]}\n" in text


def test_report_writes_into_the_first_run_and_prints_the_table(
    with_rationalization, without_rationalization, capsys
):
    report([with_rationalization, without_rationalization])
    printed = capsys.readouterr().out
    for line in live_table(load_run(with_rationalization).rows):
        assert line + "\n" in printed
    assert "Last iteration of each run\n" in printed
    for name in ("report.md", "report.json", "accuracy_by_group.png"):
        path = os.path.join(with_rationalization, "report", name)
        assert path + "\n" in printed and os.path.getsize(path) > 0


def test_failure_in_drawing_leaves_no_file(with_rationalization, tmp_path, monkeypatch):
    def fail(runs):
        raise MemoryError

    monkeypatch.setattr(figures, "draw_accuracies", fail)
    with pytest.raises(MemoryError):
        write_report([with_rationalization], str(tmp_path / "out"), COMMAND)
    assert not (tmp_path / "out").exists()


def test_failure_in_writing_leaves_the_earlier_report(with_rationalization, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write_report([with_rationalization], str(out), "first")
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    written = []

    def full_disk(self, content):
        written.append(self.name)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        with open(self, "wb") as file:
            return file.write(content)

    monkeypatch.setattr(run_dir.Path, "write_bytes", full_disk)
    with pytest.raises(UserError, match="No space left on device"):
        write_report([with_rationalization], str(out), "second")
    assert len(written) == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


# The user's mistakes


def test_missing_directory(tmp_path):
    with pytest.raises(UserError, match=r"nowhere is not a directory.*check the path"):
        load_run(tmp_path / "nowhere")


def test_a_later_format(with_rationalization):
    file = os.path.join(with_rationalization, "format.json")
    with open(file, "w") as out:
        out.write('{"format": 3}')
    with pytest.raises(UserError, match=r"has format 3 of a later version.*formats up to 2; use"):
        load_run(with_rationalization)


def test_missing_metrics(tmp_path):
    with pytest.raises(UserError, match=r"metrics\.jsonl cannot be read \(No such file.*name the"):
        load_run(tmp_path)


def test_empty_metrics(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("\n")
    with pytest.raises(UserError, match="is empty; wait"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"accuracy": 1.5}, "accuracy is 1.5, expected 0 to 1"),
        ({"accuracy": "high"}, "accuracy is 'high', expected a number"),
        ({"accuracy": None}, "accuracy is None, expected a number"),
        ({"accuracy": True}, "accuracy is True, expected a number"),
        ({"n_eval": 0}, "n_eval is 0, expected at least 1"),
        ({"n_eval": 10.5}, "n_eval is 10.5, expected an integer"),
        ({"iteration": 4}, "expected iteration 1, found 4"),
        ({"chance": 50}, "chance is 50, expected 0 to 1"),
        ({"kept": {"generate": 1.5}}, "kept['generate'] is 1.5, expected an integer"),
        ({"seconds": [1.0]}, "seconds is [1.0], expected an object"),
        ({"seconds": {"generate": 1e999}}, "Infinity is not a number"),
        (
            {"counts": {"generate": {"checkable": 3, "right_steps": 4}}},
            "counts['generate'] has more right_steps than checkable",
        ),
        (
            {"filtered": {"right_answer": {"generate": -3}}},
            "filtered['right_answer']['generate'] is -3, expected at least 0",
        ),
        ({"training": {"loss": "low"}}, "training['loss'] is 'low', expected a number"),
        ({"training": {"loss": float("nan")}}, "NaN is not a number"),
        ({"accuracy_by_group": None}, "accuracy_by_group is None, expected an object"),
        ({"accuracy_by_group": {"1": 0.5}}, "accuracy_by_group has ['1'], n_eval_by_group"),
        (
            {"accuracy_by_group": {"1": 0.5, "2": -1}},
            "accuracy_by_group['2'] is -1, expected 0 to 1",
        ),
    ],
)
def test_malformed_value_names_file_line_and_reason(tmp_path, change, reason):
    rows = arithmetic_rows()
    rows[1].update(change)
    directory = write_run(tmp_path / "run", rows)
    with pytest.raises(UserError) as caught:
        load_run(directory)
    message = str(caught.value)
    assert message.startswith(f"{directory}/metrics.jsonl, line 2: {reason}")
    assert "resume the run" in message and "\n" not in message


@pytest.mark.parametrize("line", [b"", b"{", b"[1]", b"\xff\xfe{}", b"3", b"{}", b"[" * 100_000])
def test_line_that_is_no_metrics_object(tmp_path, line):
    first, last = (json.dumps(row).encode() for row in arithmetic_rows()[::2])
    (tmp_path / "metrics.jsonl").write_bytes(b"\n".join([first, line, last]))
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 2: .*resume the run"):
        load_run(tmp_path)


def test_missing_key_is_named(tmp_path):
    rows = arithmetic_rows()
    del rows[0]["seed"]
    with pytest.raises(UserError, match="line 1: seed is missing"):
        load_run(write_run(tmp_path / "run", rows))


def test_no_runs_and_the_same_run_twice(with_rationalization, tmp_path):
    with pytest.raises(UserError, match="has no runs; set"):
        report([])
    with pytest.raises(UserError, match="twice; name each run once"):
        write_report([with_rationalization] * 2, str(tmp_path / "out"), COMMAND)


def test_output_that_is_a_file(with_rationalization, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(UserError, match=r"cannot write to .*out.*set report\.output_dir"):
        write_report([with_rationalization], str(tmp_path / "out"), COMMAND)
    assert (tmp_path / "out").read_text() == "mine"


def test_chance_is_next_to_the_sample_size(tmp_path):
    run = write_run(tmp_path / "run", [{**row, "chance": 0.2} for row in arithmetic_rows()])
    written = write_report([run], str(tmp_path / "out"), "command").read_text()
    assert "seed 3, chance 20.0 %;" in written
