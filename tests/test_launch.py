import ast
import itertools
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from random import Random

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from star_launch.text import command_text, quoted

ROOT = Path(__file__).parent.parent
SCRIPTS = ["launch/install.sh", "launch/quickstart.sh", "launch/test.sh", ".ci/run"]
TOOLS = ["bash", "cat", "dirname", "env", "grep", "ls", "mkdir", "mv", "rm", "tail", "tee"]

# Stands for every interpreter: logs what would take long, hands small scripts to the real one.
FAKE_PYTHON = """\
#!{bash}
case "$*" in
  "-m venv"*)
    echo "venv" >>"{log}"
    target="${{@: -1}}"
    mkdir -p "$target/bin"
    echo "prompt = 'star_jax'" >"$target/pyvenv.cfg"
    cat "$0" >"$target/bin/python"
    "{real}" -c "import os, sys; os.chmod(sys.argv[1], 0o755)" "$target/bin/python" ;;
  "-m pip --version") ;;
  "-m pip install"*)
    echo "pip install ${{@:4}}" >>"{log}"
    echo "Collecting something"
    [ ! -e "{folder}/offline" ] || {{ echo "ERROR: no network"; exit 1; }} ;;
  "-m "*) printf '%s\\n' "run $*" >>"{log}" ;;
  "-c import ensurepip"*) ;;
  "--version") echo "Python 3.x" ;;
  *) exec "{real}" "$@" ;;
esac
"""

FAKE_UV = """\
#!{bash}
case "$1" in
  venv) exec "{folder}/bin/some_python" -m venv "${{@: -1}}" ;;
  pip)
    echo "uv $*" >>"{log}"
    [ ! -e "{folder}/offline" ] || {{ echo "error: no network" >&2; exit 1; }} ;;
esac
"""


class Machine:
    """A checkout in a folder with a space, on a machine that has only TOOLS and fakes."""

    def __init__(self, folder, has_python=True, has_uv=False):
        self.folder, self.log = folder, folder / "log"
        self.checkout = folder / "a checkout"
        (self.checkout / ".ci").mkdir(parents=True)
        shutil.copytree(ROOT / "launch", self.checkout / "launch")
        for name in ("setup.py", ".ci/run"):
            shutil.copy(ROOT / name, self.checkout / name)
        (folder / "bin").mkdir()
        for tool in TOOLS:
            (folder / "bin" / tool).symlink_to(shutil.which(tool))
        self.add("some_python", FAKE_PYTHON)
        if has_python:
            self.add("python3.11", FAKE_PYTHON)
        if has_uv:
            self.add("uv", FAKE_UV)

    def add(self, name, script):
        text = script.format(
            bash=shutil.which("bash"), log=self.log, folder=self.folder, real=sys.executable
        )
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def run(self, script, *arguments, cwd=None):
        return subprocess.run(
            [shutil.which("bash"), str(self.checkout / script), *arguments],
            cwd=cwd or self.checkout,
            env={"PATH": str(self.folder / "bin"), "HOME": str(self.folder)},
            capture_output=True,
            text=True,
        )

    def calls(self):
        """Returns what has been logged since the last time."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def quickstart(self, *arguments, cwd=None):
        """Returns the star_jax commands of a quickstart that must succeed."""
        done = self.run("launch/quickstart.sh", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return [line.removeprefix("run -m star_jax.main ") for line in runs(self.calls())]


def installs(calls):
    return [call for call in calls if not call.startswith("run ")]


def runs(calls):
    return [call for call in calls if call.startswith("run ")]


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture(params=["pip", "uv"])
def either(request, tmp_path):
    return Machine(tmp_path, has_uv=request.param == "uv")


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_sound_bash(script):
    subprocess.run(["bash", "-n", str(ROOT / script)], check=True)


@pytest.mark.parametrize("script", ["launch/quickstart.sh", "launch/test.sh", ".ci/run"])
def test_scripts_can_be_started(script):
    assert os.access(ROOT / script, os.X_OK)


def test_the_second_run_installs_nothing(either):
    assert either.run("launch/test.sh", "-k", "x").returncode == 0
    first = either.calls()
    assert first[0] == "venv"
    assert "launch/requirements-test.lock" in first[1]
    assert "--no-deps" in first[2] and "--editable" in first[2]
    assert runs(first) == ["run -m pytest -k x"]
    assert either.run("launch/test.sh").returncode == 0
    assert either.calls() == ["run -m pytest -n 2 --dist loadfile"]


def test_uv_is_preferred(tmp_path):
    machine = Machine(tmp_path, has_uv=True)
    assert machine.run("launch/test.sh").returncode == 0
    assert all(call.startswith("uv pip install") for call in installs(machine.calls())[1:])


def test_uv_can_bring_the_python(tmp_path):
    machine = Machine(tmp_path, has_python=False, has_uv=True)
    assert machine.run("launch/test.sh").returncode == 0


def test_the_test_packages_serve_the_quickstart_but_not_the_other_way(machine):
    machine.run("launch/test.sh")
    machine.calls()
    machine.run("launch/quickstart.sh")
    assert installs(machine.calls()) == []
    shutil.rmtree(machine.checkout / ".venv")
    machine.run("launch/quickstart.sh")
    assert "launch/requirements.lock" in installs(machine.calls())[1]
    machine.run("launch/test.sh")
    assert "launch/requirements-test.lock" in installs(machine.calls())[0]


def test_an_interrupted_install_is_resumed(either):
    (either.folder / "offline").touch()
    failed = either.run("launch/test.sh")
    assert failed.returncode == 1
    assert "no network" in failed.stderr
    assert "error: " in failed.stderr.splitlines()[-1]
    assert runs(either.calls()) == []
    (either.folder / "offline").unlink()
    assert either.run("launch/test.sh").returncode == 0
    calls = either.calls()
    assert "venv" not in calls and len(installs(calls)) == 2


@pytest.mark.parametrize("change", ["lock", "setup", "moved"])
def test_what_the_install_depends_on_makes_it_run_again(machine, change):
    machine.run("launch/test.sh")
    machine.calls()
    if change == "moved":
        machine.checkout = machine.checkout.rename(machine.folder / "moved")
    else:
        name = {"lock": "launch/requirements-test.lock", "setup": "setup.py"}[change]
        with open(machine.checkout / name, "a") as file:
            file.write("# changed\n")
    machine.run("launch/test.sh")
    assert len(installs(machine.calls())) == 2


def test_a_venv_made_elsewhere_is_used_as_it_is(machine):
    venv = machine.checkout / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / "pyvenv.cfg").write_text("home = elsewhere\n")
    shutil.copy(machine.folder / "bin/some_python", venv / "bin/python")
    assert machine.run("launch/test.sh").returncode == 0
    assert "venv" not in machine.calls()


def test_a_broken_venv_made_elsewhere_is_left_alone(machine):
    venv = machine.checkout / ".venv"
    venv.mkdir()
    (venv / "pyvenv.cfg").write_text("home = elsewhere\n")
    failed = machine.run("launch/test.sh")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1 and "move it away" in failed.stderr
    assert machine.calls() == [] and (venv / "pyvenv.cfg").exists()


def test_a_broken_venv_made_here_is_made_again(machine):
    machine.run("launch/test.sh")
    machine.calls()
    (machine.checkout / ".venv/bin/python").unlink()
    assert machine.run("launch/test.sh").returncode == 0
    assert machine.calls()[0] == "venv"


def test_no_python_is_one_clear_line(tmp_path):
    failed = Machine(tmp_path, has_python=False).run("launch/test.sh")
    assert failed.returncode == 1
    assert len(failed.stderr.splitlines()) == 1
    assert "no Python 3.11, 3.12 or 3.13 found" in failed.stderr


def test_quickstart_makes_the_base_and_runs_star(machine):
    base, star = machine.quickstart("--gin.X=1", "--gin.Y='a b'")
    assert base.startswith("--run_mode=pretrain --gin_file=runs/pretrain_tiny.gin")
    assert '--gin.MODEL_DIR="runs/quickstart/base"' in base
    assert "--gin.X" not in base
    assert star.startswith("--run_mode=star --gin_file=runs/quickstart.gin")
    assert '--gin.MODEL_DIR="runs/quickstart/star"' in star
    assert '--gin.MODEL_CHECKPOINT="runs/quickstart/base"' in star
    assert star.endswith("--gin.X=1 --gin.Y='a b'")


def test_quickstart_shares_the_base_between_its_two_arms_and_compares_them(machine):
    for arm in ("star", "star_no_rationalization"):
        (machine.checkout / "runs/quickstart" / arm).mkdir(parents=True)
    base, star, report = machine.quickstart("--no_rationalization")
    assert '"runs/quickstart/base"' in base
    assert '--gin.MODEL_CHECKPOINT="runs/quickstart/base"' in star
    assert '--gin.MODEL_DIR="runs/quickstart/star_no_rationalization"' in star
    assert "--gin.RATIONALIZE=False" in star
    expected = '["runs/quickstart/star", "runs/quickstart/star_no_rationalization"]'
    assert report == f"--run_mode=report --gin.report.model_dirs={expected}"


def test_quickstart_gives_every_seed_its_own_base(machine):
    base, star = machine.quickstart("--seed", "3", "--dir=out")
    assert '--gin.MODEL_DIR="out/seed_3/base"' in base
    assert '--gin.MODEL_DIR="out/seed_3/star"' in star
    assert "--gin.SEED=3" in base and "--gin.SEED=3" in star


def test_quickstart_dir_is_the_callers_own(machine):
    elsewhere = machine.folder / "else where"
    elsewhere.mkdir()
    base, _ = machine.quickstart("--dir", 'o"ut', cwd=elsewhere)
    assert f'--gin.MODEL_DIR="{elsewhere}/o\\"ut/base"' in base
    base, _ = machine.quickstart(cwd=elsewhere)
    assert f'"{machine.checkout}/runs/quickstart/base"' in base


def test_quickstart_says_what_to_try_next_and_how_long_it_took(machine):
    done = machine.run("launch/quickstart.sh", "--seed=4", "--dir=o p")
    assert "./launch/quickstart.sh --dir o\\ p --seed 4 --no_rationalization" in done.stdout
    assert re.fullmatch(r"Done in \d+ min \d+ s\.", done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--sed=1"], "unknown option '--sed=1'"),
        (["out"], "unknown option 'out'"),
        (["--gin.X"], "unknown option '--gin.X'"),
        (["--seed"], "--seed needs a value"),
        (["--dir="], "--dir needs a value"),
        (["--seed=one"], "not 'one'"),
        (["--seed=-1"], "not '-1'"),
    ],
)
def test_a_wrong_quickstart_option_is_one_line(machine, arguments, words):
    failed = machine.run("launch/quickstart.sh", *arguments)
    assert failed.returncode == 2
    assert len(failed.stderr.splitlines()) == 1 and words in failed.stderr
    assert machine.calls() == []


def test_quickstart_help_installs_nothing(machine):
    done = machine.run("launch/quickstart.sh", "--help")
    assert done.returncode == 0 and machine.calls() == []
    for option in ("--seed", "--dir", "--no_rationalization", "--gin.NAME=VALUE"):
        assert option in done.stdout


def test_ci_lints_and_runs_the_tests(machine):
    (machine.checkout / "launch/test.sh").chmod(0o755)
    assert machine.run(".ci/run").returncode == 0
    assert runs(machine.calls()) == [
        "run -m ruff check .", "run -m mypy", "run -m pytest -n 2 --dist loadfile"
    ]  # fmt: skip


LAUNCHERS = sorted((ROOT / "launch").rglob("*.py"))


@pytest.mark.parametrize("path", LAUNCHERS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_launchers_are_packages_of_short_files(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 300
    assert "sys.path" not in text
    assert path.parent.name == "launch" or (path.parent / "__init__.py").exists()


@pytest.mark.parametrize("name", ["fetch", "sweep", "tpu_vm"])
def test_each_launcher_can_be_called_from_any_folder(name, tmp_path):
    script = ROOT / f"launch/{name}.py"
    assert os.access(script, os.X_OK) and len(script.read_text().splitlines()) <= 10
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(script), "--help"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"launch/{name}.py" in done.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("fetch", ["all_data", "--dry_run"]),
        ("fetch", ["--help"]),
        ("sweep", ["--help"]),
        ("tpu_vm", ["status", "star", "--zone=us-central1-a", "--project=my-project", "--dry_run"]),
    ],
)
def test_a_reader_that_does_not_wait_for_the_end_gets_no_traceback(name, arguments, tmp_path):
    """As in `launch/tpu_vm.py ... --dry_run | head -1`."""
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-S", "-E", str(ROOT / f"launch/{name}.py"), *arguments],
        cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")


def test_a_printed_command_is_read_by_bash_as_it_was():
    random = Random(0)
    signs = "ab='\"$`\\! -.\n~*@%{}[]()#&|;<>é"
    words = ["".join(random.choices(signs, k=random.randrange(9))) for _ in range(3000)]
    words += ["--gin.X" + word for word in words]
    script = command_text(["printf", "%s\\0", *words])
    done = subprocess.run(["bash"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout.split("\0")[:-1] == words


@pytest.mark.parametrize(
    ("word", "printed"),
    [
        ("--gin.MODEL_DIR='gs://b/x'", "--gin.MODEL_DIR=\"'gs://b/x'\""),
        ("--command=tail -n 5 log", "--command='tail -n 5 log'"),
        ("--zone=us-central1-a", "--zone=us-central1-a"),
        ("--gin.A=@f()", "--gin.A='@f()'"),
    ],
)
def test_a_printed_word_has_one_level_of_quotes(word, printed):
    assert quoted(word) == printed


def setup_argument(name):
    """Returns a literal argument of setup() in setup.py."""
    tree = ast.parse((ROOT / "setup.py").read_text())
    keywords = [node for node in ast.walk(tree) if isinstance(node, ast.keyword)]
    return ast.literal_eval(next(node.value for node in keywords if node.arg == name))


def canonical(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(name):
    """Returns {package: version} of a lock file; every line must pin exactly."""
    pins = {}
    for line in (ROOT / "launch" / name).read_text().splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)
            (specifier,) = requirement.specifier
            assert specifier.operator == "==", line
            pins[canonical(requirement.name)] = Version(specifier.version)
    return pins


def test_the_locks_pin_every_requirement_of_setup_py():
    needed = {
        "requirements.lock": [],
        "requirements-test.lock": setup_argument("extras_require")["test"],
    }
    for lock, extra in needed.items():
        pins = locked(lock)
        for requirement in map(Requirement, [*setup_argument("install_requires"), *extra]):
            version = pins[canonical(requirement.name)]
            assert version in requirement.specifier, f"{lock}: {requirement.name} {version}"


def test_the_test_lock_contains_the_run_lock():
    run, test = locked("requirements.lock"), locked("requirements-test.lock")
    assert run.items() <= test.items()
    # An editable install without a build environment needs these two.
    assert {"setuptools", "wheel"} <= run.keys()


def test_every_requirement_is_a_range():
    extras = setup_argument("extras_require")
    assert {"tpu", "test", "models"} <= extras.keys()
    for text in itertools.chain(setup_argument("install_requires"), *extras.values()):
        operators = {specifier.operator for specifier in Requirement(text).specifier}
        assert operators == {">=", "<"}, text


def test_an_installed_wheel_has_its_gin_files_and_no_launcher(tmp_path):
    checkout, site, elsewhere = (tmp_path / name for name in ("checkout", "site", "elsewhere"))
    for folder in (checkout / "gin_configs/runs", site, elsewhere):
        folder.mkdir(parents=True)
    shutil.copytree(
        ROOT / "star_jax", checkout / "star_jax", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copytree(ROOT / "launch", checkout / "launch")
    for name in ("setup.py", "pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    (checkout / "gin_configs/top.gin").write_text("include 'runs/inner.gin'\n")
    (checkout / "gin_configs/runs/inner.gin").write_text("A.x = %gin.REQUIRED\n")
    exemplars = checkout / "star_jax/tasks/exemplars"
    exemplars.mkdir(parents=True, exist_ok=True)
    (exemplars / "probe.txt").write_text("Q: ...\n")
    (checkout / "star_jax/tasks/__init__.py").touch()
    build = "import setuptools.build_meta as backend; print(backend.build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=checkout, check=True, capture_output=True)
    (wheel,) = checkout.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "star_jax/tasks/exemplars/probe.txt").is_file()
    assert {path.name.partition("-")[0] for path in site.iterdir()} == {"star_jax"}
    (metadata,) = site.glob("*.dist-info")
    assert "star_jax = star_jax.main:run" in (metadata / "entry_points.txt").read_text()
    read = (
        "from star_jax.cli.gin_sources import read_sources\n"
        "print(read_sources(['top.gin'], []).bindings[0].where)"
    )
    done = subprocess.run(
        [sys.executable, "-c", read],
        cwd=elsewhere,
        env={"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == f"{site}/star_jax/gin_configs/runs/inner.gin:1", done.stderr
