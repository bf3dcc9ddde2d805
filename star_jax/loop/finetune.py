"""Algorithm 1, line 7: train on what was kept, always from the original model M."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from star_jax.errors import UserError
from star_jax.loop.stages import CHECKPOINT, FINETUNE
from star_jax.records import Params, TokenizedExample
from star_jax.run import checkpoints
from star_jax.run.checkpoints import TrainingCheckpoint
from star_jax.run.progress import progress
from star_jax.run.stage_dir import Lazy, Notes, StageDir, StageResult
from star_jax.training.trainer import Trainer

OnLosses = Callable[[int, Sequence[float]], None]  # of the first step taken here, and each loss


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """M_n and what its training did."""

    params: Params
    steps: int
    loss: float | None  # nats per weighted token, mean over the last tenth of the steps
    packing_efficiency: float | None = None  # share of the rows' places that held a token

    def notes(self) -> Notes:
        """`training` of `metrics.IterationMetrics`: steps, loss and packing_efficiency."""
        names = ("steps", "loss", "packing_efficiency")
        return {name: getattr(self, name) for name in names}


def finetune_from_base(
    load_base: Callable[[], Params],
    examples: Sequence[TokenizedExample],
    trainer: Trainer,
    *,
    n_steps: int,
    seed: int,
    checkpoint: TrainingCheckpoint | None = None,
    stage: str = "finetune",
    on_losses: OnLosses = lambda first_step, losses: None,
) -> Finetuned:
    """M_n = train(M, D_n + D_n^rat) for `n_steps` with a fresh optimizer.

    Args:
      load_base: reads the original weights, laid out for training.
      examples: what to train on; must not be empty.
      trainer: optimizer, packing and mesh.
      n_steps: optimizer steps to take in all.
      seed: of the order of the examples.
      checkpoint: where the state is kept inside training, if anywhere.
      stage: name of the work for the progress bar.
      on_losses: gets the losses of the steps that were taken here.

    Raises:
      UserError: there is nothing to train on, or the loss is not finite.
    """
    trainer.check(examples)  # before anything is compiled
    every = trainer.config.checkpoint_every if checkpoint else 0
    n_last = max(1, n_steps // 10)
    # Which weights to start from: 1. the state inside this fine-tuning  2. the base
    state = checkpoint.restore(trainer.abstract_state()) if checkpoint and every else None
    state = trainer.init_state(load_base()) if state is None else state
    with progress(stage, n_steps, "steps") as advance:
        advance(int(state.step))

        def on_step(step: int, state: Params) -> None:
            advance(1)
            # Not among the last steps: a resumed run needs the loss of all of them.
            if checkpoint and step <= n_steps - n_last and checkpoint.is_due(step, every):
                checkpoint.save(step, state)

        try:
            trained = trainer.train(state, examples, n_steps, seed, on_step)
        except UserError:
            if checkpoint:
                checkpoint.clear()  # it may hold what spoilt the loss
            raise
    on_losses(n_steps - len(trained.losses) + 1, trained.losses)
    last = trained.losses[-n_last:]
    loss = sum(last) / len(last) if last else None
    return Finetuned(trained.state.params, n_steps, loss, trained.packing_efficiency)


def train_stage(
    directory: StageDir,
    load: Callable[[], Params],
    examples: Callable[[], Sequence[TokenizedExample]],
    trainer: Trainer,
    *,
    n_steps: Callable[[Sequence[TokenizedExample]], int],
    seed: int,
    name: str = CHECKPOINT,
    stage: str = FINETUNE,
    on_losses: OnLosses = lambda first_step, losses: None,
) -> tuple[StageResult[Notes], Lazy[Params]]:
    """`finetune_from_base` as a stage on disk: read if it is finished, resumed if it was begun.

    Args:
      directory: of the stage.
      load: reads the weights to start from.
      examples: makes what to train on.
      trainer: optimizer, packing and mesh.
      n_steps: optimizer steps for these examples.
      seed: of the order of the examples.
      name: of the checkpoint and its marker.
      stage: name of the work for the progress bar.
      on_losses: as in `finetune_from_base`.

    Returns:
      Notes of the training and its seconds, and the trained weights.
    """
    inside = TrainingCheckpoint(directory.path / "training")

    def train() -> tuple[Params, Notes]:
        documents = examples()
        trained = finetune_from_base(
            load,
            documents,
            trainer,
            n_steps=n_steps(documents),
            seed=seed,
            checkpoint=inside,
            stage=stage,
            on_losses=on_losses,
        )
        return trained.params, trained.notes()

    def read(path: Path) -> Params:
        return checkpoints.load(path, trainer.abstract_params())

    result = directory.weights(name, train, checkpoints.save, read)
    inside.clear()
    return result
