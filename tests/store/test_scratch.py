"""Long columns in files beside the same in lists, and a version of a store that is read through them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from distilmatch.store import scratch
from distilmatch.store.layout import RepresentationManifest
from distilmatch.store.scratch import LongColumn, LongStrings, zeros
from distilmatch.store.versions import Store, verify_store
from distilmatch.types import TokenRepresentations


@pytest.mark.parametrize("in_memory", [0, 100, 2**22])
@pytest.mark.parametrize("seed", range(4))
def test_columns_are_what_lists_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int, seed: int
) -> None:
    monkeypatch.setattr(scratch, "_IN_MEMORY", in_memory)
    draw = np.random.default_rng(seed)
    numbers, strings = LongColumn(np.int64, tmp_path), LongStrings(tmp_path)
    expected: list[int] = []
    words: list[str | None] = []
    for _ in range(9):
        part = draw.integers(-(2**60), 2**60, int(draw.integers(0, 20)))
        own = [None if draw.random() < 0.2 * (seed % 2) else "é\0x" * int(number % 3) for number in part]
        numbers.extend(part)
        cut = pa.array(["before", *own, "behind"], pa.string())
        strings.extend(cut[1:-1])
        expected += part.tolist()
        words += own
    assert len(numbers) == len(expected)
    assert numbers.finished().tolist() == expected
    found = strings.finished()
    found.validate(full=True)
    assert found.to_pylist() == words and found.null_count == words.count(None) and found.num_chunks == 1
    empty = zeros(50, tmp_path)
    empty[7] = 3
    assert empty.sum() == 3 and len(empty) == 50
    assert LongColumn(np.int64, tmp_path).finished().tolist() == [] and len(LongStrings(tmp_path).finished()) == 0
    assert list(tmp_path.iterdir()) == []  # the files have no names


def test_where_the_folder_is_for_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scratch, "_IN_MEMORY", 0)
    monkeypatch.setattr(os, "access", lambda *_: False)
    column = LongColumn(np.uint8, tmp_path / "nowhere")
    column.extend(np.arange(5))
    assert column.finished().tolist() == [0, 1, 2, 3, 4]


def test_a_version_in_files_is_the_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("distilmatch.store.versions._MOST_A_SEGMENT", 30)
    monkeypatch.setattr("distilmatch.store.questions.FETCHED", 16)  # the texts that are compacted are a multiple of it
    manifest = RepresentationManifest(
        model_fingerprint="random", side=1, side_name="right", kept_tokens=3, width=4, dtype="float32", shard_rows=16
    )
    store = Store.create(tmp_path / "store", manifest)
    random = torch.randn(200, 3, 4, generator=torch.Generator().manual_seed(0))

    def put(names: range, texts: range, change: str = "append") -> None:
        keys = [text.to_bytes(16, "little") for text in texts]  # most bytes are zeros, also the last ones
        tokens = TokenRepresentations(random[list(texts)], torch.ones(len(texts), 3, dtype=torch.bool))
        store.put([([f"i{name}" for name in names], keys, tokens)], change=change)

    for start in (0, 35, 70):
        put(range(start, start + 35), range(start, start + 35))
    store.delete([f"i{number}" for number in range(9)])
    put(range(9, 20), range(30, 41), "upsert")  # of a text there are two items then

    def seen() -> list[tuple[str, bytes]]:
        version = store.version()
        items = version.item_table
        tokens = version.read(items.texts).tokens.numpy()
        assert version.row_of_key([(30).to_bytes(16, "little")]).tolist() == [10]
        return [(id, tokens[place].tobytes()) for place, id in enumerate(items.ids.to_pylist())]

    before = seen()
    texts = {f"i{name}": name for name in range(20, 105)} | {f"i{name}": name + 21 for name in range(9, 20)}
    assert dict(before) == {id: random[text].numpy().tobytes() for id, text in texts.items()}
    monkeypatch.setattr(scratch, "_IN_MEMORY", 0)
    assert seen() == before
    assert store.expire(store.versions()[-1].number) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distilmatch.store.questions.FETCHED", 5)
        assert store.compact() == 20 and seen() == before  # of 105 texts 85 have an item
    assert store.expire(store.versions()[-1].number) > 0 and seen() == before
    assert len(list((tmp_path / "store" / "segments").iterdir())) == 3
    assert verify_store(tmp_path / "store") == []
