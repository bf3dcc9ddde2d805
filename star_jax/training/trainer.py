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
        """Number of examples that fill a step's rows on average, at least 1 per row."""
        tokens = sum(len(example.tokens) for example in examples)
        return self.batch_size * max(1.0, self.row_length * len(examples) / tokens)


class Trained(NamedTuple):
    """The result of a training."""

    state: steps.TrainState
    losses: list[float]  # nats per weighted token, for each step taken
    packing_efficiency: float | None  # share of positions with a token, steps 1 to the last


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Makes train states and advances them; holds no weights."""

    model: DecoderConfig
    optimizer: steps.OptimizerConfig
    config: TrainerConfig
    mesh: Mesh
    rules: partitioning.Rules = partitioning.TRAINING_RULES

    def __post_init__(self):
        """Raises UserError for what the mesh cannot split or run, or rows the model cannot hold."""
        config, share = self.config, self.config.loss_share
        batch = "TrainerConfig.batch_size", config.batch_size
        partitioning.check_batch(*batch, self.mesh, self.rules, config.accumulation_steps)
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
        """The whole state's shapes, dtypes and shardings.

        Adam's moments are split as the parameters are; all else is a replicated scalar.
        """
        init = functools.partial(steps.init_state, self._optimizer)
        shapes, params = jax.eval_shape(init, abstract_params(self.model)), self.abstract_params()
        whole = partitioning.replicated(self.mesh)
        moments = optax.tree.map_params(
            self._optimizer,
            lambda leaf, param: leaf.update(sharding=param.sharding),
            shapes.opt_state,
            params,
            transform_non_params=lambda leaf: leaf.update(sharding=whole),
        )
        return steps.TrainState(shapes.step.update(sharding=whole), params, moments)

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
        """Advances `state` to step `n_steps`; raises UserError for a wrong example or loss.

        What a step sees depends on (examples, seed, step) alone, so training that is resumed
        from a checkpoint continues exactly as if it had not stopped.

        Args:
          state: its memory is donated; use the returned state.
          examples: repeated, each epoch in an order of its own.
          n_steps: the step to reach.
          seed: of the order.
          on_step: called after each step with its number and state.
        """
        size = (self.config.batch_size, self.config.row_length)
        self.check(examples)
        first = int(state.step)
        losses: list[float] = []
        filled = 0
        pending = None  # a loss is fetched one step late, so that the device never waits for it
        stream = packing.epochs(examples, seed)
        packed = packing.pack_rows(stream, self.config.row_length, self.config.loss_share)
        for step in range(1, n_steps + 1):
            rows = list(itertools.islice(packed, self.config.batch_size))
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
        return Trained(state, losses, filled / (n_steps * math.prod(size)) if n_steps else None)

    def lower_step(self) -> jax.stages.Lowered:
        """The optimizer step, lowered for the mesh without any array; it can be compiled."""
        size = (self.config.batch_size, self.config.row_length)
        batch = jax.eval_shape(functools.partial(packing.fill_batch, [], *size))
        decay = jax.ShapeDtypeStruct((), np.float32)
        return self._step.lower(self.abstract_state(), batch, decay)

    def check(self, examples: Sequence[TokenizedExample]) -> None:
        """Raises UserError for examples that the rows or the model's vocabulary cannot hold."""
        packing.check_lengths(examples, self.config.row_length, self.config.loss_share)
        largest = max(int(example.tokens.max()) for example in examples)
        if largest >= self.model.vocab_size:  # it would be embedded as NaN
            raise UserError(
                f"the training examples have the token id {largest}, the model room for "
                f"{self.model.vocab_size}; set DecoderConfig.vocab_size to {largest + 1} or more"
            )

    def _on_devices(self, rows: Sequence[Sequence[TokenizedExample]]) -> PackedBatch:
        length = self.config.row_length
        sharding = partitioning.batch_sharding(self.mesh, self.rules)

        def fill(start: int, stop: int) -> PackedBatch:
            return packing.fill_batch(rows[start:stop], stop - start, length)

        return partitioning.in_rows(sharding, self.config.batch_size, fill)

    @functools.cached_property
    def _optimizer(self) -> optax.GradientTransformation:
        return steps.make_optimizer(self.optimizer)

    @functools.cached_property
    def _state_shardings(self) -> steps.TrainState:
        return jax.tree.map(lambda leaf: leaf.sharding, self.abstract_state())

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
            settings = self.model, self._optimizer, parts
            with partitioning.on_mesh(self.mesh, self.rules):
                return steps.train_step(*settings, state, batch, decay, n_read)

        whole, state = partitioning.replicated(self.mesh), self._state_shardings
        split = partitioning.batch_sharding(self.mesh, self.rules)
        before, after = (state, split, whole), (state, whole)
        return jax.jit(step, in_shardings=before, out_shardings=after, donate_argnums=0)


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise UserError(
            f"the loss is {loss} at step {step}; lower OptimizerConfig.learning_rate or raise "
            f"OptimizerConfig.warmup_steps (finished iterations are kept)"
        )
    return loss
