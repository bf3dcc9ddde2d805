"""Fine-tuning beside transformers: the same weights, documents, optimizer steps and losses.

    python tests/benchmarks/training.py [--json FILE] [--threads 2] [--small]

A pass is a few optimizer steps from the same weights, without what comes once (compiling, copying
the weights). Contenders:

    star_jax             Trainer: rows packed by `star_jax.packing`
    transformers packed  the same rows, told apart by their position ids (its own way to pack)
    transformers padded  the same documents, one a row, padded to the longest of the step

transformers trains as its own Trainer does on a CPU: fused torch AdamW, clipped gradients, in train
mode, without gradient checkpointing. The losses of every step have to agree. Documents are random
ids with the lengths that CommonsenseQA questions with a rationale have (`cqa_lengths`).
"""

import argparse
import itertools
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))  # to be run by its path
sys.modules.setdefault("triton", None)  # its LLVM and TensorFlow's abort the process together
import jax  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from star_jax.models.config import DecoderConfig  # noqa: E402
from star_jax.models.families import hf_config  # noqa: E402
from star_jax.parallel.partitioning import MeshConfig, make_mesh  # noqa: E402
from star_jax.records import PackedBatch, TokenizedExample  # noqa: E402
from star_jax.tools.convert import hf_tensors  # noqa: E402
from star_jax.training.packing import epochs  # noqa: E402
from star_jax.training.train_step import OptimizerConfig  # noqa: E402
from star_jax.training.trainer import Trainer, TrainerConfig  # noqa: E402
from tests.benchmarks import common  # noqa: E402
from tests.packed import pack_batches, packing_efficiency  # noqa: E402

BAR_PACKED, BAR_PADDED = 1.2, 2.5  # times the tokens a second of transformers
TOLERANCE = 1e-3  # of a step's loss, nats per token
OPTIMIZER = OptimizerConfig(learning_rate=1e-4, warmup_steps=10)
N_DOCUMENTS = 3000
PROMPT_SHARE = 0.6  # of a document, without loss
LOSS_SHARE = 0.5  # TrainerConfig's: rows of these documents never have more
NO_LABEL = -100  # transformers' mark of a token without loss
SIZES = {  # name: usual and small
    "layers": (12, 2),
    "d_model": (768, 32),
    "vocab_size": (50400, 97),
    "rows": (2, 2),
    "row_length": (512, 256),
    "steps": (5, 5),
}


def main() -> int:
    """Measures and prints; returns 1 where losses differ."""
    args, sizes = arguments()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    trainer, examples = make_trainer(sizes), documents(args.seed, sizes)
    stream = pack_batches(
        epochs(examples, args.seed), sizes["rows"], sizes["row_length"], LOSS_SHARE
    )
    batches = list(itertools.islice(stream, sizes["steps"]))
    params = jax.device_get(trainer.random_params(args.seed))
    peer = Peer(params, trainer.model)
    losses: dict[str, list[float]] = {}

    def contender(name: str, run: Any) -> common.Contender:
        def once() -> common.Pass:
            seconds, losses[name] = run()
            return common.Pass(seconds, [])

        tokens = sum(np.count_nonzero(batch.segment_ids) for batch in batches)
        return common.Contender(name, once, int(tokens))

    contenders = [
        contender("star_jax", lambda: train(trainer, params, examples, sizes["steps"], args.seed)),
        contender("transformers packed", lambda: peer.train(map(packed, batches))),
        contender("transformers padded", lambda: peer.train(map(padded, batches))),
    ]
    for each in contenders:
        common.say(f"warm-up, compiling: {each.name}: {each.run().seconds:.2f} s")
    common.rounds(contenders, args.repeats, [])
    ours, *theirs = contenders
    difference = max(
        abs(a - b)
        for other in losses.values()
        for a, b in zip(losses[ours.name], other, strict=True)
    )
    common.show_contenders(f"{sizes['steps']} optimizer steps", "tokens", contenders)
    print(f"\nlosses differ by at most {difference:.1e}; allowed {TOLERANCE:g}")
    common.finish(
        args,
        "training",
        {**sizes, "parameters": sum(leaf.size for leaf in jax.tree.leaves(params))},
        contenders,
        [
            common.Comparison(f"against {other.name}", ours.rate / other.rate, bar)
            for other, bar in zip(theirs, (BAR_PACKED, BAR_PADDED), strict=True)
        ],
        packing_efficiency=packing_efficiency(batches),
        losses=losses,
        largest_loss_difference=difference,
    )
    return int(difference > TOLERANCE)


def arguments() -> tuple[argparse.Namespace, dict[str, int]]:
    """The command line, and the sizes it asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name, (usual, small) in SIZES.items():
        parser.add_argument(f"--{name}", type=int, help=f"({usual}; with --small {small})")
    args = common.arguments(parser)
    given = {name: getattr(args, name) for name in SIZES}
    return args, {name: given[name] or SIZES[name][args.small] for name in SIZES}


def make_trainer(sizes: dict[str, int]) -> Trainer:
    """A GPT-J of these sizes, in float32, with heads of 64 where it is wide enough.

    Its layers are unrolled, as a user with a CPU does: a scan copies each layer's weights and
    gradients, a sixth of the step, and what it saves in compiling matters to deep models only.
    """
    head_dim = min(64, sizes["d_model"] // 2)
    model = DecoderConfig(
        vocab_size=sizes["vocab_size"],
        n_layers=sizes["layers"],
        d_model=sizes["d_model"],
        n_heads=sizes["d_model"] // head_dim,
        head_dim=head_dim,
        d_ff=4 * sizes["d_model"],
        rotary_dim=head_dim // 2,
        context_length=sizes["row_length"],
        scan_layers=False,
    )
    config = TrainerConfig(sizes["rows"], sizes["row_length"], loss_share=LOSS_SHARE)
    return Trainer(model, OPTIMIZER, config, make_mesh(MeshConfig(), jax.devices()[:1]))


def documents(seed: int, sizes: dict[str, int]) -> list[TokenizedExample]:
    """Random ids, with the loss on the later part."""
    rng = np.random.default_rng([seed, 0])

    def one(length: int) -> TokenizedExample:
        weights = np.ones(length, np.float32)
        weights[: int(PROMPT_SHARE * length)] = 0
        return TokenizedExample(rng.integers(0, sizes["vocab_size"], length, np.int32), weights)

    return [one(length) for length in cqa_lengths(rng, N_DOCUMENTS)]


def cqa_lengths(rng: np.random.Generator, n: int) -> list[int]:
    """Tokens of `n` CommonsenseQA questions in the paper's format with a rationale and EOS.

    Log-normal, with the mean (4.49) and deviation (0.107) of the logarithms that were measured
    over 3,000 training questions in a BPE of 49,152 pieces and rationales as long as the few-shot
    prompt's: 89 tokens on average, 1 in 100 has less than 71 and 1 in 100 more than 118.
    """
    return np.exp(rng.normal(4.49, 0.107, n)).round().astype(int).clip(60, 140).tolist()


def train(
    trainer: Trainer, params: Any, examples: Sequence[TokenizedExample], n_steps: int, seed: int
) -> tuple[float, list[float]]:
    """Seconds and losses of `n_steps`; packing and everything else in the loop counts."""
    state = jax.block_until_ready(trainer.init_state(params))
    start = time.perf_counter()
    trained = trainer.train(state, examples, n_steps, seed)
    jax.block_until_ready(trained.state)
    return time.perf_counter() - start, trained.losses


class Peer:
    """A transformers model with the same weights, trained by PyTorch."""

    def __init__(self, params: Any, config: DecoderConfig):
        words = dict(hf_config(config))
        self._weights = {
            name: torch.from_numpy(np.array(tensor.whole()))
            for name, tensor in hf_tensors(params, config).items()
        }
        model_type = words.pop("model_type")
        self._model = transformers.AutoModelForCausalLM.from_config(
            transformers.AutoConfig.for_model(model_type, **words)
        )

    def train(self, steps: Iterable[dict[str, torch.Tensor]]) -> tuple[float, list[float]]:
        """Seconds and losses of these steps, from the first weights and a fresh optimizer."""
        unused = self._model.load_state_dict(self._weights, strict=False)
        assert not unused.missing_keys and not unused.unexpected_keys, unused
        model = self._model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=OPTIMIZER.learning_rate,
            betas=(OPTIMIZER.b1, OPTIMIZER.b2),
            eps=OPTIMIZER.epsilon,
            weight_decay=0.0,
            fused=True,
        )
        warm_up = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min(1.0, (step + 1) / OPTIMIZER.warmup_steps)
        )
        losses = []
        start = time.perf_counter()
        for inputs in steps:
            loss = model(**inputs, use_cache=False).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), OPTIMIZER.clip_norm)
            optimizer.step()
            warm_up.step()
            optimizer.zero_grad()
            losses.append(loss.item())
        return time.perf_counter() - start, losses


def packed(batch: PackedBatch) -> dict[str, torch.Tensor]:
    """The rows as they are: without a mask, transformers tells documents apart by position ids."""
    return {
        "input_ids": torch.tensor(batch.tokens, dtype=torch.long),
        "position_ids": torch.tensor(batch.positions, dtype=torch.long),
        "labels": torch.tensor(np.where(batch.loss_weights > 0, batch.tokens, NO_LABEL)).long(),
    }


def padded(batch: PackedBatch) -> dict[str, torch.Tensor]:
    """The same documents, each in a row of its own, padded on the right to the longest."""
    spans = [
        (row, np.flatnonzero(segments == segment))
        for row, segments in enumerate(batch.segment_ids)
        for segment in range(1, segments.max() + 1)
    ]
    shape = len(spans), max(len(places) for _, places in spans)
    tokens, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    labels = np.full(shape, NO_LABEL, np.int64)
    for i, (row, places) in enumerate(spans):
        here = i, slice(len(places))
        tokens[here], mask[here] = batch.tokens[row, places], 1
        weighed = batch.loss_weights[row, places] > 0
        labels[here] = np.where(weighed, batch.tokens[row, places], NO_LABEL)
    named = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
    return {name: torch.from_numpy(array) for name, array in named.items()}


if __name__ == "__main__":
    sys.exit(main())
