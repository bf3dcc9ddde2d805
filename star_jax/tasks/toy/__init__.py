"""Closed toy worlds for the tiny twins of Tables 1 and 2, in the layout of the published data.

`things` asks what is so of a thing by its kind, `stories` has word problems of one to three steps;
`corpus` is what a tiny base model reads of them, and `files` writes star_jax/tasks/examples/toy_*.
Words are parted by spaces, as `WordVocabulary` wants them.
"""
