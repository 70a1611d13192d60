"""Rows of a table by the columns that a reader names: tuples, texts of one side alone, or ids without texts.

`tables.iter_rows` reads tuples, whose texts are never absent; the jobs also read a table of one text column and a table
of ids. What a row, a bad row and a quarantine are is the same for all of them: see `good_rows`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Any

from distilmatch.config.tables import TableConfig, TaskConfig
from distilmatch.data.checking import RowChecker, checked_rows
from distilmatch.data.column_names import missing_column
from distilmatch.data.columns import (
    Columns,
    begin_reading,
    described,
    only_text_column,
    peek,
    usual_columns,
)
from distilmatch.data.quarantine import bad_rows_of
from distilmatch.data.readers import open_source
from distilmatch.data.sources import PEEKED_ROWS, RawRow, Source, say_once
from distilmatch.data.templates import FieldWatch
from distilmatch.errors import BadRow, BadRowsError, ConfigError, DataError
from distilmatch.text_templates import Template
from distilmatch.types import TableRow

logger = logging.getLogger(__name__)


def rereadable(source: Any) -> Any:
    """`source`, or a list of its rows if it can be read only once."""
    return list(source) if isinstance(source, Iterator) else source


def _available(opened: Source, config: TableConfig) -> tuple[tuple[str, ...], list[RawRow]]:
    first, _ = peek(opened, config)
    if opened.columns is not None:
        return opened.columns, first
    if not first:
        raise DataError(f"{opened.name} has no rows; give a source with rows")
    return usual_columns(first, config), first


def text_column_of(source: Any, config: TableConfig, text_column: str | None, id_column: str | None) -> str:
    """The column that holds the texts: the one named, else one called "text", else the only one that is not the id, else the
    only one that holds texts and is not called like an id or a label.

    Raises:
        DataError: the choice is not clear.
        BadRowsError: no row can be read.
    """
    if text_column is not None:
        return text_column
    opened = open_source(source, config)
    available, first = _available(opened, config)
    free = [name for name in available if name != id_column]
    column = only_text_column(free, first, opened.not_texts) if free else None
    if column is None:
        unread = [raw for raw in first if raw.values is None]
        if unread and not available:
            raise BadRowsError([BadRow(file=opened.name, row=raw.row, reason=raw.problem or "") for raw in unread])
        raise DataError(
            f"{opened.name} has the columns {', '.join(free) or '(none)'}; say which one to encode: `text_column`"
        )
    return column


def one_text(
    source: Any,
    config: TableConfig,
    text_column: str | None = None,
    id_column: str | None = None,
    text_template: str | None = None,
) -> Columns:
    """What is read of a table of single texts: a column of texts, or a template of several, and the ids if they are named.

    Raises:
        ConfigError: a column and a template, or no template.
        DataError, BadRowsError: as `text_column_of`.
    """
    ids = () if id_column is None else (id_column,)
    if text_template is None:
        return Columns(texts=(text_column_of(source, config, text_column, id_column),), ids=ids)
    if text_column is not None:
        raise ConfigError(
            f"a text is the column {text_column!r} or made by a template, not both: leave one of them out"
        )
    return Columns.of_templates([Template.of(text_template)], ids=ids)


def tuple_columns(source: Any, config: TableConfig) -> Columns:
    """The columns that `iter_rows` reads from `source`.

    Raises:
        DataError: as `iter_rows`.
    """
    return begin_reading(open_source(source, config), config)[0]


def iter_columns(source: Any, columns: Columns, config: TableConfig) -> Iterator[TableRow]:
    """The good rows of `source`, in its order, with the texts and ids that `columns` names, which may be no texts.

    Bad rows are handled as in `tables.iter_rows`: with "stop" no row comes after the first bad one and the error at the
    end lists all of them; with "quarantine" they go to the side file.

    Raises:
        DataError: a source or column that is not there, or no rows.
        BadRowsError: at the end, bad rows (`on_bad_rows: stop`).
    """
    opened = open_source(source, config)
    rows = opened.read(None if opened.columns is None else _present(opened, columns))
    first = list(islice(rows, PEEKED_ROWS if columns.templates else 1))
    if not first:
        raise DataError(f"{opened.name} has no rows; give a source with rows")
    FieldWatch(columns.templates, opened).warn(row.values for row in first if row.values is not None)
    yield from good_rows(opened, columns, first, chain(first, rows), config)


def _present(opened: Source, columns: Columns) -> tuple[str, ...]:
    assert opened.columns is not None
    for name in columns.wanted():
        if name not in opened.columns:
            raise DataError(f"{opened.name} has {missing_column(name, opened.columns)}{opened.hint}")
    return columns.wanted()


def good_rows(
    opened: Source,
    columns: Columns,
    first: list[RawRow],
    rows: Iterable[RawRow],
    config: TableConfig,
    task: TaskConfig | None = None,
) -> Iterator[TableRow]:
    """The rows of an opened source that can be used; what is read goes to the log, bad rows where `on_bad_rows` has them.

    Args:
        first: some of the first rows, of which one is shown.
        rows: all of them, from the start.

    Raises:
        ConfigError, DataError: at once, as `RowChecker`.
        BadRowsError, DataError: at the end, as `checked_rows`.
    """
    checker = RowChecker(columns, config, task, opened)
    say_once(logger, opened, described(columns, first))
    return checked_rows(rows, checker, bad_rows_of(opened, config), opened.name)


def in_batches(rows: Iterable[TableRow], size: int) -> Iterator[list[TableRow]]:
    """Lists of `size` rows, the last one shorter."""
    stream = iter(rows)
    while batch := list(islice(stream, size)):
        yield batch
