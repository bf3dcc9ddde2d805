"""The toy worlds and the tiny twins of Tables 1 and 2."""

import copy
import dataclasses
import importlib
import re
from pathlib import Path

import gin
import numpy as np
import pytest

from star_jax.cli import gin_errors, gin_sources
from star_jax.errors import UserError
from star_jax.tasks import rows, steps
from star_jax.tasks.commonsense_qa import CommonsenseQATask, choices_of
from star_jax.tasks.gsm8k import GSM8KTask
from star_jax.tasks.task import TRAIN, VALIDATION
from star_jax.tasks.toy import PARTS, stories, things
from star_jax.tasks.toy.corpus import KINDS, WORLDS, ToyCorpus, toy_vocabulary
from tests import toy_files as files
from tests.tiny import trimmed_by

PAPER = Path(__file__).parent.parent / "gin_configs/paper"
ROWS = {
    "few_shot_direct": "few_shot",
    "few_shot_cot": "few_shot",
    "direct_finetuned": "finetune",
    "star_without_rationalization": "star",
    "star_with_rationalization": "star",
}
TWINS = [(table, row) for table in (1, 2) for row in ROWS]
WORLD_OF_TABLE = {1: "commonsense_qa", 2: "gsm8k"}
each_world = pytest.mark.parametrize("name", WORLDS)


@pytest.fixture(autouse=True)
def no_configuration_left():
    yield
    gin.clear_config()


def task_of(name, **fields):
    kind = {"commonsense_qa": CommonsenseQATask, "gsm8k": GSM8KTask}[name]
    return kind(
        train_file=f"toy_{name}_train.jsonl",
        validation_file=f"toy_{name}_validation.jsonl",
        exemplar_file=f"toy_{name}_exemplars.txt",
        **fields,
    )


def rationale_of(question):
    """A rationale for a question of the toy CommonsenseQA, from the world and not its generator."""
    thing, relation = question.id.split("_")
    [(kind, values)] = [(k, v) for k, (members, v) in things.kinds().items() if thing in members]
    value = values[int(relation)]
    [letter] = [a for a, text in choices_of(question.text).items() if text == value]
    steps = f" A {thing} is a {kind} . A {kind} has {value} ."
    return f"{steps} Therefore, the answer is {value} ({letter})."


# The data.


def test_the_files_are_what_the_generator_writes(tmp_path):
    files.main(str(tmp_path))
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    shipped = {path.name: path.read_bytes() for path in rows.EXAMPLES.glob("toy_*")}
    assert written == shipped
    assert len(written) == 6
    assert sum(map(len, written.values())) < 400_000


@pytest.mark.parametrize("split", [TRAIN, VALIDATION])
def test_every_thing_has_one_question_and_its_kind_gives_the_letter(split):
    task = task_of("commonsense_qa")
    questions = task.questions(split)
    assert len(questions) == things.SIZES[split] == len({q.text.split("\n")[0] for q in questions})
    for question in questions:
        assert len(set(choices_of(question.text).values())) == things.N_CHOICES
        answer = task.read(question, rationale_of(question)).answer
        assert task.is_correct(question, answer)


@pytest.mark.parametrize("split", [TRAIN, VALIDATION])
def test_every_solution_has_right_steps_and_the_right_number(split):
    task = task_of("gsm8k")
    questions = task.questions(split)
    assert len(questions) == files.N_STORIES[split] == len({q.text for q in questions})
    for question in questions:
        gold = task.gold_completion(question)
        assert task.is_correct(question, task.read(question, gold).answer)
        assert trimmed_by(task, question, gold) == gold
        assert steps.marks_right(gold)
        assert 1 <= steps.count_marks(gold) <= len(stories.STEPS)


@each_world
def test_exemplars_are_read_and_graded_in_all_their_forms(name):
    task, direct = task_of(name), task_of(name, direct=True)
    for hinted in (False, True):
        shown = task.few_shot_examples("", hinted)
        assert [_is_hinted(text) for text in shown] == [hinted] * 2
    answers = [x.rpartition("A:")[2].strip() for x in direct.few_shot_examples("", False)]
    assert len(set(answers)) == 2
    assert all(len(answer.split()) == 1 for answer in answers)


def _is_hinted(text):
    """Whether a question has a marked choice, or a number in parentheses behind it."""
    return bool(re.search(r"\(CORRECT\)\n|\? \([0-9]+\)\n", text))


def test_a_list_of_choices_is_read_rightly():
    for seed in range(20):
        n = 2 + seed % 4
        [(first, letter), *others] = things.reading(np.random.default_rng(seed), n)
        listed = choices_of(f"\n{first}")
        said = [(first.rpartition(" ")[2], letter), *((b.split(" ")[-1], x) for b, x in others)]
        assert len(listed) == len(said) == n
        assert all(listed[letter.strip(" ().")] == text for text, letter in said)


# Who has read what.


@each_world
def test_corpus_training_and_validation_questions_are_disjoint(name):
    task, world, vocabulary = task_of(name), WORLDS[name], toy_vocabulary(name)
    sides = [{task.stem(q) for q in task.questions(split)} for split in (TRAIN, VALIDATION)]
    assert not sides[0] & sides[1]
    corpus = ToyCorpus(name, n_documents=1500, facts=0.0, in_context=(1, 1))
    texts = [vocabulary.decode(doc.tokens.tolist()) for doc in corpus.documents(vocabulary)]
    read = {line[3:] for text in texts for line in text.split("\n") if line.startswith("Q: ")}
    read = {line.rpartition(" (")[0] if line.endswith(")") else line for line in read}  # hints
    assert len(read) >= 100
    assert not read & sides[0]
    assert not read & sides[1]
    shown = {x[3:].partition("\n")[0] for x in task.few_shot_examples("", hinted=False)}
    assert not shown & (sides[0] | sides[1])
    drawn = world.question(world.draw(np.random.default_rng(0), VALIDATION))
    assert task.stem(drawn) not in read  # parts other than the corpus' can be drawn, too


def test_things_are_split_completely():
    parts = [set(things.pairs(part)) for part in PARTS]
    assert [len(part) for part in parts] == [things.SIZES[part] for part in PARTS]
    assert len(set.union(*parts)) == sum(things.SIZES.values()) == 160 * len(things.RELATIONS)


@each_world
def test_the_vocabulary_has_every_word_and_no_other(name):
    vocabulary, task = toy_vocabulary(name), task_of(name)
    texts = ["".join(fact) for fact in WORLDS[name].facts()]
    for question in [*task.questions(TRAIN), *task.questions(VALIDATION)]:
        texts += [task.question_text(question, hinted) for hinted in (False, True)]
        texts += [task.gold_completion(question) or "", task.bare_answer(question)]
    for hinted in (False, True):
        texts += task.few_shot_examples("", hinted)
    ids = {i for text in texts for i in vocabulary.encode(text)}  # raises for a missing word
    assert all(vocabulary.decode(vocabulary.encode(text)) == text.strip(" ") for text in texts)
    unused = {word for i, word in enumerate(vocabulary.words) if i not in ids} - {"<pad>", "</s>"}
    assert len(unused) < 0.05 * len(vocabulary.words), unused


@each_world
def test_a_corpus_shows_what_it_says(name):
    vocabulary = toy_vocabulary(name)
    kinds = [kind for kind in KINDS if kind != "reading" or WORLDS[name].reading]
    only = {**dict.fromkeys(KINDS, 0.0), "n_documents": 20, "in_context": (0, 1)}
    said = {}
    for kind in kinds:
        corpus = ToyCorpus(name, **{**only, kind: 1.0})
        documents = corpus.documents(vocabulary)
        assert [d.tokens.tolist() for d in documents] == [
            d.tokens.tolist() for d in corpus.documents(vocabulary)
        ]
        said[kind] = [vocabulary.decode(d.tokens.tolist()) for d in documents]
        other = dataclasses.replace(corpus, seed=1).documents(vocabulary)
        assert said[kind] != [vocabulary.decode(d.tokens.tolist()) for d in other]
        for document in documents:
            with_loss = document.tokens[document.loss_weights > 0]
            assert "Q:" not in vocabulary.decode(with_loss.tolist())
    assert all(text.count("\n") == 7 and "Q:" not in text for text in said["facts"])
    for kind in ("plain", "hinted", "direct"):
        assert all(text.count("Q:") == 2 for text in said[kind])
    assert all(_is_hinted(text) for text in said["hinted"])
    assert not any(_is_hinted(text) for text in said["plain"] + said["direct"])
    assert not any("Therefore," in text or "<<" in text for text in said["direct"])


def test_facts_are_read_unevenly():
    vocabulary, facts = toy_vocabulary("commonsense_qa"), things.facts()
    corpus = ToyCorpus("commonsense_qa", 2000, facts=1.0, plain=0.0, hinted=0.0, direct=0.0)
    text = "\n".join(vocabulary.decode(d.tokens.tolist()) for d in corpus.documents(vocabulary))
    counts = sorted(text.count("".join(fact)) for fact in facts)
    assert counts[0] < 0.1 * counts[-1]
    assert counts[0] > 0


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"world": "gsm9k"}, "gsm9k"),
        ({"facts": -1.0}, "shares"),
        ({"reading": 0.1}, "reading = 0.1"),
        ({"in_context": ()}, "shares"),
        ({"lists": (0, 0)}, "shares"),
        ({"lists": (1, 1, 1, 1, 1)}, "2 to 5 choices"),
        ({"n_documents": 0}, "n_documents = 0"),
    ],
)
def test_a_wrong_corpus_is_refused(fields, said):
    with pytest.raises(UserError, match=said):
        ToyCorpus(**{"world": "gsm8k", **fields})


# The twins.


@pytest.mark.parametrize(("table", "row"), TWINS)
def test_a_twins_context_fits_every_question(table, row):
    name, mode = f"paper/table{table}_{row}_tiny.gin", ROWS[row]
    importlib.import_module("star_jax.cli.configurables")
    flags = [("MODEL_DIR", "'/nowhere'"), ("MODEL_CHECKPOINT", "'/nowhere/base'")]
    gin_errors.load(gin_sources.read_sources([name], flags))

    def bound(argument):  # gin makes what it stands for when it is copied
        return copy.deepcopy(gin.query_parameter(f"{mode}.{argument}"))

    model, task, sampler, vocabulary = map(bound, ("model", "task", "sampler", "vocabulary"))
    assert bound("row") == f"table{table}/{row}_tiny"
    assert task.direct == ("direct" in row)
    assert vocabulary.vocab_size <= model.vocab_size
    shown = sum(len(vocabulary.encode(x)) for x in task.few_shot_examples("", hinted=True))
    for question in [*task.questions(TRAIN), *task.questions(VALIDATION)]:
        prompt = vocabulary.encode(task.question_text(question, hinted=True))
        assert shown + len(prompt) + sampler.max_new_tokens <= model.context_length
        gold = task.gold_completion(question) or rationale_of(question)
        assert len(vocabulary.encode(gold)) + 1 <= sampler.max_new_tokens
    text = (PAPER / Path(name).name).read_text().partition("\ninclude")[0]
    head = " ".join(text.replace("\n#", "").split())
    assert f"--run_mode={mode}" in head
    assert "paper gets" in head
    if mode == "star":
        loop = bound("loop")
        assert loop.rationalize == (row == "star_with_rationalization")
        assert loop.few_shot_in_training == (table == 1)  # as in the paper's tables
        room = shown + len(prompt) + sampler.max_new_tokens
        assert room <= bound("trainer").row_length
