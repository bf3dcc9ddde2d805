"""Dense layers and norms with logical axis names, declared as T5X expects them."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen import partitioning as nn_partitioning
from jax.experimental.layout import Layout, with_layout_constraint
from jax.typing import DTypeLike

from star_jax.models.config import DecoderConfig

param_with_axes = nn_partitioning.param_with_axes


class Dense(nn.Module):
    """A matrix product over the last `n_in` axes, its kernel shaped by logical axes."""

    config: DecoderConfig
    features: tuple[int, ...]
    axes: tuple[str, ...]  # logical names of the kernel's axes, inputs first
    n_in: int = 1
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., inputs] -> [..., features]."""
        c, shape = self.config, x.shape[-self.n_in :] + self.features
        init = fan_in_normal(c.init_scale, self.n_in)
        kernel = param_with_axes("kernel", init, shape, c.param_dtype, axes=self.axes)
        if c.dtype == jnp.bfloat16 and kernel.dtype == jnp.float32:
            # For TPUs: otherwise the compiler casts the weights of all layers before the scan over
            # them, and copies those of queries and keys into another order: one more copy of each.
            # Rounding first, to the result of the cast, changes no value.
            kernel = jax.lax.reduce_precision(kernel, exponent_bits=8, mantissa_bits=7)
            if len(self.features) > 1:  # queries, keys and values
                kernel = with_layout_constraint(kernel, Layout(tuple(range(kernel.ndim))))
        contract = (tuple(range(x.ndim - self.n_in, x.ndim)), tuple(range(self.n_in)))
        y = jax.lax.dot_general(x.astype(c.dtype), kernel.astype(c.dtype), (contract, ((), ())))
        if self.use_bias:
            init, axes = nn.initializers.zeros, self.axes[self.n_in :]
            bias = param_with_axes("bias", init, self.features, c.param_dtype, axes=axes)
            y = y + bias.astype(c.dtype)
        return y


class Norm(nn.Module):
    """Layer norm (scale and bias) or RMS norm (scale) over the last axis, computed in float32."""

    config: DecoderConfig
    kind: str = "layer"
    axis: str = "embed"  # logical name of the last axis

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., D] -> [..., D]."""
        size, dtype = (x.shape[-1],), self.config.param_dtype
        scale = param_with_axes("scale", nn.initializers.ones, size, dtype, axes=(self.axis,))
        x = x.astype(jnp.float32)
        if self.kind == "layer":
            bias = param_with_axes("bias", nn.initializers.zeros, size, dtype, axes=(self.axis,))
            x = x - x.mean(-1, keepdims=True)
        x = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.config.norm_epsilon)
        x = x * scale + bias if self.kind == "layer" else x * scale
        return x.astype(self.config.dtype)


def fan_in_normal(scale: float, n_in: int) -> Callable[..., jax.Array]:
    """An initializer: normal with variance scale / (product of the first `n_in` axes)."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        return jax.random.normal(key, shape, dtype) * (scale / math.prod(shape[:n_in])) ** 0.5

    return init
