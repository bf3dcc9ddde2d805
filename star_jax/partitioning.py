"""The device mesh, and the rules that lay logical axes out on it, for training and decoding.

The model names its axes (`embed`, `heads`, `mlp`, ...) and knows nothing of devices; a rule
table maps each name to mesh axes or to None (not split). A name without a rule is an error that
names the parameter: silence there means a full copy on every device.
"""

import dataclasses
import math
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from star_jax.errors import UserError

MESH_AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")  # a batch is split over both; fsdp splits parameters as well

Rules = tuple[tuple[str, Any], ...]

TRAINING_RULES: Rules = (
    ("batch", BATCH_AXES),
    ("length", None),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("kv", None),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("layers", None),
)

# While decoding, gathering the parameters once a token would cost more than it saves, so only
# `tensor` splits them; along fsdp, which then splits the batch alone, they are whole.
DECODING_RULES: Rules = (
    ("batch", BATCH_AXES),
    ("length", None),
    ("embed", None),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("kv", None),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("layers", None),
)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """How many devices each mesh axis takes; -1 (one axis at most) takes what is left."""

    data: int = -1  # copies of the model, each with a share of the batch
    fsdp: int = 1  # devices among which parameters and optimizer state are split
    tensor: int = 1  # devices among which heads and the MLP are split
    training_rules: Rules = TRAINING_RULES
    decoding_rules: Rules = DECODING_RULES


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (all by default); raises UserError when the sizes do not fit."""
    devices = jax.devices() if devices is None else devices
    sizes = [config.data, config.fsdp, config.tensor]
    if sizes.count(-1) > 1 or any(size < 1 and size != -1 for size in sizes):
        raise UserError(f"mesh {_named(sizes)}: sizes are positive, one of them may be -1")
    if -1 in sizes:
        rest = int(np.prod([size for size in sizes if size != -1]))
        sizes[sizes.index(-1)] = len(devices) // rest
    if int(np.prod(sizes)) != len(devices):
        raise UserError(
            f"mesh {_named([config.data, config.fsdp, config.tensor])} does not fill the "
            f"{len(devices)} devices; bind MeshConfig.data/fsdp/tensor to factors of "
            f"{len(devices)}"
        )
    return Mesh(np.array(devices).reshape(sizes), MESH_AXES)


def n_shards(mesh: Mesh) -> int:
    """Parts in which a batch's rows are split over the mesh."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def check_batch(name: str, batch_size: int, mesh: Mesh, unit: int = 1) -> None:
    """Raises UserError unless `batch_size` divides into `unit` parts split over the mesh."""
    parts = n_shards(mesh) * unit
    if unit < 1:
        raise UserError(f"{name} {batch_size} is to be taken in {unit} parts; give 1 or more")
    if batch_size < 1 or batch_size % parts:
        raise UserError(
            f"{name} {batch_size} is not divisible by data x fsdp"
            f"{' x accumulation' if unit > 1 else ''} ({parts}); "
            f"set {name} to a multiple of {parts}"
        )


def batch_sharding(mesh: Mesh, leading: int = 0) -> NamedSharding:
    """Splits a batch axis (after `leading` whole ones) over the data and fsdp mesh axes."""
    return NamedSharding(mesh, PartitionSpec(*[None] * leading, BATCH_AXES))


def keep_rows(x_BLD: jax.Array) -> jax.Array:
    """Leaves each row on the devices that `batch_sharding` gave it; nothing to do without a mesh.

    Left to itself, the compiler splits activations as it finds the parameters split (by fsdp along
    `embed`), and every device holds every row.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return x_BLD
    return jax.lax.with_sharding_constraint(x_BLD, PartitionSpec(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(shapes: Any, logical_axes: Any, mesh: Mesh, rules: Rules) -> Any:
    """A NamedSharding for every parameter.

    Args:
      shapes: the parameters' shapes, as `models.decoder.abstract_params`.
      logical_axes: tree of PartitionSpec of logical names, as `models.decoder.logical_axes`.
      mesh: the device mesh.
      rules: the table for training or for decoding.

    Raises:
      UserError: a logical axis has no rule, or one that does not fit the mesh or the axis' size;
        the message names the parameter.
    """
    table = dict(rules)

    def one(path: Any, names: PartitionSpec, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        parameter = f"parameter {jax.tree_util.keystr(path)}"
        for name in names:
            if name is not None and name not in table:
                raise UserError(
                    f"{parameter} has the logical axis {name!r}, "
                    f"which no rule of the mesh maps; add ({name!r}, None) or a mesh axis"
                )
        spec = PartitionSpec(*[table.get(name) for name in names])
        if not _fits(spec, leaf.shape, mesh):
            raise UserError(
                f"{parameter} with axes {tuple(names)} of sizes {leaf.shape} cannot be laid out as "
                f"{tuple(spec)} on the mesh {_named(list(mesh.shape.values()))}; change "
                f"MeshConfig.data/fsdp/tensor or its rules"
            )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(
        one, logical_axes, shapes, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
    )


def _fits(spec: PartitionSpec, shape: tuple[int, ...], mesh: Mesh) -> bool:
    """Every mesh axis is there and used once, and the sizes divide."""
    parts = [() if part is None else part if isinstance(part, tuple) else (part,) for part in spec]
    used = [axis for part in parts for axis in part]
    return (
        len(set(used)) == len(used)
        and set(used) <= set(mesh.shape)
        and all(
            size % math.prod(mesh.shape[axis] for axis in part) == 0
            for size, part in zip(shape, parts, strict=True)
        )
    )


def _named(sizes: list[int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
