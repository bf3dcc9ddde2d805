"""A model family in one file outside the package: defined, registered, read and written again."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.models.base_weights import Base
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import placed_params
from star_jax.models.families import FAMILIES, decoder_config, family_of, hf_config, register
from star_jax.models.families.family import ConfigJson, Family, Gguf, GgufFile
from star_jax.models.formats import open_model
from star_jax.parallel.partitioning import TRAINING_RULES, MeshConfig, make_mesh
from star_jax.tokenizers.vocabularies import WordVocabulary
from star_jax.tools.convert import convert_weights
from tests.writers import random_tensors, write_flax, write_safetensors

# The family: sequential blocks with layer norms, plain GELU and rotary halves.

NAMES = {
    "embedding": "words",
    "norm": "floor.{}.before",
    "attention/query": "floor.{}.ask",
    "attention/key": "floor.{}.match",
    "attention/value": "floor.{}.content",
    "attention/out": "floor.{}.mix",
    "mlp_norm": "floor.{}.between",
    "mlp/mlp_in": "floor.{}.wide",
    "mlp/mlp_out": "floor.{}.narrow",
    "final_norm": "roof",
    "head": "speak",
}


def read_config(config: ConfigJson) -> DecoderConfig:
    config.only("sound", "gelu")
    heads, width = config.whole("voices"), config.whole("width")
    return DecoderConfig(
        vocab_size=config.whole("n_words"),
        n_layers=config.whole("floors"),
        d_model=width,
        n_heads=heads,
        head_dim=width // heads,
        rotary_dim=width // heads,
        d_ff=config.whole("wide", 4 * width),
        context_length=config.whole("longest"),
        norm_epsilon=config.number("tiny", 1e-5),
        block="sequential",
        head="plain",
        rotary_pairs="halves",
    )


def write_config(config: DecoderConfig) -> dict[str, object]:
    return {
        "model_type": "tower",
        "n_words": config.vocab_size,
        "floors": config.n_layers,
        "width": config.d_model,
        "voices": config.n_heads,
        "wide": config.d_ff,
        "longest": config.context_length,
        "tiny": config.norm_epsilon,
    }


def gguf_config(file: GgufFile) -> dict[str, object]:
    return {
        "model_type": "tower",
        "n_words": file.tensors["t.words.weight"].shape[0],
        "width": file.metadata["tower.width"],
        "floors": file.metadata["tower.floors"],
        "voices": file.metadata["tower.voices"],
        "longest": 64,
    }


TOWER = Family(
    "tower",
    NAMES,
    read_config,
    write_config,
    Gguf("tower", {ours: f"t.{theirs}" for ours, theirs in NAMES.items()}, gguf_config),
    constants=r"\.clock$",
)

# A checkpoint of it.

CONFIG = {"model_type": "tower", "n_words": 16, "floors": 2, "width": 8, "voices": 2, "longest": 64}
WORDS = WordVocabulary([str(n) for n in range(13)])


def tower_tensors():
    shapes = {"words.weight": (16, 8), "speak.weight": (16, 8)}
    norms = ["roof", *(f"floor.{i}.{name}" for i in range(2) for name in ("before", "between"))]
    shapes |= {f"{name}.{leaf}": (8,) for name in norms for leaf in ("weight", "bias")}
    for i in range(2):
        for name in ("ask", "match", "content", "mix"):
            shapes[f"floor.{i}.{name}.weight"] = (8, 8)
        shapes |= {f"floor.{i}.wide.weight": (32, 8), f"floor.{i}.wide.bias": (32,)}
        shapes |= {f"floor.{i}.narrow.weight": (8, 32), f"floor.{i}.narrow.bias": (8,)}
    return random_tensors(np.random.default_rng(0), shapes)


@pytest.fixture(autouse=True)
def registered():
    known = dict(FAMILIES)
    register(TOWER)
    yield
    FAMILIES.clear()
    FAMILIES.update(known)


def mesh():
    return make_mesh(MeshConfig(data=1, fsdp=2), jax.devices()[:2])


def assert_exported(source, tmp_path):
    model = decoder_config(open_model(source).config, str(source))
    convert_weights(str(source), str(tmp_path / "out"), "huggingface", model, WORDS, mesh())
    exported, expected = open_model(tmp_path / "out"), tower_tensors()
    assert exported.tensors.keys() == expected.keys()
    for name, tensor in exported.tensors.items():
        whole = tuple(slice(None) for _ in tensor.shape)
        np.testing.assert_array_equal(tensor.read(whole), expected[name], err_msg=name)
    assert exported.config["voices"] == 2
    assert decoder_config(exported.config, "out") == model


def test_safetensors_are_read_and_written(tmp_path):
    write_safetensors(tmp_path / "in", {**tower_tensors(), "floor.0.clock": np.ones(3)})
    (tmp_path / "in/config.json").write_text(json.dumps(CONFIG))
    assert_exported(tmp_path / "in", tmp_path)


def test_flax_checkpoints_are_read(tmp_path):
    write_flax(tmp_path / "in", tower_tensors())
    (tmp_path / "in/config.json").write_text(json.dumps(CONFIG))
    assert_exported(tmp_path / "in", tmp_path)


def test_gguf_files_are_read(tmp_path):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "in.gguf", "tower")
    for name, value in (("width", 8), ("floors", 2), ("voices", 2)):
        writer.add_uint32(f"tower.{name}", value)
    for name, tensor in tower_tensors().items():
        writer.add_tensor(f"t.{name}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert_exported(tmp_path / "in.gguf", tmp_path)


def test_a_family_with_the_parts_of_another_is_read_by_its_own_names(tmp_path):
    """Its model_type decides; without a config.json the first family with these parts does."""
    other = dataclasses.replace(
        TOWER, model_type="house", names={**NAMES, "head": "say"}, gguf=None
    )
    register(other)
    tensors = tower_tensors()
    tensors["say.weight"] = tensors.pop("speak.weight")
    write_safetensors(tmp_path, tensors)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "model_type": "house"}))
    model = decoder_config({**CONFIG, "model_type": "house"}, "config.json")
    params = Base(str(tmp_path), model, placed_params(model, mesh(), TRAINING_RULES)).load()
    np.testing.assert_array_equal(params["head"]["kernel"].T, tensors["say.weight"])
    assert family_of(model) is TOWER


def test_its_errors_name_the_file_the_field_and_the_value():
    for changes, message in (
        ({"width": "8"}, "here: width is '8', which is not a whole number above 0"),
        ({"floors": None}, "here: the field 'floors' is missing"),
        ({"tiny": True}, "here: tiny is 'True', which is not a number above 0"),
        ({"sound": "relu"}, "here: sound = 'relu' is not supported, only 'gelu'"),
        ({"model_type": "hut"}, "here: .* 'hut'.* gptj, llama, mistral, qwen2, qwen3, tower"),
    ):
        with pytest.raises(UserError, match=message):
            decoder_config({**CONFIG, **changes}, "here")


def test_a_model_type_is_registered_once():
    register(TOWER)
    with pytest.raises(UserError, match="'tower' is registered already"):
        register(dataclasses.replace(TOWER, names={}))


def test_without_registration_it_is_unknown(monkeypatch):
    monkeypatch.delitem(FAMILIES, "tower")
    with pytest.raises(UserError, match=r"of no family .*mlp = 'gelu'"):
        hf_config(read_config(ConfigJson(CONFIG, "here")))
