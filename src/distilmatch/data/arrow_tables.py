"""Arrow, Parquet and tables in memory (pandas, polars, Arrow): their columns, and their rows with every value as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilmatch.data import sources
from distilmatch.data.sources import RawRow, Source
from distilmatch.data.text_files import check_regular
from distilmatch.errors import DataError

_KNOWN_EXTENSIONS = ("arrow.json", "arrow.uuid", "arrow.bool8")
_NARROW = {pa.float16(): np.float16, pa.float32(): np.float32}


def open_parquet(path: Path, stem: str) -> Source:
    """A Parquet file, read batch by batch.

    Raises:
        DataError: no such file, or no readable Parquet.
    """
    check_regular(path)
    try:
        schema = pq.read_schema(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error

    def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
        number = 0
        try:
            with pq.ParquetFile(path, pre_buffer=False) as file:
                for batch in file.iter_batches(sources.BATCH_ROWS, columns=None if wanted is None else list(wanted)):
                    yield from batch_rows(batch, number)
                    number += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} cannot be read past row {number}: {error}; the file is damaged") from error

    return Source(
        name=str(path),
        columns=tuple(schema.names),
        read=read,
        class_names=class_names(schema),
        not_texts=not_texts(schema),
        folder=path.parent,
        stem=stem,
    )


def open_table(source: Any) -> Source | None:
    """A pandas or polars DataFrame, an Arrow table or record batch, read by position; None for anything else.

    Raises:
        DataError: two columns of one name, or a table that can be read only once or has not been computed.
    """
    kind = f"{type(source).__module__.partition('.')[0]}.{type(source).__name__}"
    if kind in ("pyarrow.FileSystemDataset", "pyarrow.InMemoryDataset", "pyarrow.UnionDataset"):
        raise DataError(f"cannot read rows from a {kind}: give what its .to_table() gives")
    if kind in ("polars.LazyFrame", "pyarrow.RecordBatchReader", "pandas.Series", "polars.Series"):
        ways = {
            "polars.LazyFrame": ".collect()",
            "pyarrow.RecordBatchReader": ".read_all()",
        }
        way = f"give what its {ways[kind]} gives" if kind in ways else "give a table with columns, such as .to_frame()"
        raise DataError(f"cannot read rows from a {kind}: {way}")
    if kind == "pandas.DataFrame":
        columns = _pandas_columns(source)
    elif kind == "polars.DataFrame":
        columns = [(name, _converted(source.get_column(name).to_arrow)) for name in source.columns]
    elif isinstance(source, pa.Table | pa.RecordBatch):
        columns = list(zip(source.schema.names, source.columns, strict=True))
    else:
        return None
    schema = source.schema if isinstance(source, pa.Table | pa.RecordBatch) else None
    return _open_columns(kind, columns, {} if schema is None else class_names(schema))


def _pandas_columns(frame: Any) -> list[tuple[str, Any]]:
    return [
        (str(name), _converted(partial(pa.array, frame.iloc[:, place], from_pandas=True)))
        for place, name in enumerate(frame.columns)
    ]


def _converted(make: Callable[[], Any]) -> Any:
    """A column as Arrow, or why it cannot be had."""
    try:
        return make()
    except Exception as error:  # pandas, polars and Arrow share no base
        return f"{type(error).__name__}: {error}"


def _open_columns(kind: str, columns: list[tuple[str, Any]], names: dict[str, tuple[str, ...]]) -> Source:
    where = f"the {kind}"
    usable = {name: column for name, column in columns if not isinstance(column, str)}
    broken = {name: column for name, column in columns if isinstance(column, str)}

    def read(wanted: Sequence[str] | None) -> Iterator[RawRow]:
        chosen = list(usable) if wanted is None else list(wanted)
        for name in chosen:
            if name in broken:
                raise DataError(f"{where}: column {name!r} cannot be read ({broken[name]}); give it one plain type")
        number = 0
        for batch in pa.table({name: usable[name] for name in chosen}).to_batches(sources.BATCH_ROWS):
            yield from batch_rows(batch, number)
            number += batch.num_rows

    types = pa.schema([(name, column.type) for name, column in usable.items()])
    return Source(
        name=where,
        columns=tuple(name for name, _ in columns),
        read=read,
        class_names=names,
        not_texts=not_texts(types) | set(broken),
        in_memory=True,
    )


def not_texts(schema: pa.Schema) -> frozenset[str]:
    """The columns whose type cannot hold texts."""
    return frozenset(field.name for field in schema if not _may_hold_texts(field.type))


def _may_hold_texts(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return _may_hold_texts(kind.value_type)
    return any(check(kind) for check in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def class_names(schema: pa.Schema) -> dict[str, tuple[str, ...]]:
    """Names that the integers of a column stand for, where `datasets` wrote them into the schema."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            str(name): tuple(map(str, feature["names"]))
            for name, feature in features.items()
            if isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")
        }
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def batch_rows(batch: pa.RecordBatch | pa.Table, before: int) -> Iterator[RawRow]:
    """The rows of a batch; `before` rows stand before it. One with a value that cannot be read says so."""
    names = batch.schema.names
    try:
        columns = [_values(name, column) for name, column in zip(names, batch.columns, strict=True)]
    except _UnreadableValue:
        for place in range(batch.num_rows):
            yield _one_row(batch.slice(place, 1), before + place + 1)
        return
    for row, values in enumerate(_transposed(columns, batch.num_rows), start=before + 1):
        yield RawRow(row=row, values=dict(zip(names, values, strict=True)))


class _UnreadableValue(Exception):
    """Why a value of a column cannot be had in Python."""


def _transposed(columns: list[list[Any]], rows: int) -> Iterable[Sequence[Any]]:
    return zip(*columns, strict=True) if columns else [()] * rows


def _values(name: str, column: Any) -> list[Any]:
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType) and kind.extension_name not in _KNOWN_EXTENSIONS:
        raise _UnreadableValue(
            f"column {name!r} is of the extension type {kind.extension_name}; write it as plain strings or numbers"
        )
    try:
        values = column.to_pylist()
    except UnicodeDecodeError as error:
        raise _UnreadableValue(f"invalid UTF-8 in column {name!r}") from error
    except Exception as error:  # what conversions raise has no common base
        raise _UnreadableValue(f"column {name!r} holds a {kind} that cannot be read: {error}") from error
    narrow = _NARROW.get(kind)  # kept as such: how many digits of an id can be trusted depends on it
    return values if narrow is None else [None if value is None else narrow(value) for value in values]


def _one_row(batch: pa.RecordBatch | pa.Table, row: int) -> RawRow:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        try:
            (values[name],) = _values(name, column)
        except _UnreadableValue as error:
            cause = error.__cause__
            original = f"{name}: {cause.object!r}" if isinstance(cause, UnicodeDecodeError) else f"{name}: ?"
            return RawRow(row=row, original=original, problem=str(error), kind=f"value {name}")
    return RawRow(row=row, values=values)
