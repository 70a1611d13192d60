"""Soft labels kept as they come: a teacher is asked once for each pair, whatever happens in between.

Every row carries a checksum of its key and its logits; one that does not fit is asked again.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from tqdm.auto import tqdm

from distilmatch.errors import CacheError
from distilmatch.files import is_full, write_error, writing
from distilmatch.fingerprint import text_key
from distilmatch.teachers.base import Pairs, Teacher, check_logits, pair_list
from distilmatch.teachers.classes import InTaskOrder

logger = logging.getLogger(__name__)

_FILE = "soft_labels.sqlite"
_BUSY_SECONDS = 60.0
_LOOK_UP = 10_000
_LABELS = np.dtype("<f4")
_TABLE, _OLD_TABLE = "checked_labels", "labels"  # the old one's rows have no checksum
_DAMAGED = "it is damaged; delete it and label again"

# A message that quotes a damaged schema is no valid UTF-8.
_FAULTS = (sqlite3.Error, UnicodeError, OverflowError, MemoryError)

_checked: set[tuple[str, int, int]] = set()  # databases that this process has looked through
_said: set[str] = set()


class SoftLabelCache:
    """Soft labels in an SQLite database, keyed by the teacher's fingerprint and the pair's texts.

    A chunk of labels is one transaction: killed at any point, the cache holds whole chunks and nothing twice. Several
    processes may use one cache. Labels stand in the order of the teacher's own classes.

    Args:
        folder: made if need be.

    Raises:
        CacheError: the folder cannot be written, or the database is damaged.

    Example:
        ```python
        from distilmatch import CrossEncoderTeacher, SoftLabelCache

        teacher, cache = CrossEncoderTeacher("teacher"), SoftLabelCache("labels")
        labels = cache.label(teacher, [("red shoe", "a red leather shoe")])  # (1, c) logits; asked once
        ```
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / _FILE
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with closing(self._connect()) as connection, connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(
                    f"CREATE TABLE IF NOT EXISTS {_TABLE} "
                    "(key BLOB PRIMARY KEY, logits BLOB NOT NULL, checksum BLOB NOT NULL) WITHOUT ROWID"
                )
                self._check_once(connection)
                self._has_old = bool(self._count(connection, _OLD_TABLE))
        except (*_FAULTS, OSError) as error:
            raise self._unusable(error) from error
        if self._has_old and str(self.path) not in _said:
            _said.add(str(self.path))
            logger.warning(
                "%s holds labels of an earlier version, without checksums: they are used, but damage to them cannot be "
                "detected",
                self.path,
            )

    def __len__(self) -> int:
        """How many pairs are labelled, of all teachers."""
        with closing(self._connect()) as connection:
            try:
                return sum(self._count(connection, table) for table in (_TABLE, _OLD_TABLE))
            except _FAULTS as error:
                raise self._unusable(error) from error

    def label(
        self,
        teacher: Teacher,
        pairs: Pairs,
        show_progress_bar: bool | None = None,
        chunk_pairs: int = 4096,
    ) -> np.ndarray:
        """The teacher's logits of `pairs`, asked for only where the cache does not hold them yet.

        Args:
            teacher: a cross-encoder teacher or an ensemble; of one `in_task_order` the labels come in the task's order.
            pairs: n pairs, or one; one that stands there twice is labelled once.
            show_progress_bar: None shows one in a terminal.
            chunk_pairs: pairs a transaction, the step in which a killed job goes on.

        Returns:
            (n, c) float32 raw logits, in the order of `pairs`.

        Raises:
            DataError: an item that is not two texts.
            CacheError: the database is damaged, locked for a minute, or holds labels of another width.
            ModelError: the teacher gives a logit that is not finite.
        """
        if isinstance(teacher, InTaskOrder):
            return teacher.put_in_order(self.label(teacher.teacher, pairs, show_progress_bar, chunk_pairs))
        pairs = pair_list(pairs)
        fingerprint = teacher.fingerprint
        keys = [text_key(fingerprint, pair) for pair in pairs]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        logits = np.full((len(pairs), teacher.num_labels), np.nan, dtype=np.float32)
        with closing(self._connect()) as connection:
            known = self._find(connection, list(first), teacher.num_labels, first, logits)
            # Longest first: chunks of like length waste no padding, and a progress bar that starts slow ends early.
            missing = sorted(
                (row for key, row in first.items() if key not in known), key=lambda row: -_length(pairs[row])
            )
            quiet = None if show_progress_bar is None else not show_progress_bar
            title = f"Label ({len(known):,} pairs from the cache)" if known else "Label"
            with tqdm(total=len(missing), desc=title, unit="pair", disable=quiet if missing else True) as bar:
                for start in range(0, len(missing), chunk_pairs):
                    rows = missing[start : start + chunk_pairs]
                    asked = [pairs[row] for row in rows]
                    new_logits = check_logits(teacher.logits(asked, show_progress_bar=False), asked, teacher.num_labels)
                    self._store(connection, [(keys[row], new_logits[i]) for i, row in enumerate(rows)])
                    logits[rows] = new_logits
                    bar.update(len(rows))
        return logits[[first[key] for key in keys]] if keys else logits

    def count(self, teacher: Teacher, pairs: Pairs) -> int:
        """How many of the distinct `pairs` are labelled by this teacher already."""
        if isinstance(teacher, InTaskOrder):
            return self.count(teacher.teacher, pairs)
        fingerprint = teacher.fingerprint
        keys = list(dict.fromkeys(text_key(fingerprint, pair) for pair in pair_list(pairs)))
        with closing(self._connect()) as connection:
            return len({key for rows in self._rows(connection, keys) for key, blob in rows if blob is not None})

    def _find(
        self, connection: sqlite3.Connection, keys: list[bytes], labels: int, row_of: dict[bytes, int], out: np.ndarray
    ) -> set[bytes]:
        known: set[bytes] = set()
        broken: list[bytes] = []
        for rows in self._rows(connection, keys):
            for key, blob in rows:
                if blob is None:
                    broken.append(key)
                    continue
                if len(blob) != labels * _LABELS.itemsize:
                    raise CacheError(
                        f"{self.path} holds {len(blob)} bytes where {labels} labels are expected: {_DAMAGED}"
                    )
                values = np.frombuffer(blob, dtype=_LABELS)
                if not np.isfinite(values).all():
                    raise CacheError(f"{self.path} holds labels that are not finite: {_DAMAGED}")
                out[row_of[key]] = values
                known.add(key)
        if broken:
            logger.warning("%s: %d label(s) are damaged; the teacher is asked for them again", self.path, len(broken))
            self._forget(connection, broken)
        return known - set(broken)

    def _rows(self, connection: sqlite3.Connection, keys: list[bytes]) -> Iterator[list[tuple[bytes, bytes | None]]]:
        """The labels of some keys, (key, logits); None in place of logits whose checksum does not fit."""
        queries = [f"SELECT key, logits, checksum FROM {_TABLE} WHERE key IN"]
        if self._has_old:
            queries.append(f"SELECT key, logits, NULL FROM {_OLD_TABLE} WHERE key IN")
        for start in range(0, len(keys), _LOOK_UP):
            chunk = keys[start : start + _LOOK_UP]
            marks = ",".join("?" * len(chunk))
            for query in queries:
                rows = self._all(connection, f"{query} ({marks})", chunk)
                if any(type(key) is not bytes for key, *_ in rows):
                    raise CacheError(f"{self.path} holds invalid keys: {_DAMAGED}")
                yield [(key, _intact(*row, old=query is not queries[0])) for row in rows for key in row[:1]]

    def _store(self, connection: sqlite3.Connection, labelled: list[tuple[bytes, np.ndarray]]) -> None:
        rows = []
        for key, values in labelled:
            blob = values.astype(_LABELS).tobytes()
            rows.append((key, blob, _checksum(key, blob)))
        self._change(connection, f"INSERT OR IGNORE INTO {_TABLE} VALUES (?, ?, ?)", rows)

    def _forget(self, connection: sqlite3.Connection, keys: Sequence[bytes]) -> None:
        for table in (_TABLE, _OLD_TABLE) if self._has_old else (_TABLE,):
            self._change(connection, f"DELETE FROM {table} WHERE key = ?", [(key,) for key in keys])

    def _change(self, connection: sqlite3.Connection, query: str, rows: Sequence[tuple[bytes, ...]]) -> None:
        try:
            with connection:
                connection.executemany(query, rows)
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise self._unusable(error) from error
            with writing(self.path):
                raise
        except _FAULTS as error:
            raise self._unusable(error) from error

    def _all(self, connection: sqlite3.Connection, query: str, values: Sequence[bytes]) -> list[tuple[Any, ...]]:
        try:
            return connection.execute(query, values).fetchall()
        except _FAULTS as error:
            raise self._unusable(error) from error

    def _count(self, connection: sqlite3.Connection, table: str) -> int:
        there = connection.execute("SELECT count(*) FROM sqlite_master WHERE name = ?", (table,)).fetchone()[0]
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]) if there else 0

    def _check_once(self, connection: sqlite3.Connection) -> None:
        status = os.stat(self.path)
        key = (os.path.realpath(self.path), status.st_dev, status.st_ino)
        if key not in _checked:
            problems = _structure(connection)
            if problems:
                raise CacheError(
                    f"the soft-label cache {self.path} is damaged ({problems[0]}); delete it and label again"
                )
            _checked.add(key)

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS)
        except _FAULTS as error:
            raise self._unusable(error) from error
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
        except _FAULTS as error:
            connection.close()
            raise self._unusable(error) from error
        return connection

    def _unusable(self, error: Exception) -> CacheError:
        if is_full(self.path, error):
            return write_error(self.path, error)
        return CacheError(
            f"the soft-label cache {self.path} cannot be used: {error}; if another job holds it, wait for that job, "
            "if it is damaged, delete it and label again"
        )


def known_labels(folder: str | Path, teacher: Teacher, pairs: Pairs) -> int:
    """How many of the distinct `pairs` a cache holds labels of, by this teacher; nothing is written, not even a cache.

    Raises:
        CacheError: the database is damaged.
    """
    path = Path(folder) / _FILE
    if not path.is_file():
        return 0
    if isinstance(teacher, InTaskOrder):
        return known_labels(folder, teacher.teacher, pairs)
    fingerprint = teacher.fingerprint
    keys = list(dict.fromkeys(text_key(fingerprint, pair) for pair in pair_list(pairs)))
    # Where no process is at work there is no log beside the database, and SQLite need not make one to read.
    still = not path.with_name(f"{_FILE}-wal").exists()
    place = f"{path.absolute().as_uri()}?mode=ro" + ("&immutable=1" if still else "")
    known = 0
    try:
        with closing(sqlite3.connect(place, uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table in tables & {_TABLE, _OLD_TABLE}:
                for start in range(0, len(keys), _LOOK_UP):
                    chunk = keys[start : start + _LOOK_UP]
                    marks = ",".join("?" * len(chunk))
                    known += connection.execute(
                        f"SELECT count(*) FROM {table} WHERE key IN ({marks})", chunk
                    ).fetchone()[0]
    except _FAULTS as error:
        raise CacheError(
            f"the soft-label cache {path} cannot be used: {error}; if it is damaged, delete it and label again"
        ) from error
    return int(known)


def verify_label_cache(folder: str | Path) -> list[str]:
    """What is damaged in a label cache, a line each; nothing is changed.

    Args:
        folder: of the cache, or its file.

    Raises:
        CacheError: there is no label cache.
    """
    path = Path(folder) if Path(folder).is_file() else Path(folder) / _FILE
    if not path.is_file():
        raise CacheError(f"{folder} holds no label cache ({_FILE}); check the path")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            problems = [f"{path}: {problem}" for problem in _structure(connection)]
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            if not tables & {_TABLE, _OLD_TABLE}:
                problems.append(f"{path}: it holds no labels; delete it and label again")
            rows = connection.execute(f"SELECT key, logits, checksum FROM {_TABLE}") if _TABLE in tables else ()
            broken = sum(_intact(*row, old=False) is None for row in rows)
    except _FAULTS as error:
        return [f"{path}: {error}; delete it and label again"]
    return problems + (
        [f"{path}: {broken} label(s) whose checksum does not match; they will be asked again"] if broken else []
    )


def _structure(connection: sqlite3.Connection) -> list[str]:
    rows = connection.execute("PRAGMA quick_check").fetchall()
    return [] if rows == [("ok",)] else [" ".join(str(row[0]).split()) for row in rows]


def _checksum(key: bytes, blob: bytes) -> bytes:
    return xxhash.xxh3_64_digest(key + blob)


def _intact(key: Any, blob: Any, checksum: Any, *, old: bool) -> bytes | None:
    if not (type(key) is bytes and type(blob) is bytes):
        return None
    return blob if old or checksum == _checksum(key, blob) else None


def _length(pair: tuple[str, str]) -> int:
    return len(pair[0]) + len(pair[1])
