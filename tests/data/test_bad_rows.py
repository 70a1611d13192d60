"""Bad rows: each kind is reported with its place, none is lost, and what is left is streamed."""

from __future__ import annotations

import itertools
import json
import logging
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import read_jsonl, write_jsonl, write_table

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data import quarantine, sources
from distilmatch.data.tables import (
    check_table,
    iter_rows,
    load_table,
)
from distilmatch.errors import BadRowsError, DataError
from distilmatch.types import TupleTable

BINARY = TaskConfig(kind="binary")
LABELLED = TableConfig(label_column="label")
GOOD = {"a": "x", "b": "y", "label": 1}


def _plain(table: TupleTable) -> tuple[Any, ...]:
    gold = None if table.gold is None else [None if np.isnan(g) else float(g) for g in table.gold]
    return table.tuples(), gold


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"a": "x", "label": 1}', "missing column: no column 'b' (columns: a, label)"),
        (b'{"a": "x", "b": "y"}', "missing column: no column 'label'"),
        (b'{"a": null, "b": "y", "label": 1}', "null text in column 'a'"),
        (b'{"a": "x", "b": "", "label": 1}', "empty text in column 'b'"),
        ('{"a": "x", "b": " \u00a0\\t", "label": 1}'.encode(), "empty text in column 'b'"),
        (b'{"a": 3, "b": "y", "label": 1}', "is a int, not a string"),
        (b'{"a": ["x"], "b": "y", "label": 1}', "is a list, not a string"),
        (b'{"a": "\\ud800", "b": "y", "label": 1}', "not valid Unicode"),
        (b'{"a": "x", "b": "y", "label": 2}', "out of range"),
        (b'{"a": "x", "b": "y", "label": NaN}', "NaN"),
        (b'{"a": "x", "b": ', "broken JSON"),
        (b"[" * 100_000, "broken JSON"),
        (b'{"a": "x"} {"b": "y"}', "broken JSON"),
        (b'["x", "y", 1]', "JSON array, not an object"),
        (b'"x"', "JSON string, not an object"),
        (b"null", "JSON null, not an object"),
        (b"12", "JSON number, not an object"),
        (b'{"a": "caf\xe9", "b": "y", "label": 1}', "invalid UTF-8 at byte 11"),
    ],
)
def test_each_kind_of_bad_jsonl_row(tmp_path: Path, line: bytes, reason: str) -> None:
    good = json.dumps(GOOD).encode()
    path = tmp_path / "t.jsonl"
    path.write_bytes(b"\n".join([good, good, line, good, b""]))
    _expect_one_bad_row(path, LABELLED, row=3, reason=reason, good=3)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x,y", "too few fields: 2 where the header has 3"),
        (b"x,y,1,z", "too many fields: 4 where the header has 3"),
        (b",y,1", "empty text in column 'a'"),
        (b"x,  ,1", "empty text in column 'b'"),
        (b"x,y,high", "not a number"),
        (b"x,y,2", "out of range"),
        (b"x,caf\xe9,1", "invalid UTF-8"),
        (b'"x,y,1', "broken quoting"),
        (b'"x"z,y,1', "broken quoting"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_each_kind_of_bad_csv_row(tmp_path: Path, line: bytes, reason: str, ending: str) -> None:
    path = tmp_path / f"t.{ending}"
    content = b"\n".join([b"a,b,label", b"x,y,1", b'"x","y",0', line, b"x,y,", b'"p ""q""",y,1', b""])
    path.write_bytes(content.replace(b",", b"\t") if ending == "tsv" else content)
    _expect_one_bad_row(path, LABELLED, row=3, reason=reason, good=4)


def test_each_kind_of_bad_parquet_row(tmp_path: Path) -> None:
    texts = pa.Array.from_buffers(
        pa.string(), 3, [None, pa.py_buffer(np.array([0, 1, 2, 3], np.int32)), pa.py_buffer(b"a\xffc")]
    )
    pq.write_table(pa.table({"a": texts, "b": ["x", "y", "z"], "label": [1, 1, 0]}), tmp_path / "t.parquet")
    _expect_one_bad_row(tmp_path / "t.parquet", LABELLED, row=2, reason="invalid UTF-8 in column 'a'", good=2)
    for value, reason in ((None, "null text"), (b"bytes", "is a bytes")):
        values = [value, b"z"] if isinstance(value, bytes) else [value, "z"]
        pq.write_table(pa.table({"a": values, "b": ["x", "y"]}), tmp_path / "u.parquet")
        with pytest.raises(BadRowsError, match=reason):
            load_table(tmp_path / "u.parquet")


def test_a_row_that_is_no_mapping() -> None:
    with pytest.raises(BadRowsError, match="rows, row 2: a tuple, not a mapping"):
        load_table([GOOD, ("x", "y")])


def _expect_one_bad_row(path: Path, config: TableConfig, *, row: int, reason: str, good: int) -> None:
    for read in (load_table, check_table):
        with pytest.raises(BadRowsError) as caught:
            read(path, config, BINARY)
        assert caught.value.total == 1
        (bad,) = caught.value.bad_rows
        assert (bad.file, bad.row) == (str(path), row) and reason in bad.reason and bad.raw
        assert str(path) in str(caught.value) and "quarantine" in str(caught.value)
    side = path.with_name("t.bad_rows.jsonl")
    assert not side.exists()
    quarantining = config.replaced(on_bad_rows="quarantine")
    assert len(load_table(path, quarantining, BINARY)) == good == check_table(path, quarantining, BINARY)
    (entry,) = read_jsonl(side)
    assert (entry["file"], entry["row"]) == (str(path), row) and reason in entry["reason"] and entry["raw"]
    assert sorted(p.name for p in path.parent.iterdir()) == sorted([path.name, side.name])


def test_all_bad_rows_are_counted_and_the_first_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quarantine, "KEPT_BAD_ROWS", 12)
    path = write_jsonl(tmp_path / "t.jsonl", [GOOD, *[{"a": "x", "b": None}] * 30, GOOD])
    with pytest.raises(BadRowsError) as caught:
        load_table(path)
    assert caught.value.total == 30 and [bad.row for bad in caught.value.bad_rows] == list(range(2, 14))
    assert "30 bad row(s)" in str(caught.value) and "and 20 more" in str(caught.value)


def test_iter_rows_gives_nothing_after_the_first_bad_row(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [GOOD, GOOD, {"a": ""}, GOOD, {"a": ""}])
    rows = iter_rows(path)
    assert [next(rows).row, next(rows).row] == [1, 2]
    with pytest.raises(BadRowsError) as caught:
        next(rows)
    assert [bad.row for bad in caught.value.bad_rows] == [3, 5]


def test_an_unclosed_quote_costs_one_row_only(tmp_path: Path) -> None:
    lines = ["a,b", *(f"x{i},y{i}" for i in range(50))]
    lines[10] = '"x9,y9'
    lines[30] = 'x29,"y29'
    (tmp_path / "t.csv").write_text("\n".join(lines))
    table = load_table(tmp_path / "t.csv", TableConfig(on_bad_rows="quarantine"))
    assert table.tuples() == [(f"x{i}", f"y{i}") for i in range(50) if i not in (9, 29)]


def test_quarantine_says_how_many(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [GOOD, {"a": ""}, GOOD, {"a": 1}])
    side = tmp_path / "deep" / "side.jsonl"
    config = TableConfig(on_bad_rows="quarantine", quarantine_file=str(side))
    with caplog.at_level(logging.WARNING):
        assert len(load_table(path, config)) == 2
    assert f"{path}: 2 of 4 rows cannot be used" in caplog.text and str(side) in caplog.text
    entries = read_jsonl(side)
    assert [set(entry) for entry in entries] == [{"file", "row", "reason", "raw"}] * 2
    assert json.loads(entries[1]["raw"]) == {"a": 1}


def test_one_quarantine_file_serves_several_sources(tmp_path: Path) -> None:
    side = tmp_path / "side.jsonl"
    config = TableConfig(on_bad_rows="quarantine", quarantine_file=str(side))
    train = write_jsonl(tmp_path / "train.jsonl", [GOOD, {"a": ""}])
    dev = write_jsonl(tmp_path / "dev.jsonl", [{"a": ""}, GOOD, {"a": ""}])
    for _ in range(2):
        load_table(train, config)
        load_table(dev, config)
    found = [(Path(entry["file"]).name, entry["row"]) for entry in map(json.loads, side.read_text().splitlines())]
    assert sorted(found) == [("dev.jsonl", 1), ("dev.jsonl", 3), ("train.jsonl", 2)]


def test_a_quarantine_file_keeps_the_rows_of_sources_that_have_one_name(tmp_path: Path) -> None:
    side = tmp_path / "side.jsonl"
    config = TableConfig(on_bad_rows="quarantine", quarantine_file=str(side))
    tables = [[GOOD, {**GOOD, "a": None, "b": f"of {name}"}] for name in ("train", "dev")]
    for _ in range(2):  # a table is read twice
        for table in tables:
            load_table(table, config)
    found = read_jsonl(side)
    assert sorted(json.loads(entry["raw"])["b"] for entry in found) == ["of dev", "of train"]


def test_a_quarantine_file_serves_sources_that_are_read_at_once(tmp_path: Path) -> None:
    side = tmp_path / "side.jsonl"
    config = TableConfig(on_bad_rows="quarantine", quarantine_file=str(side))
    paths = [write_jsonl(tmp_path / f"{name}.jsonl", [{"a": ""}, GOOD, {"a": ""}, GOOD]) for name in ("m", "n")]
    for _ in zip(*(iter_rows(path, config) for path in paths), strict=True):
        pass
    found = sorted((Path(entry["file"]).stem, entry["row"]) for entry in read_jsonl(side))
    assert found == [("m", 1), ("m", 3), ("n", 1), ("n", 3)]


def test_quarantine_never_overwrites_what_it_did_not_write(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [GOOD, {"a": ""}])
    before = path.read_bytes()
    with pytest.raises(DataError, match="no list of bad rows"):
        load_table(path, TableConfig(on_bad_rows="quarantine", quarantine_file=str(path)))
    assert path.read_bytes() == before


def test_quarantine_without_a_good_row_is_an_error(tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "t.jsonl", [{"a": "", "b": ""}] * 3)
    with pytest.raises(DataError, match="all 3 are bad"):
        load_table(path, TableConfig(on_bad_rows="quarantine"))
    path.write_bytes(b"\xff\xfd\n{\n")
    with pytest.raises(DataError, match="all 2 are bad"):
        load_table(path, TableConfig(on_bad_rows="quarantine"))


_GOOD_LINES = (b'{"a": "x", "b": "y"}', b'{"a": "\xc3\xa9", "b": "z"}')
_BAD_LINES = (b'{"a": "x"}', b"{", b"[]", b'{"a": "\xff", "b": "y"}', b'{"a": "", "b": "y"}')
_MAYBE_BAD = st.sampled_from(_GOOD_LINES + _BAD_LINES)


@given(st.lists(_MAYBE_BAD, min_size=1, max_size=40))
@settings(max_examples=80, deadline=None)
def test_nothing_is_lost(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    folder = tmp_path_factory.mktemp("lost")
    path = folder / "t.jsonl"
    path.write_bytes(b"\n".join(lines))
    config = TableConfig(text_columns=("a", "b"), on_bad_rows="quarantine")
    good = []
    try:
        good = [row.row for row in iter_rows(path, config)]
    except DataError as error:
        assert "all" in str(error)
    side = folder / "t.bad_rows.jsonl"
    bad = [entry["row"] for entry in read_jsonl(side)] if side.exists() else []
    assert sorted(good + bad) == list(range(1, len(lines) + 1))
    assert good == [i for i, line in enumerate(lines, start=1) if line in _GOOD_LINES]


_CELL = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(lambda text: text.strip())


@given(st.lists(st.tuples(_CELL, _CELL), min_size=1, max_size=8), st.sampled_from(["jsonl", "csv", "tsv", "parquet"]))
@settings(max_examples=120, deadline=None)
def test_any_text_survives_any_format(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], ending: str
) -> None:
    path = tmp_path_factory.mktemp("any") / f"t.{ending}"
    write_table(path, [{"a": a, "b": b} for a, b in pairs])
    table = load_table(path)
    assert table.tuples() == pairs
    assert list(table.texts) == list(dict.fromkeys(itertools.chain.from_iterable(pairs)))


def _peak(make: Any) -> int:
    tracemalloc.start()
    try:
        make()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_streaming_memory_does_not_grow_with_the_file(tmp_path: Path, ending: str) -> None:
    rows = [{"a": f"text number {i} " * 8, "b": "y"} for i in range(30_000)]
    small = write_table(tmp_path / f"small.{ending}", rows[:9_000])
    large = write_table(tmp_path / f"large.{ending}", rows)
    check_table(small)
    assert _peak(lambda: check_table(large)) < 1.3 * _peak(lambda: check_table(small)) + 200_000


def test_an_endless_source_can_be_begun() -> None:
    def rows() -> Iterator[dict[str, str]]:
        for i in itertools.count():
            yield {"a": f"x{i}", "b": "y"}

    assert [row.texts[0] for row in itertools.islice(iter_rows(rows()), 1000)][-1] == "x999"


@pytest.mark.parametrize("kind", ["parquet", "dataset"])
def test_row_numbers_go_on_across_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    monkeypatch.setattr(sources, "BATCH_ROWS", 3)
    rows = [{"a": None if i in (5, 8) else f"x{i}", "b": "y"} for i in range(1, 10)]
    source: Any = datasets.Dataset.from_list(rows)
    if kind == "parquet":
        source = tmp_path / "t.parquet"
        pq.write_table(pa.Table.from_pylist(rows), source)
    with pytest.raises(BadRowsError) as caught:
        check_table(source)
    assert [bad.row for bad in caught.value.bad_rows] == [5, 8]
    assert [row.row for row in iter_rows([row for row in rows if row["a"]])] == list(range(1, 8))
