"""Edits of the outer loop itself, star_jax/loop/star.py."""

from tests.mutation.edit import edits_of

LINE_BY_LINE = "test_loop.py::test_algorithm_1_line_by_line"

EDITS = edits_of(
    "loop/star.py",
    LINE_BY_LINE,
    (
        "previous, found = outer_iteration(",
        "_, found = outer_iteration(",
        "every iteration samples from M_0",
    ),
    (
        "        current,\n        n_questions",
        "        previous,\n        n_questions",
        "M_{n-1} is evaluated in place of M_n",
    ),
    (
        "        star.load_base,\n",
        "        star.load_base if n == 1 else dataclasses.replace(\n"
        '            star.base, path=str(stages.directory.path.with_name(f"iter_{n - 1:03d}"))\n'
        "        ).load,\n",
        "training starts from M_{n-1} in place of M",
    ),
    (
        "hinted_share=share",
        "hinted_share=0.0",
        "hinted_share does not reach the loop",
    ),
    ("seed=(config.seed, n)", "seed=(0, n)", "hints are kept by a constant seed"),
    (
        "if not config.few_shot_in_training:",
        "if True:",
        "few_shot_in_training does not reach the loop",
    ),
    (
        "few_shot = config.shows_examples(n - 1)",
        "few_shot = config.shows_examples(n)",
        'few_shot = "first" samples M_0 without examples',
    ),
    (
        "shows_examples(stages.rollout.iteration)",
        "shows_examples(max(0, stages.rollout.iteration - 1))",
        "M_n is evaluated with the prompts of M_{n-1}",
    ),
    (
        "shows_examples(stages.rollout.iteration)",
        "shows_examples(max(1, stages.rollout.iteration))",
        "the base is evaluated as a trained model is",
    ),
    ("[star.config.seed, 5, n]", "[0, 5, n]", "the order of training ignores the seed"),
    ("[star.config.seed, 5, n]", "[star.config.seed, 5]", "one order of training for all n"),
    (
        "[star.config.seed, 4, n]",
        "[4, n]",
        "the drawn questions ignore the seed",
        "test_loop.py::test_questions_are_drawn_anew_and_reproducibly",
    ),
    (
        "if enters.get(q.group, 1) <= n",
        "if enters.get(q.group, 1) < n",
        "groups enter one iteration late",
        "test_ablations.py::test_a_group_is_trained_on_from_its_iteration_on",
    ),
    (
        "if count > len(pool) or not pool:",
        "if count >= len(pool) or not pool:",
        "drawing all questions is refused",
        "test_loop.py::test_all_questions_may_be_drawn",
    ),
    (
        "failed = failures(questions, attempts)",
        "failed = questions",
        "correctly answered questions are rationalized too",
    ),
    (
        "keep(attempts, config.filters)",
        "keep(attempts, config.filters[:1])",
        "only the first filter is applied",
        "test_ablations.py::test_a_run_that_filters_by_steps_trains_on_no_others",
    ),
    ("n_questions=len(questions)", "n_questions=len(attempts)", "retries count as questions"),
    (
        "step_counts(attempts)",
        "step_counts(right)",
        "counts are of the kept attempts",
        "test_loop.py::test_iterations_of_the_whole_loop",
    ),
    (
        "config.seed, n, reward=config.reward",
        "config.seed, n",
        "StarConfig.reward does not reach the loop",
        "test_loop.py::test_reward_choices_and_loss_on_prompts_reach_the_loop",
    ),
    (
        "config.seed, n, reward=config.reward",
        "config.seed, 1, reward=config.reward",
        "the same draws in every iteration",
        "test_loop.py::test_algorithm_1_line_by_line",
    ),
    (
        "config.seed, n, reward=config.reward",
        "0, n, reward=config.reward",
        "the draws ignore the seed",
        "test_loop.py::test_algorithm_1_line_by_line",
    ),
    (
        "row_length = star.trainer.config.row_length",
        "row_length = star.trainer.model.context_length",
        "few-shot texts in training fill the context, not the row",
        "test_loop.py::test_the_weights_come_from_train_jsonl_alone_bit_by_bit",
    ),
    (
        "vocabulary, trainer.config.loss_on_prompt)",
        "vocabulary)",
        "loss_on_prompt does not reach the loop",
        "test_loop.py::test_reward_choices_and_loss_on_prompts_reach_the_loop",
    ),
    (
        "range(1, star.config.iterations + 1)",
        "range(1, star.config.iterations)",
        "the last iteration is missing",
    ),
    (
        "    previous.drop()\n",
        "",
        "M_{n-1} stays in memory while M_n is trained",
        "test_loop.py::test_the_previous_model_is_dropped_before_the_next_is_trained",
    ),
)
