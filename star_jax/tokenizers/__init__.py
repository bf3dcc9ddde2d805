"""Vocabularies as `seqio.Vocabulary`, and the files that pretrained ones come in."""
