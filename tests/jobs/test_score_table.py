"""Bulk score: the same logits as the model's, rows in order, resumable, and nothing started that cannot end."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.helpers import Stopped, write_jsonl

from distilmatch.config.tables import TableConfig
from distilmatch.engine.scorer import Scorer
from distilmatch.errors import BadRowsError, CacheError, ConfigError, DataError, ModelError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.score import score_table
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import CLASSES, Row, make_student, pair_rows

TABLE = TableConfig(text_columns=("query", "document"), id_columns=("qid", "did"))
Folders = list[RepresentationFolder]


@pytest.fixture(autouse=True)
def no_fast_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores are compared to the model's own, in fp32."""
    monkeypatch.setattr("distilmatch.engine.kernels.choice.has_fast_bf16", lambda device: False)


def encode_sides(model: DiPair, rows: list[Row], where: Path, **settings: Any) -> Folders:
    return [
        encode_table(model, rows, where / name, side=name, text_column=name, id_column=id, **settings)
        for name, id in (("query", "qid"), ("document", "did"))
    ]


@pytest.fixture(scope="module")
def folders(student: DiPair, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return encode_sides(student, pair_rows(), tmp_path_factory.mktemp("folders"), shard_rows=4)


@pytest.fixture(scope="module")
def class_folders(classifier: DiPair, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return encode_sides(classifier, pair_rows(), tmp_path_factory.mktemp("class_folders"), shard_rows=4)


def expected_logits(model: DiPair, rows: list[Row]) -> np.ndarray:
    return model.logits([(row["query"], row["document"]) for row in rows])


@pytest.mark.parametrize("by", ["text", "id"])
@pytest.mark.parametrize("batch_rows", [1, 7, 30, 1000])
@pytest.mark.parametrize("order", ["as it is", "reversed", "shuffled"])
def test_same_logits_as_the_model(
    student: DiPair, folders: Folders, tmp_path: Path, by: Any, batch_rows: int, order: str
) -> None:
    rows = pair_rows()
    if order != "as it is":
        rows.reverse() if order == "reversed" else random.Random(1).shuffle(rows)
    output = tmp_path / "scores.parquet"
    assert score_table(student, rows, output, folders, table=TABLE, by=by, batch_rows=batch_rows) == 30
    scores = pq.read_table(output)
    assert scores.column_names == ["qid", "did", "query", "document", "logit_0", "score"]
    for name in ("qid", "did", "query", "document"):
        assert scores[name].to_pylist() == [row[name] for row in rows]
    logits = expected_logits(student, rows)
    np.testing.assert_allclose(scores["logit_0"].to_numpy(), logits[:, 0], atol=1e-5)
    assert np.ptp(logits) > 0.01, "all logits alike: a swapped row would not be seen"
    predicted = student.predict([(row["query"], row["document"]) for row in rows])
    np.testing.assert_allclose(scores["score"].to_numpy(), predicted, atol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scores.parquet"]


def test_memory_is_bounded(student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilmatch.engine.scorer._FEWEST_TEXTS", 5)
    monkeypatch.setattr("distilmatch.engine.sides._MEASURED_TEXTS", 5)
    largest = 0
    read = RepresentationFolder.read

    def watched(self: RepresentationFolder, rows: Any) -> Any:
        nonlocal largest
        largest = max(largest, len(rows))
        return read(self, rows)

    monkeypatch.setattr(RepresentationFolder, "read", watched)
    scorer = Scorer(student, memory_bytes=1)
    score_table(scorer, pair_rows(), tmp_path / "scores.parquet", folders, table=TABLE)
    assert 1 < largest <= 5
    scored = pq.read_table(tmp_path / "scores.parquet")["logit_0"].to_numpy()
    np.testing.assert_allclose(scored, expected_logits(student, pair_rows())[:, 0], atol=1e-5)


def test_classes(classifier: DiPair, class_folders: Folders, tmp_path: Path) -> None:
    rows = pair_rows()
    score_table(classifier, rows, tmp_path / "scores.parquet", class_folders, table=TABLE, batch_rows=8)
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.column_names[4:] == ["logit_0", "logit_1", "logit_2", "label", "score"]
    logits = expected_logits(classifier, rows)
    np.testing.assert_allclose(np.stack([scores[f"logit_{c}"].to_numpy() for c in range(3)], 1), logits, atol=1e-5)
    assert scores["label"].to_pylist() == [CLASSES[i] for i in logits.argmax(1)]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    np.testing.assert_allclose(scores["score"].to_numpy(), probabilities.max(1), atol=1e-5)


def test_int8_folders(student: DiPair, tmp_path: Path) -> None:
    stored = encode_sides(student, pair_rows(), tmp_path, shard_rows=4, dtype="int8")
    score_table(student, pair_rows(), tmp_path / "scores.parquet", stored, table=TABLE)
    scored = pq.read_table(tmp_path / "scores.parquet")["logit_0"].to_numpy()
    sides = [folder.read(np.arange(len(folder))) for folder in stored]
    texts = [[row["query"] for row in pair_rows()], [row["document"] for row in pair_rows()]]
    rows = np.stack([folder.row_of_text(some) for folder, some in zip(stored, texts, strict=True)], axis=1)
    np.testing.assert_allclose(scored, student.score(*sides, rows=rows)[:, 0], atol=1e-5)
    logits = expected_logits(student, pair_rows())[:, 0]
    assert 0 < np.abs(scored - logits).max() < 0.01 * np.abs(logits).max()


def test_three_sides(tiny_encoder: Path, tmp_path: Path) -> None:
    model = make_student(
        Path(tiny_encoder), side_names=("a", "b", "c"), max_lengths=(16, 16, 16), kept_tokens=(2, 2, 2)
    )
    rows = [{"a": f"a {i % 3}", "b": f"b {i % 4}", "c": f"c {i % 5}"} for i in range(20)]
    three = [encode_table(model, rows, tmp_path / name, side=name, text_column=name) for name in "abc"]
    score_table(model, rows, tmp_path / "scores.parquet", three, table=TableConfig(sides=3))
    scored = pq.read_table(tmp_path / "scores.parquet")["logit_0"].to_numpy()
    expected = model.logits([(row["a"], row["b"], row["c"]) for row in rows])[:, 0]
    np.testing.assert_allclose(scored, expected, atol=1e-5)


def test_ids_without_texts(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    rows = [{"qid": row["qid"], "did": row["did"], "price": 3} for row in pair_rows()]
    table = TableConfig(id_columns=("qid", "did"))
    assert score_table(student, rows, tmp_path / "scores.parquet", folders, table=table, by="id") == 30
    scores = pq.read_table(tmp_path / "scores.parquet")
    assert scores.column_names == ["qid", "did", "logit_0", "score"]
    np.testing.assert_allclose(scores["logit_0"].to_numpy(), expected_logits(student, pair_rows())[:, 0], atol=1e-5)


# What cannot be scored, and says so before any work


@pytest.mark.parametrize("by", ["text", "id"])
def test_unknown_text_or_id(
    student: DiPair,
    folders: Folders,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    by: Any,
) -> None:
    rows = pair_rows()
    rows[19] = {**rows[19], "document": "never seen", "did": "d99"}
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    monkeypatch.setattr(Scorer, "score", lambda *_, **__: pytest.fail("work was started"))
    unknown = "text 'never seen'" if by == "text" else "id 'd99'"
    with pytest.raises(DataError, match=rf"pairs\.jsonl, row 20: the document {unknown} is not in"):
        score_table(student, path, tmp_path / "scores.parquet", folders, table=TABLE, by=by, batch_rows=4)
    assert not list(tmp_path.glob("scores*"))


def test_empty_id(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    rows = pair_rows()
    rows[2]["qid"] = ""
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    with pytest.raises(DataError, match=r"row 3: the query id is empty"):
        score_table(student, path, tmp_path / "scores.parquet", folders, table=TABLE, by="id")


def test_many_unknown_texts_are_counted(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    rows = [{**row, "query": "unknown"} for row in pair_rows()]
    with pytest.raises(DataError, match=r"(?s)30 of 60 texts.*and 25 more"):
        score_table(student, rows, tmp_path / "scores.parquet", folders, table=TABLE)


@pytest.mark.parametrize("by", ["text", "id"])
def test_bad_rows(student: DiPair, folders: Folders, tmp_path: Path, by: Any) -> None:
    path = write_jsonl(tmp_path / "pairs.jsonl", pair_rows())
    with path.open("a") as file:
        file.write('{"qid": "q1"}\n')
    with pytest.raises(BadRowsError, match="row 31"):
        score_table(student, path, tmp_path / "scores.parquet", folders, table=TABLE, by=by)
    table = TABLE.replaced(on_bad_rows="quarantine")
    assert score_table(student, path, tmp_path / "scores.parquet", folders, table=table, by=by) == 30


def test_folder_of_another_model(student: DiPair, other_student: DiPair, folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="another model") as caught:
        score_table(other_student, pair_rows(), tmp_path / "scores.parquet", folders, table=TABLE)
    for part in (student.representation_fingerprint(0), other_student.representation_fingerprint(0)):
        assert part in str(caught.value)


def test_folders_in_the_wrong_order(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"side 1 \(document\) and is given for side 0 \(query\)"):
        score_table(student, pair_rows(), tmp_path / "scores.parquet", folders[::-1], table=TABLE)
    with pytest.raises(ConfigError, match="1 folders"):
        score_table(student, pair_rows(), tmp_path / "scores.parquet", folders[:1], table=TABLE)


def test_folder_without_ids(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    bare = encode_table(student, pair_rows(), tmp_path / "bare", side=0, text_column="query")
    with pytest.raises(DataError, match="holds no ids"):
        score_table(student, pair_rows(), tmp_path / "scores.parquet", [bare, folders[1]], table=TABLE, by="id")
    with pytest.raises(ConfigError, match="id_columns"):
        score_table(student, pair_rows(), tmp_path / "scores.parquet", folders, by="id")


def test_columns_with_one_name(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    rows = [{"score": row["query"], "document": row["document"]} for row in pair_rows()]
    with pytest.raises(ConfigError, match="two columns 'score'"):
        score_table(student, rows, tmp_path / "scores.parquet", folders)


# Resuming


@pytest.mark.parametrize("stops_at", range(5))
def test_resume(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stops_at: int
) -> None:
    output, calls, score = tmp_path / "scores.parquet", 0, Scorer.score

    def stopping(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        if calls == stops_at:
            raise Stopped
        calls += 1
        return score(*args, **kwargs)

    monkeypatch.setattr(Scorer, "score", stopping)
    with pytest.raises(Stopped):
        score_table(student, pair_rows(), output, folders, table=TABLE, batch_rows=7)
    assert not output.exists()
    assert len(list(tmp_path.glob("scores.parquet.parts/part-*.parquet"))) == stops_at
    stops_at = 100
    assert score_table(student, pair_rows(), output, folders, table=TABLE, batch_rows=7) == 30
    assert calls == 5, "a finished part was scored again"
    scores = pq.read_table(output)
    assert scores["did"].to_pylist() == [row["did"] for row in pair_rows()]
    np.testing.assert_allclose(scores["logit_0"].to_numpy(), expected_logits(student, pair_rows())[:, 0], atol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["scores.parquet"]


def test_finished_output_costs_nothing(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.parquet"
    score_table(student, pair_rows(), output, folders, table=TABLE)
    before = output.read_bytes()
    calls, score = 0, Scorer.score

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return score(*args, **kwargs)

    monkeypatch.setattr(Scorer, "score", counted)
    assert score_table(student, pair_rows(), output, folders, table=TABLE) == 30
    assert calls == 0 and output.read_bytes() == before
    assert score_table(student, pair_rows(), output, folders, table=TABLE, resume=False) == 30
    assert calls == 1


def test_parts_and_output_of_another_job(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "scores.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("distilmatch.jobs.parts.PartWriter.finish", lambda self: (_ for _ in ()).throw(Stopped()))
        with pytest.raises(Stopped):
            score_table(student, pair_rows(), output, folders, table=TABLE, batch_rows=7)
    fewer = pair_rows(20)
    with pytest.raises(CacheError, match="parts of another job"):
        score_table(student, fewer, output, folders, table=TABLE, batch_rows=7)
    assert score_table(student, fewer, output, folders, table=TABLE, batch_rows=7, resume=False) == 20
    assert pq.read_metadata(output).num_rows == 20
    with pytest.raises(CacheError, match="something else"):
        score_table(student, pair_rows(), output, folders, table=TABLE)
    assert score_table(student, pair_rows(), output, folders, table=TABLE, overwrite=True) == 30
    mine = tmp_path / "mine.parquet"
    mine.write_text("not ours")
    with pytest.raises(CacheError, match="something else"):
        score_table(student, pair_rows(), mine, folders, table=TABLE, resume=False)
    assert mine.read_text() == "not ours"
