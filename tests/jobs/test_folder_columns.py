"""Columns and conditions of the table behind a folder, by its items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.helpers import write_jsonl, write_table

from distilmatch.errors import ConfigError, DataError
from distilmatch.jobs.encode import encode_table
from distilmatch.jobs.folder_columns import folder_column, folder_filter
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import RepresentationFolder

from .conftest import make_matcher

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "red car", "price": 10, "kind": "car"},
    {"id": "b", "text": "blue car", "price": 25.5, "kind": "car"},
    {"id": "a", "text": "red car", "price": 99, "kind": "again"},  # the same item
    {"id": "c", "text": "red car", "price": None, "kind": "o'clock"},  # another item of a text
    {"id": "d", "text": "green boat", "price": 7, "kind": "boat"},
]


@pytest.fixture(scope="module")
def student(tiny_encoder: Path) -> DiPair:
    return make_matcher(tiny_encoder)


@pytest.fixture(scope="module")
def folder(student: DiPair, tmp_path_factory: pytest.TempPathFactory) -> RepresentationFolder:
    return encode_table(
        student, ROWS, tmp_path_factory.mktemp("columns") / "side", side=0, text_column="text", id_column="id"
    )


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_columns_and_conditions(folder: RepresentationFolder, tmp_path: Path, ending: str) -> None:
    table = write_table(tmp_path / f"table.{ending}", ROWS)
    assert folder_column(table, folder, "kind") == ["car", "car", "o'clock", "boat"]
    assert folder_column(table, folder, "kind", distinct_texts=True) == ["car", "car", "boat"]
    for condition, holds in {
        "price < 20": [True, False, False, True],
        "price >= 10 and kind = 'car'": [True, True, False, False],
        "kind in ('boat', 'o''clock')": [False, False, True, True],
        "length(text) > 7 -- a note": [False, True, False, True],
        "not (price < 20)": [False, True, False, False],
    }.items():
        assert folder_filter(table, folder, condition).tolist() == holds, condition
    assert folder_filter(table, folder, "price < 20", distinct_texts=True).tolist() == [True, False, True]


def test_many_rows_are_read_in_batches(student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilmatch.jobs.folder_columns._BATCH", 3)
    random = np.random.default_rng(0)
    rows = [{"text": f"thing {i % 9}", "number": int(random.integers(0, 10))} for i in range(50)]
    rows[40]["late"] = 1  # a key that few lines have
    table = write_jsonl(tmp_path / "rows.jsonl", rows)
    folder = encode_table(student, rows, tmp_path / "folder", side=0, text_column="text")
    assert folder_column(table, folder, "number") == [row["number"] for row in rows]
    expected = [row["number"] > 4 for row in rows]
    assert folder_filter(table, folder, "number > 4").tolist() == expected
    assert np.flatnonzero(folder_filter(table, folder, "late = 1")).tolist() == [40]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("cost < 3", "no such column: cost.*its columns are id, text, price, kind"),
        ("price <", "cannot be used"),
        ("price < 3); drop table rows; --", "cannot be used"),
        ("(select count(*) from sqlite_master) > 0 and load_extension('x')", "cannot be used"),
    ],
)
def test_conditions_that_cannot_be_used(
    folder: RepresentationFolder, tmp_path: Path, condition: str, message: str
) -> None:
    table = write_table(tmp_path / "table.parquet", ROWS)
    with pytest.raises(ConfigError, match=message):
        folder_filter(table, folder, condition)


def test_another_table(folder: RepresentationFolder, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", ROWS)
    with pytest.raises(DataError, match="kind.*did you mean|no column 'knd'"):
        folder_column(table, folder, "knd")
    lines = write_jsonl(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(DataError, match="no row has a column 'knd'"):
        folder_column(lines, folder, "knd")
    short = tmp_path / "short.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS[:3]), short)
    with pytest.raises(DataError, match="has no row 4 that can be read"):
        folder_column(short, folder, "kind")
