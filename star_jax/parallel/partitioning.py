"""The device mesh, and the rules that map logical axes to it, for training and decoding.

The model names its axes (`embed`, `heads`, `mlp`, ...) and knows no devices; a rule table maps
each name to mesh axes, or to None (not split). A name without a rule is an error: a default would
silently put a full copy on every device. Training and decoding share a mesh and have a table each.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from star_jax.errors import UserError
from star_jax.records import Params

MESH_AXES = ("data", "fsdp", "sequence", "tensor")

Rules = tuple[tuple[str, str | tuple[str, ...] | None], ...]

TRAINING_RULES: Rules = (
    ("batch", ("data", "fsdp")),  # fsdp splits the batch and the parameters
    ("length", "sequence"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("kv", None),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("layers", None),
)

# In decoding, gathering the parameters for each token costs more than it saves, so fsdp splits
# only the batch. A model too large for that needs ("fsdp", "tensor") for heads, kv_heads, mlp and
# vocab, and "data" for batch.
DECODING_RULES: Rules = tuple({**dict(TRAINING_RULES), "length": None, "embed": None}.items())

# Not flax's rules: with those, flax constrains each parameter where it is read, which copies the
# weights on a CPU.
_rules: contextvars.ContextVar[Rules | None] = contextvars.ContextVar("rules", default=None)


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """The number of devices along each mesh axis; -1 (one axis at most) takes the rest."""

    data: int = -1  # copies of the model, each with a share of the batch
    fsdp: int = 1  # devices among which parameters and optimizer state are split
    tensor: int = 1  # devices among which heads and the MLP are split
    sequence: int = 1  # devices among which the tokens of a training row are split
    training_rules: Rules = TRAINING_RULES
    decoding_rules: Rules = DECODING_RULES


def make_mesh(config: MeshConfig, devices: list[jax.Device] | None = None) -> Mesh:
    """The mesh over `devices` (by default all); raises UserError unless the sizes fill them."""
    devices = jax.devices() if devices is None else devices
    wanted = [getattr(config, axis) for axis in MESH_AXES]
    if wanted.count(-1) > 1 or any(size < 1 and size != -1 for size in wanted):
        raise UserError(f"mesh {_named(wanted)}: sizes are positive, one of them may be -1")
    rest = len(devices) // math.prod(size for size in wanted if size != -1)
    sizes = [rest if size == -1 else size for size in wanted]
    if math.prod(sizes) != len(devices):
        raise UserError(
            f"mesh {_named(wanted)} does not fill the {len(devices)} devices; bind "
            f"MeshConfig.data/fsdp/tensor/sequence to factors of {len(devices)}"
        )
    placed = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(placed, MESH_AXES)


def axes_of(rules: Rules, name: str, of: str = "") -> tuple[str, ...]:
    """The mesh axes that split a logical axis; raises UserError, `of` a parameter, for no rule."""
    table = dict(rules)
    if name not in table:
        raise UserError(
            f"no rule of the mesh maps the logical axis {name!r}{of}; add ({name!r}, None) or a "
            f"mesh axis to MeshConfig.training_rules and decoding_rules"
        )
    axes = table[name]
    return (axes,) if isinstance(axes, str) else tuple(axes or ())


def n_parts(mesh: Mesh, rules: Rules, name: str) -> int:
    """Number of parts of a logical axis on the mesh; raises UserError for a wrong rule or none."""
    axes = axes_of(rules, name)
    if unknown := set(axes) - set(mesh.shape):
        raise UserError(
            f"the rule ({name!r}, {axes}) names the mesh axis {min(unknown)!r}; there are "
            f"{tuple(mesh.shape)}"
        )
    return math.prod(mesh.shape[axis] for axis in axes)


def check_batch(name: str, batch_size: int, mesh: Mesh, rules: Rules, unit: int = 1) -> None:
    """Raises UserError unless the mesh divides a batch.

    Args:
      name: of the setting, for the message.
      batch_size: rows of a batch.
      mesh: the device mesh.
      rules: for training or for decoding.
      unit: parts of a batch that are processed one after the other.
    """
    parts = n_parts(mesh, rules, "batch") * unit
    if unit < 1:
        raise UserError(f"{name} {batch_size} is processed in {unit} parts; give 1 or more")
    if batch_size < 1 or batch_size % parts:
        raise UserError(
            f"{name} {batch_size} is not divisible by {' x '.join(axes_of(rules, 'batch'))}"
            f"{' x accumulation' if unit > 1 else ''} ({parts}); "
            f"set {name} to a multiple of {parts}"
        )


def batch_sharding(mesh: Mesh, rules: Rules) -> NamedSharding:
    """Splits the first axis, a batch's rows, over the mesh axes of its rule."""
    return NamedSharding(mesh, PartitionSpec(axes_of(rules, "batch")))


def in_rows(sharding: NamedSharding, n_rows: int, fill: Callable[[int, int], Params]) -> Params:
    """A batch of `n_rows` on the devices; each process makes the rows that its own devices hold.

    `fill(start, stop)` makes those rows, a tree of arrays [stop - start, ...].
    """
    if sharding.is_fully_addressable:
        return jax.device_put(fill(0, n_rows), sharding)
    places = sharding.addressable_devices_indices_map((n_rows,))
    spans = {device: at[0].indices(n_rows)[:2] for device, at in places.items() if at}
    filled = {span: fill(*span) for span in set(spans.values())}

    def whole(*parts: np.ndarray) -> jax.Array:
        of_span = dict(zip(filled, parts, strict=True))
        pieces = [jax.device_put(of_span[span], device) for device, span in spans.items()]
        return jax.make_array_from_single_device_arrays(
            (n_rows, *parts[0].shape[1:]), sharding, pieces
        )

    return jax.tree.map(whole, *filled.values())


def same_everywhere(value: np.ndarray, mesh: Mesh) -> jax.Array:
    """A value that every process has, replicated on every device."""
    return jax.make_array_from_callback(np.shape(value), replicated(mesh), lambda index: value)


@contextlib.contextmanager
def on_mesh(mesh: Mesh, rules: Rules) -> Iterator[None]:
    """Makes mesh and rules known to what is traced inside: `keep_rows`, splash attention."""
    before = _rules.set(rules)
    try:
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            yield
    finally:
        _rules.reset(before)


def is_on_mesh() -> bool:
    """Whether tracing happens inside `on_mesh`; a mesh that others have set does not count."""
    return _rules.get() is not None and not jax.sharding.get_abstract_mesh().empty


def spec_of(*names: str | None) -> PartitionSpec:
    """The layout of logical axes (None: not split) on the mesh, inside `on_mesh`."""
    return PartitionSpec(*[name and axes_of(_rules.get() or (), name) for name in names])


def keep_rows(x_BLD: jax.Array) -> jax.Array:
    """Keeps each row on the devices that the rules give it; does nothing without a mesh."""
    # The compiler would split activations as the parameters are split (by fsdp along `embed`), so
    # that every device holds every row.
    if not is_on_mesh():
        return x_BLD
    return jax.lax.with_sharding_constraint(x_BLD, spec_of("batch", "length"))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def parameter_shardings(shapes: Params, logical_axes: Params, mesh: Mesh, rules: Rules) -> Params:
    """A NamedSharding for every parameter; raises UserError for a rule that does not fit, or none.

    Args:
      shapes: the parameters' shapes, as `models.decoder.abstract_params`.
      logical_axes: tree of PartitionSpec of logical names, as `models.decoder.logical_axes`.
      mesh: the device mesh.
      rules: for training or for decoding.
    """

    def one(path: jax.tree_util.KeyPath, names: PartitionSpec, leaf: jax.Array) -> NamedSharding:
        parameter = f"parameter {jax.tree_util.keystr(path)}"
        axes = [name and axes_of(rules, name, f" of {parameter}") for name in names]
        spec = PartitionSpec(*[found or None for found in axes])
        try:
            sharding = NamedSharding(mesh, spec)  # raises if an axis is missing or used twice,
            sharding.shard_shape(leaf.shape)  # and if the sizes do not divide
        except Exception as error:  # JAX's error for an axis used twice has no public name
            raise UserError(
                f"{parameter} with axes {tuple(names)} of sizes {leaf.shape} cannot be laid out as "
                f"{tuple(spec)} on the mesh {_named(list(mesh.shape.values()))}; change "
                f"MeshConfig.data/fsdp/tensor or its rules"
            ) from error
        return sharding

    return jax.tree_util.tree_map_with_path(
        one, logical_axes, shapes, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec)
    )


def _named(sizes: list[int]) -> str:
    return " x ".join(f"{axis}={size}" for axis, size in zip(MESH_AXES, sizes, strict=True))
