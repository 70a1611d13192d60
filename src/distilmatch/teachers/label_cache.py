"""Soft labels kept as they come: a teacher is asked once for each pair, whatever happens in between.

Shape legend: n pairs; c labels.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from tqdm.auto import tqdm

from distilmatch.errors import CacheError
from distilmatch.fingerprint import text_key
from distilmatch.teachers.base import Teacher, check_logits, check_pairs

_FILE = "soft_labels.sqlite"
_BUSY_SECONDS = 60.0
_LOOK_UP = 10_000
_LABELS = np.dtype("<f4")


class SoftLabelCache:
    """Soft labels in an SQLite database, keyed by the teacher's fingerprint and the pair's texts.

    A chunk of labels is one transaction: killed at any point, the cache holds whole chunks and nothing twice. Several
    processes may use one cache.

    Args:
        folder: made if need be.

    Raises:
        CacheError: the folder cannot be written, or the database is damaged.
    """

    def __init__(self, folder: str | Path) -> None:
        self.path = Path(folder) / _FILE
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._connect()) as connection, connection:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute(
                    "CREATE TABLE IF NOT EXISTS labels (key BLOB PRIMARY KEY, logits BLOB) WITHOUT ROWID"
                )
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from error

    def __len__(self) -> int:
        """How many pairs are labelled, of all teachers."""
        with closing(self._connect()) as connection:
            return int(self._all(connection, "SELECT count(*) FROM labels", ())[0][0])

    def label(
        self,
        teacher: Teacher,
        pairs: Sequence[tuple[str, str]],
        show_progress_bar: bool | None = None,
        chunk_pairs: int = 4096,
    ) -> np.ndarray:
        """The teacher's logits of `pairs`, asked for only where the cache does not hold them yet.

        Args:
            teacher: a cross-encoder teacher or an ensemble.
            pairs: n pairs; one that stands there twice is labelled once.
            show_progress_bar: None shows one in a terminal.
            chunk_pairs: pairs a transaction, the step in which a killed job goes on.

        Returns:
            (n, c) float32 raw logits, in the order of `pairs`.

        Raises:
            DataError: an item that is not two texts.
            CacheError: the database is damaged, locked for a minute, or holds labels of another width.
            ModelError: the teacher gives a logit that is not finite.
        """
        check_pairs(pairs)
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
                    given = check_logits(teacher.logits(asked, show_progress_bar=False), asked, teacher.num_labels)
                    self._store(connection, [(keys[row], given[i]) for i, row in enumerate(rows)])
                    logits[rows] = given
                    bar.update(len(rows))
        return logits[[first[key] for key in keys]] if keys else logits

    def count(self, teacher: Teacher, pairs: Sequence[tuple[str, str]]) -> int:
        """How many of the distinct `pairs` are labelled by this teacher already."""
        keys = list(dict.fromkeys(text_key(teacher.fingerprint, pair) for pair in pairs))
        with closing(self._connect()) as connection:
            return sum(len(found) for found in self._rows(connection, keys))

    def _find(
        self, connection: sqlite3.Connection, keys: list[bytes], labels: int, row_of: dict[bytes, int], out: np.ndarray
    ) -> set[bytes]:
        known: set[bytes] = set()
        for found in self._rows(connection, keys):
            for key, blob in found:
                if len(blob) != labels * _LABELS.itemsize:
                    raise CacheError(
                        f"{self.path} holds {len(blob)} bytes where {labels} labels are expected: it is damaged; "
                        "delete it and label again"
                    )
                values = np.frombuffer(blob, dtype=_LABELS)
                if not np.isfinite(values).all():
                    raise CacheError(
                        f"{self.path} holds labels that are not finite: it is damaged; delete it and label again"
                    )
                out[row_of[key]] = values
                known.add(key)
        return known

    def _rows(self, connection: sqlite3.Connection, keys: list[bytes]) -> Iterator[list[tuple[bytes, bytes]]]:
        for start in range(0, len(keys), _LOOK_UP):
            part = keys[start : start + _LOOK_UP]
            marks = ",".join("?" * len(part))
            yield self._all(connection, f"SELECT key, logits FROM labels WHERE key IN ({marks})", part)

    def _store(self, connection: sqlite3.Connection, labelled: list[tuple[bytes, np.ndarray]]) -> None:
        rows = [(key, values.astype(_LABELS).tobytes()) for key, values in labelled]
        try:
            with connection:
                connection.executemany("INSERT OR IGNORE INTO labels VALUES (?, ?)", rows)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _all(self, connection: sqlite3.Connection, query: str, values: Sequence[bytes]) -> list[tuple]:
        try:
            return connection.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _connect(self) -> sqlite3.Connection:
        try:
            connection = sqlite3.connect(self.path, timeout=_BUSY_SECONDS)
        except sqlite3.Error as error:
            raise self._unusable(error) from error
        try:
            connection.execute("PRAGMA synchronous = NORMAL")
        except sqlite3.Error as error:
            connection.close()
            raise self._unusable(error) from error
        return connection

    def _unusable(self, error: Exception) -> CacheError:
        return CacheError(
            f"the soft-label cache {self.path} cannot be used: {error}; if another job holds it, wait for that job, "
            "if it is damaged, delete it and label again"
        )


def _length(pair: tuple[str, str]) -> int:
    return len(pair[0]) + len(pair[1])
