import dataclasses
import importlib
import os
import re
import subprocess
import sys
import textwrap
import time

import gin
import jax
import pytest

import star_jax
from star_jax import main as main_module
from star_jax.cli import command_line
from star_jax.cli.command_line import parse_command_line
from star_jax.cli.quiet import quiet_imports
from star_jax.errors import UserError
from star_jax.main import main
from star_jax.modes import MODES, find_mode
from star_jax.modes.mode import RunMode, flag

CALLS = []


@dataclasses.dataclass(frozen=True)
class Fake(RunMode):
    """Remembers what gin gave it."""

    model_dir: str
    trainer: object = None
    level: int = dataclasses.field(default=0, metadata=flag("--level", type=int, help="100 % is 1"))

    def __call__(self):
        CALLS.append((self.model_dir, self.trainer, self.level))
        return 0


@gin.configurable("FakeTrainer", module="test_main")
class FakeTrainer:
    def __init__(self, batch_size: int, learning_rate: float = 0.1, name: str = ""):
        self.batch_size, self.learning_rate, self.name = batch_size, learning_rate, name


@dataclasses.dataclass(frozen=True)
class Raises(RunMode):
    """Raises what `RAISED` has."""

    many_processes = True

    def __call__(self):
        raise RAISED[-1]


class Undecorated(Raises):
    """Not a dataclass of its own."""

    more: int = 0


RAISED = []
ROOT = str(main_module.__file__).removesuffix("/star_jax/main.py")


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder of our own with run.gin."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.gin").write_text(
        "BATCH_SIZE = 4\nFakeTrainer.batch_size = %BATCH_SIZE\n"
    )
    (tmp_path / "run.gin").write_text(
        "include 'models/tiny.gin'\n"
        "MODEL_DIR = %gin.REQUIRED\n"
        "Fake.model_dir = %MODEL_DIR\n"
        "Fake.trainer = @FakeTrainer()\n"
    )
    CALLS.clear()
    yield tmp_path
    gin.clear_config()


FAKE = "--run_mode=tests.test_main.Fake"
RUN = (FAKE, "--gin_file=run.gin")
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
    ((model_dir, trainer, _),) = CALLS
    assert (model_dir, trainer.batch_size, trainer.learning_rate) == ("out", 4, 0.5)


def test_a_later_file_wins_and_a_flag_wins_over_both(here):
    write(here, "more.gin", "BATCH_SIZE = 6\nFakeTrainer.learning_rate = 0.25\n")
    assert main([*DONE, "--gin_file=more.gin", "--gin.FakeTrainer.learning_rate=0.75"]) == 0
    trainer = CALLS[0][1]
    assert (trainer.batch_size, trainer.learning_rate) == (6, 0.75)


def test_flag_and_value_may_be_two_arguments(here):
    assert (
        main(
            ["--run_mode", "tests.test_main.Fake", "--gin_file", "run.gin", "--gin.MODEL_DIR='out'"]
        )
        == 0
    )


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
@pytest.mark.parametrize("name", ["MODEL_DIR", "Fake.model_dir"])  # a macro, a parameter
def test_a_flag_takes_a_gin_value_or_a_bare_text(here, name, given, value):
    assert main([*DONE, f"--gin.{name}={given}"]) == 0
    assert CALLS[0][0] == value


def test_files_are_found_in_the_extra_search_paths(here, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    write(here, "two/elsewhere.gin", "include 'run.gin'\nMODEL_DIR = 'there'\n")
    argv = [FAKE, "--gin_file=elsewhere.gin", "--gin_search_paths=one,two"]
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
        (["--run_mode"], ["--run_mode: expected one argument"]),
        (["--run_mode="], ["unknown run mode ''"]),
        (["--gin_file", "--run_mode=star"], ["--gin_file: expected one argument"]),
        (["--gin_file="], ["--gin_file: needs a value"]),
        (["--run_mode=star", "--gin.MODEL_DIR="], ["--gin.MODEL_DIR= needs a name and a value"]),
        (["--run_mode=star", "--gin.MODEL_DIR", "x"], ["--gin.MODEL_DIR needs a name and a value"]),
        (["--run_mode=star", "--gin.=x"], ["--gin.=x needs a name and a value"]),
        (["star"], ["'star' is not a flag"]),
        (["--run_mode=star", "--search"], ["--search belongs to --run_mode=precompile, not to s"]),
        (["--run_mode=precompile", "--search=1"], ["--search: ignored explicit argument"]),
        (
            ["--run_mode=precompile", "--topology=v9"],
            ["--topology=v9: no such TPU; give one of v3"],
        ),
        (["--run_mode=report", "--processes=auto"], ["report runs in one process", "star, few_sh"]),
        ([FAKE, "--level=x"], ["--level: invalid int value: 'x'"]),
        (["--run_mode=star", "--level=1"], ["unknown flag '--level'"]),
        (["--run_mode=no_such.Mode"], ["no module named 'no_such'", "PYTHONPATH"]),
        (["--run_mode=tests.no_such.Mode"], ["no module named 'tests.no_such'"]),
        (["--run_mode=tests.test_main.Fak"], ["test_main.py has no 'Fak'; did you mean 'Fake'?"]),
        (["--run_mode=tests.test_main.FakeTrainer"], ["FakeTrainer is not a run mode", "frozen"]),
        (["--run_mode=tests.test_main.main"], ["tests.test_main.main is not a run mode"]),
        (["--run_mode=star_jax.modes.mode.RunMode"], ["RunMode is not a run mode"]),
        (["--run_mode=tests.test_main.Undecorated"], ["Undecorated is not a run mode"]),
        (["--run_mode=star."], ["unknown run mode 'star.'"]),
        (["--run_mode=star", "--gin_file=rum.gin"], ["'rum.gin'", "did you mean 'run.gin'?"]),
        (["--run_mode=star", "--gin_file=models/tinny.gin"], ["did you mean 'models/tiny.gin'?"]),
        (["--run_mode=star", "--gin_file=/nowhere/run.gin"], ["'/nowhere/run.gin'"]),
        (RUN, ["MODEL_DIR must be set", "run.gin:2", "--gin.MODEL_DIR="]),
        ([*DONE, "--gin.MODLE_DIR='x'"], ["--gin.MODLE_DIR", "did you mean 'MODEL_DIR'?"]),
        ([*DONE, "--gin.batch_size=3"], ["'batch_size'", "did you mean 'BATCH_SIZE'?"]),
        ([*DONE, "--gin.FakeTrainr.batch_size=3"], ["'FakeTrainr'", "mean 'FakeTrainer'?"]),
        ([*DONE, "--gin.FakeTrainer.batchsize=3"], ["'batchsize'", "mean 'batch_size'?"]),
        ([*DONE, "--gin.Fake.trainer=@FakeTrain()"], ["'@FakeTrain'", "mean 'FakeTrainer'?"]),
        ([*DONE, "--gin.Fake.trainer=%BATCH_SIZ"], ["'%BATCH_SIZ'", "mean 'BATCH_SIZE'?"]),
        (
            [*DONE, "--gin.FakeTrainer.batch_size=four"],
            ["--gin.FakeTrainer.batch_size: ", "batch_size = 'four' is not a whole number"],
        ),
        (
            [*DONE, "--gin.BATCH_SIZE=four"],  # through a macro
            ["--gin.BATCH_SIZE: FakeTrainer.batch_size = 'four' is not a whole number"],
        ),
        ([*DONE, "--gin.FakeTrainer.learning_rate=low"], ["learning_rate = 'low' is not a number"]),
        ([*DONE, "--gin.Fake.level='one'"], ["Fake.level = 'one' is not a whole number"]),
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
        ("include 'bad.gin'\n", ["bad.gin", "includes itself"]),
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
    assert "bad.gin" in error_of(capsys, FAKE, "--gin_file=bad.gin")


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
    assert "Fake.model_dir must be set" in error_of(capsys, FAKE)
    argv = [FAKE, "--gin.Fake.model_dir='x'"]
    message = error_of(capsys, *argv, "--gin.Fake.trainer=@FakeTrainer()")
    assert "FakeTrainer.batch_size must be set" in message


RAISES = "--run_mode=tests.test_main.Raises"


def test_a_user_error_from_the_run_is_reported_as_it_is(here, capsys):
    RAISED.append(UserError("batch 12 does not fit 8 devices; set BATCH_SIZE"))
    assert error_of(capsys, RAISES) == RAISED[-1].message


def test_a_bug_keeps_its_traceback(here):
    RAISED.append(RuntimeError("a bug of ours"))
    with pytest.raises(RuntimeError, match="a bug of ours"):
        main([RAISES])
    RAISED.append(BrokenPipeError("of a socket"))
    with pytest.raises(BrokenPipeError, match="of a socket"):
        main([RAISES])


def test_ctrl_c_is_one_line_and_130(here, capsys):
    RAISED.append(KeyboardInterrupt())
    assert "interrupted" in error_of(capsys, RAISES, code=130)


def test_a_missing_package_is_named_and_our_own_bug_is_not_hidden(here, capsys):
    RAISED.append(ModuleNotFoundError("No module named 'jax'", name="jax"))
    assert "the package 'jax' is not installed" in error_of(capsys, RAISES)
    RAISED.append(ModuleNotFoundError("No module", name="star_jax.nothing"))
    with pytest.raises(ModuleNotFoundError):
        main([RAISES])
    write(here, "mine.py", "import no_such_package\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(here))
        message = error_of(capsys, "--run_mode=mine.Mode")
    assert "the package 'no_such_package' is not installed" in message


def test_chatter_is_left_out_and_all_else_is_kept(capfd):
    lines = [
        b"WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
        b"I0000 00:00:1.2 1 port.cc:153] oneDNN custom operations are on.",
        b"E0000 00:00:1.2 1 port.cc:153] out of memory",
        b"a warning of Python",
    ]
    with pytest.raises(ImportError), quiet_imports():
        os.write(2, b"\n".join(lines) + b"\n")
        raise ImportError
    assert capfd.readouterr().err.splitlines() == [line.decode() for line in lines[2:]]
    os.write(2, b"I0000 after")
    assert capfd.readouterr().err == "I0000 after"


def test_include_from_a_later_search_path_says_nothing(here, capfd):
    (here / "far/inner").mkdir(parents=True)
    write(here, "far/outer.gin", "include 'inner/most.gin'\ninclude 'run.gin'\n")
    write(here, "far/inner/most.gin", "FakeTrainer.learning_rate = 0.5\n")
    argv = [FAKE, "--gin_file=outer.gin", "--gin_search_paths=far"]
    assert main([*argv, "--gin.MODEL_DIR=out"]) == 0
    assert CALLS[0][1].learning_rate == 0.5
    assert capfd.readouterr().err == ""


def test_help_names_every_run_mode_and_fits_a_terminal(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, mode in MODES.items():
        assert f"{name} " in text and mode.help and mode.help in text
        assert all(f"{own['flag']} " in text for own in mode.flags().values())
    assert max(map(len, text.splitlines())) <= 100


def test_version_names_star_jax_its_commit_and_jax(capsys, monkeypatch, tmp_path):
    assert main(["--version"]) == 0
    printed = capsys.readouterr().out
    found = re.fullmatch(
        r"star_jax (\S+) \((?:commit [0-9a-f]{7,}(?:-dirty)?|no commit)\), jax (\S+)\n", printed
    )
    assert found.groups() == (star_jax.__version__, jax.__version__)
    git = ["git", "-C", ROOT, "rev-parse", "--short", "HEAD"]
    if os.path.exists(f"{ROOT}/.git"):
        head = subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
        assert f"(commit {head}" in printed
    monkeypatch.setattr(command_line, "ROOT", tmp_path)  # installed, without a checkout
    assert main(["--run_mode=star", "--version"]) == 0
    assert " (no commit), " in capsys.readouterr().out


def test_help_has_the_users_own_run_mode(capsys):
    assert main([FAKE, "-h"]) == 0
    assert "tests.test_main.Fake: 100 % is 1" in capsys.readouterr().out


def test_a_flag_of_the_mode_binds_its_field(here):
    assert main([*DONE, "--level", "3"]) == 0
    assert CALLS[0][2] == 3
    flags = ["--topology=v3-8", "--json", "x", "--topology", "v4:2x2x1", "--search"]
    assert parse_command_line(["--run_mode=precompile", *flags]).bindings == (
        ("precompile.topologies", "['v3-8', 'v4:2x2x1']"),
        ("precompile.json_file", "'x'"),
        ("precompile.search", "True"),
    )


def test_the_last_run_mode_wins_and_gin_files_add_up():
    parsed = parse_command_line(
        ["--run_mode=star", "--gin_file=a", "--gin.X=1", "--run_mode=infer", "--gin_file", "b"]
    )
    assert (parsed.run_mode, parsed.mode) == ("infer", MODES["infer"])
    assert (parsed.gin_files, parsed.bindings) == (("a", "b"), (("X", "1"),))


@pytest.mark.parametrize("name", MODES)
def test_a_pod_is_for_the_modes_that_run_on_many_processes(name):
    parsed = parse_command_line([f"--run_mode={name}", "--processes=pod"])
    assert parsed.processes == ("auto" if MODES[name].many_processes else "")


def test_every_mode_is_a_mode_and_stands_in_a_file_of_its_name():
    for name, mode in MODES.items():
        assert find_mode(name) is mode
        assert find_mode(f"star_jax.modes.{name}.{mode.__name__}") is mode


def test_a_closed_stdout_ends_quietly(tmp_path):
    script = (
        "import sys; from star_jax.main import main\n"
        "sys.stdin.read(1)\n"  # until the reader of stdout is gone
        "sys.exit(main(['--help']))\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ROOT, "PATH": ""},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    program.stdout.close()
    program.stdin.write(b"x")
    program.stdin.close()
    assert program.stderr.read() == b""
    assert program.wait() == 141


# A run mode of the user's: one file outside the package.


OWN_MODE = """\
    import dataclasses

    from star_jax.modes.mode import RunMode, flag


    @dataclasses.dataclass(frozen=True)
    class Counts(RunMode):
        help = "count the questions of a task"
        not_needed = ("MODEL_DIR",)

        task: object
        model_dir: str
        split: str = "train"
        times: int = dataclasses.field(default=1, metadata=flag("--times", type=int))

        def __call__(self):
            print(len(self.task.questions(self.split)) * self.times, "questions")
            return 3
"""
OWN_GIN = """\
    MODEL_DIR = %gin.REQUIRED
    Counts.task = @ArithmeticTask()
    Counts.model_dir = %MODEL_DIR
    ArithmeticTask:
      digits = (1,)
      n_train = 7
      n_validation = 5
"""


def test_a_run_mode_outside_the_package_is_one_file(here, monkeypatch, capsys):
    write(here, "own_mode.py", OWN_MODE)
    write(here, "own.gin", OWN_GIN)
    monkeypatch.syspath_prepend(str(here))
    importlib.invalidate_caches()
    argv = ["--run_mode=own_mode.Counts", "--gin_file=own.gin"]
    for _ in range(2):  # registered twice in one process
        assert main(argv) == 3
    assert main([*argv, "--times=2", "--gin.Counts.split='validation'"]) == 3
    assert capsys.readouterr().out == "7 questions\n7 questions\n10 questions\n"
    message = error_of(capsys, *argv, "--gin.Counts.spilt='train'")
    assert "did you mean 'split'?" in message
    assert "one process" in error_of(capsys, *argv, "--processes=auto")


@pytest.mark.parametrize(
    "argv",
    [["--help"], ["--version"], ["--run_mode=stra"], ["--run_mode=star", "--gin_file=no_such.gin"]],
)
def test_quick_answers_import_nothing_heavy(argv, tmp_path):
    script = (
        "import sys; from star_jax.main import main\n"
        f"code = main({argv!r})\n"
        "heavy = {'jax', 'tensorflow', 'flax', 'seqio', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "sys.exit(code)\n"
    )
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": ROOT, "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == (0 if argv in (["--help"], ["--version"]) else 2), done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 5  # well under a second on an idle machine
