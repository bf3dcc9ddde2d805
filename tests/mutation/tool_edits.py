"""Edits of the arithmetic of star_jax/tools/precompile/, of reports and of imported models."""

from tests.mutation.edit import edits_of

RIGHT_STEPS = (
    "test_reporting.py::test_right_steps_are_shares_of_the_checkable_before_and_after_the_filter"
)
THEIR_FIGURE = (
    "test_reporting.py::"
    "test_the_figure_of_right_steps_has_right_answers_or_the_kept_where_no_more_is_known"
)

EDITS = [
    *edits_of(
        "tools/precompile/roofline.py",
        "test_precompile_arithmetic.py",
        (
            "            + self._attention(rows, queries, prefix_tokens, shared=True)\n",
            "",
            "prefill without the prefix",
        ),
        (
            'n_sums = 1 if model.block == "parallel" else 2',
            "n_sums = 1",
            "one all-reduce per block",
        ),
        (" + _gather(split.length, kv)", "", "sequence traffic is forgotten"),
        (
            "row = tokens * split.length",
            "row = tokens",
            "sequence traffic of a device's own tokens",
        ),
        (
            "self._forward_traffic(tokens) * 2",
            "self._forward_traffic(tokens)",
            "no backward traffic",
        ),
        ("outputs / split.embed * size)", "outputs * size)", "replicas sum whole gradients"),
        ("(block * 3 + again)", "(block * 3)", "nothing is computed again"),
        (
            "self._training_traffic(tokens)) * accumulation",
            "self._training_traffic(tokens))",
            "work of one part of the batch",
        ),
        ("(1 if shared else rows)", "rows", "the prefix is read per row"),
        ("columns + 1", "columns", "the new token is not attended"),
        ("splits_rows - splits_parameters", "splits_rows", "fsdp counts as replicas"),
        (
            "head = self._products([self.head], n_read)",
            "head = self._products([self.head], tokens)",
            "logits of all tokens",
        ),
    ),
    *edits_of(
        "tools/precompile/prediction.py",
        "test_precompile_arithmetic.py",
        ("(n_slots * assumed.busy_slots)", "n_slots", "busy slots are ignored"),
        ("trainer.row_length * assumed.packed_share", "trainer.row_length", "packed share of rows"),
        (
            "self.shapes.n_shards * assumed.packed_share",
            "self.shapes.n_shards",
            "packed share of chunks",
        ),
        (
            "chunks * each[REFILL] + steps * each[DECODE]",
            "chunks * each[DECODE] + steps * each[REFILL]",
            "times are swapped",
        ),
        ("max(busy, sampler.max_new_tokens)", "busy", "fewer steps than the longest row"),
        ("min(sampler.batch_size, n)", "sampler.batch_size", "more slots than rows"),
        (
            "assumed.question_tokens + assumed.new_tokens",
            "assumed.question_tokens",
            "rows of questions alone",
        ),
        ("settings.assumed.hinted_share * ", "", "hinted share is ignored"),
        ("assumed.kept_share * ", "", "kept share is ignored"),
        (
            "n * each[RELEASED]",
            "each[RELEASED]",
            "the released code's one question",
        ),
        (
            "range(self.settings.iterations + 1)",
            "range(self.settings.iterations)",
            "the last iteration takes no time",
        ),
    ),
    *edits_of(
        "tools/precompile/fit.py",
        "test_precompile_arithmetic.py",
        ("seconds / efficiency", "seconds", "efficiency is ignored"),
        ("shapes.chunk_tokens, prefix,", "shapes.chunk_tokens, 0,", "refill without the prefix"),
        (
            "columns = shapes.window + shapes.max_new_tokens",
            "columns = shapes.window",
            "a cache of the prompt alone",
        ),
        ("message_microseconds * 1e-6", "message_microseconds", "microseconds as seconds"),
    ),
    *edits_of(
        "tools/precompile/prediction.py",
        "test_precompile_arithmetic.py",
        (
            "split_of(mesh, self.mesh.decoding_rules)",
            "split_of(mesh, self.mesh.training_rules)",
            "decoding by the rules of training",
        ),
    ),
    *edits_of(
        "models/base_weights.py",
        "test_convert.py::test_another_models_weights_are_refused_with_what_differs",
        (
            "if config.context_length > theirs.context_length:",
            "if False:",
            "a context longer than the checkpoint's is accepted",
        ),
    ),
    *edits_of(
        "reporting/paper_figures.py",
        "test_reporting.py::test_figure4_has_the_mean_and_the_range_of_its_seeds_and_the_direct_baseline",
        (
            "panel.axhspan(min(ends), max(ends)",
            "panel.axhspan(0, max(ends)",
            "the direct arm's band begins at 0",
        ),
    ),
    *edits_of(
        "reporting/cost.py",
        "test_reporting.py::test_the_last_line_of_the_cost_is_the_sum_of_all_iterations "
        "test_reporting.py::test_a_sum_is_not_known_where_an_iteration_is_not "
        "test_reporting.py::test_the_roofline_share_is_needed_flops_over_time_and_peak",
        (
            "sum(known) if len(known) == len(lines)",
            "known[-1] if len(known) == len(lines)",
            "the cost table's total is its last line",
        ),
        ("times(2, sampled)", "times(6, sampled)", "sampling costs as much as training"),
    ),
    *edits_of(
        "reporting/iterations.py",
        f"{RIGHT_STEPS} {THEIR_FIGURE}",
        (
            "for k, total in _checkable(run, n, source))\n    return next(",
            "for k, total in _checkable(run, n, source)[1:])\n    return next(",
            "right steps as a share of the kept",
        ),
        (
            'counts.get("checkable", 0)\n',
            'counts.get("right", 0)\n',
            "right steps as a share of all right answers",
        ),
    ),
    *edits_of(
        "reporting/tables.py",
        "test_report.py::test_wilson_interval_equals_published_values",
        ("inv_cdf(0.975)", "inv_cdf(0.95)", "90 % intervals"),
    ),
]
