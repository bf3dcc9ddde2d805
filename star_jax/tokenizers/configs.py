"""What the JSON files of a tokenizer say about where texts begin and end."""

import dataclasses
import importlib
import json
from collections.abc import Mapping
from types import ModuleType
from typing import Any, TypeAlias

from star_jax.errors import INSTALL, UserError, one_line

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
        why = one_line(why)
        return UserError(f"{self.source}: {name} is damaged or truncated ({why}); fetch it again")

    def token(self, key: str) -> str | None:
        """A token by its role ("eos_token"), which may be written as an object."""
        for name in ("tokenizer_config.json", "special_tokens_map.json"):
            token = self.read(name).get(key)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                return token
        return None

    def role_tokens(self) -> set[str]:
        """The tokens that have a role."""
        return set(filter(None, (self.token(f"{r}_token") for r in ("bos", "eos", "unk", "pad"))))

    def added_tokens(self) -> dict[int, tuple[str, bool]]:
        """The tokens that are listed apart from the others, by id: (text, whether special)."""
        roles = self.role_tokens()
        try:
            more = self.read("added_tokens.json").items()
            added = {int(id_): (text, text in roles) for text, id_ in more}
            listed = self.read("tokenizer_config.json").get("added_tokens_decoder", {})
            for id_, token in listed.items():
                text = str(token["content"])
                added[int(id_)] = (text, bool(token.get("special")) or text in roles)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise self.damaged("added_tokens.json or tokenizer_config.json", error) from error
        return added

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


def import_needed(module: str, what: str) -> ModuleType:
    """Imports a package that only pretrained models need; UserError when it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{what} needs the package {module}; {INSTALL.format('models')}") from error


def json_files(contents: Mapping[str, object]) -> Files:
    """Files of UTF-8 JSON as Hugging Face writes them, by name."""
    texts = {name: json.dumps(v, indent=2, ensure_ascii=False) for name, v in contents.items()}
    return {name: f"{text}\n".encode() for name, text in texts.items()}
