"""Folders with a manifest: damage to any file is found when it is first read, and older folders still open."""

from __future__ import annotations

import json
import logging
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distilmatch import files as module
from distilmatch.config.embeddings import CorpusConfig
from distilmatch.data.corpus import TextCorpus, write_corpus
from distilmatch.data.saved import MappedTexts, read_saved_table, save_table, write_texts
from distilmatch.data.token_file import MappedTokenIds, write_token_ids
from distilmatch.errors import CacheError
from distilmatch.files import read_manifest, verify_manifest, write_manifest
from distilmatch.teachers.embedding_cache import cached_embeddings, read_embeddings
from distilmatch.types import TupleTable

TEXTS = [f"text number {i} of many" for i in range(50)]


class _Lengths:
    name, width, needs_rows, fingerprint = "lengths", 2, False, "f"

    def check_rows(self, rows: int) -> None:
        pass

    def embed(self, texts: list[str], rows: Any = None, show_progress_bar: bool | None = None) -> np.ndarray:
        return np.array([[len(text), hash(text) % 7] for text in texts], dtype=np.float32)


def _corpus(folder: Path) -> Path:
    (folder / "in.txt").write_text("\n".join(TEXTS))
    write_corpus(CorpusConfig(sources=(str(folder / "in.txt"),)), folder / "corpus")
    return folder / "corpus"


def _embeddings(folder: Path) -> Path:
    cached_embeddings(_Lengths(), TextCorpus(_corpus(folder)), folder / "cache", show_progress_bar=False)
    return next((folder / "cache").iterdir())


def _tokens(folder: Path) -> Path:
    write_token_ids(lambda texts: [[ord(letter) for letter in text] for text in texts], TEXTS, folder / "tokens", "key")
    return folder / "tokens"


def _table(folder: Path) -> Path:
    rows = np.arange(50).reshape(-1, 2)
    gold, teacher = np.arange(25, dtype=np.float32), np.random.default_rng(0).normal(size=(25, 3))
    save_table(TupleTable(texts=TEXTS, rows=rows, gold=gold).with_teacher(teacher), folder / "table")
    return folder / "table"


def _read_table(folder: Path) -> list[Any]:
    table = read_saved_table(folder)
    return [list(table.texts), table.rows, table.gold, table.teacher, table.side_names, table.queries]


KINDS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], list[Any]]]] = {
    "corpus": (_corpus, lambda folder: [list(TextCorpus(folder)), np.array(TextCorpus(folder).rows)]),
    "tokens": (_tokens, lambda folder: [[MappedTokenIds(folder)[i].tolist() for i in range(50)]]),
    "embeddings": (_embeddings, lambda folder: [np.array(read_embeddings(folder))]),
    "table": (_table, _read_table),
}


def _same(one: list[Any], other: list[Any]) -> bool:
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("kind", list(KINDS))
def test_any_single_damage_is_refused(kind: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    whole = make(tmp_path)
    expected, draw = read(whole), random.Random(kind)
    assert verify_manifest(whole) == []
    for number in range(60):
        copy = tmp_path / "copies" / str(number)
        shutil.copytree(whole, copy)
        file = draw.choice(sorted(copy.iterdir()))
        content = bytearray(file.read_bytes())
        place = draw.randrange(len(content))
        if number % 3 == 0:
            del content[place:]
        elif number % 3 == 1:
            content[place] ^= 1 << draw.randrange(8)
        else:
            content[place] = (content[place] + draw.randrange(1, 256)) % 256
        file.write_bytes(bytes(content))
        told = verify_manifest(copy)
        try:
            found = read(copy)
        except CacheError:
            assert told or file.name == "manifest.json", "what is refused is told"
        else:  # a digit of white space, or the name of the manifest's own checksum
            assert file.name == "manifest.json" and _same(found, expected)
        shutil.rmtree(copy)


@pytest.mark.parametrize("kind", list(KINDS))
def test_files_of_another_folder_are_refused(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, read = KINDS[kind]
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    one = make(tmp_path / "one")
    monkeypatch.setitem(globals(), "TEXTS", TEXTS[::-1])
    other = make(tmp_path / "other")
    names = [path.name for path in one.iterdir() if path.name != "manifest.json"]
    for name in names:
        if (one / name).read_bytes() != (other / name).read_bytes():
            kept = (one / name).read_bytes()
            shutil.copy(other / name, one / name)
            with pytest.raises(CacheError, match="damaged"):
                read(one)
            assert name in verify_manifest(one)[0]
            (one / name).write_bytes(kept)
    read(one)


@pytest.mark.parametrize("kind", list(KINDS))
def test_folders_of_an_earlier_version_open_and_that_is_said_once(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make, read = KINDS[kind]
    folder = make(tmp_path)
    expected = read(folder)
    content = json.loads((folder / "manifest.json").read_text())
    content.pop("checksum")
    had = content.pop("checksums", None)
    (folder / "manifest.json").write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        assert _same(read(folder), expected) and _same(read(folder), expected)
    assert caplog.text.count("without checksums") == (0 if had is None else 1)
    assert verify_manifest(folder) == []


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize(
    "text",
    ["[" * 100_000, '{"a": ' * 100_000, "null", "[]", "7", '"x"', "{", "\ufeff{}", '{"format_version": 1e999}'],
)
def test_manifests_of_anything_else_are_refused_in_one_line(kind: str, text: str, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    folder = make(tmp_path)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(CacheError):
        read(folder)
    assert isinstance(verify_manifest(folder), list)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("value", [None, -1, 10**30, float("inf"), float("nan"), "x", [], {}, [[]], {"a": 1}, True])
def test_crafted_facts_are_refused_in_one_line(kind: str, value: Any, tmp_path: Path) -> None:
    make, read = KINDS[kind]
    folder = make(tmp_path)
    whole, expected = json.loads((folder / "manifest.json").read_text()), read(folder)
    for name in whole:
        content = {key: part for key, part in whole.items() if key != "checksum"} | {name: value}
        (folder / "manifest.json").write_text(json.dumps(content))
        try:
            found = read(folder)
        except CacheError:
            continue
        # Facts that nothing is read by, such as where a corpus came from.
        assert _same(found[:1], expected[:1])


def test_a_file_is_checked_once_a_process_and_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    own = module.checksum
    monkeypatch.setattr(module, "checksum", lambda path: (read.append(Path(path).name), own(path))[1])
    (tmp_path / "a.bin").write_bytes(b"abc")
    write_manifest(tmp_path, "kind", 1, checked=["a.bin"])
    read.clear()
    for _ in range(3):
        assert module.check_files(tmp_path, read_manifest(tmp_path, "kind", 1, "thing"), "thing")
    assert read == ["a.bin"]
    (tmp_path / "a.bin").write_bytes(b"abd")
    with pytest.raises(CacheError, match=r"a\.bin is not what its checksum says"):
        module.check_files(tmp_path, read_manifest(tmp_path, "kind", 1, "thing"), "thing")
    (tmp_path / "a.bin").unlink()
    with pytest.raises(CacheError, match=r"a\.bin cannot be read"):
        module.check_files(tmp_path, read_manifest(tmp_path, "kind", 1, "thing"), "thing")


def test_a_crafted_arrow_file_kills_nothing(tmp_path: Path) -> None:
    write_texts(tmp_path / "t.arrow", ["aa", "bb", "cc"])
    content = (tmp_path / "t.arrow").read_bytes()
    offsets, crafted = (np.array(ends, dtype=np.int64).tobytes() for ends in ([0, 2, 4, 6], [0, 2**40, 2**41, 6]))
    assert content.count(offsets) == 1
    (tmp_path / "t.arrow").write_bytes(content.replace(offsets, crafted))
    with pytest.raises(CacheError, match="damaged"):
        MappedTexts(tmp_path / "t.arrow")
    other = pa.schema([pa.field("text", pa.int64())])
    with pa.OSFile(str(tmp_path / "t.arrow"), "wb") as sink, pa.ipc.new_file(sink, other) as writer:
        writer.write_batch(pa.record_batch([pa.array([1, 2])], schema=other))
    with pytest.raises(CacheError, match="damaged"):
        MappedTexts(tmp_path / "t.arrow")


@pytest.mark.parametrize(
    "make", [lambda folder: TextCorpus(_corpus(folder)), lambda folder: MappedTokenIds(_tokens(folder))]
)
def test_a_worker_does_not_look_through_the_files_again(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = make(tmp_path)
    monkeypatch.setattr(module, "_problem", lambda *_: pytest.fail("it is read again"))
    again = pickle.loads(pickle.dumps(opened))
    assert len(again) == 50 and np.array_equal(again[7], opened[7])


def test_what_is_no_folder_of_ours_is_said(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="no manifest"):
        verify_manifest(tmp_path)
