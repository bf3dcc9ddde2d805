"""Sampling against a plain uncached loop, and what must not change the completions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from star_jax.errors import UserError
from star_jax.models.attention import Store, causal_mask
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import Decoder, abstract_params, unstack_layers
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.records import Prompt
from star_jax.rollout.engine import prompt_key
from star_jax.rollout.fitting import fit_prompts, newest_that_fit
from star_jax.rollout.native import decode
from star_jax.rollout.native.logits import SamplingParams, keep_top_k, keep_top_p, pick_tokens
from star_jax.rollout.native.sampler import Sampler, SamplerConfig
from star_jax.rollout.native.shapes import Shapes, fill_chunk
from star_jax.rollout.native.slots import Writer
from star_jax.tokenizers.vocabularies import WordVocabulary, encode_example
from tests import tiny

WORDS = WordVocabulary(list("abcdefghijklm"))
MODEL = DecoderConfig(
    vocab_size=WORDS.vocab_size, n_layers=2, d_model=32, n_heads=4, head_dim=8, d_ff=64,
    rotary_dim=4, context_length=128,
)  # fmt: skip
MAX_NEW = 16


@functools.cache
def params():
    """Random weights that look far back: their greedy texts vary, and some of them end."""
    rng = np.random.default_rng(1)
    deviations = {"scale": 0.1, "embedding": 0.1, "bias": 0.1, "query": 1.0, "key": 1.0}

    def leaf(path, shape):
        names = [key.key for key in path]
        deviation = next((deviations[name] for name in names if name in deviations), 0.4)
        drawn = deviation * rng.standard_normal(shape.shape) + (names[-1] == "scale")
        return jnp.asarray(drawn, shape.dtype)

    tree = jax.tree_util.tree_map_with_path(leaf, abstract_params(MODEL))
    tree["head"]["bias"] = tree["head"]["bias"].at[WORDS.eos_id].add(1.0)
    return tree


@functools.cache
def prepared(sampler):
    return sampler.load(params())


@functools.cache
def one_device():
    return make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])


@functools.cache
def sampler(batch_size=4, temperature=0.0, max_new_tokens=MAX_NEW, vocabulary=WORDS, model=MODEL):
    config = SamplerConfig(batch_size, max_new_tokens, temperature=temperature)
    return Sampler(model, vocabulary, config, one_device())


def random_prompts(n, seed=0, longest=12):
    rng = np.random.default_rng(seed)
    return [
        Prompt(f"q{i}", WORDS.decode(rng.integers(3, 16, rng.integers(1, longest))))
        for i in range(n)
    ]


PROMPTS = random_prompts(7)


@functools.cache
def completions(batch_size=4, temperature=0.0, seed=0):
    keys = [prompt_key(seed, 1, prompt.question_id) for prompt in PROMPTS]
    mine = sampler(batch_size, temperature)
    return tiny.sample(mine, prepared(mine), PROMPTS, keys)


def sample(prompts, **kwargs):
    keys = [prompt_key(0, 1, prompt.question_id) for prompt in prompts]
    mine = sampler(**kwargs)
    return tiny.sample(mine, prepared(mine), prompts, keys)


@jax.jit
def next_logits(tokens_L, length):
    """The uncached model over a padded row, read at its last token."""
    columns = jnp.arange(tokens_L.shape[0])[None]
    segments = (columns < length).astype(jnp.int32)
    logits, _ = Decoder(MODEL).apply(
        {"params": params()}, tokens_L[None], columns, causal_mask(segments)
    )
    return logits[0, length - 1]


def row_of(ids):
    row = np.zeros(64, np.int32)
    row[: len(ids)] = ids
    return row


def uncached_greedy(prompt_ids, limit=MAX_NEW):
    """One token at a time, the whole row anew for each; EOS included."""
    ids = list(prompt_ids)
    for _ in range(limit):
        ids.append(int(np.argmax(next_logits(row_of(ids), len(ids)))))
        if ids[-1] == WORDS.eos_id:
            break
    return ids[len(prompt_ids) :]


def log_probability(prompt_ids, written):
    """Of the written tokens, by the full forward pass."""
    total, ids = 0.0, list(prompt_ids)
    for token in written:
        total += float(jax.nn.log_softmax(next_logits(row_of(ids), len(ids)))[token])
        ids.append(token)
    return total


def written_by(completion):
    return [*completion.token_ids, *([WORDS.eos_id] if completion.ended else [])]


# Against the uncached loop.


def test_greedy_equals_the_uncached_loop():
    for prompt, completion in zip(PROMPTS, completions(), strict=True):
        assert written_by(completion) == uncached_greedy(WORDS.encode(prompt.text))
    assert any(completion.ended for completion in completions())
    assert any(not completion.ended for completion in completions())


def test_cached_decode_equals_full_forward():
    """The logits of decoding token by token over a cache are those of one pass over the text."""
    model, weights = unstack_layers(MODEL, params())
    tokens = jnp.asarray(np.random.default_rng(0).integers(3, 16, (2, 20)))
    full, _ = jax.jit(Decoder(MODEL).apply)(
        {"params": params()},
        tokens,
        jnp.broadcast_to(jnp.arange(20), tokens.shape),
        causal_mask(jnp.ones_like(tokens)),
    )
    writer = Writer(model, SamplingParams(), 0, (WORDS.eos_id,))
    shapes = Shapes(1, 2, 16, 16, chunk_tokens=32, chunk_prompts=2, wave=2)
    keys = [prompt_key(0, 0, "a")] * 2
    chunk = fill_chunk([[0, 1]], 1, shapes, tokens[:, :16].tolist(), [0, 1], keys, [9, 9])
    state, _ = decode.refill(writer, 16, weights, None, decode.empty_slots(model, 2, shapes), chunk)
    step = jax.jit(
        lambda token, length, context: Decoder(model).apply(
            {"params": weights}, token, length, jnp.ones((2, 1, 1), bool), context,
            return_key_values=True,
        )
    )  # fmt: skip
    cache, length = state.cache, state.length
    for column in range(16, 20):
        seen = jnp.arange(32) < length[:, None, None]
        context = decode.contexts(model, None, [Store(kv, seen) for kv in cache])
        logits, new = step(tokens[:, column : column + 1], length[:, None], context)
        np.testing.assert_allclose(logits[:, 0], full[:, column], rtol=1e-5, atol=1e-5)
        cache = jax.tree.map(
            lambda old, now, c=column: old.at[:, :, c].set(now[:, :, 0]), cache, new
        )
        length = length + 1


def test_log_probability_is_that_of_the_full_forward_pass():
    for prompt, completion in zip(PROMPTS, completions(), strict=True):
        expected = log_probability(WORDS.encode(prompt.text), written_by(completion))
        assert completion.log_probability == pytest.approx(expected, abs=1e-4)


def test_log_probability_is_of_the_model_whatever_the_temperature():
    for prompt, completion in list(zip(PROMPTS, completions(temperature=1.3), strict=True))[:3]:
        expected = log_probability(WORDS.encode(prompt.text), written_by(completion))
        assert completion.log_probability == pytest.approx(expected, abs=1e-4)


# The end of a completion.


def test_eos_ends_a_completion_and_is_not_part_of_it():
    ended = [completion for completion in completions() if completion.ended]
    assert ended
    for completion in ended:
        assert WORDS.eos_id not in completion.token_ids
        assert completion.text == WORDS.decode(completion.token_ids)
        assert "</s>" not in completion.text


def test_a_cut_completion_has_not_ended():
    cut = [completion for completion in completions() if not completion.ended]
    assert cut
    assert {len(completion.token_ids) for completion in cut} == {MAX_NEW}


def test_one_new_token():
    for prompt, completion in zip(PROMPTS, sample(PROMPTS, max_new_tokens=1), strict=True):
        assert written_by(completion) == uncached_greedy(WORDS.encode(prompt.text), 1)


# The shared prefix.

EXAMPLES = ("a b c d\ne f g\n", "h a b\n")
PREFIX = "".join(EXAMPLES)


def test_shared_prefix_equals_repeated_prefix():
    shared = sample([dataclasses.replace(prompt, examples=EXAMPLES) for prompt in PROMPTS])
    texts = [dataclasses.replace(prompt, text=PREFIX + prompt.text) for prompt in PROMPTS]
    repeated = sample(texts)
    assert [c.token_ids for c in shared] == [c.token_ids for c in repeated]
    assert [c.token_ids for c in shared] != [c.token_ids for c in completions()]
    np.testing.assert_allclose(
        [c.log_probability for c in shared], [c.log_probability for c in repeated], atol=1e-4
    )


def test_prompts_with_different_prefixes_keep_their_order():
    prompts = [
        dataclasses.replace(prompt, examples=EXAMPLES if i % 2 else ())
        for i, prompt in enumerate(PROMPTS)
    ]
    mixed = sample(prompts)
    with_prefix = sample([dataclasses.replace(prompt, examples=EXAMPLES) for prompt in PROMPTS])
    for i, completion in enumerate(mixed):
        expected = (with_prefix if i % 2 else completions())[i]
        assert completion.token_ids == expected.token_ids


def test_prefix_store_has_no_batch_axis():
    ids = tuple(WORDS.encode(PREFIX))
    prefix = sampler().load(params()).prefix(ids)
    assert int(prefix.length) == len(ids)
    assert {leaf.shape for leaf in jax.tree.leaves(prefix.key_values)} == {
        (MODEL.n_heads, 64, MODEL.head_dim)
    }


# Batching.


def test_last_partial_batch_is_sampled():
    assert len(PROMPTS) % 4
    done = []
    keys = [prompt_key(0, 1, prompt.question_id) for prompt in PROMPTS]
    got = tiny.sample(sampler(), prepared(sampler()), PROMPTS, keys, done.append)
    assert sum(done) == len(PROMPTS)
    assert got == completions()


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_batch_size_does_not_change_completions(temperature):
    few, many = completions(4, temperature), completions(8, temperature)
    assert [c.token_ids for c in few] == [c.token_ids for c in many]
    np.testing.assert_allclose(
        [c.log_probability for c in few], [c.log_probability for c in many], atol=1e-4
    )


def test_order_and_company_of_prompts_do_not_change_completions():
    keys = [prompt_key(0, 1, prompt.question_id) for prompt in PROMPTS]
    back = tiny.sample(sampler(4, 1.3), prepared(sampler(4, 1.3)), PROMPTS[::-2], keys[::-2])
    assert [c.token_ids for c in back] == [c.token_ids for c in completions(4, 1.3)[::-2]]


def test_seeds_differ_and_the_same_seed_repeats():
    first, second = completions(4, 1.3, seed=0), completions(4, 1.3, seed=1)
    assert sum(a.token_ids != b.token_ids for a, b in zip(first, second, strict=True)) > 4
    keys = [prompt_key(0, 1, prompt.question_id) for prompt in PROMPTS]
    assert tiny.sample(sampler(4, 1.3), prepared(sampler(4, 1.3)), PROMPTS, keys) == first


def test_samples_of_one_question_differ():
    prompts = [PROMPTS[0]] * 4
    keys = [prompt_key(0, 1, prompts[0].question_id, sample=i) for i in range(4)]
    said = tiny.sample(sampler(4, 1.3), prepared(sampler(4, 1.3)), prompts, keys)
    assert len({completion.token_ids for completion in said}) > 2


def test_every_token_is_a_draw_of_its_own():
    """A model without preferences says the same token for ever if its key never changes."""
    even = jax.tree.map(jnp.zeros_like, params())
    even["head"]["bias"] = even["head"]["bias"].at[WORDS.eos_id].set(-100.0)
    keys = [prompt_key(0, 1, prompt.question_id) for prompt in PROMPTS]
    for completion in tiny.sample(sampler(4, 1.3), sampler(4, 1.3).load(even), PROMPTS, keys):
        assert len(set(completion.token_ids)) > MAX_NEW / 3


def test_row_keys_are_stable_and_all_different():
    names = [(0, 1, "q1", 0), (1, 1, "q1", 0), (0, 2, "q1", 0), (0, 1, "q2", 0), (0, 1, "q1", 1)]
    assert len({tuple(prompt_key(*name).tolist()) for name in names}) == len(names)
    # A golden: a run resumed by a later version must draw what it would have drawn.
    assert prompt_key(0, 1, "q1").tolist() == [3877461776, 1359200623]


def test_no_prompts_give_no_completions():
    assert sample([]) == []


# Mistakes.


def test_questions_that_cannot_fit_alone_are_left_out_by_name(capsys):
    long = Prompt("q_long", " ".join("a" * 120), examples=EXAMPLES)
    first, second = sample([PROMPTS[0], long])
    assert (first, second) == (sample([PROMPTS[0]])[0], None)
    assert "1 of 2 questions exceed the context length" in capsys.readouterr().err
    message = "1 of 1 questions exceed .* 128 .* 16 new .*: q_long; set .*context_length to 136 or"
    with pytest.raises(UserError, match=message):
        sample([long])


def test_a_long_prompt_loses_whole_examples_oldest_first(capsys):
    examples = tuple(f"{word} {word} {word} {word}\n" for word in "abcd")  # 5 tokens each
    text = " ".join("e" * (MODEL.context_length - MAX_NEW - 12))
    cut, whole = sample([Prompt("q", text, examples), PROMPTS[0]])
    assert (cut, whole) == tuple(sample([Prompt("q", text, examples[2:]), PROMPTS[0]]))
    shown = capsys.readouterr().err
    assert "1 of 2 prompts" in shown and "2 of their few-shot examples were dropped" in shown


@pytest.mark.parametrize(
    ("lengths", "room", "kept"),
    [
        ([], 0, 0),
        ([], -1, None),
        ([5, 5], 10, 2),
        ([5, 5], 9, 1),
        ([5, 5], 4, 0),
        ([1, 9, 5], 8, 1),  # whole examples, from the newest on, without a gap
        ([5, 5], -1, None),
    ],
)
def test_newest_examples_that_fit(lengths, room, kept):
    assert newest_that_fit(lengths, room) == kept


def test_prefix_prompt_and_completion_may_fill_the_context():
    n = MODEL.context_length - MAX_NEW
    fit = functools.partial(fit_prompts, vocabulary=WORDS, n_new=MAX_NEW, context=128)
    examples = ("a " * 10,)
    (group,) = fit([Prompt("q", "x", examples)], [[5] * (n - 10)])
    assert len(group.prefix_ids) == 10
    (group,) = fit([Prompt("q", "x", examples)], [[5] * (n - 9)])
    assert group.prefix_ids == ()


class WordsWithSpecials(WordVocabulary):
    """Begins documents with a token of its own, and ends them with either of two."""

    document_start_ids = (7,)
    stop_ids = (WORDS.eos_id, 9)


def test_what_begins_a_document_takes_room():
    class Starting(WordVocabulary):
        document_start_ids = (0, 0)

    vocabulary = Starting(list("abc"))
    encoded = [vocabulary.encode("a b c")]
    (group,) = fit_prompts([Prompt("q0", "a b c")], encoded, vocabulary, 4, 2 + 3 + 4)
    assert group.prefix_ids == (0, 0)
    with pytest.raises(UserError, match="q0"):
        fit_prompts([Prompt("q0", "a b c")], encoded, vocabulary, 4, 2 + 3 + 4 - 1)


def test_documents_begin_and_end_as_the_vocabulary_says():
    vocabulary = WordsWithSpecials(WORDS.words[3:])
    assert encode_example(vocabulary, "a", "b").tokens.tolist() == [7, 3, 4, WORDS.eos_id]
    plain = sample(PROMPTS)
    started = sample(PROMPTS, vocabulary=vocabulary)
    expected = sample([dataclasses.replace(p, examples=("e",)) for p in PROMPTS])  # id 7 is "e"
    for prompt, mine, whole in zip(PROMPTS, started, expected, strict=True):
        ids = list(whole.token_ids)
        stop = ids.index(9) if 9 in ids else len(ids)
        assert list(mine.token_ids) == ids[:stop], prompt
        assert mine.ended == (whole.ended or 9 in ids)
    assert [c.text for c in started] != [c.text for c in plain]


def test_batch_that_the_mesh_cannot_split_is_refused():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    with pytest.raises(UserError, match=r"SamplerConfig.batch_size 12 .* multiple of 8"):
        Sampler(MODEL, WORDS, SamplerConfig(batch_size=12), mesh)


def test_vocabulary_larger_than_the_model_is_refused():
    small = dataclasses.replace(MODEL, vocab_size=15)
    with pytest.raises(UserError, match=r"16 ids, the model room for 15"):
        sampler(model=small)


def test_an_id_that_no_document_has_needs_no_row_and_changes_nothing():
    padded = WordVocabulary([*WORDS.words[3:], "[PAD]"])
    padded.largest_id = WORDS.vocab_size - 1  # as a pretrained one with such a control token has it
    with_pad = sampler(vocabulary=padded)
    keys = [prompt_key(0, 1, prompt.question_id) for prompt in PROMPTS]
    assert tiny.sample(with_pad, with_pad.load(params()), PROMPTS, keys) == completions()
    scored = with_pad.score(with_pad.load(params()), PROMPTS[:1], [["a b"]])
    plain = sampler()
    assert scored == plain.score(plain.load(params()), PROMPTS[:1], [["a b"]])


def test_an_empty_prompt_is_refused_by_name():
    with pytest.raises(UserError, match="question q_empty has an empty text"):
        sample([PROMPTS[0], Prompt("q_empty", "", examples=EXAMPLES)])


@pytest.mark.parametrize(
    "bad",
    [
        {"batch_size": 0},
        {"max_new_tokens": 0},
        {"prefill_tokens": 0},
        {"refill_share": 0.0},
        {"refill_share": 1.5},
    ],
)
def test_sizes_that_mean_nothing_are_refused(bad):
    with pytest.raises(UserError, match=f"SamplerConfig.{next(iter(bad))}"):
        Sampler(MODEL, WORDS, SamplerConfig(**bad), one_device())


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}]
)
def test_impossible_sampling_is_refused_at_the_head(bad):
    with pytest.raises(UserError, match=f"SamplerConfig.{next(iter(bad))}"):
        Sampler(MODEL, WORDS, SamplerConfig(**bad), one_device())


# Picking a token.


def test_the_settings_decide_how_tokens_are_picked():
    config = SamplerConfig(4, MAX_NEW, temperature=0.7, top_k=5, top_p=0.9)
    mine = Sampler(MODEL, WORDS, config, one_device())
    expected = SamplingParams(temperature=0.7, top_k=5, top_p=0.9)
    assert mine.programs.writer.sampling == expected
    assert mine.programs.writer.n_ids == WORDS.vocab_size
    warmer = mine.at_temperature(1.3).programs.writer.sampling
    assert warmer == dataclasses.replace(expected, temperature=1.3)


def test_ids_that_the_vocabulary_does_not_know_are_never_picked():
    """A model may have more rows than its tokenizer has ids: GPT-J has 50400 for 50257."""
    small = WordVocabulary(list("abc"))
    prompts = [Prompt(f"q{i}", "a b c") for i in range(4)]
    for completion in sample(prompts, temperature=1.3, vocabulary=small):
        assert max(completion.token_ids, default=0) < small.vocab_size
    for params in (SamplingParams(), SamplingParams(temperature=5.0)):
        keys = jax.random.split(jax.random.key(0), 50)
        tokens, log_probs = pick_tokens(jnp.broadcast_to(LOGITS, (50, 5)), keys, params, n_ids=2)
        assert set(tokens.tolist()) <= {0, 1}
        np.testing.assert_allclose(jnp.exp(log_probs), jnp.array([0.2, 0.8])[tokens], rtol=1e-5)


LOGITS = jnp.log(jnp.array([0.1, 0.4, 0.05, 0.3, 0.15]))
NEVER = float("-inf")


@pytest.mark.parametrize(
    ("k", "kept"),
    [(0, [0, 1, 2, 3, 4]), (1, [1]), (2, [1, 3]), (3, [1, 3, 4]), (5, [0, 1, 2, 3, 4]), (9, None)],
)
def test_top_k_keeps_the_k_likeliest(k, kept):
    logits = keep_top_k(LOGITS[None], k)[0]
    assert [i for i in range(5) if logits[i] > NEVER] == (kept or [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(logits[logits > NEVER], LOGITS[logits > NEVER])


@pytest.mark.parametrize(
    ("p", "kept"),
    [
        (1e-6, [1]),
        (0.39, [1]),
        (0.41, [1, 3]),
        (0.69, [1, 3]),
        (0.71, [1, 3, 4]),
        (0.9, [0, 1, 3, 4]),
        (0.99, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, kept):
    logits = keep_top_p(LOGITS[None], p)[0]
    assert [i for i in range(5) if logits[i] > NEVER] == kept


def shares(n=4000, **config):
    keys = jax.random.split(jax.random.key(0), n)
    logits = jnp.broadcast_to(LOGITS, (n, 5))
    tokens, _ = jax.jit(pick_tokens, static_argnums=2)(logits, keys, SamplingParams(**config))
    return np.bincount(tokens, minlength=5) / n


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"temperature": 0.0}, [0, 1, 0, 0, 0]),
        ({"temperature": 1.0}, [0.1, 0.4, 0.05, 0.3, 0.15]),
        ({"temperature": 0.5}, np.square([0.1, 0.4, 0.05, 0.3, 0.15]) / 0.285),
        ({"temperature": 1.0, "top_k": 2}, [0, 4 / 7, 0, 3 / 7, 0]),
        ({"temperature": 1.0, "top_p": 0.75}, [0, 8 / 17, 0, 6 / 17, 3 / 17]),
        ({"temperature": 1e-4}, [0, 1, 0, 0, 0]),
        # top_p is taken after temperature and of what top_k leaves: 16/25 < 0.7.
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.5}, [0, 1, 0, 0, 0]),
    ],
)
def test_tokens_are_drawn_with_their_probabilities(config, expected):
    expected = np.array(expected)
    spread = 4 * np.sqrt(expected * (1 - expected) / 4000)  # four standard errors
    assert np.all(np.abs(shares(**config) - expected) <= spread)


def test_picked_log_probability_is_of_the_plain_softmax():
    for config in (SamplingParams(), SamplingParams(temperature=0.7, top_k=2, top_p=0.9)):
        token, log_prob = pick_tokens(LOGITS[None] + 3.0, jax.random.key(1)[None], config)
        assert float(log_prob[0]) == pytest.approx(float(LOGITS[token[0]]), abs=1e-6)
