"""Items in a representation folder: written in a stream, read back, and what cannot be items."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distilmatch.errors import CacheError
from distilmatch.fingerprint import text_key
from distilmatch.store import items as items_module
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, RepresentationWriter
from distilmatch.types import TokenRepresentations

MANIFEST = RepresentationManifest(
    model_fingerprint="a" * 32, side=0, side_name="left", kept_tokens=1, width=2, shard_rows=3
)


def append(writer: RepresentationWriter, start: int, stop: int) -> None:
    rows = stop - start
    keys = [text_key("", (str(row),)) for row in range(start, stop)]
    writer.append(None, keys, TokenRepresentations(torch.ones(rows, 1, 2), torch.ones(rows, 1, dtype=torch.bool)))


@settings(max_examples=100, deadline=None)
@given(places=st.lists(st.integers(0, 6), min_size=1, max_size=30), gap=st.integers(1, 3), group=st.integers(1, 9))
def test_round_trip(places: list[int], gap: int, group: int) -> None:
    texts: list[int] = []
    for place in places:  # a text is new, or one of those before
        texts.append(min(place, max(texts, default=-1) + 1))
    ids = [None if i % 4 == 0 else f"é{i}" for i in range(len(texts))]
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(items_module, "_ROWS_A_GROUP", group)
        with RepresentationWriter(folder, MANIFEST) as writer:
            for i, text in enumerate(texts):
                writer.add_item(i * gap, text, ids[i])  # before the text is there
            append(writer, 0, max(texts) + 1)
        found = RepresentationFolder.open(folder)
        rows, text_rows, names = found.items()
        assert (rows.dtype, text_rows.dtype) == (np.int64, np.int64)
        assert rows.tolist() == [i * gap for i in range(len(texts))]
        assert (text_rows.tolist(), names) == (texts, ids)
        first = found.item_table.first_of_texts()
        assert first.texts.tolist() == list(range(max(texts) + 1))
        assert first.rows.tolist() == [texts.index(text) * gap for text in first.texts]
        assert first.ids.to_pylist() == [ids[texts.index(text)] for text in first.texts]


def test_without_items_texts_and_ids_are_the_items(tmp_path: Path) -> None:
    with RepresentationWriter(tmp_path, MANIFEST) as writer:
        append(writer, 0, 5)
        writer.add_alias("b", 3)
        writer.add_alias("a", 0)
    rows, texts, ids = RepresentationFolder.open(tmp_path).items()
    assert rows.tolist() == texts.tolist() == [0, 0, 1, 2, 3, 3, 4]
    assert ids == [None, "a", None, None, None, "b", None]


@pytest.mark.parametrize(
    ("given", "message"),
    [([(0, 0), (0, 1)], "rows must ascend"), ([(3, 0), (2, 1)], "rows must ascend"), ([(0, 1)], "folder's order"),
     ([(0, 0), (1, 2)], "folder's order"), ([(0, -1)], "folder's order")],
)  # fmt: skip
def test_items_out_of_order(tmp_path: Path, given: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(CacheError, match=message), RepresentationWriter(tmp_path, MANIFEST) as writer:
        append(writer, 0, 3)
        for row, text in given:
            writer.add_item(row, text, None)
    assert not list(tmp_path.glob("*items*"))


def test_every_text_needs_an_item(tmp_path: Path) -> None:
    unfinished = pytest.raises(CacheError, match="items of 1 texts, the folder has 3")
    with unfinished, RepresentationWriter(tmp_path, MANIFEST) as writer:
        append(writer, 0, 3)
        writer.add_item(0, 0, None)
    with pytest.raises(CacheError, match="unfinished"):
        RepresentationFolder.open(tmp_path)
    with RepresentationWriter(tmp_path, MANIFEST) as writer:  # the lock is free, the shard is kept
        assert writer.rows_written == 3
        for row in range(3):
            writer.add_item(row, row, None)
    assert len(RepresentationFolder.open(tmp_path).items()[0]) == 3


def test_items_of_a_stopped_run_are_dropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(items_module, "_ROWS_A_GROUP", 2)
    with pytest.raises(KeyboardInterrupt), RepresentationWriter(tmp_path, MANIFEST) as writer:
        append(writer, 0, 4)
        for row in range(4):
            writer.add_item(row, row, None)
        assert list(tmp_path.glob(".writing-items*"))
        raise KeyboardInterrupt
    assert not list(tmp_path.glob(".writing-*"))
