"""Random models in Hugging Face's names, and writers of the formats that others publish them in.

Each writer follows the documented structure of its format, not the reader in star_jax.
"""

import json
from pathlib import Path

import gguf
import jax
import ml_dtypes
import numpy as np
from flax import serialization
from safetensors.numpy import save_file

BF16 = np.dtype(ml_dtypes.bfloat16)


def gptj_tensors(rng, layers=2, d=16, vocab=24, dtype=np.float32):
    shapes = {"transformer.wte.weight": (vocab, d)}
    for i in range(layers):
        h = f"transformer.h.{i}."
        shapes |= {f"{h}attn.{name}_proj.weight": (d, d) for name in ("q", "k", "v", "out")}
        shapes |= {f"{h}mlp.fc_in.weight": (4 * d, d), f"{h}mlp.fc_in.bias": (4 * d,)}
        shapes |= {f"{h}mlp.fc_out.weight": (d, 4 * d), f"{h}mlp.fc_out.bias": (d,)}
        shapes |= {f"{h}ln_1.weight": (d,), f"{h}ln_1.bias": (d,)}
    shapes |= {"transformer.ln_f.weight": (d,), "transformer.ln_f.bias": (d,)}
    shapes |= {"lm_head.weight": (vocab, d), "lm_head.bias": (vocab,)}
    return random_tensors(rng, shapes, dtype)


def llama_tensors(
    rng, *, layers=2, heads=4, kv_heads=2, head_dim=8, d=32, ff=64, vocab=96, tied=False,
    qkv_bias=False, qk_norm=False, dtype=np.float32,
):  # fmt: skip
    shapes = {"model.embed_tokens.weight": (vocab, d), "model.norm.weight": (d,)}
    shapes |= {} if tied else {"lm_head.weight": (vocab, d)}
    for i in range(layers):
        h = f"model.layers.{i}."
        for name, n in (("q", heads), ("k", kv_heads), ("v", kv_heads)):
            shapes[f"{h}self_attn.{name}_proj.weight"] = (n * head_dim, d)
            if qkv_bias:
                shapes[f"{h}self_attn.{name}_proj.bias"] = (n * head_dim,)
            if qk_norm and name != "v":
                shapes[f"{h}self_attn.{name}_norm.weight"] = (head_dim,)
        shapes[f"{h}self_attn.o_proj.weight"] = (d, heads * head_dim)
        shapes |= {f"{h}mlp.{name}_proj.weight": (ff, d) for name in ("gate", "up")}
        shapes[f"{h}mlp.down_proj.weight"] = (d, ff)
        shapes |= {f"{h}{n}_layernorm.weight": (d,) for n in ("input", "post_attention")}
    return random_tensors(rng, shapes, dtype)


def random_tensors(rng, shapes, dtype=np.float32):
    return {
        name: rng.normal(size=shape).astype(np.float32).astype(dtype)
        for name, shape in shapes.items()
    }


def write_safetensors(directory, tensors, shards=1):
    directory.mkdir(parents=True, exist_ok=True)
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = dict(list(tensors.items())[i::shards])
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write_index(directory / "model.safetensors.index.json", weight_map)
    return directory


def write_index(path, weight_map):
    path.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": weight_map}))


def flax_tree(tensors):
    """Hugging Face's Flax GPT-J: nested dicts, kernels [inputs, outputs]."""
    tree = {}
    for name, tensor in tensors.items():
        *modules, leaf = name.split(".")
        if modules[-1] == "wte":
            leaf = "embedding"
        elif leaf == "weight" and tensor.ndim == 2:
            leaf, tensor = "kernel", np.ascontiguousarray(tensor.T)
        elif leaf == "weight":
            leaf = "scale"
        place = tree
        for module in modules:
            place = place.setdefault(module, {})
        place[leaf] = tensor
    return tree


def write_flax(directory, tensors, shards=1, wrapped=False):
    directory.mkdir(parents=True, exist_ok=True)
    tree = flax_tree(tensors)
    if shards == 1:
        data = serialization.msgpack_serialize({"params": tree} if wrapped else tree)
        (directory / "flax_model.msgpack").write_bytes(data)
        return directory
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {"/".join(key.key for key in path): leaf for path, leaf in leaves}
    weight_map = {}
    for i in range(shards):
        file = f"flax_model-{i + 1:05}-of-{shards:05}.msgpack"
        part = dict(list(flat.items())[i::shards])
        (directory / file).write_bytes(serialization.msgpack_serialize(dict(part)))
        weight_map |= dict.fromkeys(part, file)
    write_index(directory / "flax_model.msgpack.index.json", weight_map)
    return directory


def write_mesh_transformer(directory, tensors, rng, shards=8, step=True):
    """A slim checkpoint: what each core has, flattened by JAX, dealt over sixteen npz files.

    The embedding's bias, which Hugging Face's model has no place for, and the output bias of the
    MLP are parted into random summands; norms are on every core, and the first core's count.
    Returns the tensors that come out in Hugging Face's form.
    """
    expected = dict(tensors)
    wte_bias = _summands(rng, np.zeros_like(tensors["transformer.wte.weight"][0]), shards)
    summands = {
        name: _summands(rng, tensor, shards)
        for name, tensor in tensors.items()
        if name.endswith("fc_out.bias")
    }
    as_sum = lambda parts: np.sum([p.astype(np.float32) for p in parts], axis=0)  # noqa: E731
    expected |= {name: as_sum(parts) for name, parts in summands.items()}
    wte = tensors["transformer.wte.weight"].astype(np.float32)
    expected["transformer.wte.weight"] = wte + as_sum(wte_bias)
    for shard in range(shards):
        state = {"params": _core(tensors, summands, wte_bias, shard, shards)}
        if step:
            state["step"] = np.array(383500)
        leaves = jax.tree.leaves(state)
        folder = directory / f"shard_{shard}"
        folder.mkdir(parents=True)
        for i, run in enumerate(np.array_split(np.arange(len(leaves)), 16)):
            np.savez(folder / f"{i}.npz", *[leaves[j] for j in run])
    return expected


def _core(tensors, summands, wte_bias, shard, shards):
    """The Haiku parameters of one core: {module: {parameter: array}}."""

    def part(name, axis):  # of Hugging Face's tensor
        return np.split(tensors[name], shards, axis)[shard]

    def copied(name):  # the first core's is the one that was used
        return tensors[name] if shard == 0 else tensors[name] * 0 + 7

    def norm(name):
        return {"scale": copied(f"{name}.weight"), "offset": copied(f"{name}.bias")}

    root = "causal_transformer_shard/~/"
    core = {
        f"{root}embedding_shard/~/linear": {
            "w": part("transformer.wte.weight", 0),
            "b": wte_bias[shard],
        },
        f"{root}projection_shard/~/linear": {
            "w": part("lm_head.weight", 0).T,
            "b": part("lm_head.bias", 0),
        },
        f"{root}projection_shard/~/replicated_layer_norm": norm("transformer.ln_f"),
    }
    layers = sum(name.endswith("fc_in.bias") for name in tensors)
    for i in range(layers):
        layer, h = f"{root}layer_{i}/~/", f"transformer.h.{i}."
        for j, name in enumerate(("q", "v", "k")):  # in the order in which Haiku met them
            linear = f"{layer}linear_{j}" if j else f"{layer}linear"
            core[linear] = {"w": part(f"{h}attn.{name}_proj.weight", 0).T}
        core[f"{layer}linear_3"] = {"w": part(f"{h}attn.out_proj.weight", 1).T}
        core[f"{layer}linear_4"] = {
            "w": part(f"{h}mlp.fc_in.weight", 0).T,
            "b": part(f"{h}mlp.fc_in.bias", 0),
        }
        core[f"{layer}linear_5"] = {
            "w": part(f"{h}mlp.fc_out.weight", 1).T,
            "b": summands[f"{h}mlp.fc_out.bias"][shard],
        }
        core[f"{layer}replicated_layer_norm"] = norm(f"{h}ln_1")
    return core


def _summands(rng, total, n):
    parts = [rng.normal(size=total.shape).astype(np.float32) for _ in range(n - 1)]
    last = total.astype(np.float32) - np.sum(parts, axis=0)
    return [part.astype(total.dtype) for part in (*parts, last)]


GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    module, leaf = name.rsplit(".", 1)
    if module in GGUF_NAMES:
        return f"{GGUF_NAMES[module]}.{leaf}"
    _, _, layer, rest = module.split(".", 3)
    return f"blk.{layer}.{GGUF_NAMES[rest]}.{leaf}"


def interleaved(tensor, head_dim):
    """llama.cpp's converter: the two halves of each head's rows, dealt alternately."""
    heads = [tensor[i : i + head_dim] for i in range(0, len(tensor), head_dim)]
    half = head_dim // 2
    dealt = [head[[i // 2 + (i % 2) * half for i in range(head_dim)]] for head in heads]
    return np.concatenate(dealt)


def write_gguf(
    path, tensors, architecture="llama", *, heads=4, kv_heads=2, head_dim=8, theta=10000.0,
    kinds=lambda name: None, extra=None, metadata=None,
):  # fmt: skip
    """Writes Hugging Face's tensors as llama.cpp does.

    Args:
      path: of the file.
      tensors: by Hugging Face's names.
      architecture: llama.cpp's name of the family.
      heads, kv_heads, head_dim, theta: for the metadata.
      kinds: gives a tensor's number type, None for its own.
      extra: further tensors, by llama.cpp's names.
      metadata: changes (method of GGUFWriter -> value, or None to leave it out).
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, architecture)
    embedding = tensors["model.embed_tokens.weight"]
    said = {
        "add_block_count": sum(name.endswith("input_layernorm.weight") for name in tensors),
        "add_context_length": 128,
        "add_embedding_length": embedding.shape[1],
        "add_feed_forward_length": len(tensors["model.layers.0.mlp.up_proj.weight"]),
        "add_head_count": heads,
        "add_head_count_kv": kv_heads,
        "add_key_length": head_dim,
        "add_value_length": head_dim,
        "add_rope_dimension_count": head_dim,
        "add_rope_freq_base": theta,
        "add_layer_norm_rms_eps": 1e-5,
        "add_bos_token_id": 1,
        "add_eos_token_id": 2,
        "add_token_list": [f"t{i}" for i in range(len(embedding))],
        **(metadata or {}),
    }
    for method, value in said.items():
        if value is not None:
            getattr(writer, method)(value)
    for name, tensor in tensors.items():
        if architecture == "llama" and (".q_proj." in name or ".k_proj." in name):
            tensor = interleaved(tensor, head_dim)
        _add(writer, gguf_name(name), tensor, kinds(name) if tensor.ndim > 1 else None)
    for name, tensor in (extra or {}).items():
        _add(writer, name, tensor, None)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer, name, tensor, kind):
    kind = gguf.GGMLQuantizationType.BF16 if tensor.dtype == BF16 and kind is None else kind
    if kind is None:
        writer.add_tensor(name, tensor)
    else:
        writer.add_tensor(name, gguf.quantize(tensor, kind), raw_dtype=kind)
