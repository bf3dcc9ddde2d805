"""Stop texts: where completions end behind few-shot examples, and what that changes."""

import dataclasses
import functools

import gin
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from star_jax.cli import configurables  # noqa: F401  registers SamplerConfig with gin
from star_jax.errors import UserError
from star_jax.loop.examples import examples_of, tokenized
from star_jax.loop.stages import GENERATE, Rollout, draw_attempts
from star_jax.parallel.partitioning import MeshConfig, make_mesh
from star_jax.records import Completion, Prompt, Question
from star_jax.rollout.engine import before_stop, prompt_key
from star_jax.rollout.fitting import fit_prompts
from star_jax.rollout.native.logits import SamplingParams
from star_jax.rollout.native.sampler import SamplerConfig
from star_jax.rollout.native.stop import automaton, ids_before_stop
from star_jax.tasks.arithmetic import ArithmeticTask
from star_jax.tasks.commonsense_qa import CommonsenseQATask
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.jsonl import JsonlTask
from star_jax.testing.engine import FakeEngine
from star_jax.tokenizers.loading import load_vocabulary
from star_jax.tokenizers.vocabularies import WordVocabulary
from tests import test_pretrained_vocabulary as pretrained
from tests import tiny
from tests.test_refill import KEYS, MANY
from tests.test_sampling import PROMPTS, WORDS, log_probability, params, sampler

STOP = ("d", "a b", "\ng")
NEXT = "\n\nQ: What next?\nA: The answer is 3."


@functools.cache
def byte_level(tmp_path):
    files = {
        "tokenizer.json": pretrained.byte_level(),
        "tokenizer_config.json": {"eos_token": pretrained.EOS},
    }
    return load_vocabulary(pretrained.write(tmp_path / "bpe", files))


@functools.cache
def sentence_piece(tmp_path):
    files = {"tokenizer.model": pretrained.sentence_piece()}
    return load_vocabulary(pretrained.write(tmp_path / "sp", files))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("vocabularies")


def end_by_text(vocabulary, ids, stop):
    """After how many tokens the text first has a stop text, by decoding all beginnings."""
    lengths = range(1, len(ids) + 1)
    return next(
        (n for n in lengths if before_stop(vocabulary.decode(ids[:n]), stop) is not None), 0
    )


def end_by_automaton(vocabulary, ids, stop):
    moves, state = automaton(vocabulary, stop), 0
    for n, id_ in enumerate(ids, 1):
        state = int(moves[state, id_])
        if state == len(moves):
            return n
    return 0


def check_ends(vocabulary, ids, stop):
    ids = [id_ for id_ in ids if id_ not in getattr(vocabulary, "stop_ids", (vocabulary.eos_id,))]
    assert end_by_automaton(vocabulary, ids, stop) == end_by_text(vocabulary, ids, stop)


# The automaton against the decoded text.


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.sampled_from([0, 2, 3, 4, 5]), max_size=9),
    st.sampled_from(
        [("a",), (" a",), ("\na",), ("a b",), ("\n\na",), ("a\n", "b b"), ("a \n",), ("b\nc a",)]
    ),
)
def test_words_end_where_their_text_has_the_stop_text(ids, stop):
    """Padding, line breaks and three words: spaces stand only between words of a line."""
    check_ends(WORDS, ids, stop)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_tokens_of_bytes_end_where_their_text_has_the_stop_text(folder, data):
    stop = data.draw(st.sampled_from([("\n\nQ:",), ("\nQ:", "dog"), ("é\n", "ab", "aab"), ("€",)]))
    make = data.draw(st.sampled_from([byte_level, sentence_piece]))
    vocabulary = make(folder)
    text = "".join(data.draw(st.lists(st.sampled_from([*stop, "\n", "Q", "a", "é", " b"]))))
    ids = vocabulary.encode(text)
    check_ends(vocabulary, ids, stop)
    spelled = [i for byte in text.encode() for i in byte_ids(vocabulary)[byte]]
    check_ends(vocabulary, spelled, stop)


@functools.cache
def byte_ids(vocabulary):
    """The token of each single byte, in a list of its own."""
    if isinstance(vocabulary, pretrained.HuggingFaceVocabulary):
        return [[vocabulary._id_of(symbol)] for symbol in pretrained.byte_symbols()]
    return [[vocabulary._id_of(f"<0x{byte:02X}>")] for byte in range(256)]


def test_a_stop_text_over_several_tokens_is_found_at_its_last(folder):
    vocabulary = byte_level(folder)
    single = [byte_ids(vocabulary)[byte][0] for byte in "so €\n\nQ: x".encode()]
    assert end_by_automaton(vocabulary, single, ("\n\nQ:",)) == len("so €\n\nQ:".encode())
    assert end_by_automaton(vocabulary, single, ("€",)) == len("so €".encode())
    assert end_by_automaton(vocabulary, single, ("Q;",)) == 0


def test_the_text_that_is_complete_first_ends_a_completion():
    assert before_stop("ab c d", ["d", "c d", "b"]) == "a"
    assert before_stop("abcd", ["abcd", "c"]) == "ab"
    assert before_stop("ab", ["b", "ab"]) == ""
    assert before_stop("ab", ["c"]) is before_stop("ab", []) is None


# What the sampler returns.


@functools.cache
def written(stop=None, temperature=0.0, n=60, mesh=None, own=(), batch_size=16):
    """Completions of MANY and what they cost; `own` are the prompts' stop texts."""
    config = SamplerConfig(batch_size, 16, temperature=temperature, stop=stop)
    mine = dataclasses.replace(sampler(), config=config, **({"mesh": mesh} if mesh else {}))
    stats, prompts = [], [dataclasses.replace(prompt, stop=own) for prompt in MANY[:n]]
    model = mine.load(params())
    return tiny.sample(mine, model, prompts, KEYS[:n], on_stats=stats.append), stats[0]


def expected(prompt, whole):
    """A completion without stop texts, up to the first, and the tokens that were written."""
    n = end_by_text(WORDS, whole.token_ids, STOP)
    if not n:
        return whole, len(whole.token_ids) + whole.ended
    text = before_stop(whole.text, STOP)
    sampled = [whole.token_ids[:k] for k in range(n)]
    same = [ids for ids in sampled if WORDS.decode(ids) == text]  # padding has no text
    ids = same[-1] if same else tuple(WORDS.encode(text))  # "c " before "a b" is no token
    score = log_probability(WORDS.encode(prompt.text), whole.token_ids[:n])
    return Completion(text, ids, True, score), n


@pytest.mark.parametrize("temperature", [0.0, 1.3])
def test_completions_are_those_without_stop_texts_up_to_the_first(temperature):
    whole, _ = written(temperature=temperature)
    got, stats = written(STOP, temperature)
    pairs = [expected(*pair) for pair in zip(MANY, whole, strict=True)]
    for mine, (wanted, _) in zip(got, pairs, strict=True):
        assert dataclasses.replace(mine, log_probability=0) == dataclasses.replace(
            wanted, log_probability=0
        )
        assert mine.log_probability == pytest.approx(wanted.log_probability, abs=1e-4)
    lengths = [len(mine.token_ids) for mine in got]
    assert sum(a != b for a, b in zip(got, whole, strict=True)) > 20
    assert 0 in lengths or 1 in lengths
    # Not one token more than up to the stop texts' ends.
    assert stats["new_tokens"] == sum(n for _, n in pairs)


def test_rows_that_end_early_make_room_at_once():
    got, stats = written(STOP)
    alone, _ = written(STOP, batch_size=1, n=8)
    assert [c.token_ids for c in got[:8]] == [c.token_ids for c in alone]
    assert stats["decode_steps"] < 0.75 * written()[1]["decode_steps"]


def test_nothing_changes_bit_for_bit_without_stop_texts_and_where_none_is_written():
    plain, _ = written()
    assert written(())[0] == plain
    never, stats = written(("a a a a a a a a",))
    assert never == plain
    assert stats["new_tokens"] == written()[1]["new_tokens"]


def test_the_setting_goes_before_the_prompts_own_stop_texts():
    assert written(own=STOP)[0] == written(STOP)[0]
    assert written((), own=STOP)[0] == written()[0]
    assert written(("e",), own=STOP)[0] == written(("e",))[0] != written(STOP)[0]


def test_prompts_with_different_stop_texts_are_sampled_together():
    mine, model = sampler(), sampler().load(params())
    prompts = [dataclasses.replace(p, stop=STOP if i % 2 else ()) for i, p in enumerate(PROMPTS)]
    keys = [prompt_key(0, 1, prompt.question_id) for prompt in PROMPTS]
    got = tiny.sample(mine, model, prompts, keys)
    for i, stop in enumerate([(), STOP]):
        same = [dataclasses.replace(prompt, stop=stop) for prompt in PROMPTS]
        assert got[i::2] == tiny.sample(mine, model, same, keys)[i::2]
    assert any(c.ended and c.text != d.text for c, d in zip(got, [*got[1:], got[0]], strict=True))


@pytest.mark.parametrize("sizes", [(8, 1, 1), (2, 2, 2)], ids=str)
def test_a_mesh_gives_the_same_completions(sizes):
    got, _ = written(STOP, 1.3, mesh=make_mesh(MeshConfig(*sizes), jax.devices()))
    alone, _ = written(STOP, 1.3)
    assert [(c.text, c.token_ids, c.ended) for c in got] == [
        (c.text, c.token_ids, c.ended) for c in alone
    ]


# Token ids.


def test_ids_stay_as_sampled_up_to_the_stop_text(folder):
    vocabulary = byte_level(folder)
    odd = [byte_ids(vocabulary)[byte][0] for byte in b" Answer"]  # not how it is encoded
    assert odd != vocabulary.encode(" Answer")
    assert ids_before_stop(vocabulary, [*odd, *vocabulary.encode("\nQ:")], " Answer") == odd


def test_ids_are_encoded_anew_where_the_stop_text_begins_inside_a_token(folder):
    vocabulary = byte_level(folder)
    ids = vocabulary.encode("so (a).\n\nQ")
    longer = next(i for i, x in enumerate(map(vocabulary.decode, zip(ids))) if len(x) > 1)
    text = vocabulary.decode(ids[: longer + 1])
    before = text[:-1]  # the stop text is the last character of a longer token
    assert ids_before_stop(vocabulary, ids[: longer + 1], before) == vocabulary.encode(before)
    assert before != vocabulary.decode(ids[:longer])


def test_a_text_that_no_ids_have_has_none_and_is_refused_in_training():
    words = WordVocabulary(["ab"])
    assert ids_before_stop(words, words.encode("ab"), "a") == []


def test_the_ids_of_the_completion_are_trained_on():
    """As the fake engine has it: what was written after the stop text is nowhere."""
    task = GSM8KTask()
    questions = [Question("q", "How many?", "3", solution="It is\n#### 3")]
    vocabulary = pretrained.seqio.ByteVocabulary()
    engine = FakeEngine(lambda prompt: f" It is 3.\n#### 3{NEXT}", vocabulary)
    for few_shot in (True, False):
        rollout = Rollout(engine, task, seed=0, iteration=1, few_shot=few_shot)
        (attempt,) = draw_attempts("M", questions, rollout, GENERATE)
        assert attempt.correct and attempt.ended
        assert attempt.completion == " It is 3.\n#### 3" + (NEXT if not few_shot else "")
        assert attempt.token_ids == tuple(vocabulary.encode(attempt.completion))
        (example,) = examples_of([attempt], questions, task)
        assert (example.token_ids == attempt.token_ids) == few_shot
        trained = vocabulary.encode("Q: How many?\nA: It is 3.\n#### 3")
        assert tokenized(example, vocabulary).tokens.tolist() == [*trained, vocabulary.eos_id]


# Tasks.


def jsonl(**settings):
    return JsonlTask(path="unused.jsonl", **settings)


@pytest.mark.parametrize(
    ("task", "hinted", "opening"),
    [
        (GSM8KTask(), False, "Q:"),
        (CommonsenseQATask(), True, "Q:"),
        (ArithmeticTask(), False, "Input:"),
        (jsonl(template="Problem: {question}\nAnswer:"), False, "Problem:"),
        (jsonl(hint_template="(It is {answer}) {question}\nA:"), True, "(It is"),
        (jsonl(template="{question}\nA:"), False, ""),
    ],
)
def test_each_task_knows_how_its_next_example_begins(task, hinted, opening):
    assert task.opening(hinted) == opening


@pytest.mark.parametrize("task", [GSM8KTask(), CommonsenseQATask(), ArithmeticTask()])
@pytest.mark.parametrize("hinted", [False, True])
def test_examples_begin_with_the_tasks_stop_text(task, hinted):
    question = task.make_question(
        "q", "1+2" if isinstance(task, ArithmeticTask) else "Which? (a) x (b) y"
    )
    prompt = task.prompt(question, hinted=hinted, few_shot=True)
    assert prompt.stop == (f"\n\n{task.opening(hinted)}", f"\n{task.opening(hinted)}")
    assert len(prompt.examples) > 1
    for example in prompt.examples:
        assert example.startswith(task.opening(hinted))
        assert before_stop(example, prompt.stop) is None
        assert before_stop(example + prompt.text, prompt.stop) == example.removesuffix("\n\n")
    assert task.prompt(question, hinted=hinted, few_shot=False).stop == ()


@pytest.mark.parametrize(
    "said",
    [" It is 3.\n#### 3", " So 3", "", " First\n\nthen\n#### 3\nmore", " No.\n\nQ: 3\n#### 3"],
)
def test_a_completion_reads_the_same_up_to_the_stop_text(said):
    task = GSM8KTask()
    question = dataclasses.replace(task.make_question("q", "How many?"), answer="3")
    whole = task.read(question, said + NEXT)
    stop = task.prompt(question, hinted=False, few_shot=True).stop
    before = task.read(question, before_stop(said + NEXT, stop))
    assert dataclasses.replace(before, end=0) == dataclasses.replace(whole, end=0)
    assert before.end == whole.end or before.answer is None


def test_prompts_are_grouped_by_their_stop_texts():
    prompts = [Prompt("q0", "a", stop=("b",)), Prompt("q1", "a"), Prompt("q2", "a", stop=("b",))]
    groups = fit_prompts(prompts, [[3]] * 3, WORDS, 4, 128)
    assert {group.members: group.stop for group in groups} == {(0, 2): ("b",), (1,): ()}


# The setting.


@pytest.mark.parametrize(
    ("value", "stop"), [('["\\n\\nQ:", "###"]', ("\n\nQ:", "###")), ("()", ()), ("None", None)]
)
def test_gin_binds_lists_of_texts(value, stop):
    try:
        gin.parse_config(f"SamplerConfig.stop = {value}")
        assert gin.get_configurable("SamplerConfig")().stop == stop
    finally:
        gin.clear_config()


@pytest.mark.parametrize("bad", ["", "\nQ:", [""], ["a", ""], [1], 3, {"a": "b"}])
def test_stop_texts_that_mean_nothing_are_refused(bad):
    with pytest.raises(UserError, match=r"SamplerConfig\.stop = .*list of texts .*\[\] for none"):
        SamplerConfig(stop=bad)


def test_a_list_is_kept_as_a_tuple_and_the_programs_do_not_depend_on_it():
    config = SamplerConfig(stop=["a", "b"])
    assert config.stop == ("a", "b")
    assert hash(config)
    assert config.params == SamplingParams()
    assert np.shape(automaton(WORDS, ("a", "b"))) == (2, WORDS.vocab_size)
