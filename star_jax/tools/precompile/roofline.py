"""Estimates the cost of training and sampling for one device: FLOPs, memory traffic, communication.

The compiler counts the body of a scan once, however often it runs, so we count ourselves: the
matrix products (each reads its operands and writes its result once; everything else is assumed to
be fused into them), Adam, and what is sent between devices. Sizes are per device.
"""

import dataclasses
import math
import operator

import jax.numpy as jnp
from jax.sharding import Mesh

from star_jax.models.config import DecoderConfig
from star_jax.parallel.partitioning import Rules, axes_of, n_parts
from star_jax.parallel.topologies import Peaks

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
        return Work(*map(operator.add, dataclasses.astuple(self), dataclasses.astuple(other)))

    def __mul__(self, times: float) -> "Work":
        return Work(*(times * value for value in dataclasses.astuple(self)))


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


@dataclasses.dataclass(frozen=True)
class DeviceModel:
    """A decoder as one device has it, and the work of one device."""

    model: DecoderConfig
    split: Split

    @property
    def itemsize(self) -> int:
        """Bytes of an activation."""
        return jnp.dtype(self.model.dtype).itemsize

    @property
    def matrices(self) -> list[tuple[float, float]]:
        """(inputs, outputs) of each weight matrix of a block, as one device multiplies by it."""
        model, width, hidden = self.model, self.model.d_model, self.model.d_ff / self.split.mlp
        queries = model.n_heads * model.head_dim / self.split.heads
        keys = model.kv_heads * model.head_dim / self.split.kv_heads
        widening = [(width, hidden)] * (2 if model.mlp == "swiglu" else 1)
        attention = [(width, queries), (width, keys), (width, keys), (queries, width)]
        return [*attention, *widening, (hidden, width)]

    @property
    def head(self) -> tuple[float, float]:
        """(inputs, outputs) of the output head."""
        return self.model.d_model, self.model.vocab_size / self.split.vocab

    @property
    def n_params(self) -> float:
        """Weights on the device; biases and norms are not counted."""
        heads = [self.head] * (1 if self.model.head == "tied" else 2)
        matrices = self.matrices * self.model.n_layers + heads
        return sum(inputs * outputs for inputs, outputs in matrices) / self.split.embed

    @property
    def state_bytes(self) -> float:
        """The least memory, in bytes, for weights and Adam's moments."""
        return self.n_params * STATE_COPIES * jnp.dtype(self.model.param_dtype).itemsize

    def slot_bytes(self, columns: int) -> float:
        """The memory, in bytes, for one slot's KV cache of `columns` columns."""
        per_layer = 2 * self.model.kv_heads / self.split.kv_heads * self.model.head_dim * columns
        return per_layer * self.model.n_layers * self.itemsize / self.split.batch

    def training_step(self, batch_size: int, row_length: int, accumulation: int = 1) -> Work:
        """One optimizer step on a batch of packed rows, processed in `accumulation` parts."""
        model, split = self.model, self.split
        rows = batch_size / split.batch / accumulation
        tokens = rows * row_length / split.length
        attention = self._attention(rows, row_length / split.length, row_length)
        block = self._products(self.matrices, tokens) + attention
        head = self._products([self.head], tokens)
        # The gradient of a product is two products over the same arrays; then what remat dropped
        # is computed again, except a block's last sum into the residual stream: the MLP's, and
        # attention's where the MLP does not read it.
        query, key, value, out, *widening, _ = self.matrices
        needed = [query, key, value, *widening, *([out] if model.block == "sequential" else [])]
        dropped = self._products(needed, tokens) + attention
        again = {"none": Work(), "dots": attention, "full": dropped}[model.remat]
        passes = (block * 3 + again) * model.n_layers + head * 3
        return (passes + self._training_traffic(tokens)) * accumulation + self._adam(accumulation)

    def prefill(self, tokens: float, prefix_tokens: int, n_read: int) -> Work:
        """`tokens` new tokens in one row after a shared prefix, and the logits of `n_read`."""
        return self._forward(1, tokens, tokens, prefix_tokens, n_read)

    def decode_step(self, n_slots: float, prefix_tokens: int, columns: int) -> Work:
        """One new token in each of all devices' `n_slots` slots, with `columns` in its KV cache."""
        rows = n_slots / self.split.batch
        return self._forward(rows, 1, columns + 1, prefix_tokens, rows)

    def _forward(
        self, rows: float, queries: float, keys: float, prefix_tokens: int, n_read: float
    ) -> Work:
        """`queries` new tokens per row, over `keys` of the row's own and a shared prefix."""
        block = (
            self._products(self.matrices, rows * queries)
            + self._attention(rows, queries, keys)
            + self._attention(rows, queries, prefix_tokens, shared=True)
        )
        head = self._products([self.head], n_read)
        return block * self.model.n_layers + head + self._forward_traffic(rows * queries)

    def _products(self, matrices: list[tuple[float, float]], tokens: float) -> Work:
        """`tokens` rows times each matrix."""
        flops = sum(2 * tokens * inputs * outputs for inputs, outputs in matrices)
        elements = sum(tokens * (i + o) + i * o for i, o in matrices)
        return Work(flops, elements * self.itemsize)

    def _attention(self, rows: float, queries: float, keys: float, shared: bool = False) -> Work:
        """Attention of `queries` new tokens per row over `keys`, per row or `shared` by all rows.

        Masked pairs are computed like any other; splash attention skips the masked half.
        """
        if not keys:
            return Work()
        model, size, heads = self.model, self.itemsize, self.model.n_heads / self.split.heads
        pairs, queried = rows * heads * queries * keys, rows * heads * queries * model.head_dim
        kv_heads = model.kv_heads / self.split.kv_heads
        stored = 2 * (1 if shared else rows) * kv_heads * keys * model.head_dim
        on_chip = model.attention == "splash" and queries > 1 and not shared
        scores = 0 if on_chip else pairs * (SCORE_BYTES + size)  # written, and read as weights
        return Work(
            flops=4 * pairs * model.head_dim * (0.5 if on_chip else 1),
            hbm_bytes=(queried + stored) * size + queried * SCORE_BYTES + scores,
        )

    def _forward_traffic(self, tokens: float) -> Work:
        """What one forward pass receives from other devices."""
        model, split, size = self.model, self.split, self.itemsize
        gathers = sum((_gather(split.embed, i * o * size) for i, o in self.matrices), Work())
        sums = _all_reduce(max(split.heads, split.mlp), tokens * model.d_model * size)
        n_sums = 1 if model.block == "parallel" else 2
        # Ring attention or a gather: either way a device receives the whole row's keys and values.
        row = tokens * split.length
        kv = 2 * model.kv_heads / split.kv_heads * model.head_dim * row * size
        block = sums * n_sums + gathers + _gather(split.length, kv)
        embedding = _all_reduce(split.vocab, tokens * model.d_model * size)
        inputs, outputs = self.head
        head = _gather(split.embed, inputs * outputs * size)
        return block * model.n_layers + embedding + head

    def _training_traffic(self, tokens: float) -> Work:
        """What one part of a batch receives: weights are gathered twice, gradients summed once."""
        split, size = self.split, self.itemsize
        traffic = self._forward_traffic(tokens) * 2  # backward: sums of the inputs' gradients
        for inputs, outputs in [*self.matrices * self.model.n_layers, self.head]:
            traffic += _gather(split.embed, inputs * outputs * size)
            traffic += _all_reduce(split.replicas, inputs * outputs / split.embed * size)
        if split.embed > 1:  # gathered weights are written before a product reads them
            traffic += Work(hbm_bytes=2 * self.n_params * split.embed * size)
        return traffic

    def _adam(self, accumulation: int) -> Work:
        """Reads gradient, weights and moments, writes all but the gradient; sums partial ones."""
        size = jnp.dtype(self.model.param_dtype).itemsize
        added = 3 * accumulation if accumulation > 1 else 0  # sum and part read, sum written
        accesses = 2 * STATE_COPIES + 1 + added
        return Work(flops=20 * self.n_params, hbm_bytes=self.n_params * size * accesses)


def _all_reduce(parts: int, size: float) -> Work:
    """A sum over `parts` devices of arrays of `size` bytes: as a reduce-scatter and a gather."""
    return Work(link_bytes=2 * (parts - 1) / parts * size, messages=float(parts > 1))


def _gather(parts: int, size: float) -> Work:
    """An all-gather of `size` bytes from `parts` devices, or a reduce-scatter to them."""
    return Work(link_bytes=(parts - 1) / parts * size, messages=float(parts > 1))
