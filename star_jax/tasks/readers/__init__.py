"""Readers of answers, one file per kind; docs/answers.md has what each accepts and refuses."""
