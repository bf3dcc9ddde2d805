"""GPT-J.

Source: its published config.json, transformers' defaults, and for mesh-transformer-jax its
`checkpoint.py` (write_ckpt), `layers.py` (how cores divide a parameter) and `slim_model.py`.
"""

from star_jax.models.config import DecoderConfig
from star_jax.models.families.family import ConfigJson, Family

NAMES = {
    "embedding": "transformer.wte",
    "norm": "transformer.h.{}.ln_1",
    "attention/query": "transformer.h.{}.attn.q_proj",
    "attention/key": "transformer.h.{}.attn.k_proj",
    "attention/value": "transformer.h.{}.attn.v_proj",
    "attention/out": "transformer.h.{}.attn.out_proj",
    "mlp/mlp_in": "transformer.h.{}.mlp.fc_in",
    "mlp/mlp_out": "transformer.h.{}.mlp.fc_out",
    "final_norm": "transformer.ln_f",
    "head": "lm_head",
}


def read_config(config: ConfigJson) -> DecoderConfig:
    """The decoder that GPT-J's config.json describes."""
    config.only("activation_function", "gelu_new")
    config.only("tie_word_embeddings", False)
    n_heads, d_model = config.whole("n_head"), config.whole("n_embd")
    head_dim = d_model // n_heads
    return DecoderConfig(
        vocab_size=config.whole("vocab_size"),
        n_layers=config.whole("n_layer"),
        d_model=d_model,
        n_heads=n_heads,
        head_dim=head_dim,
        d_ff=config.whole("n_inner", 4 * d_model),
        rotary_dim=config.whole("rotary_dim", head_dim),
        context_length=config.whole("n_positions", 2048),
        norm_epsilon=config.number("layer_norm_epsilon", 1e-5),
    )


def write_config(config: DecoderConfig) -> dict[str, object]:
    """The config.json of a GPT-J."""
    return {
        "architectures": ["GPTJForCausalLM"],
        "model_type": "gptj",
        "vocab_size": config.vocab_size,
        "n_positions": config.context_length,
        "n_embd": config.d_model,
        "n_layer": config.n_layers,
        "n_head": config.n_heads,
        "n_inner": config.d_ff,
        "rotary_dim": config.rotary_dim,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": False,
    }


CONSTANTS = r"\.attn\.(bias|masked_bias|embed_positions)$"
GPTJ = Family("gptj", NAMES, read_config, write_config, constants=CONSTANTS)

# mesh-transformer-jax: how the cores divide a parameter. Its kernels are [inputs, outputs].
OUTPUTS = "outputs"  # each core has some outputs
INPUTS = "inputs"  # each core has some inputs
SUM = "sum"  # each core added its own; the cores' results were summed
COPIES = "copies"  # all cores have the same one; the first core's was used

# For each parameter in the order of the files: its name, its division and a part's shape, where D
# is d_model; A a core's attention outputs, F its MLP outputs, V its part of the vocabulary.
MESH_EMBEDDING = (("transformer.wte.bias", SUM, "D"), ("transformer.wte.weight", INPUTS, "VD"))
MESH_LAYER = (
    ("attn.q_proj.weight", OUTPUTS, "DA"),
    ("attn.v_proj.weight", OUTPUTS, "DA"),
    ("attn.k_proj.weight", OUTPUTS, "DA"),
    ("attn.out_proj.weight", INPUTS, "AD"),
    ("mlp.fc_in.bias", OUTPUTS, "F"),
    ("mlp.fc_in.weight", OUTPUTS, "DF"),
    ("mlp.fc_out.bias", SUM, "D"),
    ("mlp.fc_out.weight", INPUTS, "FD"),
    ("ln_1.bias", COPIES, "D"),
    ("ln_1.weight", COPIES, "D"),
)
MESH_HEAD = (
    ("lm_head.bias", OUTPUTS, "V"),
    ("lm_head.weight", OUTPUTS, "DV"),
    ("transformer.ln_f.bias", COPIES, "D"),
    ("transformer.ln_f.weight", COPIES, "D"),
)


def mesh_config(vocab_size: int, d_model: int, n_layers: int) -> dict[str, object] | None:
    """The config.json of a slim checkpoint without one: GPT-J 6B's if the sizes are, else None.

    The checkpoint does not contain the number of heads and rotary dims.
    """
    known = DecoderConfig()  # GPT-J 6B
    if (vocab_size, d_model, n_layers) != (known.vocab_size, known.d_model, known.n_layers):
        return None
    return {**write_config(known), "bos_token_id": 50256, "eos_token_id": 50256}
