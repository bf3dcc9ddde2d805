"""Closed toy worlds for the tiny twins of Tables 1 and 2, in the layout of the published data.

`things` has questions about things whose answers depend on their kinds, `stories` has word problems
of one to three steps; `corpus` is the training text of a tiny base model, and `files` writes
star_jax/tasks/examples/toy_*. Words are separated by spaces, as `WordVocabulary` requires.
"""
