import os
import subprocess
import sys
import textwrap
import time
import types

import gin
import pytest

from star_jax import main as main_module
from star_jax.errors import UserError
from star_jax.main import RUN_MODES, chatter_left_out, main, parse_command_line

CALLS = []


@gin.configurable("run_fake", module="test_main")
def run_fake(model_dir=gin.REQUIRED, trainer=None):
    """Stands for an entry point: says what gin gave it."""
    CALLS.append((model_dir, trainer))


@gin.configurable("FakeTrainer", module="test_main")
class FakeTrainer:
    def __init__(self, batch_size, learning_rate=0.1):
        self.batch_size, self.learning_rate = batch_size, learning_rate


@gin.configurable("run_mistaken", module="test_main")
def run_mistaken():
    raise UserError("batch 12 does not fit 8 devices; set BATCH_SIZE")


@gin.configurable("run_broken", module="test_main")
def run_broken():
    raise RuntimeError("a bug of ours")


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of our own with run.gin, and entry points that need no JAX."""
    fake = types.ModuleType("star_jax.cli.configurables")
    fake.ENTRY_POINTS = {
        "star": run_fake,
        "finetune": run_mistaken,
        "evaluate": run_broken,
        "infer": interrupt,
    }
    monkeypatch.setitem(sys.modules, "star_jax.cli.configurables", fake)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.gin").write_text(
        "BATCH_SIZE = 4\nFakeTrainer.batch_size = %BATCH_SIZE\n"
    )
    (tmp_path / "run.gin").write_text(
        "include 'models/tiny.gin'\n"
        "MODEL_DIR = %gin.REQUIRED\n"
        "run_fake.model_dir = %MODEL_DIR\n"
        "run_fake.trainer = @FakeTrainer()\n"
    )
    CALLS.clear()
    yield tmp_path
    gin.clear_config()


RUN = ("--run_mode=star", "--gin_file=run.gin")
DONE = (*RUN, "--gin.MODEL_DIR='out'")


def error_of(capsys, *argv, code=2):
    assert main(argv) == code
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("star_jax: error: ")
    return lines[0].removeprefix("star_jax: error: ")


def write(folder, name, text):
    (folder / name).write_text(textwrap.dedent(text))


def test_files_flags_and_includes_reach_the_entry_point(here):
    assert main([*DONE, "--gin.FakeTrainer.learning_rate=0.5"]) == 0
    ((model_dir, trainer),) = CALLS
    assert (model_dir, trainer.batch_size, trainer.learning_rate) == ("out", 4, 0.5)


def test_a_later_file_wins_and_a_flag_wins_over_both(here):
    write(here, "more.gin", "BATCH_SIZE = 6\nFakeTrainer.learning_rate = 0.25\n")
    assert main([*DONE, "--gin_file=more.gin", "--gin.FakeTrainer.learning_rate=0.75"]) == 0
    trainer = CALLS[0][1]
    assert (trainer.batch_size, trainer.learning_rate) == (6, 0.75)


def test_flag_and_value_may_be_two_arguments(here):
    assert main(["--run_mode", "star", "--gin_file", "run.gin", "--gin.MODEL_DIR='out'"]) == 0


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("'out/a'", "out/a"),
        ('"out/a b"', "out/a b"),
        ("out/a", "out/a"),
        ("/out/a b", "/out/a b"),
        ("out/it's", "out/it's"),
        ("a.gin", "a.gin"),
        ("7", 7),
        ("None", None),
        ("['a', 'b']", ["a", "b"]),
    ],
)
def test_a_macro_flag_takes_a_gin_value_or_a_bare_text(here, given, value):
    assert main([*RUN, f"--gin.MODEL_DIR={given}"]) == 0
    assert CALLS[0][0] == value


def test_files_are_found_in_the_extra_search_paths(here, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    write(here, "two/elsewhere.gin", "include 'run.gin'\nMODEL_DIR = 'there'\n")
    argv = ["--run_mode=star", "--gin_file=elsewhere.gin", "--gin_search_paths=one,two"]
    assert main(argv) == 0
    assert CALLS[0][0] == "there"


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ([], ["--run_mode is missing", "star, few_shot"]),
        (["--run_mode=evalate"], ["'evalate'", "did you mean 'evaluate'?"]),
        (["--run_mode=xyzzy"], ["'xyzzy'", "one of star, few_shot"]),
        (["--run_mod=star"], ["'--run_mod'", "did you mean '--run_mode'?"]),
        (["--gin_files=a.gin"], ["'--gin_files'", "did you mean '--gin_file'?"]),
        (["--qqq"], ["'--qqq'", "--gin_search_paths"]),
        (["--run_mode"], ["--run_mode needs a value"]),
        (["--gin_file", "--run_mode=star"], ["--gin_file needs a value"]),
        (["--run_mode=star", "--gin.MODEL_DIR="], ["--gin.MODEL_DIR needs a value"]),
        (["--run_mode=star", "--gin.MODEL_DIR", "x"], ["--gin.MODEL_DIR needs a value"]),
        (["star"], ["stray argument 'star'"]),
        (["--run_mode=star", "--gin_file=rum.gin"], ["'rum.gin'", "did you mean 'run.gin'?"]),
        (["--run_mode=star", "--gin_file=models/tinny.gin"], ["did you mean 'models/tiny.gin'?"]),
        (["--run_mode=star", "--gin_file=/nowhere/run.gin"], ["'/nowhere/run.gin'"]),
        (RUN, ["MODEL_DIR must be set", "run.gin:2", "--gin.MODEL_DIR="]),
        ([*DONE, "--gin.MODLE_DIR='x'"], ["--gin.MODLE_DIR", "did you mean 'MODEL_DIR'?"]),
        ([*DONE, "--gin.batch_size=3"], ["'batch_size'", "did you mean 'BATCH_SIZE'?"]),
        ([*DONE, "--gin.FakeTrainr.batch_size=3"], ["'FakeTrainr'", "mean 'FakeTrainer'?"]),
        ([*DONE, "--gin.FakeTrainer.batchsize=3"], ["'batchsize'", "mean 'batch_size'?"]),
        ([*DONE, "--gin.run_fake.trainer=@FakeTrain()"], ["'@FakeTrain'", "mean 'FakeTrainer'?"]),
        ([*DONE, "--gin.run_fake.trainer=%BATCH_SIZ"], ["'%BATCH_SIZ'", "mean 'BATCH_SIZE'?"]),
        ([*DONE, "--gin.FakeTrainer.batch_size=four"], ["batch_size=four", "quotes"]),
        ([*DONE, "--gin.FakeTrainer.batch_size=[1, 2"], ["--gin.FakeTrainer.batch_size=[1, 2"]),
        ([*RUN, "--gin.MODEL_DIR='out"], ["--gin.MODEL_DIR='out", "cannot read"]),
        ([*DONE, "--gin.FakeTrainer.batch_size=1\nMODEL_DIR=2"], ["not one binding"]),
        ([*DONE, "--gin.FakeTrainer.batch_size=%gin.REQUIRED"], ["FakeTrainer.batch_size must be"]),
    ],
)
def test_a_mistake_ends_with_one_line_that_names_it(here, capsys, argv, words):
    message = error_of(capsys, *argv)
    for word in words:
        assert word in message, message
    assert not CALLS


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FakeTrainer.batch_size 4\n", ["bad.gin:1", "cannot read"]),
        ("\nFakeTrainer.batch_size = [4\n", ["bad.gin:", "cannot read"]),
        ("\n\nFakeTrainer.batch_sizes = 4\n", ["bad.gin:3", "did you mean 'batch_size'?"]),
        ("FakeTrainr:\n  batch_size = 4\n", ["bad.gin:2", "did you mean 'FakeTrainer'?"]),
        ("include 'models/tinny.gin'\n", ["bad.gin:1", "did you mean 'models/tiny.gin'?"]),
        ("include 'bad.gin'\n", ["bad.gin", "comes back to itself"]),
        ("BATCH_SZE = 4\n", ["bad.gin:1", "did you mean 'BATCH_SIZE'?"]),
        ("import star_jax.no_such_thing\n", ["bad.gin:1", "star_jax.no_such_thing"]),
        ("import no_such_package.thing\n", ["bad.gin:1", "no_such_package"]),
    ],
)
def test_a_mistake_in_a_file_names_file_and_line(here, capsys, text, words):
    (here / "bad.gin").write_text(text)
    message = error_of(capsys, *DONE, "--gin_file=bad.gin")
    for word in words:
        assert word in message, message


def test_a_file_that_is_no_text_is_named(here, capsys):
    (here / "bad.gin").write_bytes(b"\xff\xfe\x00")
    assert "bad.gin" in error_of(capsys, "--run_mode=star", "--gin_file=bad.gin")


def test_an_overridden_required_parameter_is_fine(here):
    write(here, "must.gin", "FakeTrainer.batch_size = %gin.REQUIRED\n")
    # Two spellings of one parameter: gin's short name and its full one.
    argv = [*DONE, "--gin_file=must.gin", "--gin.test_main.FakeTrainer.batch_size=9"]
    assert main(argv) == 0
    assert CALLS[0][1].batch_size == 9


def test_gin_constants_count_as_set(here):
    if not gin.config._CONSTANTS.matching_selectors("TEST_MAIN_CONSTANT"):
        gin.constant("TEST_MAIN_CONSTANT", 11)
    assert main([*DONE, "--gin.FakeTrainer.batch_size=%TEST_MAIN_CONSTANT"]) == 0
    assert CALLS[0][1].batch_size == 11


def test_parameters_left_unbound_are_told_when_they_are_needed(here, capsys):
    assert "run_fake.model_dir must be set" in error_of(capsys, "--run_mode=star")
    argv = ["--run_mode=star", "--gin.run_fake.model_dir='x'"]
    message = error_of(capsys, *argv, "--gin.run_fake.trainer=@FakeTrainer()")
    assert "FakeTrainer.batch_size must be set" in message


def test_a_user_error_from_the_run_is_told_as_it_is(here, capsys):
    message = error_of(capsys, "--run_mode=finetune")
    assert message == "batch 12 does not fit 8 devices; set BATCH_SIZE"


def test_a_bug_keeps_its_traceback(here):
    with pytest.raises(RuntimeError, match="a bug of ours"):
        main(["--run_mode=evaluate"])


def test_ctrl_c_is_one_line_and_130(here, capsys):
    assert "interrupted" in error_of(capsys, "--run_mode=infer", code=130)


def test_a_missing_package_is_named_and_our_own_bug_is_not_hidden(here, capsys, monkeypatch):
    def import_module(name):
        raise ModuleNotFoundError(f"No module named '{missing}'", name=missing)

    monkeypatch.setattr(main_module.importlib, "import_module", import_module)
    missing = "jax"
    assert "the package 'jax' is not installed" in error_of(capsys, "--run_mode=finetune")
    missing = "star_jax.nothing"
    with pytest.raises(ModuleNotFoundError):
        main(["--run_mode=finetune"])


def test_chatter_is_left_out_and_all_else_is_kept(capfd):
    lines = [
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        b"I0000 00:00:1.2 1 port.cc:153] oneDNN custom operations are on.",
        b"E0000 00:00:1.2 1 port.cc:153] out of memory",
        b"a warning of Python",
    ]
    with pytest.raises(ImportError), chatter_left_out():
        os.write(2, b"\n".join(lines) + b"\n")
        raise ImportError
    assert capfd.readouterr().err.splitlines() == [line.decode() for line in lines[2:]]
    os.write(2, b"I0000 after")
    assert capfd.readouterr().err == "I0000 after"


def test_include_from_a_later_search_path_says_nothing(here, capfd):
    (here / "far/inner").mkdir(parents=True)
    write(here, "far/outer.gin", "include 'inner/most.gin'\ninclude 'run.gin'\n")
    write(here, "far/inner/most.gin", "FakeTrainer.learning_rate = 0.5\n")
    argv = ["--run_mode=star", "--gin_file=outer.gin", "--gin_search_paths=far"]
    assert main([*argv, "--gin.MODEL_DIR=out"]) == 0
    assert CALLS[0][1].learning_rate == 0.5
    assert capfd.readouterr().err == ""


def test_help_names_every_run_mode_and_fits_a_terminal(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(mode in text for mode in RUN_MODES)
    assert max(map(len, text.splitlines())) <= 100


def test_the_last_run_mode_counts():
    assert parse_command_line(["--run_mode=star", "--run_mode=infer"]).run_mode == "infer"


@pytest.mark.parametrize(
    "argv", [["--help"], ["--run_mode=stra"], ["--run_mode=star", "--gin_file=no_such.gin"]]
)
def test_quick_answers_import_nothing_heavy(argv, tmp_path):
    script = (
        "import sys; from star_jax.main import main\n"
        f"code = main({argv!r})\n"
        "heavy = {'jax', 'tensorflow', 'flax', 'seqio', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    root = str(main_module.__file__).removesuffix("/star_jax/main.py")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if argv == ["--help"] else 2), done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 5  # well under a second on an idle machine
