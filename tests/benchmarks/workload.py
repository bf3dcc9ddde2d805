"""Random models that write texts of every length, and the questions that they are asked.

A text is token ids in words ("17 204 9"): no side of a benchmark needs a tokenizer. Weights are
drawn by a seed, wide enough that greedy texts vary and end at places of their own.

Random texts hardly ever end by themselves. Their EOS is calibrated: with EOS ruled out, every
question is answered greedily once, and one pass over what was written says how large the bias of
EOS in the head would have to be for it to win at each place. The bias is chosen so that half of
the texts end within `median` tokens; the others go on, some to the limit. Questions on whose way
the two likeliest tokens lie closer than `FIRM` are not asked: there the rounding of a sum decides,
and every right implementation rounds in its own way.
"""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import seqio

from star_jax.models.attention import causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder, abstract_params
from star_jax.models.exporting import export_model
from star_jax.models.families import hf_config
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.records import Completion, Prompt
from star_jax.rollout.engine import prompt_key
from star_jax.rollout.native import decode
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.rollout.native.slots import DecodingModel
from star_jax.tools.convert import hf_tensors

FIRM = 2e-3  # logits; float32 leaves some 1e-5 of noise in those of the models here
NEVER = -1e6  # a bias that rules a token out
EOS = 1
FIRST_WORD = 3  # ids below it are special
ROWS = 8  # of a pass over what was written
GAINS = {"query": 2.0, "key": 2.0, "head": 3.0}  # of a kernel: variance gain**2 / fan-in
OTHER_GAIN = 1.5
SPREAD = 0.1  # of embeddings, biases and scales


class IdVocabulary(seqio.Vocabulary):
    """Texts that are ids in words; every id has one, and EOS is 1."""

    def __init__(self, size: int):
        super().__init__()
        self._size = size

    @property
    def eos_id(self) -> int:
        return EOS

    @property
    def bos_id(self) -> int:
        return 0

    @property
    def unk_id(self) -> None:
        return None

    @property
    def _base_vocab_size(self) -> int:
        return self._size

    def _encode(self, s: str) -> list[int]:
        return [int(word) for word in s.split()]

    def _decode(self, ids: Iterable[int]) -> str:
        return spell(ids)

    def _encode_tf(self, s: Any) -> Any:
        raise TypeError("the benchmarks encode outside TensorFlow")

    _decode_tf = _encode_tf


def spell(ids: Iterable[int]) -> str:
    """The text of these ids."""
    return " ".join(map(str, ids))


def gptj(vocab_size: int, n_layers: int, d_model: int, context_length: int) -> DecoderConfig:
    """A GPT-J with heads of 64 (or one narrower head), d_ff of 4 x d_model."""
    head_dim = min(64, d_model)
    return DecoderConfig(
        vocab_size=vocab_size,
        n_layers=n_layers,
        d_model=d_model,
        n_heads=d_model // head_dim,
        head_dim=head_dim,
        d_ff=4 * d_model,
        rotary_dim=head_dim // 2,
        context_length=context_length,
    )


def random_params(config: DecoderConfig, seed: int) -> Any:
    """Weights on the host; EOS is ruled out until `with_eos_bias`."""
    rng = np.random.default_rng([seed, 0])

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        *_, module, last = "", *(key.key for key in path)
        drawn = rng.standard_normal(leaf.shape, np.float32)
        if last != "kernel":
            return SPREAD * drawn + np.float32(last == "scale")
        n_out = 2 if module in ("query", "key", "value") else 1
        n_in = 2 if module == "out" else 1
        if module == "mlp_out":  # or what all units have in common would choose the same words
            drawn -= drawn.mean(axis=-2, keepdims=True)
        fan_in = np.prod(leaf.shape[-n_in - n_out : -n_out])
        return drawn * np.float32(GAINS.get(module, OTHER_GAIN) * fan_in**-0.5)

    params = jax.tree_util.tree_map_with_path(draw, abstract_params(config))
    return with_eos_bias(params, NEVER)


def with_eos_bias(params: Any, bias: float) -> Any:
    """The same weights with another bias of EOS in the head."""
    biases = np.array(params["head"]["bias"])
    biases[EOS] = bias
    return {**params, "head": {**params["head"], "bias": biases}}


def random_ids(rng: np.random.Generator, n: int, vocab_size: int) -> tuple[int, ...]:
    """`n` ids of words."""
    return tuple(rng.integers(FIRST_WORD, vocab_size, n).tolist())


def random_questions(
    rng: np.random.Generator, n: int, shortest: int, longest: int, vocab_size: int
) -> list[tuple[int, ...]]:
    """`n` questions of `shortest` to `longest` ids."""
    lengths = rng.integers(shortest, longest + 1, n)
    return [random_ids(rng, length, vocab_size) for length in lengths]


def make_sampler(config: DecoderConfig, **settings: Any) -> Sampler:
    """A greedy sampler on one device."""
    mesh = make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    return Sampler(config, IdVocabulary(config.vocab_size), SamplerConfig(**settings), mesh)


def prompts_of(
    prefix: Sequence[int], questions: Sequence[Sequence[int]], *, replicated: bool = False
) -> list[Prompt]:
    """Prompts behind a prefix that all share, or that each has for itself."""
    if replicated:
        return [Prompt(f"q{i}", spell([*prefix, *ids])) for i, ids in enumerate(questions)]
    examples = (spell(prefix),) if prefix else ()
    return [Prompt(f"q{i}", spell(ids), examples) for i, ids in enumerate(questions)]


def keys_of(prompts: Sequence[Prompt]) -> list[np.ndarray]:
    """A random key for each prompt; greedy sampling does not use it."""
    return [prompt_key(0, 0, prompt.question_id) for prompt in prompts]


def in_order(stream):
    """The completions of `Engine.generate` in the order of their prompts."""
    return [completion for _, completion in sorted(stream, key=lambda pair: pair[0])]


def written(completions: Iterable[Completion]) -> list[list[int]]:
    """The ids of each completion, EOS included where it was written."""
    return [[*c.token_ids, *([EOS] if c.ended else [])] for c in completions]


@dataclasses.dataclass(frozen=True)
class Paths:
    """What is written with EOS ruled out; everything is [questions, max_new_tokens]."""

    ids: np.ndarray
    lead: np.ndarray  # logits by which the likeliest token leads
    needed: np.ndarray  # the bias with which EOS would win

    def eos_bias(self, median: int) -> float:
        """With it half of the texts end within `median` tokens."""
        return float(np.median(self.needed[:, :median].min(axis=1)))

    def lengths(self, bias: float) -> np.ndarray:
        """Tokens of each text with this bias, EOS included."""
        ends = self.needed < bias
        return np.where(ends.any(axis=1), ends.argmax(axis=1) + 1, ends.shape[1])

    def margins(self, bias: float) -> np.ndarray:
        """The closest decision on the way to each text's end, in logits."""
        lead = np.where(self.needed < bias, np.inf, self.lead)  # EOS wins over all of them
        margin = np.minimum(np.abs(self.needed - bias), lead)
        on_the_way = np.arange(margin.shape[1]) < self.lengths(bias)[:, None]
        return np.where(on_the_way, margin, np.inf).min(axis=1)

    def texts(self, bias: float) -> list[list[int]]:
        """What is written with this bias, EOS included."""
        return [
            [*ids[: n - 1], EOS] if end else ids[:n]
            for ids, n, end in zip(
                self.ids.tolist(),
                self.lengths(bias).tolist(),
                (self.needed < bias).any(axis=1).tolist(),
                strict=True,
            )
        ]


def greedy_paths(
    sampler: Sampler, params: Any, prefix: Sequence[int], questions: Sequence[Sequence[int]]
) -> Paths:
    """Answers every question with EOS ruled out, and reads the logits on the way in one pass."""
    model, prompts = sampler.load(params), prompts_of(prefix, questions)
    ids = written(in_order(sampler.generate(model, prompts, keys_of(prompts))))
    n_new = sampler.config.max_new_tokens
    longest = max(map(len, questions)) + n_new
    tokens = np.zeros((-(-len(questions) // ROWS) * ROWS, longest), np.int32)
    starts = np.zeros((len(tokens), 1), np.int32)
    for row, (question, text) in enumerate(zip(questions, ids, strict=True)):
        assert len(text) == n_new, "EOS is ruled out"
        tokens[row, : len(question) + n_new] = [*question, *text]
        starts[row] = len(question) - 1
    config, shared = sampler.programs.writer.model, model.prefix(tuple(prefix))
    weights = with_eos_bias(model.params, 0.0)
    parts = [
        _margins(config, n_new, weights, shared, tokens[i : i + ROWS], starts[i : i + ROWS])
        for i in range(0, len(tokens), ROWS)
    ]
    lead, needed = (np.concatenate(part)[: len(questions)] for part in zip(*parts, strict=True))
    return Paths(np.array(ids), lead, needed)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _margins(
    config: DecoderConfig,
    n_new: int,
    params: Any,
    prefix: decode.Prefix | None,
    tokens_BL: jax.Array,
    starts_B1: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Float32[B, n_new] each: the lead of the likeliest token, and the bias EOS would need."""
    positions = jnp.broadcast_to(jnp.arange(tokens_BL.shape[1]), tokens_BL.shape)
    logits_BLV, _ = Decoder(config).apply(
        {"params": params},
        tokens_BL,
        positions + decode.prefix_length(prefix),
        causal_mask(jnp.ones_like(tokens_BL)),
        context=decode.contexts(config, prefix),
    )
    read = starts_B1 + jnp.arange(n_new)
    logits_BTV = jnp.take_along_axis(logits_BLV, read[:, :, None], axis=1)
    others_BTV = logits_BTV.at[..., EOS].set(-jnp.inf)
    first, second = jnp.moveaxis(jax.lax.top_k(others_BTV, 2)[0], -1, 0)
    return first - second, first - logits_BTV[..., EOS]


@dataclasses.dataclass(frozen=True)
class Work:
    """A model, questions behind a prefix, and what it writes to each."""

    config: DecoderConfig
    params: Any
    prefix: tuple[int, ...]
    questions: list[tuple[int, ...]]
    texts: list[list[int]]  # EOS included
    figures: dict[str, float]

    def export(self, folder: Path) -> None:
        """Writes the weights to `folder`/hf, for any library that reads Hugging Face's format."""
        export(folder / "hf", self.config, self.params)


def make_work(
    config: DecoderConfig,
    seed: int,
    *,
    n_questions: int,
    n_prefix: int,
    question_ids: tuple[int, int],
    max_new_tokens: int,
    median: int,
    slots: int = 64,
) -> Work:
    """Draws a model and questions, and calibrates EOS; firm questions are kept."""
    rng = np.random.default_rng([seed, 1])
    params = random_params(config, seed)
    prefix = random_ids(rng, n_prefix, config.vocab_size)
    drawn = random_questions(rng, n_questions + n_questions // 2, *question_ids, config.vocab_size)
    sampler = make_sampler(config, batch_size=slots, max_new_tokens=max_new_tokens)
    paths = greedy_paths(sampler, params, prefix, drawn)
    bias = paths.eos_bias(median)
    firm = np.flatnonzero(paths.margins(bias) >= FIRM)[:n_questions]
    assert len(firm) == n_questions, "too many questions hang on a hair: draw more, or lower FIRM"
    lengths, texts = paths.lengths(bias)[firm], paths.texts(bias)
    figures = {
        "eos_bias": bias,
        "smallest_margin": float(paths.margins(bias)[firm].min()),
        "median_tokens": float(np.median(lengths)),
        "mean_tokens": float(np.mean(lengths)),
        "share_cut": float(np.mean([texts[i][-1] != EOS for i in firm])),
        "distinct_ids": float(len({x for i in firm for x in texts[i]})),
    }
    return Work(
        config,
        with_eos_bias(params, bias),
        prefix,
        [drawn[i] for i in firm],
        [texts[i] for i in firm],
        figures,
    )


def export(directory: Path, config: DecoderConfig, params: Any) -> None:
    """Writes the weights in Hugging Face's format."""
    words = {**hf_config(config), "eos_token_id": EOS, "bos_token_id": None}
    export_model(directory, hf_tensors(params, config), words, dtype=np.dtype(np.float32))


def sample_once(
    sampler: Sampler, model: DecodingModel, prompts: Sequence[Prompt], **options: Any
) -> list[list[int]]:
    """The ids written to each prompt."""
    return written(in_order(sampler.generate(model, prompts, keys_of(prompts), **options)))
