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
            "test_score.py::test_the_likeliest_choice_is_the_answer",
        ),
        (
            '"dropped": sum(attempt.dropped',
            '"dropped": sum(not attempt.ended',
            "truncated completions count as dropped",
            "test_loop.py::test_a_question_that_exceeds_the_context_is_dropped_and_wrong",
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
        (
            "n_steps // 10)",
            "n_steps // 2)",
            "the noted loss is of half of the steps",
            "test_loop.py::test_the_noted_loss_is_of_the_last_tenth_of_the_steps",
        ),
        (
            "step <= n_steps - n_last and",
            "step <= n_steps and",
            "a checkpoint among the last steps",
            "test_loop.py::test_training_resumes_from_its_checkpoint_to_the_same_weights_and_loss",
        ),
        (
            "checkpoint.restore(trainer.abstract_state()) if checkpoint and every else None",
            "None",
            "training is not resumed from its checkpoint",
            "test_loop.py::test_the_noted_losses_begin_where_training_was_resumed",
        ),
        (
            "n_steps - len(trained.losses) + 1",
            "n_steps - len(trained.losses)",
            "losses are noted one step early",
            "test_loop.py::test_the_noted_losses_begin_where_training_was_resumed",
        ),
        (
            "                checkpoint.clear()  #",
            "                pass  #",
            "weights that spoilt the loss stay",
            "test_loop.py::test_a_checkpoint_that_may_have_spoilt_the_loss_is_removed",
        ),
        (
            "trainer.train(state, examples, n_steps, seed, on_step)",
            "trainer.train(state, examples, n_steps, 0, on_step)",
            "the order ignores the seed",
            LINE_BY_LINE,
        ),
    ),
    *edits_of(
        "loop/baselines.py",
        "test_baselines.py",
        (
            "[seed, 6]",
            "[6]",
            "chosen examples ignore the seed",
            "test_baselines.py::test_gold_pairs_are_the_whole_data_or_drawn_from_it_by_the_seed",
        ),
        (
            "measure(after, weights,",
            "measure(after, Lazy(load_base),",
            "the base is evaluated in place of the trained model",
            "test_baselines.py::test_direct_fine_tuning_by_hand",
        ),
        (
            "order[: n_examples or None]",
            "order[:n_examples]",
            "0 examples is none",
            "test_baselines.py::test_gold_pairs_are_the_whole_data_or_drawn_from_it_by_the_seed",
        ),
        (
            "schedule=direct.length, seed=seed\n",
            "schedule=direct.length, seed=0\n",
            "the order of examples ignores the seed",
            "test_baselines.py::test_direct_fine_tuning_by_hand",
        ),
    ),
    *edits_of(
        "loop/baselines.py",
        "test_baselines.py",
        (
            "held_out, few_shot=True)",
            "held_out, few_shot=False)",
            "no examples are shown",
            "test_baselines.py::test_the_base_answers_behind_the_examples_by_the_draws_of_the_seed",
        ),
        (
            "Rollout(engine, task, seed,",
            "Rollout(engine, task, 0,",
            "draws ignore the seed",
            "test_baselines.py::test_the_base_answers_behind_the_examples_by_the_draws_of_the_seed",
        ),
    ),
    *edits_of(
        "loop/finetune.py",
        "test_resume.py::test_pretraining_that_dies_goes_on_to_the_same_base",
        (
            "optimizer=phase.optimizer",
            "optimizer=phases[0].optimizer",
            "all phases use the first one's optimizer",
            "test_resume.py::test_each_phase_of_pretraining_starts_from_the_one_before_with_its_own_optimizer",
        ),
        (
            "done, params = StageDir",
            "done, _ = StageDir",
            "each phase starts from random weights",
            "test_resume.py::test_each_phase_of_pretraining_starts_from_the_one_before_with_its_own_optimizer",
        ),
    ),
]
