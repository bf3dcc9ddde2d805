"""Trains weights on examples for a number of steps, sharded over the mesh."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from star_jax.errors import UserError
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import abstract_params, init_params, placed_params
from star_jax.models.splash import check_attention
from star_jax.parallel import partitioning
from star_jax.records import PackedBatch, Params, TokenizedExample
from star_jax.training import packing
from star_jax.training import train_step as steps
from star_jax.training.schedules import final_decay


@dataclasses.dataclass(frozen=True)
class TrainerConfig:
    """How examples become optimizer steps; the defaults are the paper's (section 4.1)."""

    batch_size: int = 8  # packed rows an optimizer step sees
    row_length: int = 1024  # tokens in a row
    accumulation_steps: int = 1  # parts of a batch, one after the other, to save memory
    loss_on_prompt: bool = False  # True also trains on the question
    # The largest share of a row's tokens with loss. The model predicts no more than that, which
    # saves time for long prompts; an example with a larger share takes more room in its row.
    loss_share: float = 1.0
    # Steps between checkpoints inside training; 0: none; -1: as often as pays, first after 3.5
    # minutes, then less often the longer a save takes (2 % of the time if it takes 17 s).
    checkpoint_every: int = -1

    def examples_per_step(self, examples: Sequence[TokenizedExample]) -> float:
        """Number of examples that fill an optimizer step's rows on average, at least 1 per row."""
        tokens = sum(len(example.tokens) for example in examples)
        return self.batch_size * max(1.0, self.row_length * len(examples) / tokens)


class Trained(NamedTuple):
    """The result of a training."""

    state: steps.TrainState
    losses: list[float]  # nats per weighted token, for each step taken
    packing_efficiency: float | None  # share of positions with a token, steps 1 to the last


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
        config, share = self.config, self.config.loss_share
        unit = config.accumulation_steps
        partitioning.check_batch(
            "TrainerConfig.batch_size", config.batch_size, self.mesh, self.rules, unit
        )
        check_attention(self.model, self.mesh, self.rules)
        if config.row_length % partitioning.n_parts(self.mesh, self.rules, "length"):
            raise UserError(
                f"TrainerConfig.row_length {config.row_length} is not divisible by "
                f"MeshConfig.sequence = {self.mesh.shape['sequence']}; change one of them"
            )
        if not 0 < share <= 1 or packing.most_with_loss(config.row_length, share) < 1:
            raise UserError(
                f"TrainerConfig.loss_share = {share}: give a share of a row, above 0 and at most 1"
            )
        if config.row_length > self.model.context_length:
            raise UserError(
                f"TrainerConfig.row_length {config.row_length} exceeds the model's context length "
                f"{self.model.context_length}; lower it or raise DecoderConfig.context_length"
            )
        if config.checkpoint_every < -1:
            raise UserError(
                f"TrainerConfig.checkpoint_every = {config.checkpoint_every}: give a number of "
                f"steps, 0 for no checkpoints inside training, or -1 for as often as pays"
            )

    def abstract_params(self) -> Params:
        """The parameters' shapes, dtypes and shardings."""
        return placed_params(self.model, self.mesh, self.rules)

    def abstract_state(self) -> steps.TrainState:
        """The whole state's shapes, dtypes and shardings; Adam's moments lie as the weights."""
        return jax.tree.map(
            lambda leaf, sharding: leaf.update(sharding=sharding),
            self._state_shapes(),
            self._state_shardings,
        )

    def random_params(self, seed: int) -> Params:
        """New random parameters, made in their sharded place."""
        return self._random_params(jax.random.key(seed))

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
        from a checkpoint continues exactly as if it had not stopped.

        Args:
          state: its memory is donated; use the returned state.
          examples: repeated epoch after epoch, each in its own order.
          n_steps: the step to reach.
          seed: of the order.
          on_step: called after each step with its number and state.

        Raises:
          UserError: no examples, one longer than a row, an id that the model has no row for, or a
            loss that is not finite.
        """
        size = (self.config.batch_size, self.config.row_length)
        packing.check_lengths(examples, self.config.row_length, self.config.loss_share)
        self._check_ids(examples)
        first = int(state.step)
        losses: list[float] = []
        n_batches = filled = 0
        pending = None  # a loss is fetched one step late, so that the device never waits for it
        stream = packing.epochs(examples, seed)
        batches = packing.batches_of_rows(stream, *size, self.config.loss_share)
        for step, rows in enumerate(itertools.islice(batches, n_steps), start=1):
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
        return Trained(state, losses, filled / (n_batches * math.prod(size)) if n_batches else None)

    def lower_step(self) -> jax.stages.Lowered:
        """The optimizer step, lowered for the mesh without any array.

        Compiling it says how much memory it needs on each device, even for devices elsewhere.
        """
        size = (self.config.batch_size, self.config.row_length)
        batch = jax.eval_shape(functools.partial(packing.fill_batch, [], *size))
        decay = jax.ShapeDtypeStruct((), np.float32)
        return self._step.lower(self.abstract_state(), batch, decay)

    def _check_ids(self, examples: Sequence[TokenizedExample]) -> None:
        """Reports an id beyond the embedding, which would become NaN, before the loss does."""
        largest = max(int(example.tokens.max()) for example in examples)
        if largest >= self.model.vocab_size:
            raise UserError(
                f"the training examples have the token id {largest}, the model room for "
                f"{self.model.vocab_size}; raise DecoderConfig.vocab_size"
            )

    def _on_devices(self, rows: Sequence[Sequence[TokenizedExample]]) -> PackedBatch:
        length = self.config.row_length
        return partitioning.in_rows(
            partitioning.batch_sharding(self.mesh, self.rules),
            self.config.batch_size,
            lambda start, stop: packing.fill_batch(rows[start:stop], stop - start, length),
        )

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return steps.make_optimizer(self.optimizer)

    def _state_shapes(self) -> steps.TrainState:
        init = functools.partial(steps.init_state, self._optimizer)
        return jax.eval_shape(init, abstract_params(self.model))

    @functools.cached_property
    def _state_shardings(self) -> steps.TrainState:
        """Adam's moments lie as the parameters; all else is a replicated scalar."""
        whole = partitioning.replicated(self.mesh)
        params = jax.tree.map(lambda leaf: leaf.sharding, self.abstract_params())
        moments = optax.tree.map_params(
            self._optimizer,
            lambda _, sharding: sharding,
            self._state_shapes().opt_state,
            params,
            transform_non_params=lambda _: whole,
        )
        return steps.TrainState(whole, params, moments)

    # Functions that are called more than once: a new jit would compile them again each time.

    @functools.cached_property
    def _random_params(self) -> Callable[[jax.Array], Params]:
        init = functools.partial(init_params, self.model)
        return jax.jit(init, out_shardings=self._state_shardings.params)

    @functools.cached_property
    def init_state(self) -> Callable[[Params], steps.TrainState]:
        """Function of parameters: step 0 from a copy of them, with a new optimizer."""
        init = functools.partial(steps.init_state, self._optimizer)
        return jax.jit(init, out_shardings=self._state_shardings)

    @functools.cached_property
    def _step(self) -> jax.stages.Wrapped:
        """Function (state, batch, decay) -> (state, loss)."""
        parts = self.config.accumulation_steps
        n_read = packing.most_with_loss(self.config.row_length, self.config.loss_share)

        def step(
            state: steps.TrainState, batch: PackedBatch, decay: jax.Array
        ) -> tuple[steps.TrainState, jax.Array]:
            with partitioning.on_mesh(self.mesh, self.rules):
                return steps.train_step(
                    self.model, self._optimizer, parts, state, batch, decay, n_read
                )

        whole = partitioning.replicated(self.mesh)
        split = partitioning.batch_sharding(self.mesh, self.rules)
        return jax.jit(
            step,
            in_shardings=(self._state_shardings, split, whole),
            out_shardings=(self._state_shardings, whole),
            donate_argnums=0,
        )


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}; lower OptimizerConfig.learning_rate or raise "
            f"OptimizerConfig.warmup_steps (finished iterations are kept)"
        )
    return loss
