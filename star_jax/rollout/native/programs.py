"""The compiled programs of sampling: `decode`, jitted, with every array's place on the mesh."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.layout import Format, Layout
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from star_jax.models.attention import KeyValues
from star_jax.models.decoder import placed_params, unstack_layers
from star_jax.parallel import partitioning
from star_jax.records import Params
from star_jax.rollout.native import decode
from star_jax.rollout.native.shapes import PREFIX_COLUMNS, Shapes, up_to
from star_jax.rollout.native.slots import Chunk, Finished, Prefix, Slots, Writer

# How the dimensions [B, G, C, K] of a layer's keys and of its values lie in a TPU's memory, outer
# ones first. It is what decoding wants: in any other order each call copies the whole cache twice.
TPU_CACHE_ORDER = ((2, 1, 3, 0), (2, 1, 0, 3))


@dataclasses.dataclass(frozen=True)
class Programs:
    """One of each kind, compiled anew for each size; state that is handed in is given up."""

    writer: Writer
    mesh: Mesh
    rules: partitioning.Rules

    @functools.cached_property
    def place(self) -> Callable[[Any], Any]:
        """Weights in the layout of training to weights unrolled, cast and laid out for decoding."""
        model = self.writer.model
        placed = placed_params(model, self.mesh, self.rules)
        scanned = dataclasses.replace(model, scan_layers=True)

        def lay_out(params: Any) -> Any:
            if "layers" in params:
                params = unstack_layers(scanned, params)[1]
            return jax.tree.map(lambda leaf: leaf.astype(model.dtype), params)

        return jax.jit(lay_out, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, placed))

    @functools.cached_property
    def prefill_prefix(self) -> jax.stages.Wrapped:
        """(params, tokens_P, length) -> Prefix."""
        prefill = functools.partial(decode.prefill_prefix, self.writer.model)
        on_mesh = partitioning.on_mesh(self.mesh, self.rules)  # as splash attention needs it
        return jax.jit(on_mesh(prefill), out_shardings=self._prefix)

    def prefix(self, params: Params, ids: tuple[int, ...]) -> Prefix | None:
        """The keys and values of few-shot examples; None for no ids."""
        if not ids:
            return None
        tokens = np.zeros(up_to(len(ids), PREFIX_COLUMNS), np.int32)
        tokens[: len(ids)] = ids
        return self.prefill_prefix(params, tokens, np.int32(len(ids)))

    @functools.cached_property
    def empty_slots(self) -> jax.stages.Wrapped:
        """(slots of a shard, shapes) -> Slots."""
        make = functools.partial(decode.empty_slots, self.writer.model)
        return jax.jit(make, static_argnums=(0, 1), out_shardings=self._slots)

    @functools.cached_property
    def refill(self) -> jax.stages.Wrapped:
        """(window, params, prefix, slots, chunk, stop) -> (Slots, Finished)."""
        on_mesh = partitioning.on_mesh(self.mesh, self.rules)  # as splash attention needs it
        return jax.jit(
            on_mesh(functools.partial(decode.refill, self.writer)),
            static_argnums=0,
            donate_argnums=3,
            out_shardings=(self._slots, self._whole),
        )

    @functools.cached_property
    def decode(self) -> jax.stages.Wrapped:
        """(params, prefix, slots, time, n_free, stop) -> Slots and the time."""
        return jax.jit(
            functools.partial(
                decode.decode, self.writer, partitioning.n_parts(self.mesh, self.rules, "batch")
            ),
            in_shardings=(None, None, self._slots, self._whole, self._whole, self._whole),
            donate_argnums=2,
            out_shardings=(self._slots, self._whole),
        )

    def lower(self, shapes: Shapes, prefix_tokens: int) -> dict[str, jax.stages.Lowered]:
        """The "prefix", "refill" and "decode" programs of full slots, lowered without any array.

        Compiling them shows how much memory of a device they need; the devices need not exist.
        """
        model, n_shards = self.writer.model, shapes.n_shards
        split = partitioning.batch_sharding(self.mesh, self.rules)

        def numbers(*shape: int, dtype: Any = jnp.int32, to: Any = split) -> Params:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=to)

        placed = placed_params(model, self.mesh, self.rules)
        params = jax.tree.map(lambda p: numbers(*p.shape, dtype=model.dtype, to=p.sharding), placed)
        scalar = numbers(to=self._whole)
        prefix_tokens_P = numbers(up_to(prefix_tokens, PREFIX_COLUMNS), to=self._whole)
        prefill = self.prefill_prefix.lower(params, prefix_tokens_P, scalar)
        prefix = prefill.out_info
        slots = self.empty_slots.lower(shapes.n_slots, shapes).out_info
        tokens = numbers(n_shards, shapes.chunk_tokens)
        each = numbers(n_shards, shapes.chunk_prompts)
        keys = numbers(n_shards, shapes.chunk_prompts, 2, dtype=jnp.uint32)
        chunk = Chunk(tokens, tokens, tokens, each, each, each, keys, each)
        return {
            "prefix": prefill,
            "refill": self.refill.lower(shapes.window, params, prefix, slots, chunk),
            "decode": self.decode.lower(params, prefix, slots, scalar, scalar, None),
        }

    @functools.cached_property
    def shrink(self) -> Callable[[Slots], tuple[Slots, Finished]]:
        """Slots -> half of them, and what the others held."""
        return jax.jit(
            functools.partial(decode.shrink, partitioning.n_parts(self.mesh, self.rules, "batch")),
            out_shardings=(self._slots, self._whole),
        )

    @functools.cached_property
    def written(self) -> Callable[[Slots], Finished]:
        """Slots -> what all of them sampled."""
        return jax.jit(decode.written, out_shardings=self._whole)

    @property
    def _kv_axis(self) -> tuple[str, ...]:
        return partitioning.axes_of(self.rules, "kv_heads")

    @property
    def _whole(self) -> Params:
        return partitioning.replicated(self.mesh)

    @property
    def _prefix(self) -> Prefix:
        kv: Params = NamedSharding(self.mesh, PartitionSpec(self._kv_axis))
        return Prefix((KeyValues(kv, kv),) * self.writer.model.n_layers, self._whole)

    @property
    def _slots(self) -> Slots:
        rows: Params = partitioning.batch_sharding(self.mesh, self.rules)
        kv: Params = NamedSharding(self.mesh, PartitionSpec(*rows.spec, self._kv_axis))
        layer = KeyValues(kv, kv)
        if self.mesh.devices.flat[0].platform == "tpu":
            layer = KeyValues(*(Format(Layout(order), kv) for order in TPU_CACHE_ORDER))
        n_layers = self.writer.model.n_layers
        newest = (KeyValues(kv, kv),) * n_layers
        return Slots((layer,) * n_layers, newest, *[rows] * (len(Slots._fields) - 2))


# The same programs for the same arguments, so that two samplers compile them once.
programs_for = functools.lru_cache(maxsize=16)(Programs)
