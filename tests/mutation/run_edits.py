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
        ('if sha256(data) != marker["sha256"]:', "if not data:", "a tampered stage is read"),
        (
            "        write_atomically(file, data)\n"
            "        self._finish(stage, len(records), sha256(data), seconds)\n",
            "        self._finish(stage, len(records), sha256(data), seconds)\n"
            "        write_atomically(file, data)\n",
            "the marker is written before the file",
            "test_run_dir.py test_resume.py::test_dying_before_any_write_changes_nothing",
        ),
        ("        save(directory, weights)\n", "", "weights are not saved"),
        (
            "{**self.read_stats(), stage: summary}",
            "{stage: summary}",
            "sampling.json has only the last stage",
        ),
        (
            "Lazy(lambda: load(directory), weights)",
            "Lazy(lambda: weights)",
            "new weights stay in memory when they are dropped",
        ),
    ),
    *edits_of(
        "run/run_dir.py",
        "test_run_dir.py",
        (
            "if differing and self._has_results():",
            "if differing and not self._has_results():",
            "another configuration's results are continued",
        ),
        (
            "found != FORMAT and self._has_results()",
            "found > FORMAT and self._has_results()",
            "a former format is resumed",
        ),
        ("            self._check_format()\n", "", "the format is not checked"),
        (
            'elif self._any("iter_*"):',
            "elif False:",
            "iterations without a configuration are taken over",
        ),
        (" and not FREE_BINDINGS.match(name)", "", "a run cannot be continued for more iterations"),
        (
            "iterations|checkpoint_every|row",
            "iterations|checkpoint_every|row|seed",
            "a run continues with another seed",
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
        (" and not attempt.dropped", "", "dropped questions count as unparsable"),
        ('- {""}, key=_numeric_first)', '- {""})', "groups are sorted as texts"),
        (
            "sum(self.kept.values()) / self.n_questions",
            'self.kept["generate"] / self.n_questions',
            "the trained share leaves out rationalized examples",
        ),
    ),
    *edits_of(
        "run/files.py",
        "test_run_dir.py",
    ),
]
