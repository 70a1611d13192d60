"""The corpus: texts of lines and tables, each once, with what was left out counted and named."""

from __future__ import annotations

import gzip
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.helpers import read_jsonl, write_jsonl

from distilmatch.config.embeddings import CorpusConfig
from distilmatch.data import corpus as module
from distilmatch.data import saved
from distilmatch.data.corpus import TextCorpus, corpus_key, write_corpus
from distilmatch.errors import BadRowsError, CacheError, DataError


def _config(*sources: Path, **settings: object) -> CorpusConfig:
    return CorpusConfig(sources=tuple(map(str, sources)), **settings)


def test_lines_of_text_plain_and_packed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain, packed = tmp_path / "a.txt", tmp_path / "b.txt.gz"
    plain.write_bytes("\ufeffred car \r\n\n  blue car\nred car\n".encode())
    packed.write_bytes(gzip.compress("blue car\n\t\nä tree".encode()))
    with caplog.at_level("INFO", logger="distilmatch"):
        corpus = write_corpus(_config(plain, packed), tmp_path / "corpus")
    assert list(corpus) == ["red car", "blue car", "ä tree"] and corpus[1:] == ["blue car", "ä tree"]
    assert corpus.rows.tolist() == [0, 2, 6] and corpus.source_rows == 7
    assert (corpus.empty, corpus.duplicates, corpus.bad) == (2, 2, 0)
    assert "3 distinct texts of 7 rows (2 empty, 2 repeated" in caplog.text
    assert corpus.lengths().tolist() == [7, 8, 6]
    assert list(pickle.loads(pickle.dumps(corpus))) == list(corpus)
    assert sorted(path.name for path in (tmp_path / "corpus").iterdir()) == ["manifest.json", "rows.npy", "texts.arrow"]


def test_columns_of_tables(tmp_path: Path) -> None:
    table, lines = tmp_path / "t.jsonl", tmp_path / "a.txt"
    rows = [{"a": "one", "b": "two", "n": 1}, {"a": "three", "b": None, "n": 2}, {"a": "two", "b": "four", "n": 3}]
    write_jsonl(table, rows)
    lines.write_text("five\n")
    corpus = write_corpus(_config(table, lines, text_columns=("a", "b")), tmp_path / "corpus")
    assert list(corpus) == ["one", "two", "three", "four", "five"]
    assert corpus.rows.tolist() == [0, 1, 2, 5, 6] and corpus.empty == 1
    with pytest.raises(DataError, match=r"columns a, b, n: name those .* `corpus.text_columns`"):
        write_corpus(_config(table), tmp_path / "other")
    with pytest.raises(DataError, match=r"no column 'c'.*\(columns: a, b, n\)"):
        write_corpus(_config(table, text_columns=("c",)), tmp_path / "other")
    assert not (tmp_path / "other" / "manifest.json").exists()


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["a", "b b", "", "  ", "ä", "c"]), min_size=1), st.integers(1, 4), st.integers(1, 9))
def test_against_a_plain_loop(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], chunk: int, most: int
) -> None:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "a.txt").write_text("\n".join(lines) + "\n")
    expected = list(dict.fromkeys(line.strip() for line in lines if line.strip()))[:most]
    old, saved._CHUNK = saved._CHUNK, chunk
    try:
        if not expected:
            with pytest.raises(DataError, match="the corpus is empty"):
                write_corpus(_config(folder / "a.txt"), folder / "corpus")
            return
        corpus = write_corpus(_config(folder / "a.txt", most_texts=most), folder / "corpus")
    finally:
        saved._CHUNK = old
    assert list(corpus) == expected
    assert [lines[row].strip() for row in corpus.rows] == expected


def test_lines_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\n\xff\xfebad\nfine\n\xc3\n")
    with pytest.raises(BadRowsError, match=r"a\.txt, rows 2, 4: invalid UTF-8 at byte 1") as raised:
        write_corpus(_config(path), tmp_path / "corpus")
    assert raised.value.total == 2
    corpus = write_corpus(_config(path, on_bad_rows="quarantine"), tmp_path / "corpus")
    assert list(corpus) == ["good", "fine"] and corpus.bad == 2 and corpus.rows.tolist() == [0, 2]
    entries = read_jsonl(tmp_path / "a.bad_rows.jsonl")
    assert [entry["row"] for entry in entries] == [2, 4]
    with pytest.raises(BadRowsError):
        write_corpus(_config(path), tmp_path / "corpus")  # what stands there was read with other wishes
    numbers = tmp_path / "n.jsonl"
    numbers.write_text('{"text": 3}\n')
    with pytest.raises(BadRowsError, match="holds a int, not a text"):
        write_corpus(_config(numbers), tmp_path / "numbers")


def test_a_corpus_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    first = write_corpus(_config(path), tmp_path / "corpus")
    monkeypatch.setattr(module, "_open", lambda *_: pytest.fail("read again"))
    again = write_corpus(_config(path), tmp_path / "corpus")
    assert again.fingerprint == first.fingerprint
    monkeypatch.undo()
    path.write_text("one\nthree\n")
    assert corpus_key(_config(path)) != first.fingerprint
    changed = write_corpus(_config(path), tmp_path / "corpus")
    assert list(changed) == ["one", "three"] and changed.fingerprint != first.fingerprint


def test_damaged_and_foreign_folders_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n")
    with pytest.raises(CacheError, match="no finished corpus"):
        TextCorpus(tmp_path)
    with pytest.raises(DataError, match="no file at"):
        write_corpus(_config(tmp_path / "b.txt"), tmp_path / "corpus")
    write_corpus(_config(path), tmp_path / "corpus")
    np.save(tmp_path / "corpus" / "rows.npy", np.zeros(1, dtype=np.int64))
    with pytest.raises(CacheError, match=r"rows\.npy has 136 bytes, not 144"):
        TextCorpus(tmp_path / "corpus")
    manifest = json.loads((tmp_path / "corpus" / "manifest.json").read_text())
    del manifest["checksum"], manifest["checksums"]  # of an earlier version
    (tmp_path / "corpus" / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match="differ in length"):
        TextCorpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "texts.arrow").write_bytes(b"x")
    with pytest.raises(CacheError, match="damaged"):
        TextCorpus(tmp_path / "corpus")
    (tmp_path / "corpus" / "manifest.json").write_text('{"format": "other"}')
    with pytest.raises(CacheError, match="something else"):
        write_corpus(_config(path), tmp_path / "corpus")
