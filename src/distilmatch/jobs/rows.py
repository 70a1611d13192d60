"""Rows of a table by the columns that a job names: texts of one side alone, or ids without texts.

`data.tables.iter_rows` reads tuples, whose texts are never absent; the jobs also read a table of one text column and
a table of ids. What a row, a bad row and a quarantine are is the same.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from distilmatch.config import TableConfig
from distilmatch.data.checking import Columns, RowChecker, RowProblem, resolve_columns, usual_columns
from distilmatch.data.quarantine import Quarantine, quarantine_path
from distilmatch.data.readers import Source, open_source
from distilmatch.errors import BadRow, BadRowsError, DataError
from distilmatch.types import TableRow

logger = logging.getLogger(__name__)

_PEEKED_ROWS = 100
_KEPT_BAD_ROWS = 10_000


def rereadable(source: Any) -> Any:
    """`source`, or a list of its rows if it can be read only once."""
    return list(source) if isinstance(source, Iterator) else source


def available_columns(source: Any, config: TableConfig) -> tuple[str, ...]:
    """The columns of `source`: its header, or the keys that most of its first rows have.

    Raises:
        DataError: no such source, or one without rows.
    """
    opened = open_source(source, config)
    if opened.columns is not None:
        return opened.columns
    peeked = list(islice(opened.read(None), _PEEKED_ROWS))
    if not peeked:
        raise DataError(f"{opened.name} has no rows; give a source with rows")
    return usual_columns(peeked, config)


def text_column_of(source: Any, config: TableConfig, text_column: str | None, id_column: str | None) -> str:
    """The column that holds the texts: the one named, else one called "text", else the only one that is not the id.

    Raises:
        DataError: the choice is not clear.
    """
    if text_column is not None:
        return text_column
    free = [name for name in available_columns(source, config) if name != id_column]
    if "text" in free:
        return "text"
    if len(free) == 1:
        return free[0]
    name = open_source(source, config).name
    raise DataError(f"{name} has the columns {', '.join(free) or '(none)'}; say which one to encode: `text_column`")


def tuple_columns(source: Any, config: TableConfig) -> Columns:
    """The columns that `iter_rows` reads from `source`.

    Raises:
        DataError: as `iter_rows`.
    """
    opened = open_source(source, config)
    return resolve_columns(available_columns(source, config), config, opened.name, complete=opened.columns is not None)


def iter_columns(source: Any, columns: Columns, config: TableConfig) -> Iterator[TableRow]:
    """The good rows of `source`, in its order, with the texts and ids that `columns` names, which may be no texts.

    Bad rows are handled as in `data.tables.iter_rows`: with "stop" no row comes after the first bad one and the error
    at the end lists all of them; with "quarantine" they go to the side file.

    Raises:
        DataError: a source or column that is not there, or no rows.
        BadRowsError: at the end, bad rows (`on_bad_rows: stop`).
    """
    opened = open_source(source, config)
    rows = opened.read(None if opened.columns is None else _present(opened, columns))
    first = list(islice(rows, 1))
    if not first:
        raise DataError(f"{opened.name} has no rows; give a source with rows")
    checker = RowChecker(columns, config, None, opened.name, opened.class_names)
    quarantine = None
    if config.on_bad_rows == "quarantine":
        quarantine = Quarantine(quarantine_path(opened, config), opened.name)
    kept: list[BadRow] = []
    bad = good = 0
    try:
        for raw in chain(first, rows):
            try:
                checked = checker.check(raw)
            except RowProblem as problem:
                bad += 1
                row = BadRow(file=opened.name, row=raw.row, reason=str(problem), raw=raw.text())
                if quarantine is not None:
                    quarantine.add(row)
                elif len(kept) < _KEPT_BAD_ROWS:
                    kept.append(row)
                continue
            good += 1
            if quarantine is not None or not bad:
                yield from checked
    finally:
        if quarantine is not None:
            quarantine.close()
    if kept:
        raise BadRowsError(kept, bad)
    if quarantine is not None and bad:
        logger.warning("%s: %d of %d rows were left out; they are in %s", opened.name, bad, good + bad, quarantine.path)
    if not good:
        raise DataError(f"{opened.name} has no row that can be used: all {bad} are bad")


def _present(opened: Source, columns: Columns) -> tuple[str, ...]:
    assert opened.columns is not None
    for name in columns.wanted():
        if name not in opened.columns:
            raise DataError(f"{opened.name} has no column {name!r} (columns: {', '.join(opened.columns)})")
    return columns.wanted()


def shown(text: str) -> str:
    """A text as an error quotes it: one line, at most 80 characters."""
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


def in_batches(rows: Iterable[TableRow], size: int) -> Iterator[list[TableRow]]:
    """Lists of `size` rows, the last one shorter."""
    stream = iter(rows)
    while batch := list(islice(stream, size)):
        yield batch
