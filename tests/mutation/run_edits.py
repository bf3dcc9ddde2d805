"""Edits of star_jax/run/: stages on disk, run directories, checkpoints."""

from tests.mutation.edit import edits_of

EDITS = [
    *edits_of(
        "run/stage_dir.py",
        "test_run_dir.py",
        (
            'if marker["sha256"] != trained_on:',
            "if not marker:",
            "finished weights are not checked against train.jsonl",
            "test_loop.py::test_weights_that_were_not_trained_on_train_jsonl_are_refused",
        ),
        (
            'if sha256(data) != marker["sha256"]:',
            "if not data:",
            "a tampered stage is read",
            "test_run_dir.py::test_a_tampered_file_is_told",
        ),
        (
            "        write_atomically(file, data)\n"
            "        seconds = self._finish(stage, start, len(records), sha256(data), None)\n",
            "        seconds = self._finish(stage, start, len(records), sha256(data), None)\n"
            "        write_atomically(file, data)\n",
            "the marker is written before the file",
            "test_resume.py::test_dying_before_any_write_changes_nothing",
        ),
        (
            "        checkpoints.save(directory, weights)\n",
            "",
            "weights are not saved",
            "test_loop.py::test_the_weights_come_from_train_jsonl_alone_bit_by_bit",
        ),
        (
            "{**self.read_stats(), stage: summary}",
            "{stage: summary}",
            "sampling.json has only the last stage",
            "test_run_dir.py::test_what_sampling_cost_is_noted_by_stage",
        ),
        (
            "Lazy(load, weights)",
            "Lazy(lambda: weights)",
            "new weights stay in memory when they are dropped",
            "test_run_dir.py::test_weights_are_read_lazily_and_once",
        ),
    ),
    *edits_of(
        "run/run_dir.py",
        "test_run_dir.py",
        (
            "if differing and self._has_results():",
            "if differing and not self._has_results():",
            "another configuration's results are continued",
            "test_run_dir.py::test_another_configuration_is_refused_with_what_differs",
        ),
        (
            "self.format() != FORMAT and",
            "self.format() > FORMAT and",
            "a former format is resumed",
            "test_run_dir.py::test_a_directory_of_the_former_format_is_refused_in_one_line",
        ),
        (
            "if self.format() != FORMAT and self._has_results():",
            "if False:",
            "the format is not checked",
            "test_run_dir.py::test_a_directory_of_the_former_format_is_refused_in_one_line",
        ),
        (
            'elif self._any("iter_*"):',
            "elif False:",
            "iterations without a configuration are taken over",
            "test_run_dir.py::test_iterations_of_nobody_are_refused",
        ),
        (
            " and not FREE_BINDINGS.match(name)",
            "",
            "a run cannot be continued for more iterations",
            "test_run_dir.py::test_what_finished_stages_do_not_depend_on_may_change",
        ),
        (
            "iterations|checkpoint_every|row",
            "iterations|checkpoint_every|row|seed",
            "a run continues with another seed",
            "test_run_dir.py::test_all_else_may_not_change",
        ),
    ),
    *edits_of(
        "run/checkpoints.py",
        "test_checkpoints.py",
        ("return max((int(number)", "return min((int(number)", "the oldest state is resumed from"),
        ("every > 0 and step", "step", "0 saves after each step"),
        ("if path.name != kept and", "if path.name == kept and", "the newest state is removed"),
        (
            "        (directory / _marker(directory)).unlink(missing_ok=True)\n",
            "        pass\n",
            "the marker of a removed checkpoint outlives its arrays",
        ),
        (
            "        self._saved_at = time.monotonic()\n",
            "",
            "saves again at once when a save was due",
        ),
    ),
    *edits_of(
        "run/metrics.py",
        "test_loop.py test_tables.py",
        (
            "sorted(found, key=group_order)",
            "sorted(found)",
            "groups are sorted as texts",
            "test_loop.py::test_evaluation_counts_by_group_in_the_order_of_digits",
        ),
        (
            "sum(self.kept.values()) / self.n_questions",
            'self.kept["generate"] / self.n_questions',
            "the trained share leaves out rationalized examples",
            "test_loop.py::test_algorithm_1_line_by_line",
        ),
    ),
    *edits_of(
        "run/files.py",
        "test_run_dir.py",
    ),
]
