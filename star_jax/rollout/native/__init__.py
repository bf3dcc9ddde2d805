"""Texts in, completions out: `logits` picks a token, `decode` is jitted, `sampler` is the door."""
