"""Edits of what star_jax/loop/ does with a model: evaluation, training, the baselines."""

from tests.mutation.edit import edits_of

LINE_BY_LINE = "test_loop.py::test_algorithm_1_line_by_line"

EDITS = [
    *edits_of(
        "loop/evaluate.py",
        "test_score.py::test_normalization "
        "test_score.py::test_chance_is_that_of_guessing_among_the_choices "
        "test_score.py::test_the_likeliest_choice_is_the_answer "
        "test_score.py::test_choices_go_on_where_the_prompt_ends",
        (
            "sum(1 / n for n in counts) / len(counts)",
            "len(counts) / sum(counts)",
            "chance is that of the mean number of choices",
        ),
        ("len(text.encode())", "len(text)", "bytes are characters"),
        ("c[1], engine.vocabulary, normalize)", "c[1], engine.vocabulary)", "normalize is ignored"),
        (
            "            text=task.open_text(question),\n",
            "            text=task.question_text(question, hinted=False),\n",
            "scored choices are shown in the prompt",
        ),
        (
            "answer=answer, correct=correct)",
            "answer=answer)",
            "the likeliest choice is graded by its text",
        ),
        (
            '"dropped": sum(attempt.dropped',
            '"dropped": sum(not attempt.ended',
            "truncated completions count as dropped",
            "test_loop.py",
        ),
        (
            "few_shot=few_shot)\n    return metrics",
            "few_shot=False)\n    return metrics",
            "the base is evaluated without examples",
            LINE_BY_LINE,
        ),
    ),
    *edits_of(
        "loop/finetune.py",
        "test_loop.py",
        ("n_steps // 10)", "n_steps // 2)", "the noted loss is of half of the steps"),
        (
            "step <= n_steps - n_last and",
            "step <= n_steps and",
            "a checkpoint among the last steps",
        ),
        (
            "checkpoint.restore(trainer.abstract_state()) if every else None",
            "None",
            "training is not resumed from its checkpoint",
        ),
        (
            "n_steps - len(trained.losses) + 1",
            "n_steps - len(trained.losses)",
            "losses are noted one step early",
        ),
        (
            "                checkpoint.clear()  #",
            "                pass  #",
            "weights that spoilt the loss stay",
        ),
        (
            "trainer.train(state, examples, n_steps, seed, on_step)",
            "trainer.train(state, examples, n_steps, 0, on_step)",
            "the order ignores the seed",
            LINE_BY_LINE,
        ),
    ),
    *edits_of(
        "loop/direct.py",
        "test_baselines.py",
        ("[seed, 6]", "[6]", "chosen examples ignore the seed"),
        (
            "measure(after, weights)",
            "measure(after, Lazy(load_base))",
            "the base is evaluated in place of the trained model",
        ),
        ("order[: n_examples or None]", "order[:n_examples]", "0 examples is none"),
        (
            "            seed=seed,\n",
            "            seed=0,\n",
            "the order of examples ignores the seed",
        ),
    ),
    *edits_of(
        "loop/few_shot.py",
        "test_baselines.py",
        ("held_out, few_shot=True)", "held_out, few_shot=False)", "no examples are shown"),
        ("Rollout(engine, task, seed,", "Rollout(engine, task, 0,", "draws ignore the seed"),
    ),
    *edits_of(
        "loop/pretrain.py",
        "test_resume.py::test_pretraining_that_dies_goes_on_to_the_same_base",
        (
            "optimizer=phase.optimizer",
            "optimizer=phases[0].optimizer",
            "all phases use the first one's optimizer",
        ),
        ("done, params = StageDir", "done, _ = StageDir", "each phase starts from random weights"),
    ),
]
