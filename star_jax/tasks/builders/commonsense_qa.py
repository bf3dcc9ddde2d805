"""CommonsenseQA 1.11 as a TFDS builder."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
from tensorflow_datasets.core.download.util import DownloadError

from star_jax.errors import UserError
from star_jax.run.paths import is_remote
from star_jax.run.progress import log
from star_jax.tasks.rows import Row

FETCH = "python launch/fetch.py commonsense_qa"


# Not registered: TFDS rejects a second class of the same name, so importing this module could fail
# because of what else was imported. Use the class itself.
class CommonsenseQA(  # type: ignore[call-arg]
    tfds.core.GeneratorBasedBuilder, skip_registration=True
):
    """The random split of CommonsenseQA (Talmor et al. 2019), in the order of its files.

    Splits train (9,741 questions) and validation (1,221, the published dev file); the test
    questions have no answers and are not included. An example is

        {"id": text, "question": text, "choices": {"label": texts, "text": texts},
         "answer_key": the label of the right choice}
    """

    VERSION = tfds.core.Version("1.11.0")
    RELEASE_NOTES = {"1.11.0": "The questions of release 1.11, random split."}  # noqa: RUF012
    URLS = {  # noqa: RUF012
        "train": "https://s3.amazonaws.com/commensenseqa/train_rand_split.jsonl",
        "validation": "https://s3.amazonaws.com/commensenseqa/dev_rand_split.jsonl",
    }

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        choices = tfds.features.Sequence({"label": text, "text": text})
        features = {"id": text, "question": text, "choices": choices, "answer_key": text}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Everyday questions with five choices each, one of them right.",
            features=tfds.features.FeaturesDict(features),
            disable_shuffling=True,  # the same order as reading the files themselves
            homepage="https://www.tau-nlp.org/commonsenseqa",
            license="MIT",
            citation=CITATION,
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, Row]]]:
        paths = dl_manager.download(self.URLS)
        return {split: self._generate_examples(path) for split, path in paths.items()}

    def _generate_examples(self, path: Path) -> Iterator[tuple[str, Row]]:
        for line in path.read_bytes().splitlines():
            example = flatten(json.loads(line))
            yield example["id"], example


def flatten(record: Row) -> Row:
    """One line of the published files as an example of the builder (see `CommonsenseQA`)."""
    return {
        "id": record["id"],
        "question": record["question"]["stem"],
        "choices": record["question"]["choices"],
        "answer_key": record["answerKey"],
    }


def prepare_commonsense_qa(data_dir: str, fetched_dir: str | None = None) -> CommonsenseQA:
    """The builder with its data prepared in `data_dir`/commonsense_qa/1.11.0, in some seconds.

    With `fetched_dir`, the folder commonsenseqa/ that launch/fetch.py makes, no network is needed:
    TFDS takes the files from there, and still checks them.

    Raises:
      UserError: the files are missing, altered or cannot be downloaded, the disk is full, or
        `data_dir` is in a bucket.
    """
    if is_remote(data_dir):
        raise UserError(
            f"CommonsenseQA cannot be prepared in the bucket {data_dir}; prepare it in a folder of "
            f"this machine, and copy it: gcloud storage cp -r FOLDER/commonsense_qa {data_dir}"
        )
    builder = CommonsenseQA(data_dir=data_dir)
    if builder.data_path.exists():
        return builder
    if fetched_dir is not None:
        paths = [Path(fetched_dir, url.rpartition("/")[2]) for url in builder.URLS.values()]
        if missing := [path for path in paths if not path.is_file()]:
            raise UserError(f"CommonsenseQA: there is no {missing[0]}; fetch it with: {FETCH}")
    log(f"preparing CommonsenseQA in {builder.data_dir}")
    config = tfds.download.DownloadConfig(manual_dir=fetched_dir, try_download_gcs=False)
    try:
        tfds.disable_progress_bar()  # would mix with the run's own bars and table
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_config=config)
    except NonMatchingChecksumError as error:
        finding = str(error).partition(":\n")[0]
        raise UserError(f"CommonsenseQA: {finding}; fetch it again with: {FETCH}") from error
    except (OSError, DownloadError) as error:
        raise UserError(
            f"CommonsenseQA cannot be prepared in {data_dir}: {' '.join(str(error).split())}; "
            f"without a network, fetch it elsewhere with: {FETCH}"
        ) from error
    return builder


CITATION = """\
@inproceedings{talmor2019commonsenseqa,
  title = {{CommonsenseQA}: A Question Answering Challenge Targeting Commonsense Knowledge},
  author = {Talmor, Alon and Herzig, Jonathan and Lourie, Nicholas and Berant, Jonathan},
  booktitle = {Proceedings of NAACL-HLT},
  year = {2019},
}
"""
