import importlib.util
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
import seqio

from star_jax.errors import UserError
from star_jax.tasks.builders.commonsense_qa import (
    CommonsenseQA,
    flatten,
    prepare_commonsense_qa,
)
from star_launch.fetch import table

ROOT = Path(__file__).parent.parent
DATA = os.environ.get("STAR_JAX_DATA")
FILES = {"train": "train_rand_split.jsonl", "validation": "dev_rand_split.jsonl"}


def record(number, key="B"):
    choices = [{"label": letter, "text": f"{letter.lower()} of {number}"} for letter in "ABCDE"]
    question = {"question_concept": "café", "choices": choices, "stem": f"Café no. {number}?"}
    return {"answerKey": key, "id": f"id{number:03d}", "question": question}


def write_lines(path, records):
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records), "utf-8")


def examples(builder, split):
    """Returns the examples of a split as plain Python values."""
    return [
        {
            "id": example["id"].decode(),
            "question": example["question"].decode(),
            "choices": [
                {"label": label.decode(), "text": text.decode()}
                for label, text in zip(*map(example["choices"].get, ("label", "text")), strict=True)
            ],
            "answer_key": example["answer_key"].decode(),
        }
        for example in builder.as_dataset(split=split).as_numpy_iterator()
    ]


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Small files in the published format in the place of the published ones."""
    records = {"train": [record(n, "ABCDE"[n % 5]) for n in range(40, 0, -1)]}
    records["validation"] = [record(n) for n in range(100, 103)]
    for split, name in FILES.items():
        write_lines(tmp_path / name, records[split])
    urls = {split: f"file://{tmp_path / name}" for split, name in FILES.items()}
    monkeypatch.setattr(CommonsenseQA, "URLS", urls)
    return records


def test_every_question_comes_out_as_it_went_in_and_in_order(small, tmp_path):
    builder = prepare_commonsense_qa(str(tmp_path / "tfds"))
    assert builder.data_path == tmp_path / "tfds/commonsense_qa/1.11.0"
    for split, records in small.items():
        assert examples(builder, split) == [flatten(r) for r in records]
    assert set(builder.info.splits) == {"train", "validation"}
    assert builder.info.splits["train"].num_examples == 40


def test_what_is_prepared_is_used_again(small, tmp_path, capfd):
    prepare_commonsense_qa(str(tmp_path / "tfds"))
    out, err = capfd.readouterr()
    assert out == "" and "preparing CommonsenseQA" in err and "Size" not in err
    for name in FILES.values():
        (tmp_path / name).unlink()
    again = prepare_commonsense_qa(str(tmp_path / "tfds"), str(tmp_path / "gone"))
    assert len(examples(again, "validation")) == 3
    assert len(examples(CommonsenseQA(data_dir=str(tmp_path / "tfds")), "validation")) == 3


def test_seqio_reads_what_is_prepared_by_name_and_folder(small, tmp_path):
    prepare_commonsense_qa(str(tmp_path / "tfds"))
    source = seqio.TfdsDataSource(
        "commonsense_qa:1.11.0", str(tmp_path / "tfds"), splits=("train", "validation")
    )
    dataset = source.get_dataset("train", shuffle=False)
    ids = [example["id"].decode() for example in dataset.as_numpy_iterator()]
    assert ids == [r["id"] for r in small["train"]]


def test_the_builder_is_not_registered_so_its_import_cannot_clash():
    file = sys.modules[CommonsenseQA.__module__].__file__
    spec = importlib.util.spec_from_file_location("a_second_import", file)
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)  # TFDS raises for a second registered class of one name
    assert second.CommonsenseQA.name == CommonsenseQA.name == "commonsense_qa"


def test_the_checksums_are_those_of_launch_fetch():
    fetched = {a.url: (a.size, a.sha256, Path(a.path).name) for a in table.COMMONSENSE_QA}
    infos = CommonsenseQA.url_infos
    assert {u: (int(i.size), i.checksum, i.filename) for u, i in infos.items()} == fetched
    assert set(CommonsenseQA.URLS.values()) == set(fetched)


def test_altered_files_are_refused(tmp_path):
    for name in FILES.values():
        write_lines(tmp_path / name, [record(1)])
    with pytest.raises(UserError, match="wrong checksum; fetch it again") as raised:
        prepare_commonsense_qa(str(tmp_path / "tfds"), str(tmp_path))
    assert "\n" not in raised.value.message
    assert str(tmp_path) in raised.value.message
    assert not CommonsenseQA(data_dir=str(tmp_path / "tfds")).data_path.exists()


def test_missing_files_are_named_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*train_rand_split\.jsonl; fetch it with"):
        prepare_commonsense_qa(str(tmp_path / "tfds"), str(tmp_path))
    assert list(tmp_path.iterdir()) == []


class NotFound(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *args):
        pass


def test_a_failing_download_is_one_line(tmp_path, monkeypatch):
    with HTTPServer(("127.0.0.1", 0), NotFound) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        urls = {split: f"{url}/{name}" for split, name in FILES.items()}
        monkeypatch.setattr(CommonsenseQA, "URLS", urls)
        with pytest.raises(UserError, match=r"cannot be prepared .*404.* fetch it") as raised:
            prepare_commonsense_qa(str(tmp_path / "tfds"))
        server.shutdown()
    assert "\n" not in raised.value.message


@pytest.mark.slow
@pytest.mark.skipif(not DATA, reason="STAR_JAX_DATA names no folder with the data")
def test_all_published_questions(tmp_path):
    fetched = Path(DATA) / "commonsenseqa"
    builder = prepare_commonsense_qa(str(tmp_path), str(fetched))
    for (split, name), size in zip(FILES.items(), (9741, 1221), strict=True):
        published = [json.loads(line) for line in (fetched / name).open(encoding="utf-8")]
        found = examples(builder, split)
        assert found == [flatten(r) for r in published]
        assert len({example["id"] for example in found}) == size == len(found)
        assert builder.info.splits[split].num_examples == size
        assert {len(example["choices"]) for example in found} == {5}
        assert {example["answer_key"] for example in found} == set("ABCDE")
