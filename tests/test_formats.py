"""Every format gives the same tensors, any slice of them, and says in one line what is wrong."""

import contextlib
import functools
import json
import math
import struct
import tempfile
from pathlib import Path

import gguf
import ml_dtypes
import numpy as np
import pytest
from flax import serialization
from gguf import GGMLQuantizationType
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from star_jax.errors import UserError
from star_jax.models.formats import is_foreign, open_model
from star_jax.models.tensors import Tensor, concatenated
from tests.writers import (
    BF16,
    gptj_tensors,
    llama_tensors,
    random_tensors,
    write_flax,
    write_gguf,
    write_index,
    write_mesh_transformer,
    write_safetensors,
)

DTYPES = (np.float32, np.float16, BF16)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: np.dtype(d).name)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def whole(tensor):
    return tensor.read(tuple(slice(None) for _ in tensor.shape))


def assert_same_bits(got, expected):
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
    assert got.tobytes() == np.ascontiguousarray(expected).tobytes()


def assert_holds(stored, expected, rng):
    """The tensors, no more and no less, and a random part of each; no file stays mapped."""
    assert stored.tensors.keys() == expected.keys()
    for name, tensor in stored.tensors.items():
        assert (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype), name
        assert_same_bits(whole(tensor), expected[name])
        for _ in range(3):
            ends = [sorted(rng.choice(n + 1, 2, replace=False)) for n in tensor.shape]
            part = tuple(slice(int(low), int(high)) for low, high in ends)
            got = tensor.read(part)
            assert_same_bits(got, expected[name][part])
            assert not is_mapped(got), name


def is_mapped(array):
    while isinstance(array, np.ndarray):
        if isinstance(array, np.memmap):
            return True
        array = array.base
    return False


# What is written is what is read.


@each_dtype
@pytest.mark.parametrize("shards", [1, 3])
def test_safetensors(tmp_path, rng, dtype, shards):
    tensors = gptj_tensors(rng, dtype=dtype)
    write_safetensors(tmp_path, tensors, shards)
    (tmp_path / "config.json").write_text('{"model_type": "gptj"}')
    stored = open_model(tmp_path)
    assert_holds(stored, tensors, rng)
    assert stored.config == {"model_type": "gptj"}


def test_safetensors_of_every_dtype_and_rank(tmp_path, rng):
    tensors = {
        dtype: rng.integers(0, 2, size=(2, 3, 4)[: i % 4]).astype(dtype)
        for i, dtype in enumerate(["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "bool"])
    }
    write_safetensors(tmp_path, tensors)
    stored = open_model(tmp_path / "model.safetensors").tensors
    for name, tensor in tensors.items():
        assert_same_bits(whole(stored[name]), tensor)


def test_a_single_file_of_another_name_will_do(tmp_path, rng):
    tensors = random_tensors(rng, {"a": (2, 3)})
    save_file(tensors, tmp_path / "weights.safetensors")
    assert_holds(open_model(tmp_path), tensors, rng)
    (tmp_path / "model.safetensors").write_bytes((tmp_path / "weights.safetensors").read_bytes())
    assert_holds(open_model(tmp_path), tensors, rng)
    assert open_model(tmp_path).config is None


@each_dtype
@pytest.mark.parametrize(("shards", "wrapped"), [(1, False), (1, True), (3, False)])
def test_flax_msgpack(tmp_path, rng, dtype, shards, wrapped):
    tensors = gptj_tensors(rng, dtype=dtype)
    write_flax(tmp_path, tensors, shards, wrapped)
    (tmp_path / "config.json").write_text('{"model_type": "gptj"}')
    stored = open_model(tmp_path)
    assert_holds(stored, tensors, rng)
    assert stored.config == {"model_type": "gptj"}
    if shards == 1:
        assert_holds(open_model(tmp_path / "flax_model.msgpack"), tensors, rng)


@each_dtype
def test_flax_arrays_that_were_parted_for_their_size(tmp_path, rng, monkeypatch, dtype):
    monkeypatch.setattr(serialization, "MAX_CHUNK_SIZE", 200)  # 2**30 in earnest
    tensors = gptj_tensors(rng, layers=1, dtype=dtype)
    write_flax(tmp_path, tensors)
    assert b"__msgpack_chunked_array__" in (tmp_path / "flax_model.msgpack").read_bytes()
    assert_holds(open_model(tmp_path), tensors, rng)


def test_large_tensors_are_read_in_blocks_of_rows(tmp_path, rng, monkeypatch):
    monkeypatch.setattr("star_jax.models.formats.files.BLOCK_BYTES", 300)
    tensors = gptj_tensors(rng)
    assert_holds(open_model(write_safetensors(tmp_path / "safetensors", tensors)), tensors, rng)
    assert_holds(open_model(write_flax(tmp_path / "flax", tensors)), tensors, rng)


def test_flax_leaves_that_are_no_arrays_are_no_tensors(tmp_path, rng):
    tree = {"a": {"scale": np.arange(3.0), "step": np.float32(2), "n": 7, "none": None}, "b": {}}
    (tmp_path / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(tree))
    expected = {"a.weight": np.arange(3.0), "a.step": np.array(2, np.float32)}
    assert_holds(open_model(tmp_path), expected, rng)


@pytest.mark.parametrize(("shards", "dtype"), [(8, BF16), (8, np.float16), (2, np.float32)])
def test_mesh_transformer(tmp_path, rng, shards, dtype):
    # Eleven layers: layer 10 lies before layer 2.
    tensors = gptj_tensors(rng, layers=11, dtype=dtype)
    expected = write_mesh_transformer(tmp_path / "step_383500", tensors, rng, shards)
    if dtype == BF16:
        with np.load(tmp_path / "step_383500/shard_0/0.npz") as npz:
            assert {npz[name].dtype.kind for name in npz} == {"V"}  # as the published one has it
    (tmp_path / "config.json").write_text('{"model_type": "gptj", "n_head": 4}')
    for path in (tmp_path, tmp_path / "step_383500"):
        stored = open_model(path)
        assert_holds(stored, expected, rng)
        assert stored.config == {"model_type": "gptj", "n_head": 4}


def test_mesh_transformer_without_step_and_configuration(tmp_path, rng):
    expected = write_mesh_transformer(tmp_path / "slim", gptj_tensors(rng), rng, step=False)
    assert_holds(open_model(tmp_path / "slim"), expected, rng)
    assert open_model(tmp_path / "slim").config is None


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("dtype", [np.float32, BF16], ids=["float32", "bfloat16"])
def test_gguf(tmp_path, rng, architecture, dtype):
    biases, norms = architecture == "qwen2", architecture == "qwen3"
    tensors = llama_tensors(rng, qkv_bias=biases, qk_norm=norms, tied=norms, dtype=dtype)
    # llama.cpp's converter keeps vectors in float32.
    tensors |= {n: t.astype(np.float32) for n, t in tensors.items() if t.ndim == 1}
    path = write_gguf(tmp_path / "model.gguf", tensors, architecture)
    stored = open_model(tmp_path)
    assert_holds(stored, tensors, rng)
    assert_holds(open_model(path), tensors, rng)
    assert stored.config == {
        "model_type": architecture,
        "hidden_act": "silu",
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 64,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "vocab_size": 96,
        "attention_bias": biases,
        "tie_word_embeddings": norms,
    }


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_quantized_gguf_means_the_same_numbers(tmp_path, rng, kind, monkeypatch):
    monkeypatch.setattr("star_jax.models.formats.gguf_file.DEQUANTIZED_ROWS", 5)
    kind = GGMLQuantizationType[kind]
    tensors = llama_tensors(rng)
    write_gguf(tmp_path / "model.gguf", tensors, kinds=lambda name: kind)
    expected = {  # row by row, so in any order of rows
        name: gguf.dequantize(gguf.quantize(tensor, kind), kind) if tensor.ndim > 1 else tensor
        for name, tensor in tensors.items()
    }
    if kind == GGMLQuantizationType.F16:
        expected |= {n: t.astype(np.float16) for n, t in expected.items() if t.ndim > 1}
    assert_holds(open_model(tmp_path), expected, rng)


def test_biases_of_llama_are_turned_with_their_rows(tmp_path, rng):
    tensors = llama_tensors(rng, qkv_bias=True)
    write_gguf(tmp_path / "model.gguf", tensors)
    stored = open_model(tmp_path)
    assert_holds(stored, tensors, rng)
    assert stored.config["attention_bias"]


def test_what_gguf_metadata_leave_out_is_inferred(tmp_path, rng):
    left_out = ("key_length", "value_length", "rope_dimension_count", "rope_freq_base")
    metadata = dict.fromkeys([f"add_{name}" for name in (*left_out, "head_count_kv")])
    tensors = llama_tensors(rng, kv_heads=4)
    write_gguf(tmp_path / "model.gguf", tensors, metadata=metadata, kv_heads=4)
    config = open_model(tmp_path).config
    assert (config["head_dim"], config["num_key_value_heads"]) == (8, 4)
    assert config["rope_theta"] == 10000.0


def test_a_llama_with_a_window_is_a_mistral(tmp_path, rng):
    write_gguf(tmp_path / "m.gguf", llama_tensors(rng), metadata={"add_sliding_window": 64})
    config = open_model(tmp_path).config
    assert (config["model_type"], config["sliding_window"]) == ("mistral", 64)


def llama3_divisor(frequency, factor):
    """As Llama 3.1's authors scale one frequency, told case by case."""
    wavelength = 2 * math.pi / frequency
    if wavelength < 8192 / 4:
        return 1.0
    if wavelength > 8192:
        return factor
    smooth = (8192 / wavelength - 1) / (4 - 1)
    return frequency / ((1 - smooth) * frequency / factor + smooth * frequency)


@pytest.mark.parametrize(("factor", "theta", "head_dim"), [(8.0, 5e5, 128), (32.0, 5e5, 64)])
def test_rope_scaling_is_told_from_the_frequencies(tmp_path, rng, factor, theta, head_dim):
    divisors = [llama3_divisor(theta ** (-i / head_dim), factor) for i in range(0, head_dim, 2)]
    write_gguf(
        tmp_path / "model.gguf",
        llama_tensors(rng, head_dim=head_dim),
        head_dim=head_dim,
        theta=theta,
        extra={"rope_freqs.weight": np.array(divisors, np.float32)},
    )
    stored = open_model(tmp_path)
    assert "rope_freqs.weight" not in stored.tensors
    assert stored.config["rope_scaling"] == {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


@pytest.mark.parametrize("kind", [None, gguf.RopeScalingType.NONE, gguf.RopeScalingType.LINEAR])
def test_metadata_without_a_factor_scale_nothing(tmp_path, rng, kind):
    factor = 4.0 if kind == gguf.RopeScalingType.NONE else 1.0
    metadata = {"add_rope_scaling_type": kind, "add_rope_scaling_factor": factor}
    metadata |= {"add_rope_scaling_orig_ctx_len": 32, "add_rope_scaling_finetuned": False}
    write_gguf(tmp_path / "m.gguf", llama_tensors(rng), "qwen2", metadata=metadata)
    assert open_model(tmp_path).config["rope_scaling"] is None


def test_only_the_touched_parts_of_a_joined_tensor_are_read():
    values = np.arange(8, dtype=np.float32).reshape(4, 2)

    def part(read):
        return Tensor((4, 2), np.dtype(np.float32), read)

    untouched = part(lambda index: pytest.fail("was read"))
    joined = concatenated([untouched, part(lambda index: values[index]), untouched], axis=0)
    assert_same_bits(joined.read((slice(5, 8), slice(0, 1))), values[1:, :1])


# Which paths are another program's weights.


def test_foreign_paths_are_told_from_ours(tmp_path, rng):
    tensors = random_tensors(rng, {"a": (2, 2)})
    for name in ("model.safetensors", "flax_model.msgpack", "model.gguf", "pytorch_model.bin"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes(b"any")
        assert is_foreign(tmp_path / name), name
        assert is_foreign(tmp_path / name / name), name
    write_mesh_transformer(tmp_path / "mesh/step_1", gptj_tensors(rng), rng)
    assert is_foreign(tmp_path / "mesh") and is_foreign(tmp_path / "mesh/step_1")
    write_safetensors(tmp_path / "shards", tensors)
    (tmp_path / "shards/model.safetensors").rename(tmp_path / "shards/model.safetensors.index.json")
    assert is_foreign(tmp_path / "shards")

    orbax = tmp_path / "checkpoint"
    (orbax / "d").mkdir(parents=True)
    for name in ("_CHECKPOINT_METADATA", "manifest.ocdbt", "_sharding", "config.json"):
        (orbax / name).write_bytes(b"{}")
    assert not is_foreign(orbax)
    assert not is_foreign(tmp_path / "nowhere.safetensors")


# What goes wrong is said in one line that names the file.


def put(directory, name, data=b""):
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_bytes(data if isinstance(data, bytes) else data.encode())
    return directory


def indexed(directory, weight_map):
    write_safetensors(directory, {"a": np.zeros(2, np.float32)})
    write_index(directory / "model.safetensors.index.json", weight_map)
    return directory


def shards_of(directory):
    return write_safetensors(directory, {"a": np.ones(2, np.float32), "b": np.zeros(2)}, 2)


def two_shards_with_the_same_name(directory):
    write_safetensors(directory, {"a": np.zeros(2, np.float32), "b": np.zeros(2, np.float32)}, 2)
    second = directory / "model-00002-of-00002.safetensors"
    second.write_bytes((directory / "model-00001-of-00002.safetensors").read_bytes())
    return directory


def flax_file(directory, data):
    return put(directory, "flax_model.msgpack", data)


def mesh(directory, break_it=lambda directory: None, **sizes):
    rng = np.random.default_rng(0)
    write_mesh_transformer(directory, gptj_tensors(rng, **sizes), rng)
    break_it(directory)
    return directory


def with_optimizer_state(directory):
    """Arrays before the parameters, as in the full checkpoint of 61 GB."""
    for shard in directory.iterdir():
        np.savez(shard / "0.npz", *[np.zeros(3)] * 40)


def compressed(directory):
    np.savez_compressed(directory / "shard_3/0.npz", np.zeros(16))


def cut_short(directory):
    path = directory / "shard_6/2.npz"
    path.write_bytes(path.read_bytes()[:-30])


def with_a_pickle(directory):
    np.savez(directory / "shard_3/0.npz", np.array([{}], dtype=object))


def llama_gguf(directory, architecture="llama", **options):
    write_gguf(
        directory / "m.gguf", llama_tensors(np.random.default_rng(0)), architecture, **options
    )
    return directory


def expert_gguf(directory):
    name = "blk.0.ffn_gate_exps.weight"
    return llama_gguf(directory, extra={name: np.zeros((2, 4, 32), np.float32)})


def integer_gguf(directory):
    return llama_gguf(directory, extra={"output_norm.bias": np.zeros(4, np.int32)})


HEAD_DIMS = ("add_key_length", "add_value_length", "add_rope_dimension_count")
F8 = {"a": np.zeros(3, ml_dtypes.float8_e4m3fn)}
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12216138240\n"
HTML = "\n<!DOCTYPE html>\n<html>Access restricted</html>"
MISTAKES = {
    "nothing there": (lambda d: d, "does not exist"),
    "empty directory": (lambda d: put(d, "README.md"), "holds no weights"),
    "torch": (lambda d: put(d, "pytorch_model.bin"), r"model\.bin is not read.*safe_serialization"),
    "torch file": (
        lambda d: put(d, "pytorch_model-00001-of-00002.bin") / "pytorch_model-00001-of-00002.bin",
        "00002.bin is not read.*safe_serialization",
    ),
    "pth": (lambda d: put(d, "consolidated.00.pth"), "00.pth is not read"),
    "lightning": (lambda d: put(d, "last.ckpt"), "last.ckpt is not read"),
    "tensorflow": (lambda d: put(d, "tf_model.h5"), "tf_model.h5 is not read"),
    "empty file": (lambda d: put(d, "model.safetensors"), "model.safetensors is empty"),
    "lfs": (lambda d: put(d, "model.safetensors", LFS), "Git LFS pointer.*git lfs pull"),
    "lfs flax": (lambda d: flax_file(d, LFS), "flax_model.msgpack is a Git LFS pointer"),
    "lfs gguf": (lambda d: put(d, "m.gguf", LFS), "m.gguf is a Git LFS pointer"),
    "html": (lambda d: put(d, "model.safetensors", HTML), "is a web page"),
    "html npz": (
        lambda d: mesh(d, lambda d: put(d / "shard_5", "3.npz", HTML)),
        "shard_5/3.npz is a web page",
    ),
    "garbage safetensors": (lambda d: put(d, "model.safetensors", "x" * 99), "no safetensors file"),
    "garbage gguf": (lambda d: put(d, "m.gguf", "x" * 99), "no GGUF file"),
    "quantized": (lambda d: save(d, F8), "F8_E4M3 numbers.*BF16"),
    "several": (
        lambda d: put(put(d, "a.safetensors"), "b.safetensors"),
        r"2 files of weights \(a.safetensors, b.safetensors\) and no model.safetensors.index.json",
    ),
    "missing shard": (
        lambda d: indexed(d, {"a": "model.safetensors", "b": "gone.safetensors"}),
        "lists files that are not there: gone.safetensors",
    ),
    "missing tensor": (
        lambda d: indexed(d, {"a": "model.safetensors", "b": "model.safetensors"}),
        "lists tensors that its files do not have: b;",
    ),
    "file and index": (
        lambda d: write_safetensors(shards_of(d), {"a": np.zeros(2, np.float32)}),
        "has model.safetensors and also model.safetensors.index.json, which lists other files",
    ),
    "twice": (two_shards_with_the_same_name, "has the tensor a twice, in .*00001.*00002"),
    "index escapes": (lambda d: indexed(d, {"a": "../model.safetensors"}), "no weight_map"),
    "index of numbers": (lambda d: indexed(d, {"a": 1}), "no weight_map"),
    "empty index": (lambda d: indexed(d, {}), "no weight_map"),
    "damaged index": (
        lambda d: put(indexed(d, {}), "model.safetensors.index.json", "{"),
        "index.json is no JSON file",
    ),
    "damaged config": (
        lambda d: put(indexed(d, {"a": "model.safetensors"}), "config.json", b"\xff"),
        "config.json is no JSON file",
    ),
    "list for a config": (
        lambda d: put(indexed(d, {"a": "model.safetensors"}), "config.json", "[]"),
        "config.json is no JSON file.*not an object",
    ),
    "flax number": (lambda d: flax_file(d, b"\x07"), "its top is not a map"),
    "flax params": (lambda d: flax_file(d, b"\x81\xa6params\x07"), "its top is not a map"),
    "flax twice": (lambda d: flax_file(d, b"\x82\xa1a\x01\xa1a\x01"), "a is there twice"),
    "flax object": (lambda d: flax_file(d, b"\x81\xa1a\xd4\x05\x00"), "extension type 5"),
    "flax depth": (lambda d: flax_file(d, b"\x81\xa1a" * 99), "maps in maps"),
    "flax pickle": (
        lambda d: flax_file(d, b"\x81\xa1a\xc7\x07\x01\x93\x91\x01\xa1O\xc4\x00"),
        "0 bytes for an array of .* object",
    ),
    "mesh several": (
        lambda d: (mesh(d / "step_1"), mesh(d / "step_2"), d)[-1],
        r"several checkpoints \(step_1, step_2\)",
    ),
    "mesh shard": (lambda d: mesh(d, lambda d: rename(d, "shard_3")), "lacks shard_3"),
    "mesh last shard": (
        lambda d: mesh(d, lambda d: rename(d, "shard_7")),
        "has 7 shards, which d_model 16 is not divisible by",
    ),
    "mesh other": (
        lambda d: mesh(d, lambda d: np.savez(d / "shard_4/0.npz", np.zeros(3), np.zeros(3))),
        r"where transformer.wte.bias should be, one of 8 shards has \(3,\)",
    ),
    "mesh file": (lambda d: mesh(d, lambda d: (d / "shard_2/7.npz").unlink()), "lacks 7.npz"),
    "mesh full": (lambda d: mesh(d, with_optimizer_state), "slim_model.py"),
    "mesh pickle": (lambda d: mesh(d, with_a_pickle), "shard_3/0.npz is no npz.*is a pickle"),
    "mesh compressed": (lambda d: mesh(d, compressed), "shard_3/0.npz is no npz.*compressed"),
    "mesh cut": (lambda d: mesh(d, cut_short), "shard_6/2.npz is no npz file"),
    "mesh uneven": (
        lambda d: mesh(d, lambda d: np.savez(d / "shard_1/15.npz", *np.zeros((3, 2)))),
        "arrays in a shard",
    ),
    "gguf several": (lambda d: put(put(d, "a.gguf"), "b.gguf"), "2 .gguf files"),
    "gguf family": (lambda d: llama_gguf(d, "gemma3"), "'gemma3'; star_jax reads.*llama, qwen2"),
    "gguf experts": (expert_gguf, "does not have: blk.0.ffn_gate_exps.weight"),
    "gguf integers": (integer_gguf, "I32 numbers .output_norm.bias"),
    "gguf lacks": (
        lambda d: llama_gguf(d, metadata={"add_head_count": None}),
        "m.gguf: llama: the field 'attention.head_count' is missing",
    ),
    "gguf uneven layers": (
        lambda d: llama_gguf(d, metadata={"add_feed_forward_length": [64, 32]}),
        r"m.gguf: llama: feed_forward_length is '\[64, 32\]', which is not a whole number",
    ),
    "gguf partial rotary": (
        lambda d: llama_gguf(d, metadata={"add_rope_dimension_count": 4}),
        "rope.dimension_count = 4",
    ),
    "gguf heads": (
        lambda d: llama_gguf(d, metadata=dict.fromkeys(HEAD_DIMS, 12)),
        r"\(32, 32\) is not in heads of 12 dims",
    ),
    "gguf rope": (
        lambda d: llama_gguf(d, extra={"rope_freqs.weight": np.full(4, 3, np.float32)}),
        "rope_freqs.weight is not what Llama 3",
    ),
    "gguf linear": (
        lambda d: llama_gguf(d, metadata={"add_rope_scaling_factor": 4.0}),
        r"m.gguf: llama: rope.scaling with factor 4.0, type linear is not supported",
    ),
    "gguf old linear": (
        lambda d: llama_gguf(d, metadata={"add_scale_linear": 4.0}),
        r"type linear, factor 4.0 is not supported",
    ),
    "gguf linear and frequencies": (
        lambda d: llama_gguf(
            d,
            metadata={"add_rope_scaling_factor": 4.0},
            extra={"rope_freqs.weight": np.ones(4, np.float32)},
        ),
        "factor 4.0, type linear is not supported",
    ),
    "gguf yarn": (
        lambda d: llama_gguf(d, metadata={"add_rope_scaling_type": gguf.RopeScalingType.YARN}),
        "with type yarn, factor None is not supported",
    ),
    "gguf attention factor": (
        lambda d: llama_gguf(d, metadata={"add_rope_scaling_attn_factors": 2.0}),
        "attn_factor 2.0, type linear, factor None is not supported",
    ),
    "gguf part": (
        lambda d: llama_gguf(d, metadata={"add_split": 3}),
        "llama-gguf-split --merge",
    ),
}


def save(directory, tensors):
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors")
    return directory


def rename(directory, shard):
    (directory / shard).rename(directory / f"old_{shard}")


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told_in_one_line(tmp_path, mistake, monkeypatch):
    for method, add in {
        "add_split": lambda writer, n: writer.add_uint16("split.count", n),
        "add_scale_linear": lambda writer, x: writer.add_float32("llama.rope.scale_linear", x),
    }.items():
        monkeypatch.setattr(gguf.GGUFWriter, method, add, raising=False)
    make, told = MISTAKES[mistake]
    with pytest.raises(UserError, match=told) as raised:
        open_model(make(tmp_path / "model"))
    assert "\n" not in raised.value.message
    assert str(tmp_path / "model") in raised.value.message


@functools.cache
def good_files():
    """The bytes of a small file of each format that is one file."""
    rng = np.random.default_rng(0)
    names = ("model.safetensors", "flax_model.msgpack", "model.gguf")
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        write_safetensors(root, random_tensors(rng, {"a": (3, 4), "b": (5,)}))
        write_flax(root, random_tensors(rng, {"h.a.weight": (3, 4), "h.b.bias": (5,)}))
        write_gguf(root / "model.gguf", llama_tensors(rng, layers=1))
        return {name: (root / name).read_bytes() for name in names}


each_file = st.sampled_from(["model.safetensors", "flax_model.msgpack", "model.gguf"])


@settings(max_examples=200, deadline=None)
@given(name=each_file, share=st.floats(0, 1))
def test_files_that_were_cut_short_are_told(tmp_path_factory, name, share):
    data = good_files()[name]
    # Of a GGUF file the last bytes may be padding.
    path = tmp_path_factory.mktemp("cut") / name
    path.write_bytes(data[: int(share * (len(data) - (32 if name == "model.gguf" else 1)))])
    with pytest.raises(UserError, match=name) as raised:
        open_model(path)
    assert "\n" not in raised.value.message


# Headers matter most, and lie in front.
damage = st.lists(st.tuples(st.integers(0, 2500), st.integers(0, 255)), min_size=1, max_size=4)


@settings(max_examples=300, deadline=None)
@given(name=each_file, changes=damage)
def test_no_damage_gives_a_traceback(tmp_path_factory, name, changes):
    data = bytearray(good_files()[name])
    for place, value in changes:
        data[place % len(data)] = value
    path = tmp_path_factory.mktemp("damaged") / name
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        for tensor in open_model(path).tensors.values():
            whole(tensor)


def test_of_a_file_and_an_index_the_file_can_be_given(tmp_path):
    write_safetensors(shards_of(tmp_path), {"a": np.zeros(2, np.float32)})
    assert open_model(tmp_path / "model.safetensors").tensors.keys() == {"a"}


def test_a_header_that_claims_too_much_is_told(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    data = struct.pack("<Q", len(header)) + header + bytes(12)
    put(tmp_path, "model.safetensors", data)
    with pytest.raises(UserError, match="truncated"):
        open_model(tmp_path)
