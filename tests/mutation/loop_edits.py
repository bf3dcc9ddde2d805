"""Edits of the other modules of star_jax/loop/."""

from tests.mutation.edit import edits_of

LINE_BY_LINE = "test_loop.py::test_algorithm_1_line_by_line"

EDITS = [
    *edits_of(
        "loop/config.py",
        LINE_BY_LINE,
        ("model == 0)", "model <= 1)", 'few_shot = "first" shows examples to M_1, too'),
        (
            "= (RightAnswer(), NoHintLeak())",
            "= (RightAnswer(),)",
            "by default rationales with their hint are kept",
            "test_loop.py::test_the_defaults_are_the_papers",
        ),
        (
            "temperature=self.resample_temperature",
            "temperature=1.0",
            "failures are resampled at 1.0",
            "test_ablations.py::test_a_run_keeps_what_was_right_when_warm_and_says_so",
        ),
        (
            " or (self.resample_temperature and self.rationalize)",
            "",
            "resampling and rationalization at once",
            "test_ablations.py::test_it_replaces_rationalization",
        ),
        (
            "rationalize: bool = True",
            "rationalize: bool = False",
            "no rationalization by default",
            "test_loop.py::test_the_defaults_are_the_papers",
        ),
    ),
    *edits_of(
        "loop/stages.py",
        LINE_BY_LINE,
        ("RATIONALIZED, hinted=True)", "RATIONALIZED)", "rationalization without the hint"),
        (
            "RESAMPLED, first_sample=1)",
            "RESAMPLED)",
            "the second sample repeats the first one's draws",
            "test_ablations.py::test_a_second_sample_has_another_key",
        ),
        ("            few_shot=few_shot,\n", "", "no stage has few-shot examples"),
        (
            "self.directory.write_stats(stage.name,",
            "self.directory.write_stats(stage.file,",
            "sampling.json has other names of stages",
            "test_loop.py::test_reward_choices_and_loss_on_prompts_reach_the_loop",
        ),
    ),
    *edits_of(
        "loop/filters.py",
        "test_loop.py test_attempts.py test_run_modes.py",
        (
            "if attempt.correct]",
            "if attempt.reading.answer]",
            "any answer is kept",
            "test_loop.py::test_right_answers_are_kept_and_know_their_source",
        ),
        (
            "(a.hinted and a.reading.hint_leaked)",
            "a.reading.hint_leaked",
            "a leak needs no hint",
            "test_loop.py::test_a_rationale_that_repeats_its_hint_is_dropped_and_counted_only_if_there_was_a_hint",
        ),
        (
            "steps_right is not False",
            "steps_right is True",
            "what cannot be checked is dropped",
            "test_steps.py::test_the_filter_keeps_what_cannot_be_checked_and_counts_it_apart",
        ),
        (
            "for a in reversed(attempts)}",
            "for a in attempts}",
            "the last of equal texts stays",
            "test_loop.py::test_distinct_keeps_the_first_of_a_questions_equal_texts_up_to_the_answer",
        ),
        (
            "<= self.n:",
            "< self.n:",
            "at_most keeps one fewer",
            "test_loop.py::test_at_most_keeps_the_first_attempts_of_each_question",
        ),
        (
            "apply(tuple(kept))",
            "apply(tuple(attempts))",
            "each filter sees all attempts",
            "test_loop.py::test_right_answers_are_kept_and_know_their_source",
        ),
        (
            "len(n) - len(after.get(stage, ()))",
            "len(after.get(stage, ()))",
            "what a filter kept is counted as dropped",
            "test_loop.py::test_right_answers_are_kept_and_know_their_source",
        ),
        (
            "(RightAnswer(), NoHintLeak()))\n",
            "(RightAnswer(),))\n",
            "answers that leak their hint count as right",
            "test_loop.py::test_a_rationale_that_repeats_its_hint_is_dropped_and_counted_only_if_there_was_a_hint",
        ),
        (
            "verdict is not None for",
            "verdict is True for",
            "checkable counts the correct ones",
            "test_ablations.py::test_wrong_steps_are_marked_counted_and_dropped_by_the_filter "
            "test_steps.py::test_the_filter_keeps_what_cannot_be_checked_and_counts_it_apart",
        ),
        (
            "verdict is True for",
            "verdict is not False for",
            "unknown steps count as right",
            "test_steps.py::test_the_filter_keeps_what_cannot_be_checked_and_counts_it_apart "
            "test_ablations.py::test_without_a_checker_nothing_is_said_of_steps",
        ),
    ),
    *edits_of(
        "loop/examples.py",
        LINE_BY_LINE,
        (
            "task.question_text(question, hinted=hinted)",
            "task.question_text(question, hinted=attempt.hinted)",
            "every rationalized example trains with its hint",
        ),
        (
            "completion=attempt.trimmed",
            "completion=attempt.completion",
            "text after the answer is trained on",
            "test_loop.py::test_what_follows_the_answer_is_trimmed_before_training",
        ),
        (
            " if attempt.trimmed == attempt.completion else None",
            "",
            "the tokens after the answer are trained on",
            "test_loop.py::test_what_follows_the_answer_is_trimmed_before_training",
        ),
        (
            "attempt.source == RATIONALIZED and bool(draw < hinted_share)",
            "bool(draw < hinted_share)",
            "generated examples get hints",
        ),
        (
            "few_shot_examples(group, example.hint_kept)",
            "few_shot_examples(group, False)",
            "hinted examples stand behind plain few-shot texts",
        ),
        (
            "texts[len(texts) - n_shown :]",
            "texts[:n_shown]",
            "the newest texts are dropped",
            "test_ablations.py::test_the_oldest_examples_are_dropped_where_a_row_is_too_short",
        ),
        (
            "row_length - len(tokenized(example, vocabulary).tokens)",
            "row_length",
            "few-shot texts leave no room for the example",
            "test_ablations.py::test_the_oldest_examples_are_dropped_where_a_row_is_too_short",
        ),
        (
            "    if completion is None or not _read_the_same(",
            "    if completion is None or _read_the_same(",
            "sampled tokens are encoded anew",
            "test_loop.py::test_tokens_are_trained_on_as_they_were_sampled",
        ),
        (
            " or not _read_the_same(vocabulary, prompt, completion, example.completion)",
            "",
            "tokens that read otherwise behind the prompt stay",
            "test_loop.py::test_tokens_that_would_read_otherwise_behind_the_prompt_are_encoded_anew",
        ),
        (
            "(prompt, loss_on_prompt)",
            "(prompt, False)",
            "loss_on_prompt is ignored",
            "test_loop.py::test_loss_is_on_the_completion_only_with_or_without_the_hint",
        ),
        (
            "(vocabulary.encode(text), loss_on_prompt)",
            "(vocabulary.encode(text), False)",
            "loss_on_prompt leaves out the few-shot texts",
            "test_ablations.py::test_the_loss_of_all_tokens_has_the_examples_too",
        ),
        (
            ", weight=example.weight)",
            ")",
            "weights of examples are ignored",
            "test_loop.py::test_a_weight_multiplies_the_loss_of_its_example",
        ),
    ),
    *edits_of(
        "loop/evaluate.py",
        LINE_BY_LINE,
        (
            "evaluation_metrics(attempts, chance(rollout.task, questions))",
            "evaluation_metrics(attempts)",
            "no chance level in the metrics of trained models",
            "test_loop.py::test_reward_choices_and_loss_on_prompts_reach_the_loop",
        ),
    ),
    *edits_of(
        "loop/stages.py",
        "test_loop.py",
        (
            'f"{q.id}{hint}"',
            "q.id",
            "hinted and plain prompts share their draws",
            "test_loop.py::test_draws_differ_by_hint_iteration_sample_and_seed",
        ),
        (
            "prompt_key(rollout.seed, rollout.iteration,",
            "prompt_key(rollout.seed, 0,",
            "draws are the same in every iteration",
            "test_loop.py::test_draws_differ_by_hint_iteration_sample_and_seed",
        ),
        (
            "prompt_key(rollout.seed,",
            "prompt_key(0,",
            "draws ignore the seed",
            "test_loop.py::test_draws_differ_by_hint_iteration_sample_and_seed",
        ),
        (
            "stage.first_sample)\n",
            "0)\n",
            "later samples repeat the first one's draws",
            "test_loop.py::test_draws_differ_by_hint_iteration_sample_and_seed",
        ),
        (
            "engine = engine.at_temperature(stage.temperature)",
            "pass",
            "a stage's temperature is ignored",
            "test_ablations.py::test_failures_are_resampled_at_the_temperature_without_a_hint",
        ),
        (
            "[attempts[i] for i in range(len(questions))]",
            "list(attempts.values())",
            "attempts are in the order in which they were finished",
            "test_loop.py::test_generate_samples_every_question_in_order_without_hints",
        ),
        (
            "reward=_reward_of(rollout.reward, question, written.text, reading)",
            "reward=float(reading.correct)",
            "the reward of the rollout is ignored",
            "test_loop.py::test_a_users_reward_is_noted_with_the_attempt",
        ),
        (
            "dropped=completion is None",
            "dropped=not written.text",
            "empty completions count as dropped",
            "test_loop.py::test_a_completion_without_an_answer_is_unparsable_and_wrong",
        ),
        (
            "if attempt.correct}",
            "if attempt.reading.answer}",
            "a wrong answer is no failure",
            "test_loop.py::test_rationalize_samples_the_failures_only_with_hints",
        ),
        (
            "task.read(question, gold).n_steps",
            "reading.n_steps",
            "reference steps are those of the model",
            "test_steps.py",
        ),
    ),
]
