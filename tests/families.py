"""Small random models of every family, made by transformers, and the same weights here."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

# Triton's LLVM and TensorFlow's, which seqio brings, abort the process when they meet.
sys.modules.setdefault("triton", None)
import torch  # noqa: E402
import transformers  # noqa: E402

from star_jax.models.base_weights import import_params  # noqa: E402
from star_jax.models.decoder import abstract_params  # noqa: E402
from star_jax.models.families import decoder_config  # noqa: E402
from star_jax.models.tensors import StoredModel, Tensor  # noqa: E402

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODERN = {
    "llama2": (transformers.LlamaConfig, {}),
    "llama3": (transformers.LlamaConfig, {"rope_parameters": LLAMA3_ROPE}),
    "smollm2": (transformers.LlamaConfig, {"tie_word_embeddings": True}),
    "mistral": (transformers.MistralConfig, {"sliding_window": None}),
    "qwen2": (transformers.Qwen2Config, {}),
    "qwen3": (transformers.Qwen3Config, {}),
}
FAMILIES = ("gptj", *MODERN)


@dataclasses.dataclass(frozen=True)
class Dims:
    """Sizes of a small model, in our words."""

    vocab_size: int = 97
    n_layers: int = 2
    n_heads: int = 4
    group_size: int = 2  # query heads that share a key head; GPT-J has 1
    head_dim: int = 8
    rotary_dim: int = 4  # GPT-J's; the others rotate all
    d_model: int = 32  # GPT-J: n_heads x head_dim
    d_ff: int = 56
    context_length: int = 256


def hf_model(family, dims, seed=0):
    """A transformers model with every weight random, norms and biases too."""
    if family == "gptj":
        config = transformers.GPTJConfig(
            vocab_size=dims.vocab_size,
            n_positions=dims.context_length,
            n_embd=dims.n_heads * dims.head_dim,
            n_layer=dims.n_layers,
            n_head=dims.n_heads,
            n_inner=dims.d_ff,
            rotary_dim=dims.rotary_dim,
            bos_token_id=None,
            eos_token_id=1,
        )
    else:
        make, parts = MODERN[family]
        config = make(
            vocab_size=dims.vocab_size,
            hidden_size=dims.d_model,
            intermediate_size=dims.d_ff,
            num_hidden_layers=dims.n_layers,
            num_attention_heads=dims.n_heads,
            num_key_value_heads=dims.n_heads // dims.group_size,
            head_dim=dims.head_dim,
            max_position_embeddings=dims.context_length,
            bos_token_id=None,
            eos_token_id=1,
            **parts,
        )
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    draws = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=draws)
            if parameter.ndim > 1:
                parameter.copy_(noise * parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.2 * noise)
    return model


def stored_model(model):
    """The transformers model as our readers would show it."""
    arrays = {name: leaf.detach().numpy() for name, leaf in model.state_dict().items()}
    return StoredModel(
        Path(type(model).__name__),
        json.loads(model.config.to_json_string()),
        {
            name: Tensor(array.shape, array.dtype, lambda index, array=array: array[index])
            for name, array in arrays.items()
        },
    )


def on_one_device(tree):
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), tree
    )


def ours(model):
    """(DecoderConfig, parameters) of a transformers model."""
    stored = stored_model(model)
    config = decoder_config(stored.config, "config.json")
    return config, import_params(stored, config, on_one_device(abstract_params(config)))


def hf_logits(model, tokens_BL, lengths):
    mask = np.arange(tokens_BL.shape[1]) < np.asarray(lengths)[:, None]
    with torch.no_grad():
        out = model(torch.tensor(tokens_BL), attention_mask=torch.tensor(mask.astype(int)))
    return out.logits.float().numpy()


def hf_greedy(model, ids, n_new, eos_id=1):
    """The ids that transformers' generate adds, up to EOS."""
    out = model.generate(
        torch.tensor([list(ids)]),
        max_new_tokens=n_new,
        do_sample=False,
        eos_token_id=eos_id,
        pad_token_id=0,
    )
    new = out[0, len(ids) :].tolist()
    return new[: new.index(eos_id)] if eos_id in new else new
