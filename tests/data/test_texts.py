"""Unlabelled texts from plain files and from tables."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tests.helpers import write_jsonl

from distilmatch.config.embeddings import CorpusConfig
from distilmatch.config.tables import TableConfig
from distilmatch.data.column_rows import text_column_of
from distilmatch.data.corpus import read_texts, write_corpus
from distilmatch.errors import BadRowsError, DataError

TABLE = TableConfig(text_columns=("a", "b"), label_column="label")


def test_lines_and_tables_give_distinct_texts_in_order(tmp_path: Path) -> None:
    plain, packed, table = tmp_path / "one.txt", tmp_path / "two.txt.gz", tmp_path / "three.jsonl"
    plain.write_text("first\n\n  second \nfirst\n", encoding="utf-8")
    packed.write_bytes(gzip.compress("third\nse\u00f1or\n".encode()))
    write_jsonl(table, [{"a": "second", "b": "fourth"}])  # it has no label, and needs none
    sources = [str(plain), str(packed), str(table)]
    assert read_texts(sources, TABLE) == ["first", "second", "third", "se\u00f1or", "fourth"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("bad.txt", b"fine\n\xff\xfe\n", r"bad\.txt, row 2: invalid UTF-8 at byte 1 of the line"),
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


# Name -> the bytes of a file of lines, and its texts; or what a refusal says.
LINES: dict[str, tuple[bytes, list[str] | str]] = {
    "a mark of UTF-8": (b"\xef\xbb\xbfone\ntwo\n", ["one", "two"]),
    "a mark of UTF-8 before a blank line": (b"\xef\xbb\xbf\ntwo\n", ["two"]),
    "a mark of UTF-8 inside gzip": (gzip.compress(b"\xef\xbb\xbfone\r\n\r\ntwo"), ["one", "two"]),
    "carriage returns": (b"one\r \rtwo\rone\r", ["one", "two"]),
    "white space of Unicode": ("\u3000one\u00a0\n\u2003\ntwo\n".encode(), ["one", "two"]),
    "UTF-16": ("one\n".encode("utf-16"), "is UTF-16; save it as UTF-8"),
    "UTF-16 without its mark": ("one\ntwo\n".encode("utf-16-le"), "UTF-16 without its mark"),
    "bad bytes": (b"one\n\n\xfftwo\nthree\nfo\xfer\n", r"2 bad row.*t\.txt, rows 3, 5: invalid UTF-8 at byte 1"),
    "nothing": (b"", "is empty; give a file with rows"),
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_is_the_same_for_the_transfer_set_and_for_the_corpus(tmp_path: Path, name: str) -> None:
    content, expected = LINES[name]
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    for read in (
        lambda: read_texts(str(path), TABLE),
        lambda: list(write_corpus(CorpusConfig(sources=(str(path),)), tmp_path / "corpus")),
    ):
        if isinstance(expected, list):
            assert read() == expected
            continue
        with pytest.raises(DataError, match=f"(?s){expected}") as told:
            read()
        assert isinstance(told.value, BadRowsError) == (name == "bad bytes")


def test_bad_lines_are_set_aside_where_the_table_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(LINES["bad bytes"][0])
    set_aside = TABLE.replaced(on_bad_rows="quarantine")
    side = tmp_path / "t.bad_rows.jsonl"
    assert read_texts(str(path), set_aside) == ["one", "three"]
    assert "2 of 5 rows cannot be used and were left out" in caplog.text and str(side) in caplog.text
    written = side.read_bytes()
    assert [json.loads(line)["row"] for line in written.splitlines()] == [3, 5]
    side.unlink()
    corpus = write_corpus(CorpusConfig(sources=(str(path),), on_bad_rows="quarantine"), tmp_path / "corpus")
    assert list(corpus) == ["one", "three"] and corpus.bad == 2
    assert side.read_bytes() == written
    path.write_bytes(b"\xff\n\xfe\n")
    with pytest.raises(DataError, match="no row that can be used: all 2 are bad, see"):
        read_texts(str(path), set_aside)


def test_the_text_column_is_told_by_the_first_row_that_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("broken\n" * 150 + '{"id": 1, "name of it": "red car"}\n')
    assert text_column_of(path, TableConfig(), None, "id") == "name of it"
    path.write_text("broken\n" * 150)
    with pytest.raises(BadRowsError, match="150 bad row"):
        text_column_of(path, TableConfig(), None, "id")
