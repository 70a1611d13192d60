"""The files that jobs write: where they may be, the form that their ending asks for, and which job wrote one.

A Parquet file holds the fingerprint of its job in its schema. The other forms have no room for one: `.NAME.job.json` beside the
output has it, with a checksum of the output, so that a file that was changed by hand is not taken for the job's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from distilmatch.errors import ConfigError
from distilmatch.files import checksum, move_into_place, read_json, write_json, writing

JOB = b"distilmatch.job"
ENDINGS = (".parquet", ".csv", ".tsv", ".jsonl")
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS_A_TURN = 16_384


def output_place(path: Any, name: str = "the output") -> Path:
    """A path that something can be written to, as far as can be seen before.

    Args:
        name: what messages call it.

    Raises:
        ConfigError: an empty path, one that no file can have, or one below a file.
    """
    text = str(path) if isinstance(path, str | Path) else ""
    if not text or "\0" in text:
        raise ConfigError(f"{name} is {path!r}: give the path of what is to be written")
    place = Path(text).expanduser()
    with writing(place):
        place.exists()  # a name that is too long is told here
        for parent in place.parents:
            if parent.is_dir():
                break
            if parent.exists():
                raise ConfigError(f"{name} is {place}, but {parent} is a file: give a path in a folder")
    return place


def output_file(path: Any, name: str = "the output") -> Path:
    """As `output_place`, for a file of rows.

    Raises:
        ConfigError: also a folder, or an ending that is not known.
    """
    place = output_place(path, name)
    with writing(place):
        if place.is_dir() or place.name in ("", ".", ".."):
            raise ConfigError(f"{name} is {place}, a folder: name a file, such as {place / 'scores.parquet'}")
    if place.suffix.lower() not in ("", *ENDINGS):
        raise ConfigError(
            f"{name} is {place}: {place.suffix} is no form that can be written; let it end in {', '.join(ENDINGS)}"
        )
    return place


class RowWriter(Protocol):
    """Writes tables one after another."""

    def write_table(self, table: pa.Table) -> None:
        """Adds the rows of a table."""


@contextmanager
def row_writer(path: Path, ending: str, schema: pa.Schema) -> Iterator[RowWriter]:
    """Writes a file in the form of an ending: Parquet where there is none; CSV and TSV quoted where needed; JSON lines.

    Raises:
        CacheError: it cannot be written.
    """
    with writing(path):
        if ending in ("", ".parquet"):
            with pq.ParquetWriter(path, schema) as writer:
                yield writer
            return
        with path.open("w", encoding="utf-8", newline="") as file:
            if ending == ".jsonl":
                yield _JsonLines(file)
            else:
                yield _Delimited(file, _DELIMITERS[ending], schema)


class _Delimited:
    def __init__(self, file: Any, delimiter: str, schema: pa.Schema) -> None:
        self._rows = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        self._rows.writerow(schema.names)

    def write_table(self, table: pa.Table) -> None:
        for columns in _plain_columns(table):
            self._rows.writerows(zip(*columns, strict=True))


class _JsonLines:
    def __init__(self, file: Any) -> None:
        self._file = file

    def write_table(self, table: pa.Table) -> None:
        for columns in _plain_columns(table):
            for row in zip(*columns, strict=True):
                line = dict(zip(table.column_names, row, strict=True))
                self._file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _plain_columns(table: pa.Table) -> Iterator[list[list[Any]]]:
    # fp32 by way of its shortest decimal: as a double it would show digits that it does not have.
    for start in range(0, len(table), _ROWS_A_TURN):
        rows = table.slice(start, _ROWS_A_TURN)
        yield [
            [None if number is None else float(number) for number in column.cast(pa.string()).to_pylist()]
            if pa.types.is_float32(column.type)
            else column.to_pylist()
            for column in rows.columns
        ]


def write_rows(path: Path, tables: Iterable[pa.Table], schema: pa.Schema, job: bytes, temporary: Path) -> int:
    """Writes tables to `path` in the form of its ending, atomically, as the output of a job.

    Args:
        temporary: where the file stands until it is whole, on the same file system.

    Returns:
        the number of rows.

    Raises:
        CacheError: it cannot be written.
    """
    rows = 0
    ending = path.suffix.lower()
    told = {**(schema.metadata or {}), JOB: job}
    with row_writer(temporary, ending, schema.with_metadata(told)) as writer:
        for table in tables:
            writer.write_table(table.cast(schema).replace_schema_metadata(told))
            rows += len(table)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = _told(path)
        if ending not in ("", ".parquet"):
            # Before the output: with an older output beside it, it is of no job.
            write_json(beside, {"job": job.decode(), "rows": rows, "checksum": checksum(temporary)})
        move_into_place(temporary, path)
        if ending in ("", ".parquet"):
            beside.unlink(missing_ok=True)
    return rows


def job_of(path: Path) -> bytes | None:
    """The fingerprint of the job that wrote a file; None if it was none of ours, or the file is another since."""
    owner = owner_of(path)
    return None if owner is None else owner[0]


def owner_of(path: Path) -> tuple[bytes, int] | None:
    """As `job_of`, with the number of the file's rows."""
    try:
        if path.suffix.lower() in ("", ".parquet"):
            metadata = pq.read_metadata(path)
            job = (metadata.metadata or {}).get(JOB)
            return None if job is None else (job, metadata.num_rows)
        told = read_json(_told(path))
        if told["checksum"] != checksum(path):
            return None
        return str(told["job"]).encode(), int(told["rows"])
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException):
        return None


def _told(path: Path) -> Path:
    return path.with_name(f".{path.name}.job.json")
