"""The decoder in Flax linen; GPT-J, Llama, Mistral and Qwen are configurations of it.

Parameters have logical axis names through `param_with_axes`, as T5X expects. The decoder never
writes a KV cache: it returns the keys and values of its input tokens, and the caller stores them.
"""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jax.sharding import Mesh

from star_jax.models.attention import KeyValues, Store, attend, causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.layers import Dense, Norm, param_with_axes
from star_jax.models.rotary import rotary_angles, rotate
from star_jax.models.splash import serves, splash_attend
from star_jax.parallel.partitioning import Rules, keep_rows, parameter_shardings
from star_jax.records import Params

REMAT = {
    "dots": jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Attention(nn.Module):
    """Grouped-query attention with rotary positions, over earlier stores and the new tokens."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self, h_BLD: jax.Array, angles_BLR: jax.Array, seen: jax.Array, context: tuple[Store, ...]
    ) -> tuple[jax.Array, KeyValues]:
        """Returns (update of the residual stream [B, L, D], the new keys and values).

        Args:
          h_BLD: the normed residual stream.
          angles_BLR: rotary angles of the tokens.
          seen: as in `Block`.
          context: earlier keys and values that the tokens may see too.
        """
        c = self.config

        def project(name: str, n_heads: int, axis: str) -> jax.Array:
            axes, bias = ("embed", axis, "kv"), c.qkv_bias
            return Dense(c, (n_heads, c.head_dim), axes=axes, use_bias=bias, name=name)(h_BLD)

        query, key = project("query", c.n_heads, "heads"), project("key", c.kv_heads, "kv_heads")
        value = project("value", c.kv_heads, "kv_heads")
        if c.qk_norm:
            query = Norm(c, "rms", "kv", name="query_norm")(query)
            key = Norm(c, "rms", "kv", name="key_norm")(key)
        query = rotate(query, angles_BLR, c.rotary_pairs)
        key = rotate(key, angles_BLR, c.rotary_pairs)
        new = KeyValues(key.swapaxes(1, 2), value.swapaxes(1, 2))
        if seen.ndim == 2:  # segment ids: the decoder chose splash attention
            mixed_BLHK = splash_attend(query, new, seen)
        else:
            mixed_BLHK = attend(query, (*context, Store(new, seen)))
        out = Dense(c, (c.d_model,), axes=("heads", "kv", "embed"), n_in=2, name="out")
        return out(mixed_BLHK), new


class MLP(nn.Module):
    """Two matrix products around a GELU (tanh form), or three around a gated SiLU."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, h_BLD: jax.Array) -> jax.Array:
        """[B, L, D] -> [B, L, D]."""
        c, biased = self.config, self.config.mlp == "gelu"
        widen = functools.partial(Dense, c, (c.d_ff,), axes=("embed", "mlp"), use_bias=biased)
        h_BLF = widen(name="mlp_in")(h_BLD)
        if c.mlp == "gelu":
            h_BLF = jax.nn.gelu(h_BLF, approximate=True)
        else:
            h_BLF = jax.nn.silu(widen(name="mlp_gate")(h_BLD)) * h_BLF
        return Dense(c, (c.d_model,), axes=("mlp", "embed"), use_bias=biased, name="mlp_out")(h_BLF)


class Block(nn.Module):
    """Attention and MLP: in parallel from one norm (GPT-J), or one after the other."""

    config: DecoderConfig
    return_key_values: bool = True

    @nn.compact
    def __call__(
        self,
        x_BLD: jax.Array,
        angles_BLR: jax.Array,
        seen: jax.Array,
        context: tuple[Store, ...] = (),
    ) -> tuple[jax.Array, KeyValues | None]:
        """Returns (the block's output [B, L, D], the new keys and values or None).

        Args:
          x_BLD: the residual stream.
          angles_BLR: rotary angles of the tokens.
          seen: which of the tokens each of them may see, a mask [B, L, L]; or their segment ids
            [B, L], for splash attention.
          context: earlier keys and values that the tokens may see too.
        """
        c = self.config
        h_BLD = Norm(c, c.norm, name="norm")(x_BLD)
        attended, new = Attention(c, name="attention")(h_BLD, angles_BLR, seen, context)
        if c.block == "sequential":
            x_BLD = x_BLD + attended
            x_BLD = x_BLD + MLP(c, name="mlp")(Norm(c, c.norm, name="mlp_norm")(x_BLD))
        else:
            x_BLD = x_BLD + attended + MLP(c, name="mlp")(h_BLD)
        return keep_rows(x_BLD), new if self.return_key_values else None


class Decoder(nn.Module):
    """Tokens to logits, optionally with keys and values in and out."""

    config: DecoderConfig

    @nn.compact
    def __call__(
        self,
        tokens_BL: jax.Array,
        positions_BL: jax.Array,
        seen: jax.Array,
        context: tuple[tuple[Store, ...], ...] | None = None,
        read_at_BR: jax.Array | None = None,
        return_key_values: bool = False,
    ) -> tuple[jax.Array, tuple[KeyValues, ...] | None]:
        """Returns (logits float32 [B, L, V], each layer's new keys and values or None).

        Args:
          tokens_BL: token ids.
          positions_BL: position of each token in its own document, prefix included.
          seen: which of these tokens each of them may see: segment ids int32 [B, L], for
            `causal_mask` of them; or any mask, bool [B, L, L], which rules out splash attention.
          context: for each layer, earlier stores the tokens may see; needs scan_layers=False.
          read_at_BR: columns to read in each row; the logits are then [B, R, V].
          return_key_values: return keys and values, not None; needs scan_layers=False.
        """
        c = self.config
        init, shape = nn.initializers.normal(c.embedding_init), (c.vocab_size, c.d_model)
        axes = ("vocab", "embed")
        embedding = param_with_axes("embedding", init, shape, c.param_dtype, axes=axes)
        x_BLD = keep_rows(jnp.take(embedding.astype(c.dtype), tokens_BL, axis=0))
        angles = rotary_angles(positions_BL, c)
        key_values = None
        if seen.ndim == 2 and not serves(c, tokens_BL.shape[1], context):
            seen = causal_mask(seen)
        if c.scan_layers:
            assert context is None and not return_key_values, "unstack the layers to use a cache"
            x_BLD = self._scanned_layers()(x_BLD, angles, seen)[0]
        else:
            x_BLD, key_values = self._unrolled_layers(x_BLD, angles, seen, context)
        if read_at_BR is not None:
            x_BLD = jnp.take_along_axis(x_BLD, read_at_BR[:, :, None], axis=1)
        x_BLD = Norm(c, c.norm, name="final_norm")(x_BLD)
        if c.head == "tied":
            logits = jnp.einsum("bld,vd->blv", x_BLD, embedding.astype(c.dtype))
        else:
            axes, biased = ("embed", "vocab"), c.head == "biased"
            logits = Dense(c, (c.vocab_size,), axes=axes, use_bias=biased, name="head")(x_BLD)
        return logits.astype(jnp.float32), key_values if return_key_values else None

    def _block_type(self) -> type[nn.Module]:
        if self.config.remat == "none":
            return Block
        return nn_partitioning.remat(
            Block, policy=REMAT[self.config.remat], prevent_cse=not self.config.scan_layers
        )

    def _scanned_layers(self) -> nn.Module:
        return nn_partitioning.scan_with_axes(
            self._block_type(),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.config.n_layers,
            axis_name="layers",
        )(self.config, return_key_values=False, name="layers")

    def _unrolled_layers(
        self,
        x_BLD: jax.Array,
        angles: jax.Array,
        seen: jax.Array,
        context: tuple[tuple[Store, ...], ...] | None,
    ) -> tuple[jax.Array, tuple[KeyValues, ...]]:
        key_values = []
        for i in range(self.config.n_layers):
            block = self._block_type()(self.config, name=f"layer_{i}")
            x_BLD, new = block(x_BLD, angles, seen, () if context is None else context[i])
            key_values.append(new)
        return x_BLD, tuple(key_values)


def init_params(config: DecoderConfig, key: jax.Array) -> Params:
    """Fresh parameters, a nested dict of arrays; call under `jax.jit` to make them in place."""
    return _init(config, key)["params"]


def abstract_params(config: DecoderConfig) -> Params:
    """The parameters' shapes and dtypes, without making them."""
    return jax.tree.map(lambda leaf: leaf, _abstract_variables(config)["params"])


def logical_axes(config: DecoderConfig) -> Params:
    """The parameters' logical axis names: a tree of PartitionSpec, shaped like the parameters."""
    variables = _abstract_variables(config)
    return flax.core.unfreeze(nn_partitioning.get_axis_names(variables["params_axes"]))


def placed_params(config: DecoderConfig, mesh: Mesh, rules: Rules) -> Params:
    """As `abstract_params`, with the sharding that `rules` give each parameter on `mesh`."""
    shapes = abstract_params(config)
    shardings = parameter_shardings(shapes, logical_axes(config), mesh, rules)
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def unstack_layers(config: DecoderConfig, params: Params) -> tuple[DecoderConfig, Params]:
    """The same (config, parameters) with unrolled layers, as decoding with a KV cache needs them.

    On the CPU one array per layer decodes about four times faster than one stacked array.
    """
    if not config.scan_layers:
        return config, params
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    layers = {
        f"layer_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], params["layers"])
        for i in range(config.n_layers)
    }
    return dataclasses.replace(config, scan_layers=False), {**rest, **layers}


@functools.lru_cache(maxsize=32)
def _abstract_variables(config: DecoderConfig) -> Params:
    """Cached: tracing takes a second for a real model, and its shapes are needed often."""
    return jax.eval_shape(lambda: _init(config, jax.random.key(0)))


def _init(config: DecoderConfig, key: jax.Array) -> Params:
    tokens = jnp.zeros((1, 2), jnp.int32)
    return Decoder(config).init(key, tokens, tokens, jnp.ones((1, 2, 2), bool))


def n_params(model: DecoderConfig) -> int:
    """Parameters of the whole model."""
    return sum(leaf.size for leaf in jax.tree.leaves(abstract_params(model)))
