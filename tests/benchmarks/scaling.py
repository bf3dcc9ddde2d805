"""What a question costs when there are 500 of them, and when there are 20,000.

    python tests/benchmarks/scaling.py [--json FILE]

Generates rationales (prompts, tokens, grading) with a model of gin_configs/models/tiny.gin on
sums of one to five digits, in 128 slots and without examples, as the quickstart does. The model is
trained for a minute on right scratchpads, so that its own have their lengths and end.

Every size takes its turn in each round; small ones ask several stages' worth of questions, one
stage after the other, so that a pass lasts long enough to be timed. Programs are compiled before.
Bars: the dearest size costs at most 1.10 times the cheapest, and the device waits for the host in
at most 20 % of the time (of the largest size).
"""

import argparse
import dataclasses
import functools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # to be run by its path
from star_jax.loop.finetune import finetune_from_base
from star_jax.loop.stages import GENERATE, Rollout, draw_attempts
from star_jax.models.config import DecoderConfig
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.records import Attempt, Question
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.run import progress
from star_jax.tasks.arithmetic import ArithmeticTask, arithmetic_vocabulary
from star_jax.tasks.corpus import ArithmeticCorpus
from star_jax.tasks.task import TRAIN
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer, TrainerConfig
from tests.benchmarks import common
from tests.benchmarks.common import Comparison, Contender, Pass

FLAT, IDLE = 1.10, 0.20


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the model, its training and the stages."""

    n_layers: int = 3
    d_model: int = 128
    steps: int = 1000
    questions: tuple[int, ...] = (500, 2000, 8000, 20_000)
    at_least: int = 8000  # questions that a pass asks
    slots: int = 128


SMALL = Sizes(n_layers=1, d_model=32, steps=5, questions=(20, 40), at_least=40, slots=8)


def main() -> None:
    """Measures, prints the tables and writes the results."""
    args = common.arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    sizes = SMALL if args.small else Sizes()
    progress.CONSOLE.quiet = True
    task = ArithmeticTask(n_train=max(sizes.questions), n_few_shot=0, seed=args.seed)
    questions = task.questions(TRAIN)
    order = np.random.default_rng([args.seed, 4]).permutation(len(questions))
    common.say("training ...")
    contenders = stages(trained(sizes, args.seed), task, [questions[i] for i in order], sizes)
    for contender in contenders:
        contender.run()  # compiles
    common.rounds(contenders, args.repeats, [])
    common.show_contenders("a stage of so many questions", "questions", contenders)
    cost = {c.name: 1 / c.rate for c in contenders}
    idle = contenders[-1].note("device_idle_share")
    print(
        f"tokens of a text {contenders[-1].note('tokens'):.1f}, slots occupied "
        f"{contenders[-1].note('slot_occupancy'):.0%}, ended {contenders[-1].note('ended'):.0%}"
    )
    comparisons = [
        Comparison(
            "dearest / cheapest question", max(cost.values()) / min(cost.values()), FLAT, True
        ),
        Comparison("device idle, share of the stage", idle, IDLE, True),
    ]
    common.finish(
        args, "scaling", dataclasses.asdict(sizes), contenders, comparisons,
        seconds_per_question=cost,
    )  # fmt: skip


def trained(sizes: Sizes, seed: int) -> tuple[DecoderConfig, Any]:
    """A model that writes scratchpads, right or wrong, and its weights."""
    model = DecoderConfig(
        vocab_size=20,
        n_layers=sizes.n_layers,
        d_model=sizes.d_model,
        n_heads=sizes.d_model // 32,
        head_dim=32,
        d_ff=4 * sizes.d_model,
        rotary_dim=32,
        context_length=256,
        embedding_init=0.2,
    )
    corpus = ArithmeticCorpus(
        n_documents=8 * sizes.steps, facts=0.0, plain=1.0, layout=0.0, hinted=0.0,
        plain_digits=(1, 1, 1, 1, 1), seed=seed,
    )  # fmt: skip
    trainer = Trainer(
        model,
        OptimizerConfig(learning_rate=2e-3, warmup_steps=50, b2=0.98, decay_share=0.5),
        TrainerConfig(batch_size=8, row_length=128),
        one_device(),
    )
    params, _ = finetune_from_base(
        lambda: trainer.random_params(seed),
        corpus.documents(arithmetic_vocabulary()),
        trainer,
        n_steps=sizes.steps,
        seed=seed,
    )
    return model, params


def one_device() -> jax.sharding.Mesh:
    """A mesh of the first device."""
    return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


def stages(
    trained_model: tuple[DecoderConfig, Any],
    task: ArithmeticTask,
    questions: Sequence[Question],
    sizes: Sizes,
) -> list[Contender]:
    """A contender for each number of questions in a stage."""
    config, params = trained_model
    settings = SamplerConfig(batch_size=sizes.slots, max_new_tokens=100)
    sampler = Sampler(config, arithmetic_vocabulary(), settings, one_device())
    sampler = sampler.for_prompts([task.question_text(q, hinted=False) for q in questions])
    model = sampler.load(params)
    stats: list[Any] = []
    rollout = Rollout(sampler, task, seed=0, iteration=1, on_stats=stats.append)

    def run(n: int, n_stages: int) -> Pass:
        def ask() -> list[Attempt]:
            parts = [questions[i * n : (i + 1) * n] for i in range(n_stages)]
            return [a for part in parts for a in draw_attempts(model, part, rollout, GENERATE)]

        stats.clear()
        seconds, attempts = common.timed(ask)
        means = {
            name: float(np.mean([s[name] for s in stats]))
            for name in ("device_idle_share", "slot_occupancy")
        }
        tokens = float(np.mean([len(attempt.token_ids) for attempt in attempts]))
        ended = float(np.mean([attempt.ended for attempt in attempts]))
        return Pass(seconds, [], {**means, "tokens": tokens, "ended": ended})

    contenders = []
    for n in sizes.questions:
        n_stages = max(1, sizes.at_least // n)
        work = functools.partial(run, n, n_stages)
        contenders.append(Contender(f"{n:,} questions", work, n * n_stages))
    return contenders


if __name__ == "__main__":
    main()
