"""The files of a model's tokenizer as Hugging Face lays them out, read or made from others.

| found | file |
| --- | --- |
| any of this at a path | `finding` |
| tokenizer_config.json, config.json, ...: which tokens begin and end a text | `configs` |
| GPT-2's vocab.json and merges.txt, GPT-J's own form: made into tokenizer.json | `byte_level` |
| GGUF metadata: made into tokenizer.json or tokenizer.model | `gguf` |
| tokenizer.json, tokenizer.model: without what changes the text | `lossless` |
"""
