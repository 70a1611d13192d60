"""Bulk encode: each text once, ids kept, resumable, and never a folder of two models."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.helpers import Stopped, write_jsonl, write_table

from distilmatch.errors import BadRowsError, CacheError, DataError, ModelError
from distilmatch.jobs.encode import encode_table
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import pair_rows

TEXTS = [f"text {'and more ' * (i % 5)}{i}" for i in range(23)]


def check(folder: RepresentationFolder, model: DiPair, texts: list[str], side: int | str, atol: float = 1e-5) -> None:
    """The folder holds what the model makes of `texts`, whatever their order there."""
    rows = folder.row_of_text(texts)
    assert (rows >= 0).all() and len(folder) == len(set(texts))
    got, expected = folder.read(rows), model.encode(texts, side)
    torch.testing.assert_close(got.tokens, expected.tokens, atol=atol, rtol=0)
    assert torch.equal(got.mask, expected.mask)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "mappings", "generator"])
def test_every_kind_of_source(student: DiPair, tmp_path: Path, kind: str) -> None:
    rows = [{"text": text, "id": f"id{i}"} for i, text in enumerate(TEXTS)]
    source: Any = rows
    if kind in ("jsonl", "csv", "tsv", "parquet"):
        source = write_table(tmp_path / f"texts.{kind}", rows)
    elif kind == "generator":
        source = iter(rows)
    folder = encode_table(student, source, tmp_path / "out", side="document", id_column="id", batch_size=4)
    check(folder, student, TEXTS, "document")
    assert folder.ids == [f"id{i}" for i in range(23)]
    assert folder.manifest.side == 1 and folder.manifest.side_name == "document"
    assert folder.manifest.model_fingerprint == student.representation_fingerprint(1)


def test_dataset(student: DiPair, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    source = datasets.Dataset.from_dict({"text": TEXTS, "label": [0] * len(TEXTS)})
    check(encode_table(student, source, tmp_path / "out", side=0), student, TEXTS, 0)


def test_one_side_of_a_pair_table(student: DiPair, tmp_path: Path) -> None:
    rows = pair_rows()
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    folder = encode_table(
        student, path, tmp_path / "out", side=1, text_column="document", id_column="did", shard_rows=3, batch_size=2
    )
    check(folder, student, list(dict.fromkeys(row["document"] for row in rows)), 1)
    assert (
        folder.row_of_id([row["did"] for row in rows]).tolist()
        == folder.row_of_text([row["document"] for row in rows]).tolist()
    )


def test_each_text_is_encoded_once(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []
    encode = student.encode

    def counted(texts: list[str], *args: Any, **kwargs: Any) -> Any:
        encoded.extend(texts)
        return encode(texts, *args, **kwargs)

    monkeypatch.setattr(student, "encode", counted)
    rows = [{"text": text, "id": f"{repeat}-{text}"} for repeat in range(3) for text in TEXTS]
    folder = encode_table(student, rows, tmp_path / "out", side=0, id_column="id", shard_rows=5, batch_size=2)
    assert encoded == TEXTS
    for repeat in range(3):
        assert folder.row_of_id([f"{repeat}-{text}" for text in TEXTS]).tolist() == list(range(23))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_stored_dtypes(student: DiPair, tmp_path: Path, dtype: Any) -> None:
    folder = encode_table(student, [{"text": text} for text in TEXTS], tmp_path / "out", side=0, dtype=dtype)
    expected, got = student.encode(TEXTS, 0), folder.read(np.arange(23))
    assert torch.equal(got.mask, expected.mask)
    if dtype == "int8":
        half_scale = expected.tokens.abs().amax(-1, keepdim=True) / 254
        assert ((got.tokens - expected.tokens).abs() <= half_scale + 1e-5).all()
    else:
        tolerance = 1e-3 if dtype == "float16" else 8e-3
        torch.testing.assert_close(got.tokens, expected.tokens, rtol=tolerance, atol=1e-5)
    assert folder.manifest.dtype == dtype


# Resuming


@pytest.mark.parametrize("stops_at", range(6))
def test_resume(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_at: int) -> None:
    rows = [{"text": text, "id": f"id{i}"} for i, text in enumerate(TEXTS)]
    rows += [{"text": TEXTS[2], "id": "again"}]
    settings: dict[str, Any] = {"side": 0, "id_column": "id", "shard_rows": 4, "batch_size": 4}
    encode, encoded, calls = student.encode, [], 0

    def stopping(texts: list[str], *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if calls == stops_at:
            raise Stopped
        calls += 1
        encoded.extend(texts)
        return encode(texts, *args, **kwargs)

    monkeypatch.setattr(student, "encode", stopping)
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_TEXTS", 4)
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_BATCHES", 1)
    with pytest.raises(Stopped):
        encode_table(student, rows, tmp_path / "out", **settings)
    with pytest.raises(CacheError, match="unfinished" if stops_at else "."):
        RepresentationFolder.open(tmp_path / "out")
    calls = -100
    folder = encode_table(student, rows, tmp_path / "out", **settings)
    assert encoded == TEXTS
    monkeypatch.setattr(student, "encode", encode)
    check(folder, student, TEXTS, 0)
    assert folder.row_of_id(["id2", "again", "id22", "no"]).tolist() == [2, 2, 22, -1]


_KILLED = """
import os, signal, sys
import torch
torch.set_num_threads(1)
from distilmatch.jobs.encode import encode_table
from distilmatch.models.dipair import DiPair

model = DiPair.from_pretrained(sys.argv[1])
encode, calls = model.encode, 0

def dying(*args, **kwargs):
    global calls
    calls += 1
    if calls == 4:
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(*args, **kwargs)

model.encode = dying
import distilmatch.jobs.encode as job
job._CHUNK_TEXTS = job._CHUNK_BATCHES = 1
encode_table(model, sys.argv[2], sys.argv[3], side=0, shard_rows=4, batch_size=4, dtype=sys.argv[4])
"""


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_resume_after_sigkill(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    student.save_pretrained(tmp_path / "model")
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"text": text} for text in TEXTS])
    arguments = [sys.executable, "-c", _KILLED, str(tmp_path / "model"), str(path), str(tmp_path / "out"), dtype]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    killed = subprocess.run(arguments, env=environment, capture_output=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    assert (tmp_path / "out" / "ids-00002.parquet").exists()
    encode, encoded = student.encode, []

    def counted(texts: list[str], *args: Any, **kwargs: Any) -> Any:
        encoded.extend(texts)
        return encode(texts, *args, **kwargs)

    monkeypatch.setattr(student, "encode", counted)
    folder = encode_table(student, path, tmp_path / "out", side=0, shard_rows=4, batch_size=4, dtype=dtype)
    assert encoded == TEXTS[12:]
    monkeypatch.setattr(student, "encode", encode)
    check(folder, student, TEXTS, 0, atol=1e-5 if dtype == "float32" else 0.05)


def test_finished_folder_costs_nothing(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": text} for text in TEXTS]
    encode_table(student, rows, tmp_path / "out", side=0)
    with monkeypatch.context() as patch:
        patch.setattr(student, "encode", lambda *_, **__: pytest.fail("encoded again"))
        assert len(encode_table(student, rows, tmp_path / "out", side=0)) == 23
        with pytest.raises(CacheError, match="already"):
            encode_table(student, rows, tmp_path / "out", side=0, resume=False)
    assert len(encode_table(student, rows[:5], tmp_path / "out", side=0, overwrite=True)) == 5


def test_folder_of_another_model_side_dtype_or_table(student: DiPair, other_student: DiPair, tmp_path: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    encode_table(student, rows, tmp_path / "out", side=0)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(CacheError, match="model_fingerprint"):
        encode_table(other_student, rows, tmp_path / "out", side=0)
    with pytest.raises(CacheError, match="side_name"):
        encode_table(student, rows, tmp_path / "out", side=1)
    with pytest.raises(CacheError, match="dtype"):
        encode_table(student, rows, tmp_path / "out", side=0, dtype="int8")
    with pytest.raises(CacheError, match="texts_source"):
        encode_table(student, rows[1:], tmp_path / "out", side=0)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


# Tables that cannot be used


def test_bad_rows_stop_before_any_work(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", [{"text": text} for text in TEXTS])
    with path.open("a") as file:
        file.write('{"text": null}\n{"text": ""}\n{broken\n')
    with monkeypatch.context() as patch:
        patch.setattr(student, "encode", lambda *_, **__: pytest.fail("work was started"))
        with pytest.raises(BadRowsError, match=rf"{path.name}, row 24"):
            encode_table(student, path, tmp_path / "out", side=0)
    folder = encode_table(student, path, tmp_path / "out", side=0, on_bad_rows="quarantine")
    assert folder.row_of_text(TEXTS).tolist() == list(range(23))
    assert len((tmp_path / "pairs.bad_rows.jsonl").read_text().splitlines()) == 3


def test_bad_table_does_not_cost_the_old_folder(student: DiPair, tmp_path: Path) -> None:
    encode_table(student, [{"text": text} for text in TEXTS], tmp_path / "out", side=0)
    with pytest.raises(BadRowsError):
        encode_table(student, [{"text": ""}], tmp_path / "out", side=0, overwrite=True)
    assert len(RepresentationFolder.open(tmp_path / "out")) == 23


def test_one_id_for_two_texts(student: DiPair, tmp_path: Path) -> None:
    path = write_jsonl(
        tmp_path / "pairs.jsonl", [{"text": "one", "id": "a"}, {"text": "two", "id": "b"}, {"text": "three", "id": "a"}]
    )
    with pytest.raises(DataError, match=r"pairs\.jsonl, row 3: id 'a' stands for 'three'"):
        encode_table(student, path, tmp_path / "out", side=0, id_column="id")


def test_columns_and_sides_that_are_not_there(student: DiPair, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", pair_rows(3))
    with pytest.raises(DataError, match="text_column"):
        encode_table(student, path, tmp_path / "out", side=0)
    with pytest.raises(DataError, match="nothing"):
        encode_table(student, path, tmp_path / "out", side=0, text_column="nothing")
    with pytest.raises(ModelError, match="no side"):
        encode_table(student, path, tmp_path / "out", side="middle", text_column="query")
    with pytest.raises(DataError, match="no rows"):
        encode_table(student, [], tmp_path / "out", side=0, text_column="query")
