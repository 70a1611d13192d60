"""An encode that was stopped and goes on writes the bytes that an undisturbed one writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from distilmatch.jobs.encode import encode_table
from distilmatch.models.dipair import DiPair
from distilmatch.store.folder import verify_folder

# Lengths that differ, so that another cut into chunks makes other batches; ids and texts that come again.
ROWS = [
    {"text": f"text {'and more ' * (i * 7 % 11)}{i % 41}", "id": None if i % 9 == 0 else f"id{i % 50}"}
    for i in range(41)
] + [{"text": f"text {'and more ' * (i * 7 % 11)}{i}", "id": f"again{i}"} for i in (3, 40, 17)]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(("shard_rows", "chunk"), [(7, 5), (10, 4), (10, 100), (4, 4)])
def test_stopped_after_each_shard(
    student: DiPair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard_rows: int, chunk: int, dtype: Any
) -> None:
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_TEXTS", chunk)
    monkeypatch.setattr("distilmatch.jobs.encode._CHUNK_BATCHES", 1)
    settings: dict[str, Any] = {
        "side": 0, "text_column": "text", "id_column": "id", "shard_rows": shard_rows, "batch_size": 3, "dtype": dtype,
        "show_progress_bar": False,
    }  # fmt: skip
    whole = encode_table(student, ROWS, tmp_path / "whole", **settings)
    expected = content(tmp_path / "whole")
    encode = student.encode
    assert len(whole) == 41
    for shards in range(1, whole.manifest.shards):
        place = tmp_path / f"stopped{shards}"
        encoded = 0

        def stopping(texts: list[str], *args: Any, stop: int = shards * shard_rows, **kwargs: Any) -> Any:
            nonlocal encoded
            if encoded >= stop:
                raise KeyboardInterrupt
            encoded += len(texts)
            return encode(texts, *args, **kwargs)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(student, "encode", stopping)
            encode_table(student, ROWS, place, **settings)
        assert len(list(place.glob("ids-*"))) == shards, "it did not stop where a shard ends"
        encode_table(student, ROWS, place, **settings)
        assert content(place) == expected
    assert verify_folder(tmp_path / "whole") == []
    _, _, ids = whole.items()
    named = [row["id"] for row in ROWS]
    assert ids == [id for i, id in enumerate(named) if id is None or id not in named[:i]]
