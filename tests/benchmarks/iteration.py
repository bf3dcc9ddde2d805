"""A whole outer iteration of STaR, beside a plain script with transformers and torch.

    python tests/benchmarks/iteration.py [--json FILE]

Generate rationales for 96 questions behind 1,000 tokens of few-shot examples, rationalize the
failures behind as many hinted ones, filter, fine-tune from the base for 2 epochs, save, and
evaluate 32 questions; greedy, float32, a GPT-J of 6 layers, d_model 512 and a vocabulary of 8,192
with random weights (see `workload.py`). An answer is right if its last id is odd where the
question's answer says so, and even where not: a model that knows nothing is right half the time.

The plain script (`iteration_side` in `peer.py`) works as the released code does: each stage loads
the model anew, every row has the whole prompt, training pads its batches. It samples in batches of
the best size, and a training batch has as many documents as one of star_jax's packed batches.

Both sides must write the same ids for every question, hinted ones too, and keep the same examples.
After training they see the same examples as often, in other batches: of the evaluation, only the
share of equal texts is told. star_jax has compiled when the rounds begin, as it has from the
second outer iteration on; `compiling_seconds` is what the first one took longer. Bar: 5x.
"""

import argparse
import dataclasses
import functools
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # to be run by its path
from star_jax.loop.examples import examples_of, tokenized
from star_jax.loop.filters import NoHintLeak, RightAnswer, keep
from star_jax.loop.finetune import finetune_from_base
from star_jax.loop.stages import EVALUATE, GENERATE, RATIONALIZE, Rollout, draw_attempts, failures
from star_jax.models import base_weights
from star_jax.records import Attempt, Question
from star_jax.run import checkpoints, progress
from star_jax.tasks.task import ReasoningTask
from star_jax.training.train_step import OptimizerConfig
from star_jax.training.trainer import Trainer, TrainerConfig
from tests.benchmarks import common, workload
from tests.benchmarks.common import Comparison, Contender, Pass
from tests.benchmarks.workload import FIRM, spell

HINTS = {"0": 2, "1": 0}  # answer -> the id that hints at it; neither is a word
QUESTION_IDS = (30, 80)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of the model, the questions and the training."""

    vocab_size: int = 8192
    n_layers: int = 6
    d_model: int = 512
    n_prefix: int = 1000
    n_questions: int = 96
    n_eval: int = 32
    max_new_tokens: int = 64
    median: int = 30
    slots: int = 64
    row_length: int = 512
    rows: int = 2
    epochs: int = 2
    batch_sizes: tuple[int, ...] = (8, 16, 32)


SMALL = Sizes(
    vocab_size=256, n_layers=1, d_model=64, n_prefix=40, n_questions=12, n_eval=4,
    max_new_tokens=10, median=6, slots=8, row_length=128, rows=1, epochs=1, batch_sizes=(8,),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome(Pass):
    """A pass with what it led to."""

    kept: Sequence[int] = ()  # places of the questions whose texts were kept
    eval_ids: Sequence[Sequence[int]] = ()


@dataclasses.dataclass(frozen=True)
class ParityTask(ReasoningTask):
    """Questions of ids; the answer is "1" where a completion's last id has to be odd, else "0"."""

    asked: dict[str, tuple[Question, ...]]  # split -> questions
    prefix: tuple[int, ...]
    hinted_prefix: tuple[int, ...]

    @property
    def name(self) -> str:
        return "benchmark_parity"

    def load_questions(self, split: str) -> tuple[Question, ...]:
        return self.asked[split]

    def make_question(self, id_: str, text: str) -> Question:
        return Question(id_, text, "0")

    def question_text(self, question: Question, hinted: bool) -> str:
        return f"{question.text} {HINTS[question.answer]}" if hinted else question.text

    def bare_answer(self, question: Question) -> str:
        return str(workload.FIRST_WORD + 1 - int(question.answer))

    def gold_completion(self, question: Question) -> None:
        return None

    def find_answer(self, question: Question, completion: str) -> tuple[str | None, int]:
        words = completion.split()
        return str(int(words[-1]) % 2) if words else None, len(completion)

    def few_shot_examples(self, group: str, hinted: bool) -> tuple[str, ...]:
        return (spell(self.hinted_prefix if hinted else self.prefix),)


def main() -> None:
    """Measures, prints the tables and writes the results."""
    args = common.arguments(argparse.ArgumentParser(description=__doc__.splitlines()[0]))
    progress.CONSOLE.quiet = True
    sizes = SMALL if args.small else Sizes()
    common.say("calibrating ...")
    config = workload.gptj(sizes.vocab_size, sizes.n_layers, sizes.d_model, 2048)
    params, task, figures = make_task(config, sizes, args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        workload.export(folder / "hf", config, params)
        write_work(folder, task, sizes)
        run = functools.partial(outer_iteration, folder, config, task, sizes)
        first = run()
        ours = Contender("star_jax", run, len(first.ids))
        per_step = round(first.notes["examples_a_step"])
        with common.peer("iteration", folder, args, sys.executable) as plain:

            def theirs(sample_batch: int) -> Contender:
                def run() -> Pass:
                    reply = plain.ask(sample_batch=sample_batch, train_batch=per_step)
                    require_same_kept(reply["kept"], first.kept)
                    same = share_equal(reply["eval_ids"], first.eval_ids)
                    notes = {**reply["stages"], "equal_evaluation_texts": same}
                    return Pass(reply["seconds"], reply["ids"], notes)

                return Contender(f"plain script, batches of {sample_batch}", run, len(first.ids))

            best = common.best_batch("plain script, batches", theirs, sizes.batch_sizes)
            other = theirs(best)
            common.rounds([ours, other], args.repeats, first.ids)
            versions = plain.versions
    common.show_contenders("an outer iteration", "texts", [ours, other])
    show_stages([ours, other])
    ratio = Comparison("a whole outer iteration", ours.rate / other.rate, 5.0)
    common.finish(
        args, "iteration", dataclasses.asdict(sizes), [ours, other], [ratio], texts=figures,
        identical_ids=True, kept=len(first.kept), peer_versions=versions,
        compiling_seconds=first.seconds - ours.median,
        equal_evaluation_texts=other.note("equal_evaluation_texts"),
    )  # fmt: skip


def make_task(config: Any, sizes: Sizes, seed: int) -> tuple[Any, ParityTask, dict]:
    """Weights and a task whose questions, plain and hinted, are answered firmly."""
    rng = np.random.default_rng([seed, 3])
    n = sizes.n_questions + sizes.n_eval
    params = workload.random_params(config, seed)
    prefix, hinted_prefix = (
        workload.random_ids(rng, sizes.n_prefix, sizes.vocab_size) for _ in range(2)
    )
    drawn = workload.random_questions(rng, 2 * n, *QUESTION_IDS, sizes.vocab_size)
    answers = rng.integers(0, 2, len(drawn)).astype(str).tolist()
    hinted = [(*ids, HINTS[answer]) for ids, answer in zip(drawn, answers, strict=True)]
    sampler = sampler_for(config, sizes)
    plain = workload.greedy_paths(sampler, params, prefix, drawn)
    with_hint = workload.greedy_paths(sampler, params, hinted_prefix, hinted)
    bias = plain.eos_bias(sizes.median)
    margins = np.minimum(plain.margins(bias), with_hint.margins(bias))
    firm = np.flatnonzero(margins >= FIRM)[:n]
    assert len(firm) == n, "too many questions hang on a hair: draw more, or lower FIRM"
    questions = [Question(f"q{i}", spell(drawn[i]), answers[i]) for i in firm]
    asked = {
        "train": tuple(questions[: sizes.n_questions]),
        "validation": tuple(questions[sizes.n_questions :]),
    }
    figures = {
        "eos_bias": bias,
        "smallest_margin": float(margins[firm].min()),
        "median_tokens": float(np.median(plain.lengths(bias)[firm])),
    }
    task = ParityTask(asked, prefix, hinted_prefix)
    return workload.with_eos_bias(params, bias), task, figures


def sampler_for(config: Any, sizes: Sizes) -> Any:
    """The sampler of all stages."""
    return workload.make_sampler(
        config, batch_size=sizes.slots, max_new_tokens=sizes.max_new_tokens
    )


def outer_iteration(folder: Path, config: Any, task: ParityTask, sizes: Sizes) -> Outcome:
    """Algorithm 1, lines 3-7, and the evaluation, by star_jax."""
    stages: dict[str, float] = {}

    def stage(name: str, work: Any) -> Any:
        stages[name], result = common.timed(work)
        return result

    sampler, trainer = sampler_for(config, sizes), trainer_for(config, sizes)
    rollout = Rollout(sampler, task, few_shot=True, seed=0, iteration=1)
    questions = task.asked["train"]

    def load_base() -> Any:
        return base_weights.Base(str(folder / "hf"), config, trainer.abstract_params()).load()

    def generate() -> tuple[Any, list[Attempt]]:
        model = sampler.load(load_base())
        return model, draw_attempts(model, questions, rollout, GENERATE)

    def finetune() -> tuple[Any, float]:
        texts = examples_of(kept, questions, task)
        examples = [tokenized(example, sampler.vocabulary) for example in texts]
        tokens = sum(len(example.tokens) for example in examples)
        per_step = sizes.rows * sizes.row_length * len(examples) / tokens
        n_steps = math.ceil(sizes.epochs * len(examples) / per_step)
        tuned, _ = finetune_from_base(load_base, examples, trainer, n_steps=n_steps, seed=0)
        checkpoints.save(folder / "checkpoint", tuned)
        return tuned, per_step

    model, said = stage("generate", generate)
    hinted = stage(
        "rationalize",
        lambda: draw_attempts(model, failures(questions, said), rollout, RATIONALIZE),
    )
    kept, _ = keep([*said, *hinted], (RightAnswer(), NoHintLeak()))
    tuned, per_step = stage("finetune", finetune)
    checked = stage(
        "evaluate",
        lambda: draw_attempts(sampler.load(tuned), task.asked["validation"], rollout, EVALUATE),
    )
    places = {question.id: i for i, question in enumerate(questions)}
    return Outcome(
        sum(stages.values()),
        written([*said, *hinted]),
        {**stages, "examples_a_step": per_step},
        kept=[places[example.question_id] for example in kept],
        eval_ids=written(checked),
    )


@functools.cache
def trainer_for(config: Any, sizes: Sizes) -> Trainer:
    """The trainer of all iterations: what it has compiled stays."""
    settings = TrainerConfig(batch_size=sizes.rows, row_length=sizes.row_length)
    mesh = sampler_for(config, sizes).mesh
    return Trainer(config, OptimizerConfig(warmup_steps=1), settings, mesh)


def written(attempts: Sequence[Attempt]) -> list[list[int]]:
    """The ids of each attempt, EOS included where it was written."""
    return [
        [*map(int, attempt.completion.split()), *([workload.EOS] if attempt.ended else [])]
        for attempt in attempts
    ]


def write_work(folder: Path, task: ParityTask, sizes: Sizes) -> None:
    """What the plain script needs, besides the weights."""
    optimizer = OptimizerConfig()

    def ids(questions: Sequence[Question]) -> list[list[int]]:
        return [[int(word) for word in question.text.split()] for question in questions]

    words = {
        "prefix": task.prefix,
        "hinted_prefix": task.hinted_prefix,
        "questions": ids(task.asked["train"]),
        "answers": [question.answer for question in task.asked["train"]],
        "eval_questions": ids(task.asked["validation"]),
        "hints": HINTS,
        "max_new_tokens": sizes.max_new_tokens,
        "eos_id": workload.EOS,
        "training": {
            "learning_rate": optimizer.learning_rate,
            "clip_norm": optimizer.clip_norm,
            "epochs": sizes.epochs,
        },
    }
    (folder / "work.json").write_text(json.dumps(words), encoding="utf-8")


def require_same_kept(got: Sequence[int], wanted: Sequence[int]) -> None:
    """Ends the script with exit code 1 unless both sides kept the same examples."""
    if list(got) != list(wanted):
        differing = sorted(set(got) ^ set(wanted)) or "none, but their order"
        raise SystemExit(f"the plain script kept other examples: {differing}")


def share_equal(got: Sequence[Sequence[int]], wanted: Sequence[Sequence[int]]) -> float:
    """Of the texts that both sides wrote."""
    return float(np.mean([list(a) == list(b) for a, b in zip(got, wanted, strict=True)]))


def show_stages(contenders: Sequence[Contender]) -> None:
    """Prints the seconds of each stage."""
    for name in ("generate", "rationalize", "finetune", "evaluate"):
        ours, theirs = (contender.note(name) for contender in contenders)
        print(f"{name:12} {ours:>8.2f} s {theirs:>8.2f} s {theirs / ours:>7.2f}x")


if __name__ == "__main__":
    main()
