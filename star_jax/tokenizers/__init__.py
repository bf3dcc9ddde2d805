"""Vocabularies as `seqio.Vocabulary`, and the files of pretrained tokenizers.

| found | read by |
| --- | --- |
| any of the following at a path | `loading` |
| tokenizer.json | `hugging_face` |
| tokenizer.model | `sentence_piece` |
| tokenizer_config.json, config.json, ...: which tokens begin and end a text | `configs` |
| vocab.json and merges.txt of GPT-2 and GPT-J: converted to tokenizer.json | `byte_level` |
| GGUF metadata: converted to tokenizer.json or tokenizer.model | `gguf_files` |
"""
