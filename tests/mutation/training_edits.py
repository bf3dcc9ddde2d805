"""Edits of star_jax/training/ and star_jax/packing.py."""

from tests.mutation.edit import edits_of

ADAM = "test_training.py::test_a_step_is_adam_on_the_gradient_of_the_mean_loss"
FILLED = (
    "test_packing.py::test_every_document_is_packed_whole_and_once "
    "test_packing.py::test_segments_are_contiguous_and_padding_is_nothing "
    "test_packing.py::test_packed_neighbours_do_not_change_logits"
)

EDITS = [
    *edits_of(
        "training/train_step.py",
        "test_training.py::test_loss_is_the_weighted_mean_of_next_token_losses "
        "test_training.py::test_weight_of_the_first_column_counts_nothing",
        (".at[:, -1].set(0)", "", "the last column predicts the first"),
        ("losses_BR * weights_BR", "losses_BR * (weights_BR > 0)", "weights are 0 or 1"),
    ),
    *edits_of(
        "training/train_step.py",
        ADAM,
        (
            "jnp.sum(batch.loss_weights[:, 1:])",
            "jnp.sum(batch.loss_weights)",
            "the first column counts in the mean",
            "test_training.py::test_weight_of_a_rows_first_token_does_not_change_a_step",
        ),
        (
            "weights)[0] / total_weight",
            "weights)[0] / jnp.maximum(jnp.sum(weights), 1.0)",
            "each part of a batch has its own mean",
            "test_training.py::test_accumulation_does_not_change_the_step",
        ),
        (
            "decay * update",
            "update",
            "the learning rate does not fall at the end",
            "test_training.py::test_decay_is_a_factor_on_the_learning_rate",
        ),
        (
            "b1=config.b1",
            "b1=config.b2",
            "the wrong momentum",
            "test_training.py::test_three_steps_equal_adam_in_numpy",
        ),
        (
            "config.learning_rate, config.warmup_steps)",
            "config.learning_rate, 0)",
            "no warm-up",
            "test_training.py::test_three_steps_equal_adam_in_numpy",
        ),
        (
            "largest / jnp.maximum(optax.tree.norm(grads), largest)",
            "largest / optax.tree.norm(grads)",
            "small gradients are scaled up",
            "test_training.py::test_small_gradients_are_not_clipped",
        ),
        (
            "state.step + 1, params",
            "state.step, params",
            "steps are not counted",
            "test_training.py::test_resumed_training_is_bit_identical "
            "test_loop.py::test_training_resumes_from_its_checkpoint_to_the_same_weights_and_loss",
        ),
        (
            "optimizer.update(grads, state.opt_state, state.params)",
            "optimizer.update(grads, optimizer.init(state.params), state.params)",
            "the optimizer starts anew in each step",
            "test_training.py::test_the_optimizers_moments_are_carried_from_step_to_step",
        ),
    ),
    *edits_of(
        "training/packing.py",
        FILLED,
        (
            "default_rng([seed, epoch])",
            "default_rng([epoch])",
            "the order ignores the seed",
            "test_packing.py::test_order_depends_on_the_seed_alone",
        ),
        (
            "default_rng([seed, epoch])",
            "default_rng([seed])",
            "all epochs have one order",
            "test_packing.py::test_epochs_show_everything_once_each_in_an_order_of_its_own",
        ),
        (
            "math.floor(loss_share * row_length + 1e-6)",
            "math.ceil(loss_share * row_length + 1e-6)",
            "a column too many is read",
            "test_packing.py::test_no_row_has_more_loss_than_its_share "
            "test_packing.py::test_an_example_with_more_loss_than_a_row_may_have_is_refused",
        ),
        ("enumerate(row, start=1)", "enumerate(row)", "the first document is padding"),
        (
            "np.arange(len(example.tokens))",
            "np.arange(span.start, span.stop)",
            "positions go on from document to document",
        ),
        (
            "weights[r, span] = example.loss_weights",
            "weights[r, span] = 1",
            "loss on everything",
            "test_packing.py::test_every_document_is_packed_whole_and_once",
        ),
        (
            "    if longest > row_length:",
            "    if longest >= row_length:",
            "a document as long as a row is refused",
            "test_packing.py::test_a_document_longer_than_a_row_is_refused_with_the_sizes",
        ),
        (
            "yield room(example, loss_share)",
            "yield len(example.tokens)",
            "loss_share does not limit rows",
            "test_packing.py::test_no_row_has_more_loss_than_its_share",
        ),
        (
            "example.loss_weights[1:])\n    return max",
            "example.loss_weights)\n    return max",
            "a first token's weight takes room",
            "test_packing.py::test_a_first_tokens_weight_takes_no_room",
        ),
    ),
    *edits_of(
        "packing.py",
        "test_packing.py",
        (
            "waiting.pop(i)[0] for i in reversed(chosen)][::-1]",
            "waiting.pop(i)[0] for i in reversed(chosen)]",
            "documents of a row in reversed order",
            "test_packing.py::test_every_item_is_in_one_bin_that_holds_it",
        ),
    ),
    *edits_of(
        "training/trainer.py",
        "test_training.py",
        (
            "if step <= first:",
            "if step < first:",
            "a resumed step is taken twice",
            "test_training.py::test_resumed_training_is_bit_identical",
        ),
        (
            "final_decay(step, n_steps,",
            "final_decay(step - first, n_steps,",
            "a resumed training decays later",
            "test_training.py::test_the_learning_rate_of_a_resumed_training_decays_as_if_it_had_not_stopped",
        ),
        (
            "filled / (n_steps * math.prod(size))",
            "filled / (len(losses) * math.prod(size))",
            "packing efficiency over the steps since it was resumed",
            "test_training.py::test_resumed_training_is_bit_identical",
        ),
        (
            "return self.batch_size * max",
            "return max",
            "examples per row in place of per step",
            "test_loop.py::test_epochs_schedule_sees_every_kept_example "
            "test_baselines.py::test_so_many_examples_fill_a_step",
        ),
        (
            "if config.row_length > self.model.context_length:",
            "if False:",
            "rows longer than the context",
            "test_training.py::test_rows_longer_than_the_context_are_refused",
        ),
        (
            "if largest >= self.model.vocab_size:",
            "if largest > self.model.vocab_size:",
            "an id beyond the model",
            "test_training.py::test_an_id_beyond_the_model_is_refused_before_it_reads_as_nan",
        ),
        (
            "_finite(float(pending), step - 1)",
            "_finite(float(pending), step)",
            "a loss that is not finite has the next step's number",
            "test_training.py::test_a_loss_that_is_not_finite_stops_training_with_the_step_named",
        ),
        (
            "packing.epochs(examples, seed)",
            "packing.epochs(examples, 0)",
            "the order of training ignores the seed",
            "test_training.py::test_the_same_seed_trains_the_same_and_another_differently",
        ),
        (
            "jax.random.key(seed)",
            "jax.random.key(0)",
            "all bases are the same",
            "test_training.py::test_random_weights_follow_the_seed",
        ),
    ),
    *edits_of(
        "training/schedules.py",
        "test_schedules.py",
        ("self.growth ** (iteration - 1)", "self.growth ** iteration", "growth from the start"),
        ("math.ceil(self.epochs", "math.floor(self.epochs", "the last examples are not seen"),
        ("max(1, int(steps + 1e-9))", "int(steps + 1e-9)", "a training of no steps"),
        ("int(steps + 1e-9)", "round(steps)", "steps are rounded"),
        (
            "schedule(peak / warmup_steps, peak,",
            "schedule(0.0, peak,",
            "the first step does not move",
        ),
        (
            "(n_steps + 1 - step) / length",
            "(n_steps - step) / length",
            "the last step does not move",
        ),
    ),
]
