"""Splash attention: causal within segments; its scores never leave the TPU's on-chip memory.

The kernel is JAX's own (jax.experimental.pallas.ops.tpu.splash_attention). It is used for tokens
that see only each other: training, and a prefill without a prefix. `attention.attend` is the
reference, and is used everywhere else.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.errors import UserError
from star_jax.models.attention import KeyValues, Store
from star_jax.models.config import DecoderConfig
from star_jax.parallel.partitioning import Rules, is_on_mesh, n_parts, spec_of

LANES = 128  # the kernel needs a multiple of this many tokens
BLOCKS = (512, 256, 128)  # tokens per step of the kernel; the largest divisor is used
TOO_OLD = ("TPU v2", "TPU v3")  # their compiler rejects the kernel in bfloat16
LARGEST_HEAD = 256  # 512 does not fit the on-chip memory of v4


def check_attention(config: DecoderConfig, mesh: Mesh, rules: Rules) -> None:
    """Raises UserError when `config` has splash attention where it does not run."""
    if config.attention != "splash":
        return
    device, parts = mesh.devices.flat[0], n_parts(mesh, rules, "heads")
    if device.platform != "tpu" or device.device_kind.startswith(TOO_OLD):
        problem = f"needs TPU v4 or newer, and this device is {device.device_kind!r}"
    elif config.dtype == jnp.float16:
        problem = "does not compute in float16"
    elif config.head_dim > LARGEST_HEAD:
        problem = f"supports heads of at most {LARGEST_HEAD} dims, not head_dim = {config.head_dim}"
    elif config.kv_heads % parts:
        problem = f"does not split {config.kv_heads} heads of keys over {parts} devices"
    elif n_parts(mesh, rules, "length") > 1:
        problem = f"needs whole rows, not MeshConfig.sequence = {mesh.shape['sequence']}"
    else:
        return
    raise UserError(
        f"DecoderConfig.attention = 'splash' {problem}; bind DecoderConfig.attention = 'einsum'"
    )


def serves(
    config: DecoderConfig, length: int, context: tuple[tuple[Store, ...], ...] | None
) -> bool:
    """Whether splash attention is configured, possible (no context) and worth its padding."""
    return config.attention == "splash" and length >= LANES and not any(context or ())


def splash_attend(
    query_BLHK: jax.Array, key_values: KeyValues, segment_ids_BL: jax.Array, interpret: bool = False
) -> jax.Array:
    """Equals `attend` with `causal_mask(segment_ids_BL)`; returns [B, L, H, K].

    Under a mesh each device computes its rows and heads. Rows that the mesh does not divide (such
    as the few-shot prefix) are whole on every device.

    Args:
      query_BLHK: rotated queries.
      key_values: of the same tokens, [B, G, L, K] with G a divisor of H.
      segment_ids_BL: int32; a token sees itself and the earlier tokens of its segment.
      interpret: emulate the kernel with plain operations, for tests without a TPU.
    """
    query_BHLK = (query_BLHK * query_BLHK.shape[-1] ** -0.5).swapaxes(1, 2)
    attend = functools.partial(_attend_rows, interpret=interpret)
    if is_on_mesh():
        mesh = jax.sharding.get_abstract_mesh()
        parts = math.prod(mesh.shape[axis] for axis in spec_of("batch")[0])
        rows = None if len(query_BLHK) % parts else "batch"
        heads, ids = spec_of(rows, "heads"), spec_of(rows)
        attend = jax.shard_map(
            attend, in_specs=(heads, heads, heads, ids), out_specs=heads, check_vma=False
        )
    return attend(query_BHLK, *key_values, segment_ids_BL).swapaxes(1, 2)


def _attend_rows(
    query_BHLK: jax.Array,
    key_BGLK: jax.Array,
    value_BGLK: jax.Array,
    segment_ids_BL: jax.Array,
    interpret: bool,
) -> jax.Array:
    """On one device; tokens are padded to whole blocks with segment 0, which is ignored."""
    # Imported here, since it takes a third of a second and only TPUs need it.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    n_heads, length = query_BHLK.shape[1:3]
    padding = ((0, 0), (0, 0), (0, -length % LANES), (0, 0))
    query, key, value = (jnp.pad(x, padding) for x in (query_BHLK, key_BGLK, value_BGLK))
    ids_BL = jnp.pad(segment_ids_BL, padding[1:3])
    whole = query.shape[2]
    block = next(size for size in BLOCKS if whole % size == 0)
    attend = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([splash.CausalMask((whole, whole))] * n_heads),
        block_sizes=splash.BlockSizes(*[block] * 8),
        interpret=interpret,
    )
    mixed_BHLK = jax.vmap(attend)(query, key, value, splash.SegmentIds(ids_BL, ids_BL))
    return mixed_BHLK[:, :, :length]
