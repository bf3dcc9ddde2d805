"""The decoder-only Transformer. Shape letters used in names throughout this package.

B batch, L length, T query length, S key length, D d_model, H heads, K head_dim, F d_ff,
V vocabulary, N layers.
"""
