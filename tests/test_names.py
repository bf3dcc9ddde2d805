"""Every parameter, macro and flag that a help text, a message or a document names is there."""

import ast
import inspect
import re
from pathlib import Path

import gin
import pytest

from star_jax.cli import command_line, configurables
from star_jax.errors import INSTALL
from star_jax.modes import MODES

assert configurables  # registers what gin can bind
ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "star_jax").rglob("*.py"))
LAUNCH = sorted((ROOT / "launch").rglob("*.py"))
GIN_FILES = sorted((ROOT / "gin_configs").rglob("*.gin"))
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*/*.md"), *ROOT.glob("launch/*.md")]
ENDINGS = ("gin", "py", "md", "json", "jsonl", "html", "csv", "png", "sh", "tsv", "done", "lock")
KINDS = (
    "Config",
    "Task",
    "Corpus",
    "Steps",
    "Trainer",
    "Sampler",
    "Mode",
    "Phase",
    "Length",
)  # of names
THEIRS = {"--exclude", "--always", "--dirty", "--merge"}  # of git and of llama.cpp
FORMER = {("docs/results/README.md", "StarConfig", "only_right_steps")}  # which it calls so


def strings(path):
    """The text of every string of a Python file, f-strings with {} for their values."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.JoinedStr):
            parts = (x.value if isinstance(x, ast.Constant) else "{}" for x in node.values)
            yield "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def texts():
    """(where, text) of all that a user reads."""
    for path in (*SOURCES, *LAUNCH):
        yield from ((path.name, text) for text in strings(path))
    for path in (*DOCUMENTS, *GIN_FILES):
        yield path.relative_to(ROOT).as_posix(), path.read_text()


TEXTS = list(texts())
BOUND = {  # name -> what gin can bind of it
    selector.rpartition(".")[2]: inspect.signature(found.wrapped).parameters
    for selector, found in gin.config._REGISTRY.items()
    if found.module and selector.startswith("star_jax.")
}
CLASSES = {
    node.name: node
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.ClassDef)
}


def attributes(name):
    """What a class of star_jax has, its own and inherited; None if some of it is not ours."""
    node = CLASSES.get(name)
    if node is None:
        return None
    found = set()
    for x in node.body:
        found |= {x.target.id} if isinstance(x, ast.AnnAssign) else set()
        found |= {x.name} if isinstance(x, ast.FunctionDef) else set()
        found |= {t.id for t in x.targets} if isinstance(x, ast.Assign) else set()
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases} - {"ABC", "Protocol"}
    inherited = [attributes(base) for base in bases]
    return None if None in inherited else found.union(*inherited)


def named(pattern):
    """(where, match) of a pattern in all texts, once each."""
    found = {(where, *m.groups()) for where, text in TEXTS for m in re.finditer(pattern, text)}
    assert found
    return sorted(found)


def is_there(owner, name):
    if name in BOUND.get(owner, ()):
        return True
    known = attributes(owner)
    if known is None:  # `MyMode.field` is a reader's own
        return owner not in BOUND and (owner.startswith("My") or not owner.endswith(KINDS))
    return name in known


def test_parameters_that_are_named_are_there():
    pairs = named(r"(?<![\w./])([A-Z][a-z]\w+)\.([a-z_]\w*)")
    assert len([x for x in pairs if x[1] in BOUND]) > 100
    # `my_filters.py` and the like are the reader's own.
    own = ("README.md", "CONTRIBUTING.md")
    missing = [x for x in pairs if not is_there(*x[1:]) and x[2] not in ENDINGS and x[0] not in own]
    assert set(missing) >= FORMER
    missing = sorted(set(missing) - FORMER)
    missing += [x for x in pairs if x[0] in own and x[1] in BOUND and not is_there(*x[1:])]
    assert missing == []
    assert not is_there("Trainer", "batch_size") and is_there("TrainerConfig", "batch_size")


def test_parameters_of_modes_and_functions_that_are_named_are_there():
    lower = "|".join(name for name in BOUND if name[0].islower())
    pairs = named(rf"(?<![\w./-])({lower})\.([a-z_]\w*)\b(?!\.\w)")
    assert {"infer", "report", "track"} <= {owner for _, owner, _ in pairs}
    assert [x for x in pairs if x[2] not in BOUND[x[1]] and x[2] not in ENDINGS] == []


def test_macros_that_are_named_are_there():
    known = {m for path in GIN_FILES for m in re.findall(r"^(\w+) = ", path.read_text(), re.M)}
    pairs = named(r"--gin\.([A-Z][A-Z_]*)\b")
    assert [x for x in pairs if x[1] not in known | {"NAME"}] == []


def test_flags_that_are_named_are_there():
    known = set(command_line._parser(MODES)._option_string_actions) | THEIRS
    for path in LAUNCH:
        known |= set(re.findall(r"\"(--\w+)\"", path.read_text()))
    pairs = {
        (path.name, flag)
        for path in SOURCES
        for text in strings(path)
        for flag in re.findall(r"(?<![\w-])(--[a-z]\w*)", text)
    }
    assert ("star.py", "--run_mode") in pairs or len(pairs) > 20
    assert sorted(x for x in pairs if x[1] not in known and x[1] != "--gin") == []


def test_extras_that_are_named_can_be_installed():
    """No index has star_jax, so `star_jax[extra]` is no way out."""
    extras = re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert {"precompile", "models"} <= set(extras)
    assert [where for where, text in TEXTS if re.search(r"star_jax\[\w+\]", text)] == []
    for path in SOURCES:
        for extra in re.findall(r"INSTALL\.format\(.(\w+).\)", path.read_text()):
            assert extra in extras
    assert "pip install -e '.[models]'" in INSTALL.format("models")


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_the_help_names_the_flags_that_answer_at_once(flag):
    assert flag in command_line.quick_answer(["--help"])
