"""What the table of a representation folder says of its items beside their texts: a column to compare by, or a condition.

Shape legend: i items.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from distilmatch.config.tables import Quoting, TableConfig
from distilmatch.data.column_names import missing_column
from distilmatch.data.readers import open_source
from distilmatch.data.sources import RawRow, Source
from distilmatch.data.values import is_missing
from distilmatch.errors import ConfigError, DataError
from distilmatch.store.catalogue import only_reads
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.items import Items
from distilmatch.store.opened import opened_folder
from distilmatch.store.reading import StoreVersion

_BATCH = 4096


def folder_column(
    source: Any,
    folder: RepresentationFolder | str | Path,
    column: str,
    *,
    distinct_texts: bool = False,
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
) -> list[Any]:
    """(i,) values of a column for the items of a folder; None where the row has none. Of an item on several rows the first.

    Args:
        source: the table that the folder was encoded from; of a store's version itself, for the columns that it keeps.
        distinct_texts: of the first item of each text alone, as `match_folders` with this setting.
        split, delimiter, quoting: as `encode_table` was given them.

    Raises:
        DataError: no such column, or a table of fewer rows than the folder was encoded from.
    """
    if isinstance(source, StoreVersion):
        return _of_items(source, distinct_texts, source.store.column(column, source.version.number))
    opened, items = _opened(
        source, folder, distinct_texts, TableConfig(split=split, delimiter=delimiter, quoting=quoting)
    )
    values: list[Any] = []
    known = opened.columns is not None and column in opened.columns
    if opened.columns is not None and not known:
        raise DataError(f"{opened.name} has {missing_column(column, opened.columns)}{opened.hint}")
    for raw in _rows_of(opened, items, (column,) if known else None):
        known |= column in raw
        values.append(raw.get(column))
    if not known:
        raise DataError(f"{opened.name}: no row has a column {column!r}")
    return values


def folder_filter(
    source: Any,
    folder: RepresentationFolder | str | Path,
    condition: str,
    *,
    distinct_texts: bool = False,
    split: str = "train",
    delimiter: str | None = None,
    quoting: Quoting = "auto",
) -> np.ndarray:
    """(i,) bool, whether a condition holds for each item of a folder.

    Args:
        condition: an SQL expression over the table's columns, as SQLite reads it: `price < 20 and language = 'en'`. A text that
            is a number counts as one, an empty one as absent. What is neither true nor false, such as `price < 20` without a
            price, does not hold.
        source, distinct_texts, split, delimiter, quoting: as in `folder_column`.

    Raises:
        ConfigError: a condition that cannot be read, or a column that the table does not have.
        DataError: as `folder_column`.
    """
    if isinstance(source, StoreVersion):
        holds = source.store.where(condition, source.version.number)
        return np.array(_of_items(source, distinct_texts, holds.tolist()), dtype=bool)
    opened, items = _opened(
        source, folder, distinct_texts, TableConfig(split=split, delimiter=delimiter, quoting=quoting)
    )
    columns = opened.columns
    if columns is None:
        columns = tuple(dict.fromkeys(name for raw in opened.read(None) for name in raw.values or {}))
    holds = np.zeros(len(items), dtype=bool)
    rows = _rows_of(opened, items, None)
    with closing(sqlite3.connect(":memory:")) as database:
        quoted = ['"' + name.replace('"', '""') + '"' for name in columns]
        try:
            database.execute(f"create table rows ({', '.join(f'{name} numeric' for name in quoted)})")
            database.set_authorizer(only_reads)
            start = 0
            while batch := list(islice(rows, _BATCH)):
                database.set_authorizer(None)
                database.execute("delete from rows")
                places = ", ".join("?" * len(columns))
                plain = ([_plain(row.get(name)) for name in columns] for row in batch)
                database.executemany(f"insert into rows values ({places})", plain)
                first = database.execute("select min(rowid) from rows").fetchone()[0]
                database.set_authorizer(only_reads)
                for (row,) in database.execute(f"select rowid from rows where ({condition}\n)"):
                    holds[start + row - first] = True
                start += len(batch)
        except sqlite3.Error as error:
            raise ConfigError(
                f"the condition {condition!r} cannot be used on {opened.name}: {error}; its columns are {', '.join(columns)}"
            ) from None
    return holds


def _of_items(version: StoreVersion, distinct_texts: bool, values: list[Any]) -> list[Any]:
    if not distinct_texts:
        return values
    first = np.unique(version.item_table.texts, return_index=True)[1]
    return [values[place] for place in first.tolist()]


def _plain(value: Any) -> Any:
    if is_missing(value) or value == "":
        return None
    if isinstance(value, int | float | str):
        return value
    return json.dumps(value, ensure_ascii=False, default=str)


def _opened(
    source: Any, folder: RepresentationFolder | str | Path, distinct_texts: bool, config: TableConfig
) -> tuple[Source, Items]:
    items = opened_folder(folder).item_table
    return open_source(source, config), items.first_of_texts() if distinct_texts else items


def _rows_of(opened: Source, items: Items, columns: tuple[str, ...] | None) -> Iterator[dict[str, Any]]:
    """The values of the row of each item.

    Raises:
        DataError: the table ends before, or has no values there.
    """
    rows: Iterator[RawRow] = opened.read(columns)
    for number in items.rows.tolist():
        raw = next((raw for raw in rows if raw.row - 1 >= number), None)
        if raw is None or raw.row - 1 != number or raw.values is None:
            raise DataError(
                f"{opened.name} has no row {number + 1} that can be read, from which an item was encoded: give the table that "
                "the folder was encoded from"
            )
        yield dict(raw.values)
