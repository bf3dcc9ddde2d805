"""TFDS builders of data sets that TFDS does not have; their checksums are in checksums.tsv."""
