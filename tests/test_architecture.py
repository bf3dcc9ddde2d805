import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "star_jax"
MAX_LINES = 400

# From the ground up; a room imports only from rooms on lower lines, or from itself.
FLOORS = (
    ("", "errors"),  # "" is star_jax/__init__.py
    ("records", "packing"),
    ("parallel",),
    ("run",),
    ("tokenizers", "models"),
    ("tasks",),
    ("rollout", "training"),
    ("loop",),
    ("reporting",),
    ("tools",),
    ("modes",),
    ("cli",),
    ("main", "testing"),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
FORBIDDEN_MODULES = {"pickle", "cloudpickle", "dill", "marshal", "shelve"}
FORBIDDEN_CALLS = {"eval", "exec", "system", "popen"}

FILES = sorted(PACKAGE.rglob("*.py"))
each_file = pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))


def tree_of(path):
    return ast.parse(path.read_text(encoding="utf-8"))


def room_of(module):
    """star_jax.models.rotary -> models; star_jax -> the empty name."""
    return [*module.split("."), ""][1]


def module_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_modules(tree, module, is_package):
    """Yields (line, full module name) of every import, function bodies included."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - 1 if is_package else node.level
                parents = module.split(".")
                base = ".".join([*parents[: len(parents) - up], *filter(None, [base])])
            if base == "star_jax":  # `from star_jax import partitioning` names the room itself
                yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, base
        elif isinstance(node, ast.Call) and is_import_module(node):
            # Lazy imports by name count too.
            yield node.lineno, node.args[0].value


def is_import_module(call):
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    return (
        name == "import_module"
        and call.args
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    )


def upward_imports(source, module, is_package=False):
    own = room_of(module)
    found = []
    for line, imported in imported_modules(ast.parse(source), module, is_package):
        if imported.split(".")[0] != "star_jax" or room_of(imported) == own:
            continue
        if FLOOR_OF.get(room_of(imported), len(FLOORS)) >= FLOOR_OF[own]:
            found.append((line, imported))
    return found


def undocumented(tree):
    """Yields the public module, classes and functions (methods too) without a docstring."""
    if not ast.get_docstring(tree):
        yield "the module"
    scopes = [(tree, "")]
    while scopes:
        scope, prefix = scopes.pop()
        for node in scope.body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            if node.name.startswith("_"):
                continue
            if not ast.get_docstring(node) and not is_inherited(node):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                scopes.append((node, f"{prefix}{node.name}."))


def is_inherited(node):
    """Whether `@override` says that the docstring is the base class's."""
    names = {getattr(d, "id", getattr(d, "attr", "")) for d in node.decorator_list}
    return "override" in names


def forbidden(tree):
    """Yields (line, what) of every pickle, eval, exec, shell and unfinished body."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            for name in names:
                if name.split(".")[0] in FORBIDDEN_MODULES:
                    yield node.lineno, name
        elif isinstance(node, ast.Call):
            if isinstance(node.func, ast.Name) and node.func.id in ("eval", "exec"):
                yield node.lineno, node.func.id
            owner = getattr(getattr(node.func, "value", None), "id", "")
            if owner == "os" and node.func.attr in FORBIDDEN_CALLS:
                yield node.lineno, f"os.{node.func.attr}"
            for keyword in node.keywords:
                if keyword.arg == "shell" and getattr(keyword.value, "value", True):
                    yield node.lineno, "shell="
                if keyword.arg == "allow_pickle" and getattr(keyword.value, "value", True):
                    yield node.lineno, "allow_pickle="
        elif isinstance(node, ast.Name) and node.id == "NotImplementedError":
            yield node.lineno, node.id


@each_file
def test_every_file_has_its_floor(path):
    assert room_of(module_of(path)) in FLOOR_OF, f"put {path.name} on a floor of FLOORS"


@each_file
def test_imports_point_down(path):
    source = path.read_text(encoding="utf-8")
    assert upward_imports(source, module_of(path), path.name == "__init__.py") == []


@each_file
def test_files_stay_short(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_LINES


@each_file
def test_public_names_have_docstrings(path):
    assert list(undocumented(tree_of(path))) == []


def functions(tree):
    """Yields every function and method with its parameters, `self` and `cls` apart."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            yield node, [arg.arg for arg in args if arg.arg not in ("self", "cls")]


@each_file
def test_public_functions_of_four_parameters_describe_each(path):
    for node, parameters in functions(tree_of(path)):
        text = ast.get_docstring(node) or ""
        if len(parameters) >= 4 and text and not node.name.startswith("_"):
            described = text.partition("Args:")[2]
            missing = [name for name in parameters if f"{name}:" not in described]
            assert not missing, f"{node.name} says nothing of {missing}"


def test_the_package_stays_small():
    """A few stories may be long; what counts is how many, and that `Any` stays rare."""
    sources = {path: path.read_text(encoding="utf-8") for path in FILES}
    long_functions = [
        node.name
        for path in FILES
        for node, _ in functions(tree_of(path))
        if node.end_lineno - node.lineno >= 50
    ]
    assert len(long_functions) <= 3, long_functions
    assert sum(len(source.splitlines()) > 300 for source in sources.values()) <= 6
    lines = [line for source in sources.values() for line in source.splitlines()]
    assert sum(bool(re.search(r"\bAny\b", line)) for line in lines) <= 120


@each_file
def test_no_forbidden_constructs(path):
    assert list(forbidden(tree_of(path))) == []


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import star_jax.loop.star", "star_jax.rollout.engine"),
        ("from star_jax.training.trainer import x", "star_jax.rollout.engine"),
        ("from star_jax import main", "star_jax.records"),
        ("def f():\n  from ..loop import star", "star_jax.tasks.task"),
        ("from ..rollout import engine", "star_jax.training.trainer"),
        ("importlib.import_module('star_jax.main')", "star_jax.loop.star"),
        ("import star_jax.no_such_room", "star_jax.main"),
    ],
)
def test_the_check_sees_an_upward_import(source, module):
    assert upward_imports(source, module)


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import jax", "star_jax.records"),
        ("from star_jax import errors", "star_jax.records"),
        ("from .rotary import rotate", "star_jax.models.attention"),
        ("from ..errors import UserError", "star_jax.models.attention"),
    ],
)
def test_the_check_lets_downward_imports_pass(source, module):
    assert upward_imports(source, module) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "eval('1')",
        "exec('1')",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "np.load('x', allow_pickle=True)",
        "raise NotImplementedError",
    ],
)
def test_the_check_sees_forbidden_constructs(source):
    assert list(forbidden(ast.parse(source)))


def test_the_check_sees_a_missing_docstring():
    source = (
        '"""M."""\nclass A:\n  """A."""\n  def f(self): pass\n  def _g(self): pass\ndef h(): pass'
    )
    assert sorted(undocumented(ast.parse(source))) == ["A.f", "h"]
