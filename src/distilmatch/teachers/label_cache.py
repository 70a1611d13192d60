"""Soft labels on disk: computed once, written as they come, found again by teacher and text.

One SQLite database: a row a distinct pair, its key the 16-byte hash of the teacher's fingerprint and the two texts,
its value the logits as little-endian float32. A chunk of pairs is one transaction, so a process that is killed loses
at most the chunk it was at.

Shape legend: n pairs; m distinct pairs; c labels.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from distilmatch.errors import CacheError, ConfigError
from distilmatch.fingerprint import DIGEST_BYTES, text_key
from distilmatch.teachers.base import Pairs, Teacher, check_logits, check_pairs

_FILE = "soft_labels.sqlite"
_FORMAT = 1
_LOOKUP = 8192  # keys a query; SQLite takes 32,766 parameters
_LITTLE = np.dtype("<f4")
_SCHEMA = (
    "CREATE TABLE IF NOT EXISTS teachers ("
    "number INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, num_labels INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS labels ("
    "teacher INTEGER NOT NULL, key BLOB NOT NULL, logits BLOB NOT NULL, PRIMARY KEY (teacher, key)) WITHOUT ROWID",
    f"PRAGMA user_version = {_FORMAT}",
)


class SoftLabelCache:
    """A folder of teachers' logits; several teachers and several processes may share it.

    Args:
        folder: made where it does not exist. It must lie on a local disk: SQLite's log is no good on network drives.
        lock_seconds: how long to wait for another process that writes.
    """

    def __init__(self, folder: str | Path, *, lock_seconds: float = 60.0) -> None:
        self.folder = Path(folder)
        self.path = self.folder / _FILE
        self.lock_seconds = lock_seconds

    def label(
        self,
        teacher: Teacher,
        pairs: Pairs,
        show_progress_bar: bool | None = None,
        chunk_pairs: int = 2048,
    ) -> np.ndarray:
        """The teacher's logits of `pairs`, from the cache where they are there, else from the teacher.

        Distinct missing pairs are labelled once each, longest first, and written `chunk_pairs` at a time. The chunks
        depend on the set of missing pairs alone, not on its order.

        Args:
            pairs: n pairs of text.
            show_progress_bar: over the missing pairs; None shows one on long jobs, in a terminal.
            chunk_pairs: pairs a transaction: what a kill can cost.

        Returns:
            (n, c) float32, in the order of `pairs`.

        Raises:
            ConfigError: `chunk_pairs` below 1.
            DataError: an item that is not two texts.
            ModelError: NaN or infinite logits from the teacher.
            CacheError: a database that is damaged, locked, of another format, or holds rows of the wrong width.
        """
        if chunk_pairs < 1:
            raise ConfigError(f"`chunk_pairs` must be 1 or more, not {chunk_pairs}")
        check_pairs(pairs)
        fingerprint, width = teacher.fingerprint, teacher.num_labels
        if len(pairs) == 0:
            return np.empty((0, width), dtype=np.float32)
        keys, first, inverse = _distinct(_keys(fingerprint, pairs))
        with self._explained(), closing(self._open()) as database:
            number = self._teacher_number(database, fingerprint, width)
            logits, missing = self._look_up(database, number, keys, width)
            lengths = np.fromiter((sum(map(len, pairs[i])) for i in first[missing]), np.int64, len(missing))
            missing = missing[np.argsort(-lengths, kind="stable")]
            quiet = not show_progress_bar if show_progress_bar is not None else (None if len(missing) > 500 else True)
            with tqdm(total=len(missing), desc="Label", unit="pair", disable=quiet) as bar:
                bar.set_postfix_str(f"{len(keys) - len(missing):,} of {len(keys):,} from the cache")
                for start in range(0, len(missing), chunk_pairs):
                    chunk = missing[start : start + chunk_pairs]
                    asked = [(pairs[i][0], pairs[i][1]) for i in first[chunk]]
                    logits[chunk] = check_logits(teacher.logits(asked, show_progress_bar=False), asked, width)
                    self._write(database, number, keys[chunk], logits[chunk])
                    bar.update(len(chunk))
        return logits[inverse]

    def count(self, teacher: Teacher) -> int:
        """How many distinct pairs of `teacher` are in the cache.

        Raises:
            CacheError: see `label`.
        """
        if not self.path.exists():
            return 0
        with self._explained(), closing(self._open()) as database:
            query = "SELECT count(*) FROM labels JOIN teachers ON number = teacher WHERE fingerprint = ?"
            return int(database.execute(query, (teacher.fingerprint,)).fetchone()[0])

    def _open(self) -> sqlite3.Connection:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CacheError(f"cannot make the label cache {self.folder}: {error}; choose another folder") from error
        database = sqlite3.connect(self.path, timeout=self.lock_seconds, isolation_level=None)
        try:
            _retry_locked(lambda: database.execute("PRAGMA journal_mode = WAL"), self.lock_seconds)
            database.execute("PRAGMA synchronous = NORMAL")
            held = int(database.execute("PRAGMA user_version").fetchone()[0])
            if held not in (0, _FORMAT):
                raise CacheError(
                    f"{self.path} has format {held}, this version of distilmatch writes {_FORMAT}; choose another "
                    "cache folder, or delete that one"
                )
            if held == 0:
                with _transaction(database):
                    for statement in _SCHEMA:
                        database.execute(statement)
        except BaseException:
            database.close()
            raise
        return database

    def _teacher_number(self, database: sqlite3.Connection, fingerprint: str, width: int) -> int:
        row = (fingerprint, width)
        with _transaction(database):
            database.execute("INSERT OR IGNORE INTO teachers (fingerprint, num_labels) VALUES (?, ?)", row)
        query = "SELECT number, num_labels FROM teachers WHERE fingerprint = ?"
        number, held = database.execute(query, (fingerprint,)).fetchone()
        if held != width:
            raise CacheError(
                f"{self.path} holds {held} label(s) a pair for this teacher, which has {width}: the cache is damaged; "
                "delete the folder, the labels will be computed anew"
            )
        return int(number)

    def _look_up(
        self, database: sqlite3.Connection, number: int, keys: np.ndarray, width: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(m, c) float32 logits, zero where missing, and the positions of the missing ones, ascending."""
        logits = np.zeros((len(keys), width), dtype=np.float32)
        found = np.zeros(len(keys), dtype=bool)
        for start in range(0, len(keys), _LOOKUP):
            wanted = [key.tobytes() for key in keys[start : start + _LOOKUP]]
            places = {key: start + i for i, key in enumerate(wanted)}
            marks = ",".join("?" * len(wanted))
            query = f"SELECT key, logits FROM labels WHERE teacher = ? AND key IN ({marks})"
            rows = database.execute(query, (number, *wanted)).fetchall()
            if not rows:
                continue
            if any(not isinstance(blob, bytes) or len(blob) != width * _LITTLE.itemsize for _, blob in rows):
                self._damaged(f"a row that is not {width} label(s) wide")
            at = np.fromiter((places[key] for key, _ in rows), np.int64, len(rows))
            values = np.frombuffer(b"".join(blob for _, blob in rows), dtype=_LITTLE).reshape(-1, width)
            if not np.isfinite(values).all():
                self._damaged("labels that are not finite numbers")
            logits[at] = values
            found[at] = True
        return logits, np.flatnonzero(~found)

    def _damaged(self, what: str) -> None:
        raise CacheError(
            f"{self.path} holds {what}: the cache is damaged; delete the folder, the labels will be computed anew"
        )

    def _write(self, database: sqlite3.Connection, number: int, keys: np.ndarray, logits: np.ndarray) -> None:
        little = np.ascontiguousarray(logits, dtype=_LITTLE)
        # Keys in order touch the fewest pages of the tree. Another process may have been faster: its row stays.
        rows = (
            (number, keys[i].tobytes(), little[i].tobytes()) for i in sorted(range(len(keys)), key=keys.__getitem__)
        )
        with _transaction(database):
            database.executemany("INSERT OR IGNORE INTO labels (teacher, key, logits) VALUES (?, ?, ?)", rows)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns SQLite's errors into this package's."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise CacheError(
                    f"{self.path} is locked: another process has been writing to it for more than "
                    f"{self.lock_seconds:g} s; wait for it or end it, then start again (nothing is lost)"
                ) from error
            raise CacheError(
                f"cannot use the label cache {self.path}: {error}; check the disk's space and the folder's permissions, "
                "then start again (what was written stays)"
            ) from error
        except sqlite3.DatabaseError as error:
            raise CacheError(
                f"{self.path} is damaged ({error}); delete the folder, the labels will be computed anew"
            ) from error
