"""Run mode convert, and weights on many devices."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax import main
from star_jax.errors import UserError
from star_jax.models import tensors as tensors_module
from star_jax.models.base_weights import Base, check_config, import_params
from star_jax.models.decoder import placed_params
from star_jax.models.exporting import export_model
from star_jax.models.families import decoder_config, family_of
from star_jax.models.formats import open_model
from star_jax.models.places import places
from star_jax.models.tensors import Tensor, all_finite
from star_jax.parallel.partitioning import TRAINING_RULES, MeshConfig, make_mesh
from star_jax.run import checkpoints
from star_jax.tokenizers.vocabularies import WordVocabulary
from star_jax.tools.convert import convert_weights
from tests import writers
from tests.families import Dims, hf_logits, hf_model, transformers
from tests.test_families import FAMILIES, logits_of, random_tokens

each_family = pytest.mark.parametrize("family", FAMILIES)
WORDS = WordVocabulary([str(n) for n in range(Dims.vocab_size - 3)])
EVEN = Dims(vocab_size=96, n_heads=8, group_size=2, d_model=32)  # can be split by 8


def saved(folder, family, dims=EVEN, **kwargs):
    model = hf_model(family, dims)
    model.save_pretrained(folder, **kwargs)
    return model


def mesh_of(**sizes):
    return make_mesh(MeshConfig(**{"data": 1, **sizes}))


def imported(folder, mesh, **numerics):
    stored = open_model(folder)
    config = decoder_config(stored.config, str(folder), **numerics)
    return config, import_params(stored, config, placed_params(config, mesh, TRAINING_RULES))


@each_family
def test_export_of_an_import_is_bit_exact_and_transformers_loads_it(tmp_path, family):
    theirs = saved(tmp_path / "in", family, max_shard_size="20KB")
    config = decoder_config(open_model(tmp_path / "in").config, "in")
    convert_weights(
        str(tmp_path / "in"), str(tmp_path / "out"), "huggingface", config, WORDS, mesh_of(fsdp=8)
    )
    before, after = (open_model(tmp_path / name).tensors for name in ("in", "out"))
    for name, tensor in after.items():
        whole = tuple(slice(0, n) for n in tensor.shape)
        np.testing.assert_array_equal(tensor.read(whole), before[name].read(whole), err_msg=name)
    assert before.keys() - after.keys() <= {"lm_head.weight"}  # a tied head's own copy

    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert type(again).__name__ == type(theirs).__name__.replace("Mistral", "Llama")
    tokens, lengths = random_tokens(2, 16, config.vocab_size), [16, 9]
    np.testing.assert_array_equal(
        hf_logits(again, tokens, lengths), hf_logits(theirs, tokens, lengths)
    )
    assert again.generation_config.eos_token_id == WORDS.eos_id


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (writers.write_mesh_transformer, "step_1"),
        (lambda folder, tensors, rng: writers.write_flax(folder, tensors), "."),
    ],
    ids=["mesh-transformer-jax in 8 shards", "Flax msgpack"],
)
def test_other_layouts_of_gptj_give_transformers_logits(tmp_path, write, name):
    dims = Dims(vocab_size=96, n_heads=8, group_size=1, head_dim=4, d_ff=128)
    theirs = hf_model("gptj", dims)
    arrays = {key: value.numpy() for key, value in theirs.state_dict().items()}
    (tmp_path / name).mkdir(exist_ok=True)
    write(tmp_path / name, arrays, np.random.default_rng(0))
    (tmp_path / name / "config.json").write_text(theirs.config.to_json_string())
    config, params = imported(tmp_path / name, mesh_of(fsdp=8))
    tokens, lengths = random_tokens(2, 16, 96), np.array([16, 9])
    with jax.set_mesh(mesh_of(fsdp=8)):
        mine = np.asarray(logits_of(config, params, tokens, lengths))
    real = np.arange(16) < lengths[:, None]
    assert np.abs(mine - hf_logits(theirs, tokens, lengths))[real].max() <= 1e-4


@pytest.mark.parametrize("sizes", [{"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"tensor": 4, "data": 2}])
def test_no_device_holds_a_full_copy(tmp_path, sizes):
    theirs = saved(tmp_path, "llama3")
    config, params = imported(tmp_path, mesh_of(**sizes))
    split = {**{"fsdp": 1, "tensor": 1}, **sizes}
    total = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    held = {device: 0 for device in jax.devices()}
    for leaf in jax.tree.leaves(params):
        for shard in leaf.addressable_shards:
            held[shard.device] += shard.data.nbytes
    # Norms are small and not split by tensor.
    assert max(held.values()) <= 1.1 * total / (split["fsdp"] * split["tensor"])
    tokens, lengths = random_tokens(2, 16, config.vocab_size), np.array([16, 9])
    with jax.set_mesh(mesh_of(**sizes)):
        mine = np.asarray(logits_of(config, params, tokens, lengths))
    real = np.arange(16) < lengths[:, None]
    assert np.abs(mine - hf_logits(theirs, tokens, lengths))[real].max() <= 1e-4


def test_bfloat16_survives_both_ways(tmp_path):
    model = hf_model("qwen3", EVEN).bfloat16()
    model.save_pretrained(tmp_path / "in")
    config = decoder_config(open_model(tmp_path / "in").config, "in", param_dtype="bfloat16")
    args = (config, WORDS, mesh_of(fsdp=8))
    convert_weights(str(tmp_path / "in"), str(tmp_path / "orbax"), "orbax", *args)
    convert_weights(str(tmp_path / "orbax"), str(tmp_path / "out"), "huggingface", *args)
    before, after = (open_model(tmp_path / name).tensors for name in ("in", "out"))
    for name, tensor in before.items():
        whole = tuple(slice(0, n) for n in tensor.shape)
        assert after[name].read(whole).tobytes() == tensor.read(whole).tobytes(), name
    assert json.loads((tmp_path / "out/config.json").read_text())["torch_dtype"] == "bfloat16"


def test_another_models_weights_are_refused_with_what_differs(tmp_path):
    saved(tmp_path, "llama2")
    stored = open_model(tmp_path)
    config = decoder_config(stored.config, "config.json")
    mesh = mesh_of(fsdp=8)
    other = {**stored.config, "model_type": "qwen3", "hidden_size": 64}
    wrong = decoder_config(other, "config.json")
    with pytest.raises(UserError) as error:
        import_params(stored, wrong, placed_params(wrong, mesh, TRAINING_RULES))
    for words in ("missing: ", "q_norm.weight", "other shapes: ", "(96, 32)", "(96, 64)"):
        assert words in error.value.message
    with pytest.raises(UserError, match=r"norm_epsilon = 0.5 \(there 1e-06\).*pretrained.gin"):
        check_config(stored, decoder_config({**stored.config, "rms_norm_eps": 0.5}, "x"))
    check_config(stored, config)
    context = config.context_length
    check_config(stored, dataclasses.replace(config, context_length=context - 1))
    with pytest.raises(UserError, match=rf"context_length = {context + 1} > {context}"):
        check_config(stored, dataclasses.replace(config, context_length=context + 1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_tensor(tmp_path, value, dtype):
    tensors = writers.llama_tensors(np.random.default_rng(0))
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] = value
    config = write_llama(tmp_path, tensors)
    with pytest.raises(UserError, match=r"model.layers.1.self_attn.q_proj.weight has NaN") as error:
        imported(tmp_path, mesh_of(fsdp=8), param_dtype=dtype)
    assert str(tmp_path) in error.value.message
    tensors["model.layers.1.self_attn.q_proj.weight"][3, 5] = 0
    tensors["lm_head.weight"][-1, -1] = value
    write_llama(tmp_path, tensors)
    with pytest.raises(UserError, match=r"lm_head.weight has NaN, or numbers that are infinite"):
        Base(str(tmp_path), config, placed_params(config, mesh_of(fsdp=8), TRAINING_RULES)).load()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_orbax_weights_that_are_not_finite_are_refused_by_leaf(tmp_path, value):
    config = write_llama(tmp_path / "in", writers.llama_tensors(np.random.default_rng(0)))
    _, params = imported(tmp_path / "in", mesh_of(fsdp=8))
    key = params["layers"]["attention"]["key"]
    key["kernel"] = key["kernel"].at[1, 2, 1, 3].set(value)
    checkpoints.save(tmp_path / "checkpoint", params)
    placed = placed_params(config, mesh_of(fsdp=8), TRAINING_RULES)
    with pytest.raises(UserError, match="infinite numbers in layers/attention/key/kernel; give"):
        Base(str(tmp_path), config, placed).load()


def test_numbers_that_a_dtype_cannot_hold_are_refused(tmp_path):
    tensors = writers.llama_tensors(np.random.default_rng(0))
    tensors["model.norm.weight"][0] = 1e6
    write_llama(tmp_path, tensors)
    imported(tmp_path, mesh_of(fsdp=8))
    with pytest.raises(UserError, match=r"model.norm.weight has .* infinite in float16"):
        imported(tmp_path, mesh_of(fsdp=8), param_dtype="float16")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_number_that_is_not_finite_is_found_wherever_it_is(dtype):
    largest = float(jnp.finfo(dtype).max)
    values = np.full((300, 500), largest, dtype)
    values[::2] = -largest
    assert all_finite(values) and all_finite(values.T[1:, ::3]) and all_finite(values[:0])
    for value in (np.nan, -np.nan, np.inf, -np.inf):
        for place in [(0, 0), (299, 499), (131, 36)]:
            spoiled = values.copy()
            spoiled[place] = value
            assert not all_finite(spoiled) and not all_finite(spoiled.T), (value, place)


def write_llama(folder, tensors, **fields):
    """Writes the tensors of `writers.llama_tensors` with their config.json; returns the decoder."""
    config = {
        **{"model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64},
        **{"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2},
        **{"head_dim": 8, "max_position_embeddings": 64, "eos_token_id": 1, "bos_token_id": None},
        **fields,
    }
    writers.write_safetensors(folder, tensors)
    (folder / "config.json").write_text(json.dumps(config))
    return decoder_config(open_model(folder).config, str(folder))


def test_a_head_of_its_own_is_used_as_transformers_does_even_if_it_should_be_tied(tmp_path, capsys):
    tensors = writers.llama_tensors(np.random.default_rng(0))
    assert write_llama(tmp_path, tensors, tie_word_embeddings=True).head == "plain"
    open_model(tmp_path)
    said = capsys.readouterr().err
    assert said.count("lm_head.weight is not model.embed_tokens.weight; the stored head is") == 1
    assert str(tmp_path) in said
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    config, params = imported(tmp_path, mesh_of(fsdp=8))
    tokens, lengths = random_tokens(2, 16, 96), np.array([16, 9])
    with jax.set_mesh(mesh_of(fsdp=8)):
        mine = np.asarray(logits_of(config, params, tokens, lengths))
    real = np.arange(16) < lengths[:, None]
    assert np.abs(mine - hf_logits(theirs, tokens, lengths))[real].max() <= 1e-4


def test_a_copy_of_the_embedding_is_a_tied_head(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(tensors_module, "COMPARED_ROWS", 10)
    tensors = writers.llama_tensors(np.random.default_rng(0))
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    assert write_llama(tmp_path, tensors, tie_word_embeddings=True).head == "tied"
    assert not capsys.readouterr().err
    assert "head" not in imported(tmp_path, mesh_of(fsdp=8))[1]
    tensors["lm_head.weight"][-1, -1] += 1  # the last of all numbers
    assert write_llama(tmp_path, tensors, tie_word_embeddings=True).head == "plain"


@pytest.mark.parametrize(
    ("target", "format", "message"),
    [
        ("in", "huggingface", "in.*not empty|in.*already"),
        ("out", "torch", r"convert.format = 'torch' is none of \('huggingface', 'orbax'\)"),
    ],
)
def test_bad_conversions_are_refused(tmp_path, target, format, message):
    saved(tmp_path / "in", "llama2")
    config = decoder_config(open_model(tmp_path / "in").config, "in")
    with pytest.raises(UserError, match=message):
        convert_weights(
            str(tmp_path / "in"), str(tmp_path / target), format, config, WORDS, mesh_of(fsdp=8)
        )


def test_the_command_line_converts_there_and_back(tmp_path, capsys):
    theirs = saved(tmp_path / "in", "smollm2", Dims(vocab_size=300))
    byte_level_tokenizer(tmp_path / "in")
    arguments = [
        "--run_mode=convert",
        "--gin_file=models/pretrained.gin",
        "--gin_file=runs/convert.gin",
        f"--gin.MODEL_CHECKPOINT='{tmp_path / 'in'}'",
    ]
    to_orbax = [f"--gin.TARGET='{tmp_path / 'orbax'}'", "--gin.FORMAT='orbax'"]
    assert main.main([*arguments, *to_orbax]) == 0
    back = [f"--gin.SOURCE='{tmp_path / 'orbax'}'", f"--gin.TARGET='{tmp_path / 'out'}'"]
    assert main.main([*arguments, *back]) == 0
    assert "load" in capsys.readouterr().err
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokens = random_tokens(2, 16, 300)
    np.testing.assert_array_equal(
        hf_logits(again, tokens, [16, 16]), hf_logits(theirs, tokens, [16, 16])
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.decode(tokenizer("why? because!")["input_ids"]) == "why? because!"


def byte_level_tokenizer(folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {symbol: i for i, symbol in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"eos_token": "<|endoftext|>", "tokenizer_class": "PreTrainedTokenizerFast"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


LOADS = """
import jax, json, resource, sys
from pathlib import Path
from star_jax.models.decoder import placed_params
from star_jax.models.exporting import export_model
from star_jax.models.formats import open_model
from star_jax.models.families import decoder_config
from star_jax.models.base_weights import import_params
from star_jax.parallel.partitioning import TRAINING_RULES, MeshConfig, make_mesh

stored = open_model(Path(sys.argv[1]))
config = decoder_config(stored.config, "config.json", param_dtype=sys.argv[2])
placed = placed_params(config, make_mesh(MeshConfig(data=1, fsdp=8)), TRAINING_RULES)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
params = jax.block_until_ready(import_params(stored, config, placed))
leaves = jax.tree.leaves(params)
on_device = {}
for leaf in leaves:
    for shard in leaf.addressable_shards:
        on_device[str(shard.device)] = on_device.get(str(shard.device), 0) + shard.data.nbytes
print(json.dumps({
    "parameters": sum(leaf.size for leaf in leaves),
    "bytes": sum(leaf.nbytes for leaf in leaves),
    "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    "before": before,
    "largest_device": max(on_device.values()),
}))
"""


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_peak_memory_of_loading_1_5_billion_parameters(tmp_path, dtype):
    """The whole process' peak, its libraries included, is at most 1.3 times the model."""
    write_1_5_billion(tmp_path)
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-c", LOADS, str(tmp_path), dtype],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    measured = json.loads(done.stdout.splitlines()[-1])
    ratio = measured["peak"] / measured["bytes"]
    print(f"\n{dtype}: {measured}, peak / model = {ratio:.3f}")
    assert measured["parameters"] >= 1.5e9
    assert ratio <= 1.3
    assert measured["largest_device"] <= 1.01 * measured["bytes"] / 8


def write_1_5_billion(folder):
    """Qwen2.5 1.5B's sizes, in shards of bfloat16."""
    config = {
        "model_type": "qwen2", "vocab_size": 151936, "hidden_size": 1536,
        "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0, "tie_word_embeddings": True,
    }  # fmt: skip
    decoder = decoder_config(config, "config.json")
    shapes = {
        name: place.hf_shape
        for place in places(decoder, family_of(decoder))
        for name in place.names
    }
    draws = np.random.default_rng(0).standard_normal(1 << 20).astype(jnp.bfloat16)

    def tensor(shape):
        return Tensor(shape, draws.dtype, lambda index: np.resize(draws, shape)[index])

    export_model(
        folder / "model",
        {name: tensor(shape) for name, shape in shapes.items()},
        config,
        dtype=jnp.bfloat16,
        max_shard_bytes=2**29,
    )
    for path in (folder / "model").iterdir():
        path.rename(folder / path.name)
    (folder / "model").rmdir()
