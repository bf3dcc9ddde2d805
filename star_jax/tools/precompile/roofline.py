"""Estimates the cost of training and sampling for one device: FLOPs, memory traffic, communication.

The compiler's own count is not used: it counts the body of a scan once, however often it runs. We
count the matrix products (each reads its operands and writes its result once; everything else is
assumed to be fused into them), Adam, and what is sent between devices. Sizes are per device.
"""

import dataclasses
import math

import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.models.config import DecoderConfig
from star_jax.parallel.partitioning import Rules, axes_of, n_parts

SCORE_BYTES = 4  # attention's scores are float32 whatever the dtype
STATE_COPIES = 3  # parameters and Adam's two moments


@dataclasses.dataclass(frozen=True)
class Work:
    """The work of one device."""

    flops: float = 0.0
    hbm_bytes: float = 0.0  # read and written
    link_bytes: float = 0.0  # received from other devices
    messages: float = 0.0  # collective operations, each of which has a latency

    def __add__(self, other: "Work") -> "Work":
        return Work(
            self.flops + other.flops,
            self.hbm_bytes + other.hbm_bytes,
            self.link_bytes + other.link_bytes,
            self.messages + other.messages,
        )

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * value for value in dataclasses.astuple(self)))


@dataclasses.dataclass(frozen=True)
class Peaks:
    """The speed of one device."""

    flops: float  # per second
    hbm_bytes: float  # per second
    link_bytes: float  # per second
    message_seconds: float = 0.0  # latency of one collective operation


@dataclasses.dataclass(frozen=True)
class Roofline:
    """Seconds that computing, memory and communication take, each on its own."""

    compute: float
    memory: float
    communication: float

    @property
    def seconds(self) -> float:
        """All three overlap, so the slowest decides."""
        return max(self.compute, self.memory, self.communication)

    @property
    def bound(self) -> str:
        """The slowest of the three."""
        return max(("compute", "memory", "communication"), key=lambda name: getattr(self, name))


@dataclasses.dataclass(frozen=True)
class Split:
    """The number of parts that each logical axis is split into over the devices."""

    batch: int = 1
    length: int = 1
    embed: int = 1
    heads: int = 1
    kv_heads: int = 1
    mlp: int = 1
    vocab: int = 1
    replicas: int = 1  # devices with the same parameters and different rows


def roofline(work: Work, peaks: Peaks) -> Roofline:
    """The time of some work on a device at its peaks."""
    sent = work.link_bytes / peaks.link_bytes if work.link_bytes else 0.0
    return Roofline(
        compute=work.flops / peaks.flops,
        memory=work.hbm_bytes / peaks.hbm_bytes,
        communication=sent + work.messages * peaks.message_seconds,
    )


def split_of(mesh: Mesh, rules: Rules) -> Split:
    """How a rule table splits the model and its rows over a mesh."""
    names = ("batch", "length", "embed", "heads", "kv_heads", "mlp", "vocab")
    parts = {name: n_parts(mesh, rules, name) for name in names}
    splits_rows, splits_parameters = (
        {axis for name in some for axis in axes_of(rules, name)} for some in (names[:2], names[2:])
    )
    replicas = math.prod(mesh.shape[axis] for axis in splits_rows - splits_parameters)
    return Split(**parts, replicas=replicas)


def state_bytes(model: DecoderConfig, split: Split) -> float:
    """The least memory of a device, in bytes, for weights and Adam's moments."""
    return _device_params(model, split) * STATE_COPIES * jnp.dtype(model.param_dtype).itemsize


def slot_bytes(model: DecoderConfig, split: Split, columns: int) -> float:
    """The memory of a device, in bytes, for one slot's KV cache of `columns` columns."""
    per_layer = 2 * model.kv_heads / split.kv_heads * model.head_dim * columns
    return per_layer * model.n_layers * _itemsize(model) / split.batch


def training_step(
    model: DecoderConfig, split: Split, batch_size: int, row_length: int, accumulation: int = 1
) -> Work:
    """One optimizer step: forward, backward, what is computed again for it, and Adam.

    Args:
      model: the decoder; its `remat` decides what is computed again.
      split: of the training rules.
      batch_size: packed rows per step, over all devices.
      row_length: tokens per row.
      accumulation: parts that a batch is processed in.
    """
    rows = batch_size / split.batch / accumulation
    tokens = rows * row_length / split.length
    attention = _attention(model, split, rows, row_length / split.length, row_length)
    block = _products(model, _matrices(model, split), tokens) + attention
    head = _products(model, [_head(model, split)], tokens)
    # The gradient of a product is two products over the same arrays; then what remat dropped. A
    # block's last sum into the residual stream is not computed again: the MLP's, and attention's
    # where the MLP does not read it.
    query, key, value, out, *widening, _ = _matrices(model, split)
    needed = [query, key, value, *widening, *([out] if model.block == "sequential" else [])]
    dropped = _products(model, needed, tokens) + attention
    again = {"none": Work(), "dots": attention, "full": dropped}[model.remat]
    passes = (block * 3 + again) * model.n_layers + head * 3
    parts = (passes + _training_traffic(model, split, tokens)) * accumulation
    return parts + _adam(model, split, accumulation)


def prefill(
    model: DecoderConfig, split: Split, tokens: float, prefix_tokens: int, n_read: int
) -> Work:
    """New tokens in one row per device, after a shared prefix.

    Args:
      model: the decoder.
      split: of the decoding rules.
      tokens: new tokens per device.
      prefix_tokens: length of the shared prefix, whose keys and values are in the cache.
      n_read: new tokens whose logits are computed.
    """
    block = (
        _products(model, _matrices(model, split), tokens)
        + _attention(model, split, 1, tokens, tokens)
        + _attention(model, split, 1, tokens, prefix_tokens, shared=True)
    )
    head = _products(model, [_head(model, split)], n_read)
    return block * model.n_layers + head + _forward_traffic(model, split, tokens)


def decode_step(
    model: DecoderConfig, split: Split, n_slots: float, prefix_tokens: int, columns: int
) -> Work:
    """One new token in each slot.

    Args:
      model: the decoder.
      split: of the decoding rules.
      n_slots: slots over all devices.
      prefix_tokens: length of the shared prefix.
      columns: of each slot's own cache.
    """
    rows = n_slots / split.batch
    block = (
        _products(model, _matrices(model, split), rows)
        + _attention(model, split, rows, 1, columns + 1)
        + _attention(model, split, rows, 1, prefix_tokens, shared=True)
    )
    head = _products(model, [_head(model, split)], rows)
    return block * model.n_layers + head + _forward_traffic(model, split, rows)


def _itemsize(model: DecoderConfig) -> int:
    return jnp.dtype(model.dtype).itemsize


def _matrices(model: DecoderConfig, split: Split) -> list[tuple[float, float]]:
    """(inputs, outputs) of each weight matrix of a block, as one device has it in a product."""
    width, hidden = model.d_model, model.d_ff / split.mlp
    queries = model.n_heads * model.head_dim / split.heads
    keys = model.kv_heads * model.head_dim / split.kv_heads
    widening = [(width, hidden)] * (2 if model.mlp == "swiglu" else 1)
    attention = [(width, queries), (width, keys), (width, keys), (queries, width)]
    return [*attention, *widening, (hidden, width)]


def _head(model: DecoderConfig, split: Split) -> tuple[float, float]:
    return model.d_model, model.vocab_size / split.vocab


def _products(model: DecoderConfig, matrices: list[tuple[float, float]], tokens: float) -> Work:
    """`tokens` rows times each matrix."""
    flops = sum(2 * tokens * inputs * outputs for inputs, outputs in matrices)
    elements = sum(tokens * (i + o) + i * o for i, o in matrices)
    return Work(flops, elements * _itemsize(model))


def _attention(
    model: DecoderConfig,
    split: Split,
    rows: float,
    queries: float,
    keys: float,
    shared: bool = False,
) -> Work:
    """Attention of `queries` new tokens per row over `keys`, per row or `shared` by all rows.

    Masked pairs are computed like any other; splash attention skips the masked half.
    """
    if not keys:
        return Work()
    size, heads = _itemsize(model), model.n_heads / split.heads
    pairs = rows * heads * queries * keys
    stored = 2 * (1 if shared else rows) * model.kv_heads / split.kv_heads * keys * model.head_dim
    queried = rows * heads * queries * model.head_dim
    on_chip = model.attention == "splash" and queries > 1 and not shared
    scores = 0 if on_chip else pairs * (SCORE_BYTES + size)  # written, and read as weights
    return Work(
        flops=4 * pairs * model.head_dim * (0.5 if on_chip else 1),
        hbm_bytes=(queried + stored) * size + queried * SCORE_BYTES + scores,
    )


def _all_reduce(parts: int, size: float) -> Work:
    """A sum over `parts` devices of arrays of `size` bytes: as a reduce-scatter and a gather."""
    return Work(link_bytes=2 * (parts - 1) / parts * size, messages=float(parts > 1))


def _gather(parts: int, size: float) -> Work:
    """An all-gather of `size` bytes from `parts` devices, or a reduce-scatter to them."""
    return Work(link_bytes=(parts - 1) / parts * size, messages=float(parts > 1))


def _forward_traffic(model: DecoderConfig, split: Split, tokens: float) -> Work:
    """What one forward pass receives."""
    size = _itemsize(model)
    sums = _all_reduce(max(split.heads, split.mlp), tokens * model.d_model * size)
    gathers = Work()
    for inputs, outputs in _matrices(model, split):
        gathers += _gather(split.embed, inputs * outputs * size)
    # Ring attention or a gather: either way a device receives the whole row's keys and values.
    kv = 2 * model.kv_heads / split.kv_heads * model.head_dim * tokens * split.length * size
    n_sums = 1 if model.block == "parallel" else 2
    block = sums * n_sums + gathers + _gather(split.length, kv)
    vocab = _all_reduce(split.vocab, tokens * model.d_model * size)  # of the looked-up embedding
    inputs, outputs = _head(model, split)
    return block * model.n_layers + vocab + _gather(split.embed, inputs * outputs * size)


def _training_traffic(model: DecoderConfig, split: Split, tokens: float) -> Work:
    """What one part of a batch receives: weights are gathered twice, gradients summed once."""
    size, forward = _itemsize(model), _forward_traffic(model, split, tokens)
    gradients = Work()
    for inputs, outputs in [*_matrices(model, split) * model.n_layers, _head(model, split)]:
        gradients += _gather(split.embed, inputs * outputs * size)
        gradients += _all_reduce(split.replicas, inputs * outputs / split.embed * size)
    # Gathered weights are written before a product reads them.
    gathered = Work(hbm_bytes=2 * _device_params(model, split) * split.embed * size)
    backward = forward  # sums of the inputs' gradients, and the weights gathered once more
    return forward + backward + gradients + (gathered if split.embed > 1 else Work())


def _adam(model: DecoderConfig, split: Split, accumulation: int) -> Work:
    """Reads gradient, weights and moments, writes all but the gradient; sums partial gradients."""
    size = jnp.dtype(model.param_dtype).itemsize
    added = 3 * accumulation if accumulation > 1 else 0  # sum and part read, sum written
    params = _device_params(model, split)
    return Work(flops=20 * params, hbm_bytes=params * size * (2 * STATE_COPIES + 1 + added))


def _device_params(model: DecoderConfig, split: Split) -> float:
    """Weights on one device; biases and norms are not counted."""
    weights = sum(i * o for i, o in _matrices(model, split)) * model.n_layers
    i, o = _head(model, split)
    return (weights + i * o * (1 if model.head == "tied" else 2)) / split.embed
