"""Weights from one format to another: from any into Orbax or a Hugging Face directory."""

import functools
import shutil
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
import seqio
from jax.sharding import Mesh

from star_jax.errors import UserError, check_one_of
from star_jax.models.base_weights import Base
from star_jax.models.config import DecoderConfig
from star_jax.models.decoder import placed_params
from star_jax.models.exporting import check_target, export_model
from star_jax.models.families import family_of, hf_config
from star_jax.models.places import Place, places
from star_jax.models.tensors import Index, Tensor
from star_jax.parallel.partitioning import TRAINING_RULES, Rules
from star_jax.records import Params
from star_jax.run import checkpoints
from star_jax.run.paths import absolute, bucket_errors, is_remote
from star_jax.run.progress import log, progress
from star_jax.tokenizers.configs import json_files
from star_jax.tokenizers.pretrained_vocabulary import PretrainedVocabulary
from star_jax.tokenizers.vocabularies import document_start, stop_ids

FORMATS = ("huggingface", "orbax")


def convert_weights(
    source: str,
    target: str,
    format: str,
    model: DecoderConfig,
    vocabulary: seqio.Vocabulary,
    mesh: Mesh,
    rules: Rules = TRAINING_RULES,
) -> Path:
    """Reads the weights at `source` and writes them to `target`; returns `target`.

    Args:
      source: weights in any format, or a base's or an iteration's directory.
      target: directory to make; must not exist, or be empty.
      format: "huggingface" (safetensors, config.json, tokenizer) or "orbax".
      model: the decoder they are for; they are written in its param_dtype.
      vocabulary: its files, if it has any, are added to a Hugging Face export.
      mesh: the devices that hold the weights in between.
      rules: how they are laid out on it.

    Raises:
      UserError: an unknown format, a target in use, or weights that are not of this model.
    """
    check_one_of("convert.format", format, FORMATS)
    directory = absolute(target)
    if is_remote(directory):
        _check_bucket(directory, format)
    else:
        if format == "orbax":  # left by a killed conversion; nothing else has such a name
            for left in directory.glob("checkpoint.orbax-checkpoint-tmp*"):
                shutil.rmtree(left, ignore_errors=True)
        check_target(directory)
    config = hf_config(model) if format == "huggingface" else {}
    params = Base(source, model, placed_params(model, mesh, rules)).load()
    if format == "orbax":
        checkpoints.save(directory / "checkpoint", params)
    else:
        _export(directory, params, model, config, vocabulary)
    log(f"{source} -> {target} ({format})")
    return directory


def hf_tensors(params: Params, model: DecoderConfig) -> dict[str, Tensor]:
    """The tensors by their Hugging Face names; reading one fetches it from the devices."""
    tensors = {}
    where = places(model, family_of(model))
    for place, leaf in zip(where, jax.tree.leaves(params), strict=True):
        for row, name in enumerate(place.names):
            read = functools.partial(_fetch, place, leaf, row)
            tensors[name] = Tensor(place.hf_shape, leaf.dtype, read)
    return tensors


def _fetch(place: Place, leaf: jax.Array, row: int, index: Index) -> np.ndarray:
    return place.tensor(np.asarray(leaf[row] if place.stacked else leaf))[index]


def _check_bucket(directory: Path, format: str) -> None:
    if format != "orbax":
        raise UserError(
            f"convert.format = {format!r} cannot be written to a bucket ({directory}); give a "
            f"local folder, then copy it: gcloud storage cp -r FOLDER {directory}"
        )
    with bucket_errors(directory):
        if directory.exists():
            raise UserError(f"{directory} exists already; give another, or remove it first")


def _export(
    directory: Path,
    params: Params,
    model: DecoderConfig,
    config: Mapping[str, object],
    vocabulary: seqio.Vocabulary,
) -> None:
    n_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    roles = {"bos_token_id": document_start(vocabulary), "eos_token_id": stop_ids(vocabulary)}
    special = {name: ids[0] if len(ids) == 1 else list(ids) for name, ids in roles.items() if ids}
    files = json_files({"generation_config.json": special})
    if isinstance(vocabulary, PretrainedVocabulary):  # a vocabulary of words has no files
        files |= vocabulary.saved_files()
    tensors, dtype = hf_tensors(params, model), np.dtype(model.param_dtype)
    config = {**config, **special}
    with progress("export", n_bytes, "bytes") as advance:
        export_model(directory, tensors, config, dtype=dtype, files=files, on_progress=advance)
