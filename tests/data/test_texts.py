"""Unlabelled texts from plain files and from tables."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from distilmatch.config.tables import TableConfig
from distilmatch.data.texts import read_texts
from distilmatch.errors import DataError

TABLE = TableConfig(text_columns=("a", "b"), label_column="label")


def test_lines_and_tables_give_distinct_texts_in_order(tmp_path: Path) -> None:
    plain, packed, table = tmp_path / "one.txt", tmp_path / "two.txt.gz", tmp_path / "three.jsonl"
    plain.write_text("first\n\n  second \nfirst\n", encoding="utf-8")
    packed.write_bytes(gzip.compress("third\nse\u00f1or\n".encode()))
    table.write_text(json.dumps({"a": "second", "b": "fourth"}) + "\n")  # it has no label, and needs none
    sources = [str(plain), str(packed), str(table)]
    assert read_texts(sources, TABLE) == ["first", "second", "third", "se\u00f1or", "fourth"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.txt", b"fine\n\xff\xfe\n", "line 2: not UTF-8"),
        ("cut.txt.gz", gzip.compress(b"a text\n" * 50, mtime=0)[:-12], "cannot read"),
        ("none.txt", None, "cannot read"),
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, name: str, content: bytes | None, message: str) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=message) as told:
        read_texts([str(path)], TABLE)
    assert name in str(told.value)
