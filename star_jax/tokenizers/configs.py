"""What the JSON files of a tokenizer say about where texts begin and end."""

import dataclasses
import importlib
import json
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any, TypeAlias

from star_jax.errors import UserError

Files: TypeAlias = dict[str, bytes]  # contents by name
Json: TypeAlias = Any  # a value in a JSON file
SAVED = (  # all but config.json, which comes with the weights
    *("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "added_tokens.json"),
    *("tokenizer_config.json", "special_tokens_map.json", "generation_config.json"),
    "chat_template.jinja",
)


@dataclasses.dataclass(frozen=True)
class Configs:
    """The files of one tokenizer, read with errors that name them."""

    source: str  # where they came from
    files: Files = dataclasses.field(repr=False)

    def read(self, name: str) -> Mapping[str, Json]:
        """The object in the file `name`, empty if there is no such file; UserError if damaged."""
        try:
            value = json.loads(self.files.get(name, b"{}"))
        except ValueError as error:  # including bad UTF-8
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
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            token = self.read(name).get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
        return None

    def ids(self, name: str, key: str, n_ids: int) -> tuple[int, ...]:
        """Ids that `name` gives as null, a number or a list; UserError for one outside `n_ids`."""
        value = self.read(name).get(key)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        for id_ in ids:
            if type(id_) is not int or not 0 <= id_ < n_ids:
                raise UserError(
                    f"{self.source}: {name} says {key} = {json.dumps(value)}, but the tokenizer "
                    f"has the ids 0 to {n_ids - 1}; use files of the same model"
                )
        return tuple(ids)


@dataclasses.dataclass(frozen=True)
class Roles:
    """Which ids begin and end texts."""

    eos_id: int  # ends training documents
    stop_ids: tuple[int, ...]  # end generation; `eos_id` is the first
    bos_id: int | None
    document_start_ids: tuple[int, ...]  # what the model needs in front: BOS, or nothing

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
      configs: the files of the tokenizer.
      id_of: the id of a token by its spelling, or None.
      n_ids: size of the vocabulary.
      model_start: what the tokenizer itself puts in front of a text.
      model_eos: EOS by the tokenizer itself, if it says so.

    Raises:
      UserError: no file says which token is EOS, or an id is not the tokenizer's.
    """

    def by_token(key: str) -> tuple[int, ...]:
        id_ = id_of(configs.token(key) or "")
        return () if id_ is None else (id_,)

    configured = configs.ids("config.json", "eos_token_id", n_ids)
    generation = configs.ids("generation_config.json", "eos_token_id", n_ids)
    # EOS: 1. config.json  2. tokenizer_config.json  3. generation_config.json  4. the tokenizer
    eos = configured or by_token("eos_token") or generation or model_eos
    if not eos:
        raise UserError(
            f"{configs.source} names no known token as EOS; give eos_token in "
            f"tokenizer_config.json or eos_token_id in config.json"
        )
    # Where sampling stops: at EOS, and  1. by generation_config.json  2. by config.json
    stop_ids = dict.fromkeys([eos[0], *(generation or configured)])
    # BOS: 1. tokenizer_config.json  2. config.json  3. the tokenizer
    bos = by_token("bos_token") or configs.ids("config.json", "bos_token_id", n_ids) or model_start
    # Whether documents begin with it: 1. tokenizer_config.json  2. the tokenizer
    adds_bos = configs.read("tokenizer_config.json").get("add_bos_token")
    if adds_bos and not bos:
        raise UserError(
            f"{configs.source}: tokenizer_config.json has add_bos_token = true, but no bos_token "
            f"that the tokenizer has; give one, or set add_bos_token to false"
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
    """A library's message, which may have several lines."""
    return " ".join(str(error).split())


def json_files(contents: Mapping[str, object]) -> Files:
    """Files of UTF-8 JSON as Hugging Face writes them, by name."""
    texts = {name: json.dumps(v, indent=2, ensure_ascii=False) for name, v in contents.items()}
    return {name: f"{text}\n".encode() for name, text in texts.items()}
