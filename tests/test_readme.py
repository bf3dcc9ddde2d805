"""Every command of the README is one that works; the quickstart's own bars are a slow test."""

import functools
import importlib
import json
import re
import shlex
import subprocess
from pathlib import Path

import gin
import jax
import pytest

from star_jax.cli import configurables, gin_errors, gin_sources
from star_jax.cli.command_line import parse_command_line
from star_jax.main import main
from star_jax.models.decoder import init_params
from star_jax.modes import MODES
from star_jax.parallel import partitioning
from star_jax.parallel.partitioning import make_mesh
from star_jax.run import checkpoints
from tests import tiny
from tests.benchmarks import quickstart
from tests.families import Dims
from tests.test_convert import byte_level_tokenizer, saved

BOUND = {  # where a run mode has no model of its own
    "precompile": ("star.model", "%MODEL"),
    "compare": ("compare.task", "%TASK"),
    "score_comparison": ("score_comparison.key", "%KEY"),
}
ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line
    for block in BLOCKS
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith(("./", ".venv/"))
]


def read(parsed):
    return gin_sources.read_sources(
        parsed.gin_files, parsed.bindings, parsed.search_paths, parsed.mode.not_needed
    )


def test_the_two_commands_come_first():
    assert [shlex.split(command) for command in COMMANDS[:2]] == [
        ["./launch/quickstart.sh"],
        ["./launch/test.sh"],
    ]


@pytest.mark.parametrize("command", [c for c in COMMANDS if "star_jax.main" in c])
def test_each_command_line_is_read_and_its_files_and_macros_are_there(command):
    python, dash_m, module, *flags = shlex.split(command)
    assert (python, dash_m, module) == (".venv/bin/python", "-m", "star_jax.main")
    parsed = parse_command_line(flags)
    read(parsed)


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if "star_jax.main" in c and "--run_mode=report" not in c]
)
def test_a_folder_called_runs_does_not_hide_the_included_files(command, tmp_path, monkeypatch):
    """The quickstart makes runs/ where it stands, and Python takes that for a package."""
    (tmp_path / "runs").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    parsed = parse_command_line(shlex.split(command)[3:])
    importlib.import_module("star_jax.cli.configurables")
    gin_errors.load(read(parsed))
    if parsed.run_mode == "report":
        return  # it has no file: its command binds all
    # Bound in a file that the command's files include or name; gin raises if it is not.
    parameter, macro = BOUND.get(parsed.run_mode, (f"{parsed.run_mode}.model", "%MODEL"))
    assert str(gin.query_parameter(parameter)) == macro


def test_the_loop_that_makes_table_1_runs_each_row_and_reports_on_all(tmp_path):
    """With a python that only says what it was asked."""
    (block,) = (block for block in BLOCKS if "for row in" in block)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nprintf "%s\\n" "$@" --end\n')
    python.chmod(0o755)
    said = subprocess.run(
        ["bash", "-c", block], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    *runs, report = (one.strip().splitlines()[2:] for one in said.stdout.split("--end\n")[:-1])
    folders = []
    for flags in runs:
        parsed = parse_command_line(flags)
        bindings = {x.selector: x.value for x in read(parsed).bindings if not x.arg_name}
        folders.append(bindings["MODEL_DIR"])
        assert bindings["ROW"] == f"table1/{Path(folders[-1]).name}"
        binding = re.search(r'^precompile.run = "(\w+)"', _run_file(parsed.gin_files), re.MULTILINE)
        assert parsed.run_mode == (binding[1] if binding else "star")
    assert len(set(folders)) == 5
    (reported,) = (value for name, value in parse_command_line(report).bindings if "dirs" in name)
    assert sorted(re.findall(r"'([^']+)'", reported)) == sorted(folders)


def _run_file(names):
    """The text of the file of runs/ that these include, also through other files."""
    waiting, found = list(names), []
    while waiting:
        text = (ROOT / "gin_configs" / waiting.pop()).read_text()
        included = re.findall(r'^include "(.+)"', text, re.MULTILINE)
        found += [name for name in included if name.startswith("runs/")]
        waiting += [name for name in included if name.startswith("paper/")]
    (name,) = found
    return (ROOT / "gin_configs" / name).read_text()


@pytest.mark.parametrize("command", [c for c in COMMANDS if "--run_mode=infer" in c])
def test_each_infer_command_sets_completions_off_or_prints_json(
    command, tmp_path, monkeypatch, capsys
):
    """With random weights at its CHECKPOINT."""
    monkeypatch.chdir(tmp_path)
    flags = shlex.split(command)[3:]
    place = tmp_path / dict(flag.split("=", 1) for flag in flags)["--gin.CHECKPOINT"]
    if "pretrained" in command:
        saved(place, "smollm2", Dims(vocab_size=300, context_length=512))
        byte_level_tokenizer(place)
    else:
        parsed = parse_command_line(flags)
        gin_errors.load(read(parsed))
        model = configurables.bound_mode("infer", parsed.mode).model
        checkpoints.save(place, init_params(model, jax.random.key(0)))
    one_device = functools.partial(make_mesh, devices=jax.devices()[:1])
    monkeypatch.setattr(partitioning, "make_mesh", one_device)
    assert main([*flags, "--gin.SamplerConfig.max_new_tokens=8"]) == 0
    lines = capsys.readouterr().out.splitlines()
    if "JSON=True" in command:
        (attempt,) = map(json.loads, lines)
        assert attempt["prompt"].startswith("Q: The bus is at Park")
        assert attempt["reading"].keys() >= {"answer", "correct"}
        return
    heads = [line for line in lines if line.startswith("[")]
    n = 2 if "infer_tiny" in command else 1
    assert len(heads) == 2 * n and heads[0] == f"[1 of {n}] prompt"
    assert heads[1].startswith(f"[1 of {n}] completion (")
    assert n == 1 or ", expected: 8 6" in heads[1]


def test_the_table_of_run_modes_is_whole_and_names_files_that_are_there():
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", README, re.MULTILINE)
    modes = {mode: rest for mode, rest in rows if mode in MODES}
    assert set(modes) == set(MODES)
    for file in re.findall(r"`([\w/]+\.gin)`", " ".join(modes.values())):
        assert (ROOT / "gin_configs" / file).is_file(), file


def test_every_file_it_names_is_there():
    for file in re.findall(r"`((?:star_jax|launch|gin_configs)/[\w/.]*)`", README):
        assert (ROOT / file).exists(), file


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_quickstart_reaches_its_bars(tmp_path, seed):
    """The base is weak, and no bar of tests/benchmarks/quickstart.py is missed."""
    command = [str(ROOT / "launch/quickstart.sh"), "--dir", str(tmp_path), "--seed", str(seed)]
    for options in ([], ["--no_rationalization"]):
        subprocess.run([*command, *options], check=True)
    folder = tmp_path if seed == 0 else tmp_path / f"seed_{seed}"
    result = {arm: tiny.read_lines(folder / arm / "metrics.jsonl") for arm in quickstart.ARMS}
    base = result["star"][0]["accuracy_by_group"]
    assert (base["2"] <= 0.30, base["3"] <= 0.05, base["4"] <= 0.01) == (True, True, True), base
    assert quickstart.misses(result) == []
