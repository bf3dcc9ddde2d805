"""Algorithm 1, line 7: train on what was kept, always from the original model M."""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import seqio

from star_jax.errors import UserError
from star_jax.records import RATIONALIZED, KeptExample, Question, TokenizedExample
from star_jax.rollout.native.fitting import newest_that_fit
from star_jax.run.checkpoints import TrainingCheckpoint
from star_jax.run.progress import log, progress
from star_jax.tasks.task import ReasoningTask
from star_jax.tokenizers.vocabularies import encode_example, encode_spans
from star_jax.training.packing import check_lengths
from star_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """M_n and what its training did."""

    params: Any
    steps: int
    loss: float | None  # nats per weighted token, mean over the last tenth of the steps
    packing_efficiency: float | None = None  # share of the rows' places that held a token

    def notes(self) -> dict[str, Any]:
        """What `metrics.IterationMetrics` wants to know, JSON-ready."""
        return {
            "train_steps": self.steps,
            "train_loss": self.loss,
            "packing_efficiency": self.packing_efficiency,
        }


def kept_to_examples(
    kept: Sequence[KeptExample],
    questions: Sequence[Question],
    task: ReasoningTask,
    vocabulary: seqio.Vocabulary,
    *,
    loss_on_prompt: bool = False,
    hinted_share: float = 0.0,
    few_shot: bool = False,
    row_length: int = 0,
    seed: tuple[int, ...] = (0,),
) -> list[TokenizedExample]:
    """Tokenizes kept examples; a share of the rationalized ones is shown with its hint again.

    A model trained on hint-free examples alone forgets what a hint is, and the next outer
    iteration's rationalizations dry up. `hinted_share` of the rationalized examples, drawn by
    `seed`, therefore train with the hint in the prompt, where there is no loss. The paper
    stores all of them without (0.0); its released code has a switch of this kind too.

    With `few_shot` the few-shot examples stand before each question as they do in sampling, also
    without loss (the paper's ablation). Those that pass `row_length` go, oldest first, with a
    warning that counts them.
    """
    if not 0 <= hinted_share <= 1:
        raise UserError(f"hinted_share = {hinted_share} is not a share; give 0 to 1")
    by_id = {question.id: question for question in questions}
    draws = np.random.default_rng([*seed, len(kept)]).random(len(kept))
    ids_of = functools.cache(lambda text: tuple(vocabulary.encode(text)))  # of few-shot examples
    n_dropped: list[int] = []

    def encode(example: KeptExample, draw: float) -> TokenizedExample:
        question = by_id[example.question_id]
        hinted = example.source == RATIONALIZED and draw < hinted_share
        prompt = task.question_text(question, hinted=True) if hinted else example.prompt
        plain = encode_example(vocabulary, prompt, example.completion, loss_on_prompt)
        shown = task.few_shot_examples(question.group, hinted) if few_shot else ()
        if not shown:
            return plain
        ids = [ids_of(text) for text in shown]
        room = row_length - len(plain.tokens)
        n_shown = newest_that_fit([len(text) for text in ids], room) or 0
        n_dropped.append(len(shown) - n_shown)
        before = [(text, loss_on_prompt) for text in ids[len(ids) - n_shown :]]
        return encode_spans(
            vocabulary, [*before, (prompt, loss_on_prompt), (example.completion, True)]
        )

    examples = [encode(example, draw) for example, draw in zip(kept, draws, strict=True)]
    if any(n_dropped):
        log(
            f"warning: {sum(n > 0 for n in n_dropped)} of {len(kept)} training examples pass "
            f"TrainerConfig.row_length = {row_length} and go without {sum(n_dropped)} of their "
            f"few-shot examples in all (at most {max(n_dropped)} each, oldest first)"
        )
    return examples


def finetune_from_base(
    load_base: Callable[[], Any],
    examples: Sequence[TokenizedExample],
    trainer: Trainer,
    *,
    n_steps: int,
    seed: int,
    checkpoint: TrainingCheckpoint | None = None,
    stage: str = "finetune",
    on_losses: Callable[[int, Sequence[float]], None] = lambda first_step, losses: None,
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
      on_losses: gets the first step that was taken here, and the loss of each from there on.

    Raises:
      UserError: there is nothing to train on, or the loss is not finite.
    """
    # Before anything is loaded.
    check_lengths(examples, trainer.config.row_length, trainer.config.loss_share)
    every = trainer.config.checkpoint_every if checkpoint else 0
    n_last = max(1, n_steps // 10)
    # Which weights to start from: 1. the state inside this fine-tuning  2. the base
    state = checkpoint.restore(trainer.abstract_state()) if every else None
    state = trainer.init_state(load_base()) if state is None else state
    with progress(stage, n_steps, "steps") as advance:
        advance(int(state.step))

        def on_step(step: int, state: Any) -> None:
            advance(1)
            # Not among the last steps: who resumes has to see the loss of all of them.
            if every and step % every == 0 and step <= n_steps - n_last:
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
