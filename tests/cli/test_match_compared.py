"""`distilmatch match` with --self, groups, one partner each, clusters and wanted shares, as it is typed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from tests.helpers import call, write_jsonl
from tests.jobs.conftest import make_matcher

from distilmatch.engine.scorer import Scorer
from distilmatch.jobs.match import match_folders

ROWS = [
    {"id": f"i{number}", "text": f"thing {number % 11} of {number % 3}", "kind": "ab"[number % 2], "price": number}
    for number in range(30)
]


@pytest.fixture(scope="module")
def place(tiny_encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("commands")
    make_matcher(Path(tiny_encoder)).save_pretrained(place / "student")
    write_jsonl(place / "table.jsonl", ROWS)
    for side in ("query", "document"):
        call(
            "encode", place / "student", place / "table.jsonl", "--side", side, "--text-column", "text",
            "--id-column", "id", "--output", place / side,
        )  # fmt: skip
    return place


Told = pytest.CaptureFixture[str]


def match(told: Told, place: Path, output: Path, *more: Any, code: int = 0) -> str:
    sides = ("--left", place / "query", "--right", place / "document")
    told.readouterr()
    assert call("match", place / "student", *sides, "--output", output, *more) == code
    streams = told.readouterr()
    return " ".join((streams.out + streams.err).replace("│", " ").split())


def rows(path: Path, *names: str) -> list[tuple[Any, ...]]:
    table = pq.read_table(path)
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def test_a_table_with_itself(place: Path, tmp_path: Path, capsys: Told) -> None:
    output, clusters = tmp_path / "pairs.parquet", tmp_path / "clusters.csv"
    told = match(capsys, place, output, "--self", "--threshold", "0.5", "--clusters", clusters, "--one-to-one")
    found = rows(output, "query_row", "document_row")
    named = [item for pair in found for item in pair]
    assert found and len(named) == len(set(named))
    assert f"{len(named)} items in {len(found)} clusters; the largest has 2" in told
    assert clusters.read_text().splitlines()[0] == "row,id,cluster,size"
    assert len(clusters.read_text().splitlines()) == 31


def test_groups_and_conditions(place: Path, tmp_path: Path, capsys: Told) -> None:
    table = place / "table.jsonl"
    output = tmp_path / "pairs.parquet"
    told = match(
        capsys, place, output, "--top-k", "2", "--block-on", "kind", "--left-table", table, "--right-table", table,
        "--left-filter", "price < 10", "--right-filter", "price >= 10",
    )  # fmt: skip
    assert "2; 20 left and 10 right items are in none" in told
    found = rows(output, "query_row", "document_row", "rank")
    assert len(found) == 20
    for left, right, _ in found:
        assert left < 10 <= right and left % 2 == right % 2


def test_a_wanted_precision(place: Path, tmp_path: Path, capsys: Told) -> None:
    from distilmatch import DiPair

    random = np.random.default_rng(0)
    pairs = [{"query": ROWS[i]["text"], "document": ROWS[j]["text"]} for i, j in random.integers(0, 30, (200, 2))]
    student = DiPair.from_pretrained(place / "student")
    scores = np.asarray(student.predict([(pair["query"], pair["document"]) for pair in pairs]))
    labels = (scores - scores.mean()) / scores.std() + 0.3 * random.normal(size=200) > 0
    labelled = [{**pair, "label": int(label)} for pair, label in zip(pairs, labels, strict=True)]
    table = write_jsonl(tmp_path / "labelled.jsonl", labelled)
    output = tmp_path / "pairs.parquet"
    told = match(capsys, place, output, "--target-precision", "0.9", "--labelled-table", table)
    assert "for precision=0.9 on 200 labelled rows" in told and "recall" in told
    threshold = float(told.split("threshold")[1].split()[0])
    assert labels[scores > threshold].mean() >= 0.9
    expected = tmp_path / "expected.parquet"
    match_folders(Scorer(student), place / "query", place / "document", expected, threshold=threshold)
    found = rows(output, "query_row", "document_row")
    # The threshold was rounded to print it.
    assert 0 < len(found) < 900 and len(set(found) ^ set(rows(expected, "query_row", "document_row"))) <= 0.02 * len(
        found
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--threshold", "0.5", "--target-recall", "0.9"), "--threshold and --target-recall all say where to cut"),
        (("--threshold", "0.5", "--labelled-table", "x.csv"), "chooses a threshold by name"),
        (("--top-k", "1", "--block-on", "kind"), "--block-on reads the table that was encoded: give --left-table"),
        (("--top-k", "1", "--left-filter", "a = 1"), "give --left-table"),
        (("--top-k", "1", "--self", "--one-to-one"), "give a threshold instead of top_k"),
        (("--threshold", "0.5", "--clusters", "c.csv"), "clusters are of one table"),
    ],
)
def test_what_is_refused(place: Path, tmp_path: Path, capsys: Told, options: tuple[str, ...], message: str) -> None:
    assert message in match(capsys, place, tmp_path / "out.parquet", *options, code=1)
    assert not list(tmp_path.iterdir())
