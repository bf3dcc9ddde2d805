"""An export is what was given, bit for bit, in files that Hugging Face's tools know; or nothing."""

import json
import math
import resource
import stat
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from star_jax.errors import UserError
from star_jax.models.exporting import check_target, export_model
from star_jax.models.formats import open_model
from star_jax.models.tensors import Tensor
from tests.writers import BF16, gptj_tensors, random_tensors

CONFIG = {"model_type": "gptj", "n_embd": 16}
F32 = np.dtype(np.float32)
each_dtype = pytest.mark.parametrize("dtype", [F32, BF16], ids=str)


def stored(shape, read):
    """A tensor whose whole value `read()` gives."""
    return Tensor(shape, F32, lambda index: read()[index])


def export(directory, tensors, dtype=F32, config=CONFIG, **options):
    given = {name: stored(value.shape, lambda v=value: v) for name, value in tensors.items()}
    export_model(directory, given, config, dtype=dtype, **options)
    return directory


def imported(directory):
    stored = open_model(directory)
    return {
        name: tensor.read(tuple(slice(None) for _ in tensor.shape))
        for name, tensor in stored.tensors.items()
    }


def assert_same(got, expected):
    assert got.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (got[name].dtype, got[name].shape) == (tensor.dtype, tensor.shape), name
        assert got[name].tobytes() == tensor.tobytes(), name


def names(directory):
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def tensors():
    return gptj_tensors(np.random.default_rng(0))


@each_dtype
@pytest.mark.parametrize("max_shard_bytes", [2**30, 5000])
def test_import_of_an_export_is_bit_exact(tmp_path, dtype, max_shard_bytes):
    tensors = gptj_tensors(np.random.default_rng(0), dtype=dtype)
    directory = export(tmp_path / "out", tensors, dtype, max_shard_bytes=max_shard_bytes)
    assert_same(imported(directory), tensors)
    assert len(list(directory.glob("*.safetensors"))) == 1 or max_shard_bytes == 5000


sizes = st.lists(st.integers(0, 6), max_size=3)


@settings(max_examples=50, deadline=None)
@given(shapes=st.lists(sizes, min_size=1, max_size=8), max_shard_bytes=st.integers(1, 200))
def test_shards_hold_everything_once_and_are_small(tmp_path_factory, shapes, max_shard_bytes):
    rng = np.random.default_rng(0)
    tensors = random_tensors(rng, {f"t{i}": shape for i, shape in enumerate(shapes)})
    directory = export(tmp_path_factory.mktemp("e"), tensors, max_shard_bytes=max_shard_bytes)
    assert_same(imported(directory), tensors)
    held = []
    for path in directory.glob("*.safetensors"):
        with safe_open(path, "numpy") as file:
            held.append(list(file.keys()))
    assert sorted(name for shard in held for name in shard) == sorted(tensors)
    for shard in held:
        assert len(shard) == 1 or sum(tensors[name].nbytes for name in shard) <= max_shard_bytes


def test_the_files_are_those_that_hugging_face_writes(tmp_path, tensors):
    one = export(tmp_path / "one", tensors)
    many = export(tmp_path / "many", tensors, max_shard_bytes=10_000)
    assert names(one) == ["config.json", "model.safetensors"]
    n = len(names(many)) - 2
    assert n > 2
    shards = [f"model-{i:05}-of-{n:05}.safetensors" for i in range(1, n + 1)]
    assert names(many) == ["config.json", *shards, "model.safetensors.index.json"]
    index = json.loads((many / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tensors.values())
    for name in tensors:
        with safe_open(many / index["weight_map"][name], "numpy") as file:
            assert name in file.keys()  # noqa: SIM118
            assert file.metadata() == {"format": "pt"}  # without it, transformers refuses


def test_configuration_and_files_go_with_the_weights(tmp_path, tensors):
    directory = export(
        tmp_path / "a/b/out",
        tensors,
        BF16,
        {**CONFIG, "dtype": "float32"},
        files={"generation_config.json": b'{"eos_token_id": 7}', "tokenizer.json": b"{}"},
    )
    config = json.loads((directory / "config.json").read_text())
    assert config == {**CONFIG, "torch_dtype": "bfloat16"}
    assert json.loads((directory / "generation_config.json").read_text()) == {"eos_token_id": 7}
    assert (directory / "tokenizer.json").read_text() == "{}"


def test_numbers_are_rounded_to_the_dtype_and_rows_put_in_order(tmp_path):
    values = np.linspace(-3, 3, 24, dtype=np.float32).reshape(4, 6)
    given = {"turned": values.T, "every other": values[::2, ::-1], "jumping": values[:, 1::3]}
    expected = {name: np.ascontiguousarray(value).astype(BF16) for name, value in given.items()}
    assert_same(imported(export(tmp_path / "out", given, BF16)), expected)


def test_progress_counts_the_written_bytes(tmp_path, tensors):
    seen = []
    export(tmp_path / "out", tensors, BF16, on_progress=seen.append, max_shard_bytes=5000)
    assert seen == [2 * tensor.size for tensor in tensors.values()]


def test_one_shard_is_in_memory_at_most(tmp_path):
    shape, max_shard_bytes = (50, 10), 10_000  # five tensors a shard
    alive, most = weakref.WeakValueDictionary(), []

    def read(i):
        most.append(sum(tensor.nbytes for tensor in list(alive.values())))
        alive[i] = tensor = np.full(shape, i, np.float32)
        return tensor

    export_model(
        tmp_path / "out",
        {f"t{i}": stored(shape, lambda i=i: read(i)) for i in range(20)},
        CONFIG,
        dtype=F32,
        max_shard_bytes=max_shard_bytes,
    )
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == 4
    # Whenever a tensor is read, the earlier ones of its shard are in memory, and no others.
    tensor_bytes = math.prod(shape) * 4
    assert max(most) == 4 * tensor_bytes == max_shard_bytes - tensor_bytes


@pytest.mark.parametrize("is_file", [False, True])
def test_nothing_is_overwritten(tmp_path, tensors, is_file):
    out = tmp_path / "out"
    if is_file:
        out.write_text("mine")
    else:
        export(out, tensors)
    with pytest.raises(UserError, match=f"{out} exists already"):
        export(out, {"other": np.ones(2)})
    with pytest.raises(UserError, match="new or empty directory"):
        check_target(out)
    assert out.read_text() == "mine" if is_file else imported(out).keys() == tensors.keys()
    assert names(tmp_path) == ["out"]


def test_an_empty_directory_is_filled_and_what_lies_beside_it_stays(tmp_path, tensors):
    (tmp_path / "out").mkdir()
    (tmp_path / "out.unfinished").mkdir()
    (tmp_path / "out.unfinished/precious").write_text("mine")
    assert_same(imported(export(tmp_path / "out", tensors)), tensors)
    assert names(tmp_path) == ["out", "out.unfinished"]
    assert (tmp_path / "out.unfinished/precious").read_text() == "mine"


def test_a_link_is_no_place_for_an_export(tmp_path, tensors):
    (tmp_path / "empty").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "empty")
    with pytest.raises(UserError, match="exists already"):
        export(tmp_path / "out", tensors)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, ValueError])
def test_an_export_that_stops_half_way_leaves_nothing(tmp_path, stop):
    def failing():
        raise stop

    reads = {"a": lambda: np.ones(9), "b": lambda: np.ones(9), "c": failing}
    given = {name: stored((9,), read) for name, read in reads.items()}
    with pytest.raises(stop):
        export_model(tmp_path / "out", given, CONFIG, dtype=F32, max_shard_bytes=9)
    assert names(tmp_path) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(
            UserError, match=r"cannot write the export .*out: .*make room"
        ) as raised:
            export(tmp_path / "out", {"a": np.ones(100_000, np.float32)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in raised.value.message
    assert names(tmp_path) == []


def test_a_file_that_cannot_be_written_is_named(tmp_path, tensors):
    with pytest.raises(UserError, match=r"nowhere\.json"):
        export(tmp_path / "out", tensors, files={"no_folder/nowhere.json": b"{}"})
    assert names(tmp_path) == []


def test_weights_are_as_public_as_the_rest(tmp_path, tensors):
    directory = export(tmp_path / "out", tensors, max_shard_bytes=5000)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()}
    assert modes == {stat.S_IMODE((directory / "config.json").stat().st_mode)}
    assert stat.S_IMODE((directory / "config.json").stat().st_mode) & 0o044
