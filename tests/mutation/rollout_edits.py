"""Edits of star_jax/rollout/: which prompts fit, the sampler, its programs, scoring."""

from tests.mutation.edit import edits_of

GREEDY = "test_sampling.py::test_greedy_equals_the_uncached_loop"
PREFIX = "test_sampling.py::test_shared_prefix_equals_repeated_prefix"
REFILLED = "test_refill.py::test_refilled_slots_give_the_ids_of_one_row_at_a_time"
COST = "test_refill.py::test_the_cost_adds_up"

FITTING = edits_of(
    "rollout/fitting.py",
    "test_sampling.py::test_newest_examples_that_fit "
    "test_sampling.py::test_what_begins_a_document_takes_room "
    "test_sampling.py::test_a_long_prompt_loses_whole_examples_oldest_first "
    "test_sampling.py::test_documents_begin_and_end_as_the_vocabulary_says "
    "test_sampling.py::test_prefix_prompt_and_completion_may_fill_the_context "
    "test_sampling.py::test_questions_that_cannot_fit_alone_are_left_out_by_name",
    (
        " - len(encoded[i]) - len(start)",
        " - len(encoded[i])",
        "BOS is left out of the room for a prompt",
    ),
    ("context - n_new - len", "context - len", "no room is left for the completion"),
    (
        "prompt.examples[len(lengths) - n_kept :]",
        "prompt.examples[:n_kept]",
        "the newest examples are dropped",
    ),
    ("if room < 0:\n        return", "if room <= 0:\n        return", "a full context is too long"),
    ("total <= room", "total < room", "one example less"),
    ("            start + tuple(", "            tuple(", "BOS is not shown to the model"),
)

SAMPLER = edits_of(
    "rollout/native/sampler.py",
    "test_sampling.py",
    (
        "[min(n, n_new) for n in limits]",
        "[n_new for n in limits]",
        "limits of prompts are ignored",
        "test_refill.py::test_a_prompts_own_limit_cuts_its_completion",
    ),
    (
        "ids = ids[:-1]",
        "pass",
        "EOS is part of a completion",
        "test_sampling.py::test_eos_ends_a_completion_and_is_not_part_of_it",
    ),
    (
        "self.config.params, n_ids, stop_ids",
        "self.config.params, 0, stop_ids",
        "ids that the vocabulary does not know are picked",
        "test_sampling.py::test_ids_that_the_vocabulary_does_not_know_are_never_picked",
    ),
    (
        "self.config.params, n_ids, stop_ids",
        "SamplingParams(temperature=self.config.temperature), n_ids, stop_ids",
        "top_k does not reach the sampler",
        "test_sampling.py::test_the_settings_decide_how_tokens_are_picked",
    ),
    (
        "self.config, temperature=temperature)",
        "self.config)",
        "at_temperature keeps the temperature",
        "test_sampling.py::test_the_settings_decide_how_tokens_are_picked",
    ),
    (
        "meter.new_tokens += len(ids)",
        "meter.new_tokens += len(ids) - 1",
        "EOS is not counted",
        COST,
    ),
    ("+= steps * n_slots", "+= steps", "slot steps are decode steps", COST),
    (
        "most_in_a_shard(wave))",
        "1)",
        "one free slot for a whole wave",
        REFILLED,
    ),
)

PROGRAMS = [
    *edits_of(
        "rollout/native/shapes.py",
        "test_refill.py::test_every_prompt_is_let_in_once_and_finds_a_slot "
        "test_refill.py::test_a_wave_is_as_large_as_it_may_be "
        "test_refill.py::test_a_chunk_is_drawn_as_promised "
        "test_refill.py::test_shapes_hold_what_they_are_for",
        ("counts + new) > most:", "counts + new) > most + 1:", "a wave with one prompt too many"),
        (
            "            wave, counts = [], np.zeros(shapes.n_shards, int)\n",
            "            wave = []\n",
            "the counts of a wave go on in the next",
        ),
        (
            "segments[shard, span] = i + 1",
            "segments[shard, span] = i",
            "the first prompt of a chunk is padding",
        ),
        (
            "positions[shard, span] = np.arange(len(ids))",
            "positions[shard, span] = np.arange(span.start, span.stop)",
            "positions go on from prompt to prompt",
        ),
        ("max(longest, entering)", "max(1, entering)", "chunks too short for a prompt"),
        ("prompt[place], keys[place]", "prompt[place], keys[i]", "keys of other prompts"),
    ),
    *edits_of(
        "rollout/native/logits.py",
        "test_sampling.py::test_top_k_keeps_the_k_likeliest "
        "test_sampling.py::test_top_p_keeps_the_smallest_set_that_reaches_p "
        "test_sampling.py::test_tokens_are_drawn_with_their_probabilities "
        "test_sampling.py::test_picked_log_probability_is_of_the_plain_softmax "
        "test_sampling.py::test_ids_that_the_vocabulary_does_not_know_are_never_picked",
        ("logits_BV < threshold_B1", "logits_BV <= threshold_B1", "the k-th token is dropped"),
        ("before_BV < p,", "before_BV + probs_BV < p,", "the token that reaches p is dropped"),
        (
            "logits_BV / params.temperature",
            "logits_BV * params.temperature",
            "a high temperature is a low one",
        ),
        ("if 0 < n_ids < logits_BV.shape[-1]:", "if False:", "unknown ids are picked"),
        (
            "picked_B - jax.nn.logsumexp(logits_BV, axis=-1)",
            "picked_B",
            "logits in place of log-probabilities",
        ),
    ),
    *edits_of(
        "rollout/native/decode.py",
        f"{GREEDY} {PREFIX} {REFILLED}",
        (
            "chunk.positions + prefix_length(prefix)",
            "chunk.positions",
            "prompts begin at the positions of their prefix",
        ),
        (
            "[:, None] + prefix_length(prefix),",
            "[:, None],",
            "new tokens have the positions of the prefix",
        ),
        (
            "slots.n_tokens + 1 >= slots.limit",
            "slots.n_tokens + 1 > slots.limit",
            "one token beyond the limit",
            "test_refill.py::test_a_prompts_own_limit_cuts_its_completion",
        ),
        (
            "last = (time - 1) % max_new_tokens",
            "last = time % max_new_tokens",
            "new keys are written one column late",
        ),
        ("age < n_written_B", "age <= n_written_B", "one stale column of the ring is read"),
        (
            "chunk.limit <= 1",
            "chunk.limit < 1",
            "a limit of one token gives two",
            "test_refill.py::test_a_prompts_own_limit_cuts_its_completion",
        ),
        (
            "(jnp.arange(size) < prefix.length)",
            "(jnp.arange(size) <= prefix.length)",
            "one padding column of the prefix is read",
        ),
        (
            "jnp.arange(window) < length_B",
            "jnp.arange(window) <= length_B",
            "one column behind the prompt is read",
        ),
        (
            "jnp.where(live, log_prob, 0.0)",
            "log_prob",
            "rows that are done go on summing",
            "test_sampling.py::test_log_probability_is_that_of_the_full_forward_pass",
        ),
        (
            "(jax.random.wrap_key_data(key_B), step_B)",
            "(jax.random.wrap_key_data(key_B), jnp.zeros_like(step_B))",
            "one draw for all tokens of a row",
            "test_sampling.py::test_every_token_is_a_draw_of_its_own",
        ),
    ),
    *edits_of(
        "rollout/native/score.py",
        "test_score.py",
        ("n_seen_B = lengths_B - 1", "n_seen_B = lengths_B", "the last token is read twice"),
        ("jnp.where(known_V, logits_BTV, -jnp.inf)", "logits_BTV", "unknown ids take probability"),
        (
            "decode.prefix_length(prefix) + n_seen_B",
            "n_seen_B",
            "continuations have the positions of the prefix",
        ),
        ("n_new = max((", "n_new = min((", "room for the shortest choice only"),
        (
            "tokens_BL.shape) + decode.prefix_length(prefix)",
            "tokens_BL.shape)",
            "prompts have the positions of the prefix",
        ),
    ),
    *edits_of(
        "rollout/native/programs.py",
        PREFIX,
        (
            "tokens, np.int32(len(ids)))",
            "tokens, np.int32(len(tokens)))",
            "the padding of a prefix is read",
        ),
    ),
    *edits_of(
        "rollout/native/meter.py",
        "test_refill.py::test_the_shares_of_the_cost_by_hand",
        ("self.new_tokens - self.n_questions)", "self.new_tokens)", "a first token is a step"),
    ),
]

STOP_TEXTS = "test_stop.py::test_words_end_where_their_text_has_the_stop_text"
STOP = [
    *edits_of(
        "rollout/native/stop.py",
        f"{STOP_TEXTS} test_stop.py::test_tokens_of_bytes_end_where_their_text_has_the_stop_text",
        ("for i in range(len(text) + 1)", "for i in (0, len(text))", "a stop text is missed"),
        ("np.full((1, 256), n_states)", "np.zeros((1, 256), int)", "none is found inside a token"),
        ("tables[here] + then * n_states", "tables[here]", "all words are at the start of a line"),
        (
            "            return ids[:n]",
            "            return ids",
            "ids behind the stop text stay",
            "test_stop.py::test_ids_stay_as_sampled_up_to_the_stop_text",
        ),
    ),
    *edits_of(
        "rollout/engine.py",
        "test_stop.py::test_the_text_that_is_complete_first_ends_a_completion",
        ("min(found)[1]", "min(at for _, at in found)", "the first to begin ends a completion"),
    ),
    *edits_of(
        "tasks/task.py",
        "test_stop.py::test_examples_begin_with_the_tasks_stop_text",
        ('if examples else ""', 'if True else ""', "stop texts without few-shot examples"),
    ),
]

EDITS = (*FITTING, *SAMPLER, *PROGRAMS, *STOP)
