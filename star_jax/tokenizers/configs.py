"""What the JSON files of a tokenizer say about where texts begin and end."""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from types import ModuleType

from star_jax.errors import UserError

Files = dict[str, bytes]  # contents by name

TOKENIZER_JSON, TOKENIZER_MODEL = "tokenizer.json", "tokenizer.model"
VOCAB, MERGES, ADDED_TOKENS = "vocab.json", "merges.txt", "added_tokens.json"
TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP = "tokenizer_config.json", "special_tokens_map.json"
GENERATION_CONFIG, CONFIG = "generation_config.json", "config.json"
SAVED = (  # all but config.json, which comes with the weights
    TOKENIZER_JSON, TOKENIZER_MODEL, VOCAB, MERGES, ADDED_TOKENS, TOKENIZER_CONFIG,
    SPECIAL_TOKENS_MAP, GENERATION_CONFIG, "chat_template.jinja",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Configs:
    """The files of one tokenizer, read with errors that name them."""

    source: str  # where they came from
    files: Files = dataclasses.field(repr=False)

    def read(self, name: str) -> Mapping[str, object]:
        """The object in the file `name`, empty if there is no such file; UserError if damaged."""
        try:
            value = json.loads(self.files.get(name, b"{}"))
        except ValueError as error:  # bad UTF-8, too
            raise self.damaged(name, error) from error
        if not isinstance(value, dict):
            raise self.damaged(name, "not an object")
        return value

    def damaged(self, name: str, why: object) -> UserError:
        """The error of a file that is not what it should be."""
        return UserError(
            f"{self.source}: {name} is damaged or truncated ({one_line(why)}); fetch it again"
        )

    def token(self, key: str) -> str | None:
        """A token by its role ("eos_token"), which may be written as an object."""
        for name in (TOKENIZER_CONFIG, SPECIAL_TOKENS_MAP):
            token = self.read(name).get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
        return None

    def ids(self, name: str, key: str, n_ids: int) -> tuple[int, ...]:
        """Ids that `name` gives as null, a number or a list; UserError for none below `n_ids`."""
        value = self.read(name).get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for id_ in ids:
            if type(id_) is not int or not 0 <= id_ < n_ids:
                raise UserError(
                    f"{self.source}: {name} says {key} = {json.dumps(value)}, but the tokenizer "
                    f"has the ids 0 to {n_ids - 1}; take both from the same model"
                )
        return tuple(ids)


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which ids begin and end texts."""

    eos_id: int  # ends training documents
    stop_ids: tuple[int, ...]  # end what the model writes; `eos_id` is the first
    bos_id: int | None
    document_start_ids: tuple[int, ...]  # what the model wants in front: BOS, or nothing

    @property
    def all_ids(self) -> set[int]:
        """All ids that have a role."""
        bos = () if self.bos_id is None else (self.bos_id,)
        return {*self.stop_ids, *self.document_start_ids, *bos}


def read_roles(
    configs: Configs,
    id_of: Callable[[str], int | None],
    n_ids: int,
    model_start: tuple[int, ...],
    model_eos: tuple[int, ...],
) -> Roles:
    """The roles of ids by the model's own configuration.

    Args:
      configs: the files around the tokenizer.
      id_of: the id of a token by its spelling, or None.
      n_ids: size of the vocabulary.
      model_start: what the tokenizer itself puts in front of a text.
      model_eos: EOS by the tokenizer itself, if it says so.

    Raises:
      UserError: no token is said to be EOS, or an id is not the tokenizer's.
    """

    def by_token(key: str) -> tuple[int, ...]:
        id_ = id_of(configs.token(key) or "")
        return () if id_ is None else (id_,)

    configured = configs.ids(CONFIG, "eos_token_id", n_ids)
    generation = configs.ids(GENERATION_CONFIG, "eos_token_id", n_ids)
    # EOS: 1. config.json  2. tokenizer_config.json  3. generation_config.json  4. the tokenizer
    eos = configured or by_token("eos_token") or generation or model_eos
    if not eos:
        raise UserError(
            f"{configs.source} says of no known token that it ends a text; give eos_token in "
            f"{TOKENIZER_CONFIG} or eos_token_id in {CONFIG}"
        )
    # Where sampling stops: at EOS, and  1. by generation_config.json  2. by config.json
    stop_ids = dict.fromkeys([eos[0], *(generation or configured)])
    # BOS: 1. tokenizer_config.json  2. config.json  3. the tokenizer
    bos = by_token("bos_token") or configs.ids(CONFIG, "bos_token_id", n_ids) or model_start
    # Whether documents begin with it: 1. tokenizer_config.json  2. the tokenizer
    adds_bos = configs.read(TOKENIZER_CONFIG).get("add_bos_token")
    if adds_bos and not bos:
        raise UserError(
            f"{configs.source}: {TOKENIZER_CONFIG} has add_bos_token = true and no bos_token that "
            f"the tokenizer knows; give one, or set add_bos_token to false"
        )
    start = model_start if adds_bos is None else bos[:1] if adds_bos else ()
    return Roles(eos[0], tuple(stop_ids), bos[0] if bos else None, start)


def import_needed(module: str, what: str) -> ModuleType:
    """Imports a package that only pretrained models need; UserError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f"{what} needs the package {module}; install it with pip install 'star_jax[models]'"
        ) from error


def one_line(error: object) -> str:
    """What a library said, which may be on several lines."""
    return " ".join(str(error).split())


def to_json(value: object) -> bytes:
    """UTF-8 JSON as Hugging Face's files are written."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
