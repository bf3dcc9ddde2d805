"""What star_jax knows about a model family: its config.json and its tensor names in each format."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from star_jax.errors import UserError, some
from star_jax.models.config import DecoderConfig
from star_jax.models.tensors import Tensor

T = TypeVar("T", int, float, bool)


class ConfigJson:
    """A config.json, checked field by field as it is read; null counts as absent.

    Every method raises a UserError that names the file, the field and its value.
    """

    def __init__(self, fields: Mapping[str, Any], where: str):
        """Wraps the file's `fields`; `where` is its name, for messages."""
        self.fields, self.where = fields, where

    def whole(self, name: str, default: int | None = None) -> int:
        """A whole number above 0; required if there is no default."""
        return self._value(name, (int,), "a whole number above 0", default)

    def number(self, name: str, default: float | None = None) -> float:
        """A number above 0; required if there is no default."""
        return self._value(name, (int, float), "a number above 0", default)

    def flag(self, name: str) -> bool:
        """True or false; false if absent."""
        return self._value(name, (bool,), "true or false", False)

    def part(self, name: str) -> "ConfigJson":
        """The object in a field; empty if absent."""
        value = self.fields.get(name) or {}
        if not isinstance(value, dict):
            raise self._error(name, "an object")
        return ConfigJson(value, f"{self.where}: {name}")

    def known(self, *names: str) -> None:
        """Checks that there are no other fields."""
        others = {k: v for k, v in self.fields.items() if v is not None and k not in names}
        if others:
            said = some(f"{name} = {value!r}" for name, value in others.items())
            raise UserError(f"{self.where} has {said}, which is not supported")

    def only(self, name: str, value: object) -> None:
        """Checks that a field is absent or has the only value that is supported."""
        found = self.fields.get(name)
        if found is not None and found != value:
            raise UserError(f"{self.where}: {name} = {found!r} is not supported, only {value!r}")

    def _value(self, name: str, types: tuple[type, ...], wanted: str, default: T | None) -> T:
        value = self.fields.get(name)
        if value is None:
            if default is None:
                raise UserError(f"{self.where}: the field {name!r} is missing")
            return default
        # In Python true is the number 1.
        if type(value) not in types or (bool not in types and not value > 0):
            raise self._error(name, wanted)
        return value

    def _error(self, name: str, wanted: str) -> UserError:
        value = str(self.fields[name])[:60]
        return UserError(f"{self.where}: {name} is {value!r}, which is not {wanted}")


@dataclasses.dataclass(frozen=True)
class GgufFile:
    """An opened GGUF file, in llama.cpp's names."""

    path: Path
    metadata: Mapping[str, object]
    tensors: Mapping[str, Tensor]


@dataclasses.dataclass(frozen=True)
class Gguf:
    """How llama.cpp stores a family."""

    architecture: str  # in the file's metadata
    names: Mapping[str, str]  # of the tensors, as in `Family.names`
    config: Callable[[GgufFile], dict[str, Any]]  # the config.json that the metadata describe
    interleaves: bool = False  # the rows of queries and keys, so that rotary pairs are neighbours


@dataclasses.dataclass(frozen=True)
class Family:
    """A model family; one file defines it, and `families.register` adds it.

    `names` gives the Hugging Face name of each of the decoder's modules, where {} is the layer:
    {"attention/query": "model.layers.{}.self_attn.q_proj", ...}. The tensors' names end in .weight
    or .bias. Flax checkpoints have the same names with their own endings.
    """

    model_type: str  # in config.json
    names: Mapping[str, str]
    read_config: Callable[[ConfigJson], DecoderConfig]
    # The config.json for a decoder; None if exports have another family's form.
    write_config: Callable[[DecoderConfig], dict[str, object]] | None = None
    gguf: Gguf | None = None
    constants: str = "(?!)"  # pattern of tensors that are no weights, which some files have
