"""The label cache loses nothing and doubles nothing, whenever it is stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distilmatch.errors import CacheError, ModelError
from distilmatch.teachers import SoftLabelCache

Pairs = Sequence[tuple[str, str]]


class CountingTeacher:
    """A teacher whose logits follow from the texts, that counts what it is asked and stops after some chunks."""

    class_names = None

    def __init__(self, fingerprint: str = "one", labels: int = 2, chunks: int | None = None) -> None:
        self.fingerprint = fingerprint
        self.num_labels = labels
        self.chunks = chunks
        self.asked: Counter[tuple[str, str]] = Counter()

    def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
        if self.chunks is not None:
            if self.chunks == 0:
                raise InterruptedError
            self.chunks -= 1
        self.asked.update(pairs)
        return expected(pairs, self.num_labels)


def expected(pairs: Pairs, labels: int = 2) -> np.ndarray:
    rows = [
        [len(left) + 10 * len(right) + label + ord((left + right)[0]) for label in range(labels)]
        for left, right in pairs
    ]
    return np.array(rows, dtype=np.float32).reshape(len(pairs), labels)


texts = st.text(alphabet="abc é\n", min_size=1, max_size=6)


@settings(deadline=None, max_examples=30)
@given(
    pairs=st.lists(st.tuples(texts, texts), max_size=40),
    stops=st.lists(st.integers(0, 4), max_size=4),
    chunk=st.integers(1, 9),
)
def test_stopped_anywhere_nothing_is_lost_or_doubled(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[str, str]], stops: list[int], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("cache")
    asked: Counter[tuple[str, str]] = Counter()
    for stop in stops:
        teacher = CountingTeacher(chunks=stop)
        with contextlib.suppress(InterruptedError):
            SoftLabelCache(folder).label(teacher, pairs, chunk_pairs=chunk)
        asked += teacher.asked
    teacher = CountingTeacher()
    cache = SoftLabelCache(folder)
    np.testing.assert_array_equal(cache.label(teacher, pairs, chunk_pairs=chunk), expected(pairs))
    asked += teacher.asked
    assert asked == Counter(set(pairs))
    assert len(cache) == len(set(pairs)) == cache.count(teacher, pairs)


_KILLED = """
import sys, time
import numpy as np
from distilmatch.teachers import SoftLabelCache

class Slow:
    fingerprint, num_labels, class_names = "one", 2, None
    def logits(self, pairs, show_progress_bar=None):
        time.sleep(0.01)
        return np.array([[len(a), len(b)] for a, b in pairs], dtype=np.float32)

pairs = [(f"left {i}", "r" * (i % 7 + 1)) for i in range(2000)]
SoftLabelCache(sys.argv[1]).label(Slow(), pairs, chunk_pairs=5)
"""


def test_a_killed_process_leaves_whole_chunks(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", _KILLED, str(tmp_path)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if (tmp_path / "soft_labels.sqlite").exists() and len(SoftLabelCache(tmp_path)) >= 50:
            break
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    cache = SoftLabelCache(tmp_path)
    done = len(cache)
    assert 50 <= done < 2000 and done % 5 == 0
    pairs = [(f"left {i}", "r" * (i % 7 + 1)) for i in range(2000)]

    class Rest(CountingTeacher):
        def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
            self.asked.update(pairs)
            return np.array([[len(left), len(right)] for left, right in pairs], dtype=np.float32)

    rest = Rest()
    labels = cache.label(rest, pairs)
    np.testing.assert_array_equal(labels, [[len(left), len(right)] for left, right in pairs])
    assert sum(rest.asked.values()) == 2000 - done and max(rest.asked.values()) == 1


def test_teachers_and_texts_do_not_collide(tmp_path: Path) -> None:
    cache = SoftLabelCache(tmp_path)
    pairs = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc")]

    class ByPosition(CountingTeacher):
        def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
            return np.array([[len(left), hash(self.fingerprint) % 97] for left, _ in pairs], dtype=np.float32)

    first, second = ByPosition("one"), ByPosition("two")
    one, two = cache.label(first, pairs), cache.label(second, pairs)
    assert one[:, 0].tolist() == [1, 2, 3, 0]
    assert len(cache) == 8 and one[0, 1] == hash("one") % 97 and two[0, 1] == hash("two") % 97


def test_no_pairs(tmp_path: Path) -> None:
    assert SoftLabelCache(tmp_path).label(CountingTeacher(), []).shape == (0, 2)


def test_a_logit_that_is_not_finite_is_refused(tmp_path: Path) -> None:
    class Broken(CountingTeacher):
        def logits(self, pairs: Pairs, show_progress_bar: bool | None = None) -> np.ndarray:
            return np.full((len(pairs), 2), np.nan, dtype=np.float32)

    with pytest.raises(ModelError, match="not finite"):
        SoftLabelCache(tmp_path).label(Broken(), [("a", "b")])
    assert len(SoftLabelCache(tmp_path)) == 0


def test_a_damaged_database_and_labels_of_another_width_are_explained(tmp_path: Path) -> None:
    SoftLabelCache(tmp_path).label(CountingTeacher(labels=2), [("a", "b")])
    with pytest.raises(CacheError, match="damaged"):
        SoftLabelCache(tmp_path).label(CountingTeacher(labels=3), [("a", "b")])
    for file in tmp_path.iterdir():
        file.write_bytes(b"this is no database" * 100)
    with pytest.raises(CacheError, match="delete it"):
        SoftLabelCache(tmp_path)


def test_a_locked_database_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from distilmatch.teachers import label_cache

    monkeypatch.setattr(label_cache, "_BUSY_SECONDS", 0.1)
    cache = SoftLabelCache(tmp_path)
    holder = sqlite3.connect(cache.path)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(CacheError, match="locked"):
        cache.label(CountingTeacher(), [("a", "b")])
    holder.rollback()
    holder.close()
    assert cache.label(CountingTeacher(), [("a", "b")]).shape == (1, 2)
