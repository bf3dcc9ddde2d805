"""TFDS builders of data sets that TFDS itself lacks; their checksums stand in checksums.tsv."""
