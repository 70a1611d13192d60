"""Saved tables: exact round trips, and folders that are not what they seem."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import interrupt

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.tables import (
    load_table,
    read_saved_table,
    save_table,
)
from distilmatch.errors import CacheError, DataError
from distilmatch.types import TupleTable

ROWS = [
    {"query": "red mug", "product": "mug, red", "label": 1},
    {"query": "red mug", "product": "blue 'mug', \"x\"", "label": 0},
    {"query": "größe\u2028n", "product": "two\nlines", "label": None},
]


@pytest.fixture
def table() -> TupleTable:
    return load_table(ROWS, TableConfig(label_column="label"), TaskConfig(kind="binary"))


def _same(a: TupleTable, b: TupleTable) -> None:
    assert list(a.texts) == list(b.texts) and a.side_names == b.side_names
    for name in ("rows", "gold", "teacher", "queries", "blocks"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        if x is not None:
            assert x.dtype == y.dtype and x.shape == y.shape and x.tobytes() == y.tobytes(), name
            assert y.flags.writeable and y.flags.c_contiguous, name
    assert (a.ids is None) == (b.ids is None)
    assert a.ids is None or (a.ids.shape == b.ids.shape and a.ids.tolist() == b.ids.tolist())  # type: ignore[union-attr]


@st.composite
def _tables(draw: st.DrawFn) -> TupleTable:
    texts = draw(st.lists(st.text(st.characters(codec="utf-8")), min_size=1, max_size=6, unique=True))
    n, sides, labels = draw(st.integers(0, 6)), draw(st.integers(2, 4)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def maybe(column: Any) -> Any:
        return column if draw(st.booleans()) else None

    gold = rng.normal(size=n).astype(np.float32)
    gold[rng.random(n) < 0.3] = np.nan
    teacher = rng.normal(size=(n, labels)).astype(np.float32)
    teacher[rng.random(n) < 0.3] = np.nan
    ids = np.empty((n, sides), dtype=object)
    for cell in np.ndindex(n, sides):
        ids[cell] = draw(st.one_of(st.none(), st.text(st.characters(codec="utf-8"))))
    return TupleTable(
        texts=texts,
        rows=rng.integers(0, len(texts), (n, sides)),
        side_names=tuple(f"s{i}" for i in range(sides)),
        gold=maybe(gold),
        teacher=maybe(teacher),
        queries=maybe(rng.integers(0, 9, n)),
        blocks=maybe(np.sort(rng.integers(0, 9, n))),
        ids=maybe(ids),
    )


@given(_tables())
@settings(max_examples=60, deadline=None)
def test_a_saved_table_comes_back_exactly(tmp_path_factory: pytest.TempPathFactory, table: TupleTable) -> None:
    folder = tmp_path_factory.mktemp("saved") / "table"
    save_table(table, folder)
    _same(table, read_saved_table(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["manifest.json", "rows.parquet", "texts.arrow"]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_table(load_table(ROWS, TableConfig(label_column="label"), TaskConfig(kind="binary")), tmp_path / "table")
    return tmp_path / "table"


def test_texts_are_read_lazily_like_a_list(saved: Path) -> None:
    texts, expected = (
        read_saved_table(saved).texts,
        load_table(ROWS, TableConfig(label_column="label"), TaskConfig(kind="binary")).texts,
    )
    assert not isinstance(texts, list) and len(texts) == 5
    assert texts[0] == "red mug" and texts[-1] == texts[np.int64(4)] == "two\nlines" and texts[1:4:2] == expected[1:4:2]
    assert list(pickle.loads(pickle.dumps(texts))) == list(texts) == expected
    assert list(reversed(texts)) == expected[::-1] and "mug, red" in texts
    for index in (5, -6):
        with pytest.raises(IndexError):
            texts[index]


def test_more_texts_than_one_batch(tmp_path: Path) -> None:
    texts = [f"text {i}" for i in range(40_000)]
    save_table(TupleTable(texts=texts, rows=np.array([[0, 39_999]])), tmp_path / "t")
    table = read_saved_table(tmp_path / "t")
    assert (
        list(table.texts) == texts
        and table.tuples() == [("text 0", "text 39999")]
        and table.texts[20_000] == texts[20_000]
    )


def test_a_table_can_be_saved_over_the_one_it_was_read_from(saved: Path) -> None:
    table = read_saved_table(saved)
    labelled = table.with_teacher(np.zeros((3, 2)))
    save_table(labelled, saved)
    _same(labelled, read_saved_table(saved))
    assert next(iter(table.texts)) == "red mug"


@pytest.mark.parametrize("name", ["manifest.json", "texts.arrow", "rows.parquet"])
@pytest.mark.parametrize("how", ["missing", "cut", "empty", "flipped"])
def test_an_unfinished_or_damaged_folder_is_refused(saved: Path, name: str, how: str) -> None:
    content = (saved / name).read_bytes()
    middle = len(content) // 2
    if how == "missing":
        (saved / name).unlink()
    elif how == "flipped" and name != "manifest.json":
        (saved / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        (saved / name).write_bytes(content[:middle] if how == "cut" else b"")
    with pytest.raises(CacheError, match="anew"):
        read_saved_table(saved)


def test_a_save_that_dies_leaves_no_table_that_looks_whole(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distilmatch.data import saved as module

    table = read_saved_table(saved)

    with monkeypatch.context() as patch:
        patch.setattr(module.pq, "write_table", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_table(table, saved)
    _same(table, read_saved_table(saved))  # nothing was replaced yet
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_manifest", interrupt)
        with pytest.raises(KeyboardInterrupt):
            save_table(table, saved)
    with pytest.raises(CacheError, match="no finished table"):
        read_saved_table(saved)
    save_table(table, saved)
    _same(table, read_saved_table(saved))


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    table = load_table(ROWS)
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="is a file"):
        save_table(table, tmp_path / "file")
    (tmp_path / "manifest.json").write_text('{"format": "another"}')
    for use in (lambda: save_table(table, tmp_path), lambda: read_saved_table(tmp_path)):
        with pytest.raises(CacheError, match="something else"):
            use()
    with pytest.raises(CacheError, match="is no folder"):
        read_saved_table(tmp_path / "none")
    with pytest.raises(DataError, match="no valid Unicode"):
        save_table(TupleTable(texts=["\ud800"], rows=np.zeros((1, 2), dtype=np.int64)), tmp_path / "bad")
    assert not list((tmp_path / "bad").iterdir())
