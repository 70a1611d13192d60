"""The catalogue of a versioned store: which items there are in which version, and where their texts' representations lie.

SQLite, one file. A version is a number; an item is valid from the version that added it until the one that took it away, so that
a version is a condition on two columns and costs nothing to publish. All that a change does is one transaction: it is there
whole or not at all. What a version has is never changed, so that readers need no lock between their questions.

Shape legend: i items of a version; q ids.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilmatch.errors import CacheError, ConfigError, DataError

NAME = "catalogue.sqlite"
FORMAT = 1
_FETCHED = 65_536
_BUSY_SECONDS = 60.0

_SCHEMA = """
create table facts (name text primary key, value text not null);
create table versions (
    version integer primary key, at real not null, change text not null,
    added integer not null, removed integer not null, items integer not null
);
create table segments (segment integer primary key, texts integer not null, since integer not null, dropped integer);
create table texts (
    text integer primary key, key blob not null unique, segment integer not null, row integer not null
);
create table items (
    item integer primary key, id text not null, text integer not null, since integer not null, until integer
);
create unique index living on items (id) where until is null;
create index ended on items (until) where until is not null;
"""
_LIVING = "(since <= ? and (until is null or until > ?))"  # of a version that is given twice
_OWN = ("item", "id", "text", "since", "until")


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


class Catalogue:
    """An open catalogue. One thread uses it; each reader and writer opens its own."""

    def __init__(self, folder: Path, *, writes: bool = False) -> None:
        """Opens the catalogue of a store's folder.

        Raises:
            CacheError: there is none, it is damaged, or of a format that this version does not read.
        """
        self.path = folder / NAME
        if not self.path.is_file():
            raise CacheError(f"{folder} is no store: it has no {NAME}; make one with `distilmatch store-create`")
        with self._told():
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
        self._connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?{how}", uri=True, timeout=_BUSY_SECONDS, isolation_level=None
        )
        rows = self._connection.execute("select name, value from facts")
        self.facts: dict[str, Any] = {name: json.loads(value) for name, value in rows}

    @classmethod
    def create(cls, folder: Path, facts: dict[str, Any], columns: Sequence[str]) -> Catalogue:
        """A new catalogue, with a first version that has no items.

        Args:
            facts: JSON-like values by name; columns: of the items beside their ids.

        Raises:
            ConfigError: a column that cannot be one.
        """
        lowered = [column.lower() for column in columns]
        wrong = [column for column in columns if column.lower() in _OWN or not column or '"' in column]
        if wrong or len(set(lowered)) < len(lowered):
            raise ConfigError(
                f"the columns {', '.join(map(repr, columns))} cannot be kept: names must differ in more than capitals, hold no "
                f"quotation mark, and be none of {', '.join(_OWN)}"
            )
        path = folder / NAME
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("pragma journal_mode = wal")
        connection.execute("begin immediate")
        for statement in _SCHEMA.split(";"):
            connection.execute(statement)
        for column in columns:
            connection.execute(
                f"alter table items add column {_quoted(column)}"
            )  # of no type: values stay what they are
        kept = facts | {"format": FORMAT, "columns": list(columns)}
        connection.executemany(
            "insert into facts values (?, ?)", [(name, json.dumps(value)) for name, value in kept.items()]
        )
        connection.execute("insert into versions values (1, ?, 'create', 0, 0, 0)", (time.time(),))
        connection.execute("commit")
        connection.close()
        return cls(folder, writes=True)

    def close(self) -> None:
        """Lets go of the file."""
        self._connection.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise CacheError(f"{self.path}: {error}; copy the store again from where it is whole") from error

    @property
    def columns(self) -> list[str]:
        """Of the items beside their ids."""
        return list(self.facts["columns"])

    def versions(self) -> list[Version]:
        """All versions that can be read, the first one first."""
        with self._told():
            rows = self._connection.execute("select * from versions order by version").fetchall()
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

    def places(self, version: int, condition: str | None = None) -> pa.Table:
        """The items of a version, in the order in which they came: `item`, `id`, `segment` and `row` of the text.

        Args:
            condition: an SQL expression over the items' columns, which must hold.

        Raises:
            ConfigError: the condition cannot be used.
        """
        query = (
            f"select i.item, i.id, t.segment, t.row from (select * from (select * from items where {_LIVING}) "
            f"where {_where(condition)}) i join texts t on t.text = i.text order by i.item"
        )
        schema = pa.schema([("item", pa.int64()), ("id", pa.string()), ("segment", pa.int64()), ("row", pa.int64())])
        return self._table(query, (version, version), schema, condition)

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
        named = ", ".join(map(_quoted, columns))
        with self._told():
            rows = self._connection.execute(
                f"select {named} from items where {_LIVING} order by item", (version, version)
            ).fetchall()
        return pa.table({column: [row[place] for row in rows] for place, column in enumerate(columns)})

    def _table(self, query: str, values: tuple[Any, ...], schema: pa.Schema, condition: str | None) -> pa.Table:
        batches = []
        with self._conditioned(condition):
            cursor = self._connection.execute(query, values)
            while rows := cursor.fetchmany(_FETCHED):
                columns = [
                    pa.array(column, kind) for column, kind in zip(zip(*rows, strict=True), schema.types, strict=True)
                ]
                batches.append(pa.RecordBatch.from_arrays(columns, schema=schema))
        return pa.Table.from_batches(batches, schema=schema)

    @contextmanager
    def _conditioned(self, condition: str | None) -> Iterator[None]:
        # A user's condition reads, and no more; what is wrong with it is said of it.
        if condition is None:
            with self._told():
                yield
            return
        self._connection.set_authorizer(only_reads)
        try:
            yield
        except sqlite3.Error as error:
            raise ConfigError(
                f"the condition {condition!r} cannot be used on {self.path.parent}: {error}; its columns are "
                f"{', '.join(['id', *self.columns])}"
            ) from None
        finally:
            self._connection.set_authorizer(None)

    def added_since(self, before: int, version: int) -> np.ndarray:
        """(i,) bool, which items of a version were not there in an earlier one."""
        with self._told():
            rows = self._connection.execute(
                f"select since > ? from items where {_LIVING} order by item", (before, version, version)
            ).fetchall()
        return np.array(rows, dtype=bool).reshape(-1)

    def difference(self, before: int, after: int) -> tuple[list[str], list[str], list[str]]:
        """The ids that were added, removed and changed between two versions, sorted."""
        living = f"select id from items where {_LIVING}"
        with self._told():
            run = self._connection.execute
            added = run(f"{living} except {living} order by id", (after, after, before, before)).fetchall()
            removed = run(f"{living} except {living} order by id", (before, before, after, after)).fetchall()
            changed = run(
                f"select b.id from (select * from items where {_LIVING}) b join (select * from items where {_LIVING}) a "
                "on a.id = b.id and a.item <> b.item order by b.id",
                (before, before, after, after),
            ).fetchall()
        return [row[0] for row in added], [row[0] for row in removed], [row[0] for row in changed]

    def known_keys(self, keys: Sequence[bytes]) -> set[bytes]:
        """Those of some keys whose representations are there."""
        found: set[bytes] = set()
        with self._told():
            for start in range(0, len(keys), 500):
                part = list(keys[start : start + 500])
                places = ", ".join("?" * len(part))
                found |= {
                    row[0] for row in self._connection.execute(f"select key from texts where key in ({places})", part)
                }
        return found

    def segments(self, dropped: bool = False) -> list[tuple[int, int]]:
        """Numbers and texts of the segments in use, or of those that were dropped."""
        state = "not null" if dropped else "null"
        with self._told():
            return self._connection.execute(
                f"select segment, texts from segments where dropped is {state} order by segment"
            ).fetchall()

    def problems(self) -> list[str]:
        """What is wrong with the file, a line each, and with what it says of items and texts."""
        with self._told():
            run = self._connection.execute
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
        with self._told():
            return int(self._connection.execute("select coalesce(max(segment), 0) + 1 from segments").fetchone()[0])

    # What a writer does. It holds the lock of the store, see `versions`.

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A change that is there whole at its end, or, after an error, not at all."""
        with self._told():
            self._connection.execute("begin immediate")
        try:
            yield
            with self._told():
                self._connection.execute("commit")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("rollback")
            raise

    def add_segment(self, number: int, keys: Sequence[bytes], since: int) -> None:
        """A segment's texts, in its order; of a text that is there already the older place stays."""
        with self._told():
            self._connection.execute("insert into segments values (?, ?, ?, null)", (number, len(keys), since))
            self._connection.executemany(
                "insert or ignore into texts (key, segment, row) values (?, ?, ?)",
                ((key, number, row) for row, key in enumerate(keys)),
            )

    def set_fact(self, name: str, value: Any) -> None:
        """Changes what the store says of itself."""
        with self._told():
            self._connection.execute("update facts set value = ? where name = ?", (json.dumps(value), name))
        self.facts[name] = value

    def begin_staging(self, last_wins: bool, shown: str) -> None:
        """Makes room for new items beside those that are there.

        Args:
            last_wins: of an id that comes twice; else that is an error.
            shown: what messages call the items' origin.
        """
        names = "".join(f", {_quoted(column)}" for column in self.columns)
        with self._told():
            self._connection.execute("drop table if exists temp.incoming")
            self._connection.execute(
                f"create temp table incoming (number integer primary key, id text not null unique, key blob not null{names})"
            )
        verb = "insert or replace" if last_wins else "insert"
        places = ", ".join("?" * (2 + len(self.columns)))
        self._staging = f"{verb} into temp.incoming (id, key{names}) values ({places})"
        self._staged_from, self._staged = shown, 0

    def stage_rows(self, rows: Iterable[tuple[str, bytes, tuple[Any, ...]]]) -> None:
        """Takes (id, key, values of the columns) of new items.

        Raises:
            DataError: an id twice, where the last does not win.
        """
        empty = (None,) * len(self.columns)
        for id, key, values in rows:
            self._staged += 1
            try:
                self._connection.execute(self._staging, (id, key, *(values or empty)))
            except sqlite3.IntegrityError:
                raise DataError(
                    f"{self._staged_from}: id {id!r} stands on more than one row, the second time on row {self._staged}; "
                    "give each item its own id, or let the last one win (`duplicates`)"
                ) from None

    def append_staged(self) -> tuple[str, int] | None:
        """The first staged id that is there already, and how many are; None where none is."""
        with self._told():
            row = self._connection.execute(
                "select min(s.id), count(*) from temp.incoming s join items i on i.id = s.id and i.until is null"
            ).fetchone()
        return None if not row[1] else (row[0], row[1])

    def commit_staged(self, change: str) -> Version:
        """A version with the staged items; those of an id that is there are replaced where they differ."""
        columns = self.columns
        same = "".join(f" and i.{_quoted(column)} is s.{_quoted(column)}" for column in columns)
        named = "".join(f", {_quoted(column)}" for column in columns)
        of_staged = "".join(f", s.{_quoted(column)}" for column in columns)
        number = self.version(None).number + 1
        with self._told():
            run = self._connection.execute
            run(
                "delete from temp.incoming where number in (select s.number from temp.incoming s join items i "
                f"on i.id = s.id and i.until is null{same} join texts t on t.text = i.text and t.key = s.key)"
            )
            removed = run(
                "update items set until = ? where until is null and id in (select id from temp.incoming)", (number,)
            ).rowcount
            added = run(
                f"insert into items (id, text, since{named}) select s.id, t.text, ?{of_staged} from temp.incoming s "
                "join texts t on t.key = s.key order by s.number",
                (number,),
            ).rowcount
            run("drop table temp.incoming")
        return self._commit(number, change, added, removed) if added or removed else self.version(None)

    def remove(self, ids: Sequence[str] | None, condition: str | None) -> Version:
        """A version without some items.

        Args:
            ids: of them; or condition: an SQL expression that holds for them.

        Raises:
            DataError: an id that is not there.
            ConfigError: a condition that cannot be used.
        """
        number = self.version(None).number + 1
        found = self.places(number - 1, condition)["id"].to_pylist() if ids is None else list(dict.fromkeys(ids))
        with self._told():
            removed = 0
            for id in found:
                count = self._connection.execute(
                    "update items set until = ? where id = ? and until is null", (number, id)
                ).rowcount
                if not count:
                    raise DataError(f"{self.path.parent} has no item {id!r}; nothing was deleted")
                removed += count
        return self._commit(number, "delete", 0, removed)

    def _commit(self, number: int, change: str, added: int, removed: int) -> Version:
        before = self.version(None)
        version = Version(
            number=number, at=max(time.time(), before.at), change=change, added=added, removed=removed,
            items=before.items + added - removed,
        )  # fmt: skip
        with self._told():
            self._connection.execute(
                "insert into versions values (?, ?, ?, ?, ?, ?)",
                (number, version.at, change, added, removed, version.items),
            )
        return version

    def needed_texts(self) -> pa.Table:
        """`text`, `segment` and `row` of all texts that a version that can be read has an item of, in the order of the items."""
        query = (
            "select t.text, t.segment, t.row from texts t join (select text, min(item) first from items group by text) i "
            "on i.text = t.text order by i.first"
        )
        schema = pa.schema([("text", pa.int64()), ("segment", pa.int64()), ("row", pa.int64())])
        return self._table(query, (), schema, None)

    def move_texts(self, segment: int, texts: Sequence[int]) -> None:
        """Says that the texts that are needed lie in a new segment now, in this order; the others go.

        The segments of before are dropped; their files stay for readers of before.
        """
        number = self.version(None).number
        with self._told():
            run = self._connection.execute
            run("update segments set dropped = ? where dropped is null", (number,))
            run("insert into segments values (?, ?, ?, null)", (segment, len(texts), number))
            run("delete from texts where text not in (select text from items)")
            self._connection.executemany(
                "update texts set segment = ?, row = ? where text = ?",
                ((segment, row, text) for row, text in enumerate(texts)),
            )

    def expire(self, before: int) -> None:
        """Forgets the versions before a number, and the items and texts that no other one has."""
        with self._told():
            run = self._connection.execute
            run("delete from versions where version < ?", (before,))
            run("delete from items where until <= ?", (before,))
            run("delete from texts where text not in (select text from items)")
            run(
                "update segments set dropped = ? where dropped is null and segment not in (select distinct segment from texts)",
                (before,),
            )

    def forget_dropped(self) -> None:
        """Forgets segments whose files were deleted."""
        with self._told():
            self._connection.execute("delete from segments where dropped is not null")


def _where(condition: str | None) -> str:
    return "true" if condition is None else f"({condition}\n)"


def _quoted(column: str) -> str:
    return f'"{column}"'


def only_reads(action: int, *_: Any) -> int:
    """An authorizer for SQLite that lets a user's condition read, and no more."""
    reads = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION)
    return sqlite3.SQLITE_OK if action in reads else sqlite3.SQLITE_DENY
