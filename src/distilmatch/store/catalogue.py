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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distilmatch.errors import ConfigError, DataError
from distilmatch.fingerprint import DIGEST_BYTES
from distilmatch.store.questions import (
    FETCHED,
    FORMAT,
    LIVING,
    NAME,
    CatalogueReader,
    Version,
    only_reads,
    quoted,
    where_clause,
)

__all__ = ["NAME", "Catalogue", "Version", "only_reads"]

# Where new items are more than one in so many, their index is made anew: sorted, and each page written once.
_NEW_SHARE = 4

_LIVING_INDEX = "create unique index living on items (id) where until is null"
_SCHEMA = f"""
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
{_LIVING_INDEX};
create index ended on items (until) where until is not null;
"""
_OWN = ("item", "id", "text", "since", "until")


class Catalogue(CatalogueReader):
    """A catalogue that is open for one who changes it, and holds the lock of the store (`versions`), or for a reader."""

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
                f"alter table items add column {quoted(column)}"
            )  # of no type: values stay what they are
        kept = facts | {"format": FORMAT, "columns": list(columns)}
        connection.executemany(
            "insert into facts values (?, ?)", [(name, json.dumps(value)) for name, value in kept.items()]
        )
        connection.execute("insert into versions values (1, ?, 'create', 0, 0, 0)", (time.time(),))
        connection.execute("commit")
        connection.close()
        return cls(folder, writes=True)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """A change that is there whole at its end, or, after an error, not at all."""
        with self.told():
            self.connection.execute("begin immediate")
        try:
            yield
            with self.told():
                self.connection.execute("commit")
        except BaseException:
            if self.connection.in_transaction:
                self.connection.execute("rollback")
            raise

    def add_segment(self, number: int, keys: np.ndarray, since: int) -> None:
        """A segment's texts, in its order; of a text that is there already the older place stays.

        Args:
            keys: (n,) as of `layout.key_array`.
        """
        # By key, so that of the index of ten million keys no page is written twice.
        order = np.argsort(keys, kind="stable")
        raw = keys.tobytes()
        with self.told():
            self.connection.execute("insert into segments values (?, ?, ?, null)", (number, len(keys), since))
            for start in range(0, len(order), FETCHED):
                self.connection.executemany(
                    "insert or ignore into texts (key, segment, row) values (?, ?, ?)",
                    (
                        (raw[row * DIGEST_BYTES : (row + 1) * DIGEST_BYTES], number, row)
                        for row in order[start : start + FETCHED].tolist()
                    ),
                )

    def set_fact(self, name: str, value: Any) -> None:
        """Changes what the store says of itself."""
        with self.told():
            self.connection.execute("update facts set value = ? where name = ?", (json.dumps(value), name))
        self.facts[name] = value

    def begin_staging(self, last_wins: bool, shown: str) -> None:
        """Makes room for new items beside those that are there.

        Args:
            last_wins: of an id that comes twice; else that is an error.
            shown: what messages call the items' origin.
        """
        names = "".join(f", {quoted(column)}" for column in self.columns)
        with self.told():
            self.connection.execute("drop table if exists temp.incoming")
            self.connection.execute(
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
                self.connection.execute(self._staging, (id, key, *(values or empty)))
            except sqlite3.IntegrityError:
                raise DataError(
                    f"{self._staged_from}: id {id!r} stands on more than one row, the second time on row {self._staged}; "
                    "give each item its own id, or let the last one win (`duplicates`)"
                ) from None

    def append_staged(self) -> tuple[str, int] | None:
        """The first staged id that is there already, and how many are; None where none is."""
        with self.told():
            row = self.connection.execute(
                "select min(s.id), count(*) from temp.incoming s join items i on i.id = s.id and i.until is null"
            ).fetchone()
        return None if not row[1] else (row[0], row[1])

    def commit_staged(self, change: str) -> Version:
        """A version with the staged items; those of an id that is there are replaced where they differ."""
        columns = self.columns
        same = "".join(f" and i.{quoted(column)} is s.{quoted(column)}" for column in columns)
        named = "".join(f", {quoted(column)}" for column in columns)
        of_staged = "".join(f", s.{quoted(column)}" for column in columns)
        number = self.version(None).number + 1
        with self.told():
            run = self.connection.execute
            run(
                "delete from temp.incoming where number in (select s.number from temp.incoming s join items i "
                f"on i.id = s.id and i.until is null{same} join texts t on t.text = i.text and t.key = s.key)"
            )
            removed = run(
                "update items set until = ? where until is null and id in (select id from temp.incoming)", (number,)
            ).rowcount
            many = run("select count(*) from temp.incoming").fetchone()[0] * _NEW_SHARE > self.version(None).items
            if many:
                run("drop index living")
            added = run(
                f"insert into items (id, text, since{named}) select s.id, t.text, ?{of_staged} from temp.incoming s "
                "join texts t on t.key = s.key order by s.number",
                (number,),
            ).rowcount
            if many:
                run(_LIVING_INDEX)
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
        found = self._where_holds(number - 1, condition) if ids is None else list(dict.fromkeys(ids))
        with self.told():
            removed = 0
            for id in found:
                count = self.connection.execute(
                    "update items set until = ? where id = ? and until is null", (number, id)
                ).rowcount
                if not count:
                    raise DataError(f"{self.path.parent} has no item {id!r}; nothing was deleted")
                removed += count
        return self._commit(number, "delete", 0, removed)

    def _where_holds(self, version: int, condition: str | None) -> list[str]:
        assert condition is not None
        query = f"select id from (select * from items where {LIVING}) where {where_clause(condition)} order by item"
        with self.conditioned(condition):
            return [row[0] for row in self.connection.execute(query, (version, version))]

    def _commit(self, number: int, change: str, added: int, removed: int) -> Version:
        before = self.version(None)
        version = Version(
            number=number, at=max(time.time(), before.at), change=change, added=added, removed=removed,
            items=before.items + added - removed,
        )  # fmt: skip
        with self.told():
            self.connection.execute(
                "insert into versions values (?, ?, ?, ?, ?, ?)",
                (number, version.at, change, added, removed, version.items),
            )
        return version

    def number_needed(self) -> int:
        """Numbers the texts that a version that can be read has an item of, in the order of the items; how many there are."""
        with self.told():
            run = self.connection.execute
            run("drop table if exists temp.needed")
            run("create temp table needed (row integer primary key, text integer not null)")
            return run(
                "insert into needed (text) select text from items group by text order by min(item)"
            ).rowcount  # fmt: skip

    def needed_places(self) -> Iterator[pa.RecordBatch]:
        """`segment` and `row` of the texts that `number_needed` has numbered, in that order."""
        query = "select t.segment, t.row from temp.needed n join texts t on t.text = n.text order by n.row"
        with self.told():
            yield from self.batches(query, (), pa.schema([("segment", pa.int64()), ("row", pa.int64())]))

    def move_texts(self, segments: Sequence[tuple[int, int]]) -> None:
        """Says that the texts that are needed lie in new segments now, in the order of `number_needed`; the others go.

        The segments of before are dropped; their files stay for readers of before.

        Args:
            segments: number and texts of each.
        """
        number = self.version(None).number
        with self.told():
            run = self.connection.execute
            run("update segments set dropped = ? where dropped is null", (number,))
            run("delete from texts where text not in (select text from temp.needed)")
            first = 1
            for segment, count in segments:
                run("insert into segments values (?, ?, ?, null)", (segment, count, number))
                run(
                    "update texts set segment = ?, row = n.row - ? from temp.needed n "
                    "where n.text = texts.text and n.row >= ? and n.row < ?",
                    (segment, first, first, first + count),
                )
                first += count
            run("drop table temp.needed")

    def expire(self, before: int) -> None:
        """Forgets the versions before a number, and the items and texts that no other one has."""
        with self.told():
            run = self.connection.execute
            run("delete from versions where version < ?", (before,))
            run("delete from items where until <= ?", (before,))
            run("delete from texts where text not in (select text from items)")
            run(
                "update segments set dropped = ? where dropped is null and segment not in (select distinct segment from texts)",
                (before,),
            )

    def forget_dropped(self) -> None:
        """Forgets segments whose files were deleted."""
        with self.told():
            self.connection.execute("delete from segments where dropped is not null")
