"""Every gin file is read, bound and used; the paper's full rows fit, its tiny ones run."""

import copy
import re
from pathlib import Path

import gin
import pytest

from star_jax.cli import gin_errors, gin_sources
from star_jax.cli.configurables import bound_mode
from star_jax.loop import star
from star_jax.modes import MODES
from star_jax.parallel.partitioning import make_mesh
from star_jax.records import GENERATED
from star_jax.tasks.task import ReasoningTask
from star_jax.tools.precompile.fit import sampling, training_lowering
from tests import tiny

ROOT = Path(__file__).parents[1]
GIN_CONFIGS = ROOT / "gin_configs"
FILES = sorted(
    path.relative_to(GIN_CONFIGS).as_posix()
    for path in GIN_CONFIGS.rglob("*.gin")
    if path.parent.name != "sweeps"  # tests/test_sweep.py goes over them
)
NOT_NEEDED = MODES["precompile"].not_needed


def text_of(name):
    return (GIN_CONFIGS / name).read_text()


def included(name):
    return re.findall(r"^include ['\"](.+)['\"]", text_of(name), re.MULTILINE)


def closure(names):
    """The files and all that they include, however deep."""
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += included(name)
    return found


def whole_text(name):
    return "\n".join([*map(whole_text, included(name)), text_of(name)])


def row_of(name):
    """The ROW that the file itself sets, if it does."""
    said = re.findall(r'^ROW = "(.+)"', text_of(name), re.MULTILINE)
    return said[-1] if said else None


def mode_of(name):
    """The run mode that the file, with what it includes, is for."""
    said = re.findall(r'^precompile.run = "(\w+)"', whole_text(name), re.MULTILINE)
    return said[-1] if said else "star"


ROWS = {name: row_of(name) for name in FILES if name.startswith("paper/") and row_of(name)}
FULL = [name for name, row in ROWS.items() if not row.endswith("_tiny")]
TINY = [name for name, row in ROWS.items() if row.endswith("_tiny")]


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def load(name, flags=(), not_needed=NOT_NEEDED):
    gin_errors.load(gin_sources.read_sources([name], list(flags), (), not_needed))


def bound_run(name):
    """The record of the file's run, made but for its directory, weights, vocabulary and task."""
    load(name)
    given = (gin.REQUIRED, None, None, gin.REQUIRED, "", "")
    return gin.get_configurable(f"star_jax.{mode_of(name)}")(*given)


# Read and bound.


def open_macros(name):
    """Macros that the file, with those it includes, leaves to the user or to other files."""
    text = whole_text(name)
    used = set(re.findall(r"%([A-Z_]+)\b", text))
    required = set(re.findall(r"^(\w+) = %gin\.REQUIRED", text, re.MULTILINE))
    return (used | required) - set(re.findall(r"^(\w+) = (?!%gin)", text, re.MULTILINE))


@pytest.mark.parametrize("name", [name for name in FILES if not name.startswith("sweeps/")])
def test_every_gin_file_is_read_and_bound(name):  # tests/test_sweep.py has the sweeps
    values = {"SEED": "0"}  # others are paths
    load(name, [(x, values.get(x, "'/nowhere'")) for x in sorted(open_macros(name))], ())
    assert "=" in gin.config_str()


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_a_whole_run_but_for_its_directory_and_weights(name):
    run, mode = bound_run(name), mode_of(name)
    assert isinstance(run, MODES[mode])
    assert isinstance(copy.deepcopy(gin.query_parameter(f"{mode}.task")), ReasoningTask)
    for parameter in ("vocabulary", "model_dir", "base_checkpoint"):
        assert str(gin.query_parameter(f"{mode}.{parameter}")).startswith("%")
    assert run.row == ROWS[name]


# Used.


def mentioned(text):
    """Files of gin_configs/ that a text names, also by a pattern such as `paper/*_tiny.gin`.

    In f"meshes/{name}.gin" the braces stand for any word of the same text, and in the README's
    `paper/X_row.gin` the X for either table.
    """
    words, found = set(re.findall(r"\w+", text)), set()
    for pattern in re.findall(r"(?<![\w/*{}.])[\w*{}][\w/*{}]*\.gin\b", text):
        glob = re.sub(r"\bX_", "table?_", pattern)
        spoken = re.sub(
            r"\{\w*\}", r"(\\w+)", re.escape(glob).replace(r"\{", "{").replace(r"\}", "}")
        )
        spoken = spoken.replace(r"\*", r"\w*").replace(r"\?", ".")
        names = (re.fullmatch(spoken, name) for name in FILES)
        found |= {name[0] for name in names if name and words.issuperset(name.groups())}
    return found


def test_every_gin_file_is_used_by_a_test_a_documented_command_or_a_file_that_is():
    places = [ROOT / "README.md", *(ROOT / "launch").rglob("*"), *GIN_CONFIGS.glob("sweeps/*")]
    places += [path for path in ROOT.glob("tests/*.py") if path.name != Path(__file__).name]
    texts = [path.read_text() for path in places if path.suffix in (".md", ".sh", ".py", ".gin")]
    used = closure(name for text in texts for name in mentioned(text))
    assert sorted(set(FILES) - used) == []


def test_only_what_a_text_names_counts_as_used():
    assert mentioned("see `runs/star.gin`") == {"runs/star.gin"}
    assert mentioned("runs/no_such_file.gin and star.gin") == set()
    assert mentioned("`paper/X_few_shot_cot.gin`") == {
        "paper/table1_few_shot_cot.gin", "paper/table2_few_shot_cot.gin",
    }  # fmt: skip
    assert mentioned('f"meshes/{name}.gin" for name in ("v3_8", "cpu")') == {
        "meshes/v3_8.gin", "meshes/cpu.gin",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "configurable", "steps"),
    [
        ("schedules/linear.gin", "LinearSteps", (40, 80)),
        ("schedules/epochs.gin", "EpochSteps", (10, 10)),
    ],
)
def test_another_schedule_takes_the_place_of_the_papers(name, configurable, steps):
    flags = [("star.schedule", f"@{configurable}()")]
    sources = gin_sources.read_sources(
        ["paper/table1_star_with_rationalization.gin", name], flags, (), NOT_NEEDED
    )
    gin_errors.load(sources)
    run = gin.get_configurable("star_jax.star")("", "", gin.REQUIRED, None, None)
    assert (run.schedule(1, 80, 8.0), run.schedule(2, 80, 8.0)) == steps


def test_the_released_codes_differences_can_be_added_to_a_row():
    name = "paper/table2_star_with_rationalization.gin"
    files = [name, "parity/released_code.gin"]
    gin_errors.load(gin_sources.read_sources(files, [], (), NOT_NEEDED))
    run = gin.get_configurable("star_jax.star")("", "", gin.REQUIRED, None, None)
    assert run.trainer.loss_on_prompt and not bound_run(name).trainer.loss_on_prompt
    gin_errors.load(gin_sources.read_sources(files, [], (), NOT_NEEDED))
    assert copy.deepcopy(gin.query_parameter("star.task")).hint == "solution"


# The paper's rows.

RESULTS = {  # in %: CommonsenseQA's and GSM8K's validation, and the shares trained on
    "few_shot_direct": ("20.9", "3.0", None, None),
    "few_shot_cot": ("36.6", "3.1", None, None),
    "direct_finetuned": ("60.0", "5.8", None, None),
    "star_without_rationalization": ("68.8", "10.1", "69.7", "25.0"),
    "star_with_rationalization": ("72.5", "10.7", "86.7", "28.7"),
}


def head_of(name):
    lines = text_of(name).splitlines()
    comments = lines[: next(i for i, line in enumerate(lines) if not line.startswith("#"))]
    return " ".join(line.lstrip("# ") for line in comments)


def test_no_two_files_are_one_row():
    assert len(set(ROWS.values())) == len(ROWS) >= 20


@pytest.mark.parametrize("name", ROWS)
def test_a_file_says_at_its_head_which_row_it_is_and_how_it_is_run(name):
    head, row, stem = head_of(name), ROWS[name], Path(name).stem
    part = row.partition("/")[0].removesuffix("_tiny")
    assert stem.startswith(part)
    if part in ("table1", "table2", "ablation"):
        assert stem == row.replace("/", "_")
    else:
        assert f"Figure {part.removeprefix('figure')}" in head
    if mode_of(name) != "star":
        assert f"--run_mode={mode_of(name)}" in head
    twin = name.replace("_tiny.gin", ".gin")
    if name in TINY and "schedule" not in name:
        assert twin in FULL


@pytest.mark.parametrize("table", [1, 2])
@pytest.mark.parametrize("row", RESULTS)
def test_a_tables_file_says_what_the_paper_got(table, row):
    accuracy, share = RESULTS[row][table - 1], RESULTS[row][table + 1]
    head = head_of(f"paper/table{table}_{row}.gin")
    assert head.startswith(f"Table {table}, ") and f"The paper gets {accuracy} %" in head
    assert share is None or f"trained on {share} %" in head
    readme = next(x for x in (ROOT / "README.md").read_text().splitlines() if f"X_{row}.gin" in x)
    cells = [cell.strip() for cell in readme.split("|")]
    assert cells[2] == f"`{mode_of(f'paper/table{table}_{row}.gin')}`"
    assert cells[2 * table + 1] == accuracy and (share is None or cells[2 * table + 2] == share)


@pytest.mark.parametrize("name", FULL)
def test_the_full_rows_are_the_papers_setting(name):
    run = bound_run(name)
    assert (run.model.n_layers, run.model.d_model, run.sampler.temperature) == (28, 4096, 0)
    if mode_of(name) != "few_shot":
        optimizer = run.optimizer
        assert run.trainer.batch_size == 8
        assert (optimizer.learning_rate, optimizer.warmup_steps) == (1e-6, 100)
    direct = "direct" in name
    task = copy.deepcopy(gin.query_parameter(f"{mode_of(name)}.task"))
    assert task.direct == direct
    if mode_of(name) == "star" and run.row.startswith("table"):
        rationalize = "with_rationalization" in name
        steps = [run.schedule(n, 0, 0.0) for n in (1, 2, 30, 40)]
        assert run.loop.rationalize == rationalize and run.loop.few_shot == "always"
        assert steps[:2] == [40, 48]
        assert run.row.startswith("table1") or steps[2:] == [7912, 7912]


@pytest.mark.parametrize("name", FULL)
def test_the_full_rows_are_laid_out_on_a_v3_8_and_fit_the_models_context(name, monkeypatch):
    """All but the compiler, which tests/test_precompile_tpu.py asks."""
    found = []
    mode = MODES["precompile"]
    monkeypatch.setattr(mode, "print_fits", lambda self, settings: found.append(settings))
    load(name)
    bound_mode("precompile", mode)()
    (settings,) = found
    assert (settings.trainer is None) == (mode_of(name) == "few_shot")
    assert (settings.loop is None) == (mode_of(name) != "star")
    mesh = make_mesh(settings.mesh)  # of the tests' eight devices
    assert mesh.size == 8
    if settings.trainer:
        training_lowering(settings, mesh)
    assert ("prefix" in sampling(settings, mesh)) == (mode_of(name) != "finetune")
    assumed, new = settings.assumed, settings.sampler.max_new_tokens
    columns = settings.prefix_tokens + assumed.longest_question + new
    assert columns <= settings.model.context_length
    if settings.loop and settings.loop.few_shot_in_training:
        assert columns <= settings.trainer.row_length  # or training would drop some examples


# The tiny rows run: with a base that knows nothing, so that what it says has to count as right.

BASES = {"tasks/toy_commonsense_qa.gin": "runs/pretrain_toy_commonsense_qa.gin",
         "tasks/toy_gsm8k.gin": "runs/pretrain_toy_gsm8k.gin",
         "tasks/arithmetic.gin": "runs/pretrain_tiny.gin"}  # fmt: skip
SMALLEST = {"ArithmeticTask.n_train": 100, "ArithmeticTask.n_validation": 2,
            "SamplerConfig.batch_size": 8}  # fmt: skip
SMALLEST_OF = {
    "star": {"ITERATIONS": 1, "StarConfig.questions_per_iteration": 8, "GeometricSteps.first": 2,
             "LinearSteps.first": 2, "EpochSteps.epochs": 0.1},
    "finetune": {"N_EXAMPLES": 8, "STEPS": 2},
    "few_shot": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def base_of(tmp_path_factory):
    """Makes, once for each, the weights that a pretraining file begins with."""
    made = {}

    def make(file):
        if file not in made:
            folder = tmp_path_factory.mktemp("base") / "base"
            small = {"Phase.steps": 1, "ArithmeticCorpus.n_documents": 50}
            if "BASE_STEPS" in whole_text(file):
                small = {"BASE_STEPS": 1}
            elif "one_place/Phase" in whole_text(file):
                small = {f"{scope}/{name}": value for name, value in small.items()
                         for scope in ("one_place", "any_place", "hints")}  # fmt: skip
            assert tiny.run_file(file, "pretrain", {**small, "MODEL_DIR": folder}) == 0
            made[file] = folder
        return made[file]

    return make


def half_is_kept(attempts, filters):
    """Every other question as generated, the others with a hint or at a higher temperature."""
    generated = [a for a in attempts if a.source == GENERATED]
    return [*generated[::2], *[a for a in attempts if a.source != GENERATED][1::2]], {}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_every_tiny_row_runs(name, tmp_path, base_of, monkeypatch):
    monkeypatch.setattr(star, "keep", half_is_kept)
    mode = mode_of(name)
    (base,) = (BASES[task] for task in closure([name]) & BASES.keys())
    flags = {**SMALLEST, **SMALLEST_OF[mode]}
    flags |= {"MODEL_DIR": tmp_path / "run", "MODEL_CHECKPOINT": base_of(base)}
    assert tiny.run_file(name, mode, flags) == 0
    lines = tiny.read_lines(tmp_path / "run/metrics.jsonl")
    assert [line["iteration"] for line in lines] == ([0] if mode == "few_shot" else [0, 1])
    assert f'"{ROWS[name]}"' in (tmp_path / "run/row.json").read_text()
    assert (tmp_path / "run/report/report.md").is_file()
