"""What is asked of the catalogue of a versioned store; `distilmatch.store.catalogue` changes it.

Shape legend: i items of a version; q ids.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilmatch.errors import CacheError, ConfigError
from distilmatch.files import is_full, write_error

NAME = "catalogue.sqlite"
FORMAT = 1
FETCHED = 65_536
"""Rows that are taken from SQLite at a time."""
LIVING = "(since <= ? and (until is null or until > ?))"  # of a version that is given twice
_BUSY_SECONDS = 60.0
# Of a writer, for the pages of its indexes; SQLite's own 2 MiB are read and written anew for nearly each item.
_CACHE_KIB = 65_536
_FLAG = pa.schema([("flag", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version of a store.

    Attributes:
        number: from 1.
        at: when it was committed, seconds since 1970.
        change: "create", "append", "upsert" or "delete".
        added, removed: items; one that was changed is both.
        items: that it has.
    """

    number: int
    at: float
    change: str
    added: int
    removed: int
    items: int


class CatalogueReader:
    """An open catalogue. One thread uses it; each reader and writer opens its own."""

    def __init__(self, folder: Path, *, writes: bool = False) -> None:
        """Opens the catalogue of a store's folder.

        Raises:
            CacheError: there is none, it is damaged, or of a format that this version does not read.
        """
        self.path = folder / NAME
        if not self.path.is_file():
            raise CacheError(f"{folder} is no store: it has no {NAME}; make one with `distilmatch store-create`")
        with self.told():
            try:
                self._open("mode=rw" if writes else "mode=ro")
            except sqlite3.OperationalError:
                if writes:
                    raise
                self._open("immutable=1")  # on a disk that is for reading alone there is no room for SQLite's own files
        if self.facts.get("format") != FORMAT:
            raise CacheError(f"{self.path} has format {self.facts.get('format')}, this distilmatch reads {FORMAT}")

    def _open(self, how: str) -> None:
        # Python's own transactions are off: what is one is said in `transaction`.
        self.connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{how}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
        )
        if how == "mode=rw":
            for database in ("main", "temp"):
                self.connection.execute(f"pragma {database}.cache_size = -{_CACHE_KIB}")
        rows = self.connection.execute("select name, value from facts")
        self.facts: dict[str, Any] = {name: json.loads(value) for name, value in rows}

    def close(self) -> None:
        """Lets go of the file."""
        self.connection.close()

    @contextmanager
    def told(self) -> Iterator[None]:
        """Says in one line what is wrong with the file where SQLite says it inside."""
        try:
            yield
        except sqlite3.Error as error:
            if is_full(self.path, error):
                raise write_error(self.path, error) from error
            raise CacheError(f"{self.path}: {error}; copy the store again from where it is whole") from error

    @property
    def columns(self) -> list[str]:
        """Of the items beside their ids."""
        return list(self.facts["columns"])

    def versions(self) -> list[Version]:
        """All versions that can be read, the first one first."""
        with self.told():
            rows = self.connection.execute("select * from versions order by version").fetchall()
        return [
            Version(number=row[0], at=row[1], change=row[2], added=row[3], removed=row[4], items=row[5]) for row in rows
        ]

    def version(self, number: int | None) -> Version:
        """A version; the last one where no number is given.

        Raises:
            ConfigError: there is none, or it has expired.
        """
        known = self.versions()
        if number is None:
            return known[-1]
        for version in known:
            if version.number == number:
                return version
        state = "has expired" if 0 < number < known[0].number else "is not there"
        raise ConfigError(
            f"{self.path.parent}: version {number} {state}; there are {known[0].number} to {known[-1].number}"
        )

    def item_batches(self, version: int) -> Iterator[pa.RecordBatch]:
        """The items of a version, in the order in which they came: `item`, `id`, `text` and its `segment` and `row`."""
        query = (
            f"select i.item, i.id, t.text, t.segment, t.row from (select * from items where {LIVING}) i "
            "join texts t on t.text = i.text order by i.item"
        )
        numbers = [(name, pa.int64()) for name in ("text", "segment", "row")]
        schema = pa.schema([("item", pa.int64()), ("id", pa.string()), *numbers])
        with self.told():
            yield from self.batches(query, (version, version), schema)

    def last_text(self) -> int:
        """The largest number that a text has; 0 without texts."""
        with self.told():
            return int(self.connection.execute("select coalesce(max(text), 0) from texts").fetchone()[0])

    def holds(self, version: int, condition: str) -> np.ndarray:
        """(i,) bool, for which items of a version, in the order in which they came, a condition holds.

        Args:
            condition: an SQL expression over the items' columns.

        Raises:
            ConfigError: the condition cannot be used.
        """
        flag = f"case when {where_clause(condition)} then 1 else 0 end"
        query = f"select {flag} from (select * from items where {LIVING}) order by item"
        with self.conditioned(condition):
            return self._flags(query, (version, version))

    def _flags(self, query: str, values: tuple[Any, ...]) -> np.ndarray:
        parts = [batch["flag"].to_numpy() != 0 for batch in self.batches(query, values, _FLAG)]
        return np.concatenate([np.empty(0, dtype=bool), *parts])

    def values(self, version: int, columns: Sequence[str]) -> pa.Table:
        """The columns of the items of a version, in the order in which they came.

        Raises:
            ConfigError: a column that is not there.
        """
        unknown = [column for column in columns if column not in (*self.columns, "id")]
        if unknown:
            raise ConfigError(
                f"{self.path.parent} has no column {unknown[0]!r}; it has {', '.join(['id', *self.columns])}"
            )
        named = ", ".join(map(quoted, columns))
        with self.told():
            rows = self.connection.execute(
                f"select {named} from items where {LIVING} order by item", (version, version)
            ).fetchall()
        return pa.table({column: [row[place] for row in rows] for place, column in enumerate(columns)})

    def batches(self, statement: str, values: tuple[Any, ...], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
        """What a query finds, some rows at a time."""
        cursor = self.connection.execute(statement, values)
        while rows := cursor.fetchmany(FETCHED):
            columns = [
                pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)
            ]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)

    @contextmanager
    def conditioned(self, condition: str) -> Iterator[None]:
        """A user's condition reads inside, and no more; what is wrong with it is said of it.

        Raises:
            ConfigError: it cannot be used.
        """
        self.connection.set_authorizer(only_reads)
        try:
            yield
        except sqlite3.Error as error:
            raise ConfigError(
                f"the condition {condition!r} cannot be used on {self.path.parent}: {error}; its columns are "
                f"{', '.join(['id', *self.columns])}"
            ) from None
        finally:
            self.connection.set_authorizer(None)

    def added_since(self, before: int, version: int) -> np.ndarray:
        """(i,) bool, which items of a version were not there in an earlier one."""
        with self.told():
            query = f"select since > ? from items where {LIVING} order by item"
            return self._flags(query, (before, version, version))

    def difference(self, before: int, after: int) -> tuple[list[str], list[str], list[str]]:
        """The ids that were added, removed and changed between two versions, sorted."""
        living = f"select id from items where {LIVING}"
        with self.told():
            run = self.connection.execute
            added = run(f"{living} except {living} order by id", (after, after, before, before)).fetchall()
            removed = run(f"{living} except {living} order by id", (before, before, after, after)).fetchall()
            changed = run(
                f"select b.id from (select * from items where {LIVING}) b join (select * from items where {LIVING}) a "
                "on a.id = b.id and a.item <> b.item order by b.id",
                (before, before, after, after),
            ).fetchall()
        return [row[0] for row in added], [row[0] for row in removed], [row[0] for row in changed]

    def known_keys(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of some keys whose representations are there."""
        found: set[bytes] = set()
        with self.told():
            for start in range(0, len(keys), 500):
                part = list(keys[start : start + 500])
                places = ", ".join("?" * len(part))
                found |= {
                    row[0] for row in self.connection.execute(f"select key from texts where key in ({places})", part)
                }
        return found

    def segments(self, dropped: bool = False) -> list[tuple[int, int]]:
        """Numbers and texts of the segments in use, or of those that were dropped."""
        state = "not null" if dropped else "null"
        with self.told():
            return self.connection.execute(
                f"select segment, texts from segments where dropped is {state} order by segment"
            ).fetchall()

    def problems(self) -> list[str]:
        """What is wrong with the file, a line each, and with what it says of items and texts."""
        with self.told():
            run = self.connection.execute
            found = [str(row[0]) for row in run("pragma integrity_check") if row[0] != "ok"]
            lost = run("select count(*) from items where text not in (select text from texts)").fetchone()[0]
            astray = run(
                "select count(*) from texts where segment not in (select segment from segments where dropped is null)"
            ).fetchone()[0]
        found += [f"{lost} items have no text"] if lost else []
        found += [f"{astray} texts lie in no segment"] if astray else []
        return [f"{self.path}: {problem}" for problem in found]

    def next_segment(self) -> int:
        """The number of the segment that the next change writes."""
        with self.told():
            return int(self.connection.execute("select coalesce(max(segment), 0) + 1 from segments").fetchone()[0])


def where_clause(condition: str) -> str:
    """A user's condition as a part of a query; it may end in a comment."""
    return f"({condition}\n)"


def quoted(column: str) -> str:
    """A column as a part of a query."""
    return f'"{column}"'


def only_reads(action: int, *_: Any) -> int:
    """An authorizer for SQLite that lets a user's condition read, and no more."""
    reads = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    return sqlite3.SQLITE_OK if action in reads else sqlite3.SQLITE_DENY
