"""Trains weights on examples for a number of steps, sharded over the mesh."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from star_jax.errors import UserError
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import abstract_params, init_params, placed_params
from star_jax.models.splash import check_attention
from star_jax.parallel import partitioning
from star_jax.records import PackedBatch, TokenizedExample
from star_jax.training import train_step as steps
from star_jax.training.packing import (
    batches_of_rows,
    check_lengths,
    epochs,
    fill_batch,
    most_with_loss,
)
from star_jax.training.schedules import final_decay


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How examples become optimizer steps; the defaults are the paper's (section 4.1)."""

    batch_size: int = 8  # packed rows an optimizer step sees
    row_length: int = 1024  # tokens in a row
    accumulation_steps: int = 1  # parts in which a batch is taken, to save memory
    loss_on_prompt: bool = False  # True also trains on the question
    # Of a row's tokens, the most that have loss. The model predicts no more than those, which saves
    # time where prompts are long; an example with a larger share takes more room in its row.
    loss_share: float = 1.0
    # Steps between checkpoints inside training; 0 for none; -1 for as often as pays: the first
    # after 3.5 minutes, then the more rarely the longer a save takes (at most 2 % up to 17 s).
    checkpoint_every: int = -1

    def examples_per_step(self, examples: Sequence[TokenizedExample]) -> float:
        """So many of these fill an optimizer step's rows, on average; at least one a row."""
        tokens = sum(len(example.tokens) for example in examples)
        return self.batch_size * max(1.0, self.row_length * len(examples) / tokens)


class Trained(NamedTuple):
    """What a training came to."""

    state: steps.TrainState
    losses: list[float]  # nats per weighted token, of each step taken
    packing_efficiency: float | None  # share of the places with a token, steps 1 to the last


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Makes train states and advances them; holds no weights itself."""

    model: DecoderConfig
    optimizer: steps.OptimizerConfig
    config: TrainerConfig
    mesh: Mesh
    rules: partitioning.Rules = partitioning.TRAINING_RULES

    def __post_init__(self):
        """Raises UserError for what the mesh cannot split or run, or rows the model cannot hold."""
        partitioning.check_batch(
            "TrainerConfig.batch_size",
            self.config.batch_size,
            self.mesh,
            self.rules,
            self.config.accumulation_steps,
        )
        check_attention(self.model, self.mesh, self.rules)
        if self.config.row_length % partitioning.n_parts(self.mesh, self.rules, "length"):
            raise UserError(
                f"TrainerConfig.row_length {self.config.row_length} is not divisible by "
                f"MeshConfig.sequence = {self.mesh.shape['sequence']}; change one of them"
            )
        if self.config.checkpoint_every < -1:
            raise UserError(
                f"TrainerConfig.checkpoint_every = {self.config.checkpoint_every}: give a number "
                f"of steps, 0 for no checkpoints inside training, or -1 for as often as pays"
            )
        share = self.config.loss_share
        if not 0 < share <= 1 or most_with_loss(self.config.row_length, share) < 1:
            raise UserError(
                f"TrainerConfig.loss_share = {share}: give a share of a row, above 0 and at most 1"
            )
        if self.config.row_length > self.model.context_length:
            raise UserError(
                f"TrainerConfig.row_length {self.config.row_length} passes the model's context of "
                f"{self.model.context_length}; lower it or raise DecoderConfig.context_length"
            )

    @functools.cached_property
    def parameter_shardings(self) -> Any:
        """Where each parameter lives while training."""
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_params())

    def abstract_params(self) -> Any:
        """The parameters' shapes, dtypes and shardings."""
        return placed_params(self.model, self.mesh, self.rules)

    def abstract_state(self) -> steps.TrainState:
        """The whole state's shapes, dtypes and shardings; Adam's moments lie as the weights."""
        init = functools.partial(steps.init_state, self._optimizer)
        return _with_shardings(
            jax.eval_shape(init, abstract_params(self.model)), self._state_shardings
        )

    def random_params(self, seed: int) -> Any:
        """Fresh parameters, made in their sharded place."""
        return self._random_params(jax.random.key(seed))

    def init_state(self, params: Any) -> steps.TrainState:
        """Step 0 from a copy of `params`, with a fresh optimizer."""
        return self._init_state(params)

    def train(
        self,
        state: steps.TrainState,
        examples: Sequence[TokenizedExample],
        n_steps: int,
        seed: int,
        on_step: Callable[[int, steps.TrainState], None] = lambda step, state: None,
    ) -> Trained:
        """Advances `state` to step `n_steps`.

        What a step sees depends on (examples, seed, step) alone, so training that is resumed
        from a checkpoint goes on exactly as if it had not stopped.

        Args:
          state: given up; use what is returned.
          examples: seen epoch after epoch, each in an order of its own.
          n_steps: the step to reach.
          seed: of the order.
          on_step: called after each step with its number and state.

        Raises:
          UserError: no examples, one longer than a row, an id that the model has no row for, or a
            loss that is not finite.
        """
        check_lengths(examples, self.config.row_length, self.config.loss_share)
        self._check_ids(examples)
        first = int(state.step)
        losses: list[float] = []
        n_batches = filled = 0
        pending = None  # a loss is fetched one step late, so that the device never waits for it
        batches = itertools.islice(self._batches(examples, seed), n_steps)
        for step, rows in enumerate(batches, start=1):
            n_batches += 1
            filled += sum(len(example.tokens) for row in rows for example in row)
            if step <= first:
                continue
            decay = np.float32(final_decay(step, n_steps, self.optimizer.decay_share))
            # The call returns at once: the next batch is packed while this one is trained on.
            state, loss = self._step(state, self._on_devices(rows), decay)
            if pending is not None:
                losses.append(_finite(float(pending), step - 1))
            pending = loss
            on_step(step, state)
        if pending is not None:
            losses.append(_finite(float(pending), n_steps))
        places = n_batches * self.config.batch_size * self.config.row_length
        return Trained(state, losses, filled / places if places else None)

    def lower_step(self) -> jax.stages.Lowered:
        """The optimizer step, lowered for the mesh without any array.

        Compiling it says what it needs of a device's memory, on devices that need not be there.
        """
        shape = (self.config.batch_size, self.config.row_length)
        dtypes = PackedBatch(np.int32, np.int32, np.int32, np.float32)
        batch = jax.tree.map(functools.partial(jax.ShapeDtypeStruct, shape), dtypes)
        decay = jax.ShapeDtypeStruct((), np.float32)
        return self._step.lower(self.abstract_state(), batch, decay)

    def _check_ids(self, examples: Sequence[TokenizedExample]) -> None:
        """An id beyond the embedding reads as NaN: say so before the loss does."""
        largest = max(int(example.tokens.max()) for example in examples)
        if largest >= self.model.vocab_size:
            raise UserError(
                f"the training examples have the token id {largest}, the model room for "
                f"{self.model.vocab_size}; raise DecoderConfig.vocab_size"
            )

    def _batches(
        self, examples: Sequence[TokenizedExample], seed: int
    ) -> Iterator[list[list[TokenizedExample]]]:
        config, stream = self.config, epochs(examples, seed)
        return batches_of_rows(stream, config.batch_size, config.row_length, config.loss_share)

    def _on_devices(self, rows: Sequence[Sequence[TokenizedExample]]) -> PackedBatch:
        return partitioning.in_rows(
            self._batch_sharding.tokens,
            self.config.batch_size,
            lambda start, stop: fill_batch(rows[start:stop], stop - start, self.config.row_length),
        )

    @functools.cached_property
    def _optimizer(self) -> Any:
        return steps.make_optimizer(self.optimizer)

    @functools.cached_property
    def _batch_sharding(self) -> PackedBatch:
        split = partitioning.batch_sharding(self.mesh, self.rules)
        return PackedBatch(split, split, split, split)

    @functools.cached_property
    def _state_shardings(self) -> steps.TrainState:
        """Adam's moments have the parameters' tree inside them; all else is a replicated scalar."""
        whole = partitioning.replicated(self.mesh)
        by_path = {
            path: sharding
            for path, sharding in jax.tree_util.tree_leaves_with_path(self.parameter_shardings)
        }

        def place(path: tuple, leaf: jax.ShapeDtypeStruct) -> Any:
            for start in range(len(path)):
                if leaf.ndim and path[start:] in by_path:
                    return by_path[path[start:]]
            return whole

        init = functools.partial(steps.init_state, self._optimizer)
        state = jax.eval_shape(init, abstract_params(self.model))
        return jax.tree_util.tree_map_with_path(place, state)

    # Functions to be called more than once: a new jit would compile them anew each time.

    @functools.cached_property
    def _random_params(self) -> Callable[[jax.Array], Any]:
        init = functools.partial(init_params, self.model)
        return jax.jit(init, out_shardings=self.parameter_shardings)

    @functools.cached_property
    def _init_state(self) -> Callable[[Any], steps.TrainState]:
        init = functools.partial(steps.init_state, self._optimizer)
        return jax.jit(init, out_shardings=self._state_shardings)

    @functools.cached_property
    def _step(self) -> Callable[..., tuple[steps.TrainState, jax.Array]]:
        def step(
            state: steps.TrainState, batch: PackedBatch, decay: jax.Array
        ) -> tuple[steps.TrainState, jax.Array]:
            with partitioning.on_mesh(self.mesh, self.rules):
                return steps.train_step(
                    self.model,
                    self._optimizer,
                    self.config.accumulation_steps,
                    state,
                    batch,
                    decay,
                    most_with_loss(self.config.row_length, self.config.loss_share),
                )

        whole = partitioning.replicated(self.mesh)
        return jax.jit(
            step,
            in_shardings=(self._state_shardings, self._batch_sharding, whole),
            out_shardings=(self._state_shardings, whole),
            donate_argnums=0,
        )


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}; lower OptimizerConfig.learning_rate or raise "
            f"OptimizerConfig.warmup_steps (finished iterations are kept)"
        )
    return loss
