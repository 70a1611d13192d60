"""A damaged label cache gives right labels or an error that says what to do: never wrong ones, never a traceback."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from distilmatch.errors import CacheError
from distilmatch.teachers import SoftLabelCache, verify_label_cache

PAIRS = [(f"left {i}", "right " * (i % 5 + 1)) for i in range(300)]
_FILE = "soft_labels.sqlite"


class Teacher:
    """A teacher of fixed logits that counts what it is asked."""

    class_names, num_labels = None, 3

    def __init__(self, fingerprint: str = "one") -> None:
        self.fingerprint = fingerprint
        self.asked = 0

    def logits(self, pairs: Sequence[tuple[str, str]], show_progress_bar: bool | None = None) -> np.ndarray:
        self.asked += len(pairs)
        return np.array([[len(left) + int(left[5:]), len(right), 0.5] for left, right in pairs], dtype=np.float32)


EXPECTED = Teacher().logits(PAIRS)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    SoftLabelCache(folder).label(Teacher(), PAIRS, show_progress_bar=False)
    return folder


def _damaged(content: bytes, draw: random.Random) -> bytes:
    changed = bytearray(content)
    place = draw.randrange(len(changed))
    # Half of them where a database says what it is: its header, its schema and the heads of its pages.
    if draw.random() < 0.5:
        place = draw.choice((draw.randrange(100), 4096 * draw.randrange(len(changed) // 4096) + draw.randrange(16)))
        place = place if draw.random() < 0.7 else draw.randrange(3900, 4096)
    kind = draw.randrange(4)
    if kind == 0:
        changed[place] ^= 1 << draw.randrange(8)
    elif kind == 1:
        changed[place] = draw.randrange(256)
    elif kind == 2:
        changed[place : place + draw.choice((4, 64, 4096))] = draw.randbytes(4)
    else:
        del changed[place:]
    return bytes(changed)


@pytest.mark.parametrize("seed", range(8))
def test_no_single_damage_gives_a_wrong_label(whole: Path, tmp_path: Path, seed: int) -> None:
    draw = random.Random(seed)
    content = (whole / _FILE).read_bytes()
    refused = told = 0
    for number in range(60):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / _FILE).write_bytes(_damaged(content, draw))
        try:
            teacher = Teacher()
            labels = SoftLabelCache(folder).label(teacher, PAIRS, show_progress_bar=False)
        except CacheError as error:
            assert "delete it" in str(error) or "cannot write" in str(error)
            refused += 1
        else:
            np.testing.assert_array_equal(labels, EXPECTED)
            told += teacher.asked > 0
        shutil.rmtree(folder)
    assert refused > 5


def test_every_byte_of_a_label_is_watched(whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = bytearray((whole / _FILE).read_bytes())
    label = EXPECTED[7].tobytes()
    start = content.index(label)
    for place in range(start, start + len(label) + 8):  # its checksum follows
        folder = tmp_path / str(place)
        folder.mkdir()
        content[place] ^= 4
        (folder / _FILE).write_bytes(bytes(content))
        content[place] ^= 4
        assert any("checksum" in line for line in verify_label_cache(folder))
        teacher, cache = Teacher(), SoftLabelCache(folder)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            np.testing.assert_array_equal(cache.label(teacher, PAIRS), EXPECTED)
        assert teacher.asked == 1 and "1 label(s) are damaged" in caplog.text
        assert verify_label_cache(folder) == [] and len(cache) == len(PAIRS)
        np.testing.assert_array_equal(cache.label(teacher, PAIRS), EXPECTED)
        assert teacher.asked == 1, "what was asked again is kept"


def test_a_whole_cache_has_nothing_to_tell(whole: Path, tmp_path: Path) -> None:
    assert verify_label_cache(whole) == [] == verify_label_cache(whole / _FILE)
    with pytest.raises(CacheError, match="no label cache"):
        verify_label_cache(tmp_path)
    (tmp_path / _FILE).write_bytes(b"no database" * 1000)
    assert "delete it" in verify_label_cache(tmp_path)[0]


@pytest.mark.parametrize("value", [None, 7, 1.5, "text", b"short"])
def test_values_of_another_kind_are_labels_asked_again(whole: Path, tmp_path: Path, value: object) -> None:
    shutil.copy(whole / _FILE, tmp_path)
    connection = sqlite3.connect(tmp_path / _FILE)
    key = connection.execute("SELECT key FROM checked_labels LIMIT 1").fetchone()[0]
    for column in ("logits", "checksum") if value is not None else ():
        connection.execute(f"UPDATE checked_labels SET {column} = ? WHERE key = ?", (value, key))
    connection.commit()
    connection.close()
    np.testing.assert_array_equal(SoftLabelCache(tmp_path).label(Teacher(), PAIRS), EXPECTED)


def _old_cache(folder: Path, whole: Path) -> None:
    """A cache as an earlier version wrote it."""
    new = sqlite3.connect(whole / _FILE)
    rows = new.execute("SELECT key, logits FROM checked_labels").fetchall()
    new.close()
    connection = sqlite3.connect(folder / _FILE)
    connection.execute("CREATE TABLE labels (key BLOB PRIMARY KEY, logits BLOB) WITHOUT ROWID")
    connection.executemany("INSERT INTO labels VALUES (?, ?)", rows[:200])
    connection.commit()
    connection.close()


def test_caches_of_an_earlier_version_are_read_and_that_is_said_once(
    whole: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _old_cache(tmp_path, whole)
    teacher = Teacher()
    with caplog.at_level(logging.WARNING):
        cache = SoftLabelCache(tmp_path)
        assert len(cache) == 200 == cache.count(teacher, PAIRS)
        np.testing.assert_array_equal(cache.label(teacher, PAIRS), EXPECTED)
        np.testing.assert_array_equal(SoftLabelCache(tmp_path).label(teacher, PAIRS), EXPECTED)
    assert teacher.asked == 100 and len(cache) == 300
    assert caplog.text.count("without checksums") == 1
    connection = sqlite3.connect(tmp_path / _FILE)
    key = connection.execute("SELECT key FROM labels LIMIT 1").fetchone()[0]
    connection.execute("UPDATE labels SET logits = NULL WHERE key = ?", (key,))
    connection.commit()
    connection.close()
    for asked in (101, 101):
        np.testing.assert_array_equal(SoftLabelCache(tmp_path).label(teacher, PAIRS), EXPECTED)
        assert teacher.asked == asked


def test_labels_of_a_swapped_key_are_asked_again(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / _FILE, tmp_path)
    connection = sqlite3.connect(tmp_path / _FILE)
    (one, first, a), (other, second, b) = connection.execute("SELECT * FROM checked_labels LIMIT 2").fetchall()
    for key, logits, checksum in ((one, second, b), (other, first, a)):
        connection.execute("UPDATE checked_labels SET logits = ?, checksum = ? WHERE key = ?", (logits, checksum, key))
    connection.commit()
    connection.close()
    teacher = Teacher()
    np.testing.assert_array_equal(SoftLabelCache(tmp_path).label(teacher, PAIRS), EXPECTED)
    assert teacher.asked == 2


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CacheError, match="cannot write"):
        SoftLabelCache(tmp_path / "file")
    with pytest.raises(CacheError, match="cannot write"):
        SoftLabelCache("/proc/no/such/place")


def test_a_cache_from_before_checksums_is_whole(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / _FILE) as connection:
        connection.execute("CREATE TABLE labels (key BLOB PRIMARY KEY, logits BLOB NOT NULL) WITHOUT ROWID")
    assert verify_label_cache(tmp_path) == []
    (tmp_path / "other").mkdir()
    with sqlite3.connect(tmp_path / "other" / _FILE) as connection:
        connection.execute("CREATE TABLE something (key BLOB)")
    assert "holds no labels" in verify_label_cache(tmp_path / "other")[0]


def test_a_damaged_label_is_not_counted_as_there(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / _FILE, tmp_path / _FILE)
    with sqlite3.connect(tmp_path / _FILE) as connection:
        connection.execute(
            "UPDATE checked_labels SET checksum = zeroblob(8) WHERE key IN (SELECT key FROM checked_labels LIMIT 3)"
        )
    assert SoftLabelCache(tmp_path).count(Teacher(), PAIRS) == len(PAIRS) - 3
