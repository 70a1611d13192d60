"""Bulk match: the plain model's best pairs, both ways, with candidates, killed at any part and gone on with."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tests.helpers import interrupt

from distilmatch.engine.scorer import Scorer
from distilmatch.errors import CacheError, ConfigError, ModelError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.match import match_folders
from distilmatch.jobs.parts import PartWriter
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import make_matcher

Folders = list[RepresentationFolder]
QUERIES = [f"query {'very ' * (i % 7)}{i}" for i in range(23)]
DOCUMENTS = [f"document {'long ' * (i % 11)}{i}" for i in range(41)]


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    return make_matcher(tiny_encoder)


def encode(model: DiPair, where: Path) -> Folders:
    sides = {"query": QUERIES, "document": DOCUMENTS}
    return [
        encode_table(
            model,
            [{"id": f"{name[0]}{i}", "text": text} for i, text in enumerate(texts)],
            where / name,
            side=name,
            id_column="id",
            shard_rows=9,
        )
        for name, texts in sides.items()
    ]


@pytest.fixture(scope="module")
def folders(student: DiPair, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    return encode(student, tmp_path_factory.mktemp("match"))


@pytest.fixture(scope="module")
def expected(student: DiPair) -> np.ndarray:
    """(23, 41) sigmoid scores of the plain model."""
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    return np.asarray(student.predict(pairs)).reshape(len(QUERIES), len(DOCUMENTS))


@pytest.mark.parametrize("rows_a_part", [None, 1, 10])
def test_the_best_of_both_sides(
    student: DiPair, folders: Folders, expected: np.ndarray, tmp_path: Path, rows_a_part: int | None
) -> None:
    output, reverse = tmp_path / "best.parquet", tmp_path / "reverse.parquet"
    report = match_folders(
        Scorer(student, kernel="torch"),
        *folders,
        output,
        top_k=5,
        reverse_output=reverse,
        rows_a_part=rows_a_part,
    )
    assert (report.rows, report.pairs) == (5 * 23, 23 * 41)
    for path, scores, names in (
        (output, expected, ("query", "document")),
        (reverse, expected.T, ("document", "query")),
    ):
        found = pq.read_table(path)
        columns = [f"{name}_{what}" for name in names for what in ("row", "id")]
        assert found.column_names == [*columns, "rank", "logit", "score"]
        rows, others = found[columns[0]].to_numpy(), found[columns[2]].to_numpy()
        assert rows.tolist() == np.repeat(np.arange(len(scores)), 5).tolist()
        assert found["rank"].to_pylist() == [1, 2, 3, 4, 5] * len(scores)
        got = found["score"].to_numpy()
        np.testing.assert_allclose(got, scores[rows, others], atol=1e-5)
        np.testing.assert_allclose(1 / (1 + np.exp(-found["logit"].to_numpy().astype(np.float64))), got, atol=1e-6)
        np.testing.assert_allclose(got.reshape(-1, 5), -np.sort(-scores, axis=1)[:, :5], atol=1e-5)
        assert found[columns[1]].to_pylist() == [f"{names[0][0]}{row}" for row in rows]
        assert found[columns[3]].to_pylist() == [f"{names[1][0]}{row}" for row in others]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.parquet", "reverse.parquet"]


def test_everything_above_a_threshold(student: DiPair, folders: Folders, expected: np.ndarray, tmp_path: Path) -> None:
    ordered = np.sort(expected.ravel())
    gap = len(ordered) // 2 + int(np.argmax(np.diff(ordered[len(ordered) // 2 :])))
    threshold = float(ordered[gap : gap + 2].mean())
    output = tmp_path / "pairs.parquet"
    match_folders(Scorer(student, kernel="torch"), *folders, output, threshold=threshold, rows_a_part=4)
    found = pq.read_table(output)
    assert found.column_names == ["query_row", "query_id", "document_row", "document_id", "logit", "score"]
    rows = np.stack([found["query_row"].to_numpy(), found["document_row"].to_numpy()], 1)
    np.testing.assert_array_equal(rows, np.argwhere(expected > threshold))
    np.testing.assert_allclose(found["score"].to_numpy(), expected[expected > threshold], atol=1e-5)


@pytest.mark.parametrize("stop_after", [1, 2, 3, 5])
def test_a_stopped_match_goes_on(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop_after: int
) -> None:
    settings: dict[str, Any] = {"top_k": 3, "rows_a_part": 5}
    scorer = Scorer(student, kernel="torch")
    whole = [tmp_path / "whole.parquet", tmp_path / "whole_reverse.parquet"]
    match_folders(scorer, *folders, whole[0], reverse_output=whole[1], **settings)
    append, appended = PartWriter.append, []

    def stop(writer: PartWriter, table: Any, place: str = "") -> None:
        if len(appended) == stop_after - 1:
            raise KeyboardInterrupt  # the state of the other direction is written already
        appended.append(table)
        append(writer, table, place)

    parts = [tmp_path / "parts.parquet", tmp_path / "parts_reverse.parquet"]
    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "append", stop)
        with pytest.raises(KeyboardInterrupt):
            match_folders(scorer, *folders, parts[0], reverse_output=parts[1], **settings)
    assert not parts[0].exists()
    match_folders(scorer, *folders, parts[0], reverse_output=parts[1], **settings)
    for one, other in zip(whole, parts, strict=True):
        assert pq.read_table(one).equals(pq.read_table(other))
    report = match_folders(scorer, *folders, parts[0], reverse_output=parts[1], **settings)
    assert report.rows == 3 * 23
    with pytest.raises(CacheError, match=r"parts_reverse\.parquet exists"):
        match_folders(scorer, *folders, tmp_path / "third.parquet", reverse_output=parts[1], top_k=4)


def test_candidates_say_what_they_miss(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    scorer = Scorer(student, kernel="torch")
    exact, few = tmp_path / "exact.parquet", tmp_path / "few.parquet"
    match_folders(scorer, *folders, exact, top_k=4)
    report = match_folders(scorer, *folders, few, top_k=4, num_candidates=41, index="flat")
    one, other = pq.read_table(exact), pq.read_table(few)
    assert one.drop_columns(["logit"]).equals(other.drop_columns(["logit"]))
    # Pairs by number and blocks of pairs are products of other shapes: the last bits of a logit may differ.
    np.testing.assert_allclose(one["logit"].to_numpy(), other["logit"].to_numpy(), atol=2e-6, rtol=0)
    assert (report.recall, report.sampled, report.pairs) == (1.0, 23, 23 * 41)
    report = match_folders(scorer, *folders, few, top_k=4, num_candidates=6, index="flat", overwrite=True)
    tables = [pq.read_table(path) for path in (exact, few)]
    best = [set(zip(t["query_row"].to_pylist(), t["document_row"].to_pylist(), strict=True)) for t in tables]
    assert report.recall == pytest.approx(len(best[0] & best[1]) / len(best[0])) and 0 < report.recall < 1


def test_candidates_that_were_stopped_at_the_end_still_say_what_they_miss(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, settings = Scorer(student, kernel="torch"), {"top_k": 4, "num_candidates": 6, "index": "flat"}
    expected = match_folders(scorer, *folders, tmp_path / "whole.parquet", **settings)

    with monkeypatch.context() as patch:
        patch.setattr(PartWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            match_folders(scorer, *folders, tmp_path / "few.parquet", **settings)
    assert match_folders(scorer, *folders, tmp_path / "few.parquet", **settings) == expected
    assert expected.recall is not None and expected.recall < 1


def test_the_index_of_a_stopped_match_is_taken(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, settings = Scorer(student, kernel="torch"), {"top_k": 4, "num_candidates": 6, "index": "flat"}
    match_folders(scorer, *folders, tmp_path / "whole.parquet", **settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PartWriter, "finish", interrupt)
        match_folders(scorer, *folders, tmp_path / "few.parquet", **settings)
    assert (tmp_path / "few.parquet.parts" / "index" / "index.json").is_file()
    monkeypatch.setattr(scorer, "index_of", interrupt)
    match_folders(scorer, *folders, tmp_path / "few.parquet", **settings)
    assert pq.read_table(tmp_path / "few.parquet").equals(pq.read_table(tmp_path / "whole.parquet"))
    assert not (tmp_path / "few.parquet.parts").exists()


def test_weights_are_read_once_however_many_parts(
    student: DiPair, folders: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = copy.deepcopy(student)
    model.known_fingerprints = type(model.known_fingerprints)()
    taken, take = [], model.representation_fingerprint
    monkeypatch.setattr(model, "representation_fingerprint", lambda side: taken.append(side) or take(side))
    match_folders(Scorer(model, kernel="torch"), *folders, tmp_path / "m.parquet", top_k=2, rows_a_part=2)
    assert taken == [0, 1]


def test_a_scorer_refuses_what_newer_weights_encoded(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    model = copy.deepcopy(student)
    scorer = Scorer(model)
    with torch.no_grad():
        model.head_inputs[0].projection.weight[0, 0] += 0.01
    newer = encode(model, tmp_path)
    kept = [model.encode(["one", "two"], side) for side in (0, 1)]
    with pytest.raises(ModelError, match=r"weights that its model had when it was made"):
        match_folders(scorer, *newer, tmp_path / "m.parquet", top_k=2)
    with pytest.raises(ModelError, match="weights may have changed"):
        scorer.score(*kept, rows=[[0, 0]])
    match_folders(Scorer(model), *newer, tmp_path / "m.parquet", top_k=2)
    assert match_folders(scorer, *folders, tmp_path / "old.parquet", top_k=2).rows == 2 * len(QUERIES)


def test_parts_of_another_job_and_a_foreign_output_stay(student: DiPair, folders: Folders, tmp_path: Path) -> None:
    scorer, output = Scorer(student, kernel="torch"), tmp_path / "m.parquet"
    with pytest.raises(KeyboardInterrupt), PartWriter(output, pa.schema([("a", pa.int64())]), "other") as writer:
        writer.append(pa.table({"a": [1]}))
        raise KeyboardInterrupt
    with pytest.raises(CacheError, match="parts of another job"):
        match_folders(scorer, *folders, output, top_k=2)
    assert sorted(path.name for path in (tmp_path / "m.parquet.parts").glob("part*")) == ["part-00000.parquet"]
    output = tmp_path / "n.parquet"
    output.write_bytes(b"something else")
    with pytest.raises(CacheError, match="exists and holds something else"):
        match_folders(scorer, *folders, output, top_k=2)
    assert output.read_bytes() == b"something else" and not (tmp_path / "n.parquet.parts").exists()


def test_several_labels_say_which_is_ranked(classifier: DiPair, tmp_path: Path) -> None:
    folders = encode(classifier, tmp_path)
    scorer = Scorer(classifier, kernel="torch")
    with pytest.raises(ConfigError, match="say which one is ranked"):
        match_folders(scorer, *folders, tmp_path / "best.parquet", top_k=2)
    match_folders(scorer, *folders, tmp_path / "best.parquet", top_k=1, by="probability", label="yes")
    found = pq.read_table(tmp_path / "best.parquet")
    pairs = [(query, document) for query in QUERIES for document in DOCUMENTS]
    scores = np.asarray(classifier.predict(pairs, apply_softmax=True))[:, 2].reshape(23, 41)
    np.testing.assert_allclose(found["score"].to_numpy(), scores.max(1), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either top_k"),
        ({"top_k": 3, "threshold": 0.5}, "either top_k"),
        ({"threshold": 0.5, "num_candidates": 9}, "go with top_k"),
        ({"top_k": 3, "num_candidates": 2}, "fewer than the 3"),
        ({"top_k": 42}, "41 items to choose from"),
        ({"threshold": 1.5}, "between 0 and 1"),
        ({"top_k": 30, "reverse_output": "reverse.parquet"}, "23 items to choose from"),
    ],
)
def test_what_cannot_be_done_is_said_first(
    student: DiPair, folders: Folders, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        match_folders(Scorer(student), *folders, tmp_path / "out.parquet", **settings)
    assert not list(tmp_path.iterdir())
