"""What launch/fetch.py can download: addresses, sizes and checksums."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Artefact:
    """One file to download; None where its publisher states nothing."""

    path: str  # below --dir
    url: str
    sha256: str | None = None
    size: int | None = None  # bytes
    rounded_size: str | None = None  # where nothing else is stated, such as "24.2 GB"
    hint: str = ""  # what to do with it; {path} and {folder} are filled in


@dataclasses.dataclass(frozen=True)
class Bundle:
    """What one WHAT of the command line downloads."""

    about: str  # one line for --help
    files: tuple[Artefact, ...]


CQA_URL = "https://s3.amazonaws.com/commensenseqa/"
GSM8K_URL = (
    "https://raw.githubusercontent.com/openai/grade-school-math/master/grade_school_math/data/"
)
PROMPTS_URL = "https://raw.githubusercontent.com/ezelikman/STaR/main/"
# A revision of a Hugging Face repository never changes; this is its main branch since 2023.
GPTJ_URL = (
    "https://huggingface.co/EleutherAI/gpt-j-6b/resolve/47e169305d2e8376be1d31e765533382721b2cc1/"
)
GPTJ_SLIM_URL = "https://the-eye.eu/public/AI/GPT-J-6B/"


def _cqa(name: str, size: int, sha256: str) -> Artefact:
    return Artefact(f"commonsenseqa/{name}", CQA_URL + name, sha256, size)


def _gsm8k(name: str, size: int, sha256: str) -> Artefact:
    return Artefact(f"gsm8k/{name}", GSM8K_URL + name, sha256, size)


def _prompts(name: str, size: int, sha256: str) -> Artefact:
    return Artefact(f"paper_prompts/{name}", PROMPTS_URL + name, sha256, size)


def _gptj(name: str, rounded_size: str, sha256: str | None = None) -> Artefact:
    return Artefact(f"gpt-j-6b/{name}", GPTJ_URL + name, sha256, rounded_size=rounded_size)


COMMONSENSE_QA = (
    _cqa(
        "train_rand_split.jsonl",
        3_785_890,
        "58ffa3c8472410e24b8c43f423d89c8a003d8284698a6ed7874355dedd09a2fb",
    ),
    _cqa(
        "dev_rand_split.jsonl",
        471_653,
        "3210497fdaae614ac085d9eb873dd7f4d49b6f965a93adadc803e1229fd8a02a",
    ),
)
GSM8K = (
    _gsm8k(
        "train.jsonl",
        4_166_206,
        "17f347dc51477c50d4efb83959dbb7c56297aba886e5544ee2aaed3024813465",
    ),
    _gsm8k(
        "test.jsonl",
        749_738,
        "3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
    ),
)
PAPER_PROMPTS = (
    _prompts(
        "commonsenseqa/prompts.txt",
        2_287,
        "cc3d13878f5ebab64070f8a5fbb87ba5e73ddf7d2c4089129853560e98d2f3c0",
    ),
    _prompts(
        "commonsenseqa/prompts_answer_key.txt",
        2_357,
        "9d54ea1dcb78a199fb0395aefbf7e9aed0c68be995b60cc9e3bba844453c6417",
    ),
    _prompts(
        "commonsenseqa/prompts_direct.txt",
        1_155,
        "bae4d91adf594c5f2ea0d546b8f32887bac3f195ea868a06065fb32f80eff537",
    ),
    _prompts(
        "commonsenseqa/prompts_direct_answer_key.txt",
        1_225,
        "d7a873147c6e17a8475848178e705aa3b394080388ace7fd924b24b8014257bb",
    ),
    _prompts(
        "gsm/prompts.txt",
        3_690,
        "e0849ed3ecd08b3d93bf9a498e86477310dd398d74aca5ea9abf24ca836ab696",
    ),
    _prompts(
        "gsm/prompts_answer_key.txt",
        3_720,
        "5eaad0c7df662179278629502de3562242261cd1873d6240e67b7c4830558b38",
    ),
    _prompts(
        "gsm/prompts_direct_answer_key.txt",
        842,
        "32bdfc7f35d0f15c7d0d45174e7d6a730e9f35ce6929ef5201c84ad5ce790fc9",
    ),
)
GPTJ_TOKENIZER = (
    _gptj("tokenizer.json", "1.37 MB"),
    _gptj("vocab.json", "798 kB"),
    _gptj("merges.txt", "456 kB"),
    _gptj("tokenizer_config.json", "619 bytes"),
    _gptj("special_tokens_map.json", "357 bytes"),
    _gptj("added_tokens.json", "4.04 kB"),
)
GPTJ = (
    _gptj("config.json", "930 bytes"),
    *GPTJ_TOKENIZER,
    _gptj(
        "flax_model.msgpack",
        "24.2 GB",
        "aa31d9d4a2187732f82a98705e9ec24ec424335e323420affd8b9c5cd7a73b17",
    ),
)
GPTJ_SLIM = (
    Artefact(
        "gpt-j-6b-slim/step_383500_slim.tar.zstd",
        GPTJ_SLIM_URL + "step_383500_slim.tar.zstd",
        rounded_size="9 GB",
        hint="unpack it with: tar --zstd -xf {path} -C {folder}",
    ),
)

TABLE: Mapping[str, Bundle] = {
    "commonsense_qa": Bundle("CommonsenseQA 1.11, train and dev", COMMONSENSE_QA),
    "gsm8k": Bundle("GSM8K, train and test", GSM8K),
    "paper_prompts": Bundle("few-shot prompts of the STaR paper's repository", PAPER_PROMPTS),
    "all_data": Bundle("the three above, without GPT-J", (*COMMONSENSE_QA, *GSM8K, *PAPER_PROMPTS)),
    "gptj": Bundle("GPT-J 6B in float32, a Hugging Face folder with its tokenizer", GPTJ),
    "gptj_tokenizer": Bundle("the tokenizer alone", GPTJ_TOKENIZER),
    "gptj_slim": Bundle("GPT-J 6B in bfloat16, as mesh-transformer-jax published it", GPTJ_SLIM),
}


def stated_size(artefact: Artefact) -> str:
    """Returns the size as far as it is known."""
    if artefact.size is not None:
        return f"{artefact.size:,} bytes"
    return f"about {artefact.rounded_size}" if artefact.rounded_size else "size unknown"
