"""A `TupleTable` on disk, exactly: texts as memory-mapped Arrow IPC, rows as Parquet, a manifest written last.

Shape legend: n rows; s sides; c labels.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilmatch.errors import CacheError, DataError
from distilmatch.files import MANIFEST, owned_manifest, read_manifest, write_manifest, writing
from distilmatch.fingerprint import fingerprint_file
from distilmatch.types import TupleTable

FORMAT = "distilmatch-table"
FORMAT_VERSION = 1
_TEXTS, _ROWS = "texts.arrow", "rows.parquet"
_CHUNK = 16_384
TEXT_SCHEMA = pa.schema([pa.field("text", pa.large_string(), nullable=False)])


class MappedTexts(Sequence[str]):
    """The texts of an Arrow IPC file, read from the memory map as they are asked for; cheap to pickle.

    Args:
        checked: leaves out the look through the whole file, for one that has been looked through.

    Raises:
        CacheError: a file of something else, or texts that point outside it.
    """

    def __init__(self, path: str | Path, checked: bool = False) -> None:
        self._path = str(path)
        self._texts: pa.ChunkedArray = mapped_column(path, TEXT_SCHEMA, checked)

    def __len__(self) -> int:
        return len(self._texts)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        position = int(index)
        if not -len(self) <= position < len(self):
            raise IndexError(index)
        text: str = self._texts[position % len(self)].as_py()
        return text

    def __iter__(self) -> Iterator[str]:
        for chunk in self._texts.iterchunks():
            for start in range(0, len(chunk), _CHUNK):
                yield from chunk.slice(start, _CHUNK).to_pylist()

    def __reduce__(self) -> tuple[type[MappedTexts], tuple[str, bool]]:
        return type(self), (self._path, True)


def mapped_column(path: str | Path, schema: pa.Schema, checked: bool = False) -> pa.ChunkedArray:
    """The only column of an Arrow IPC file, memory-mapped.

    Arrow believes the offsets of a file: one that is damaged or crafted would have it read outside the file and crash, so
    they are looked through once.

    Raises:
        CacheError: a file of another schema, or values that point outside it.
        OSError, ArrowException: it cannot be read.
    """
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    if table.schema != schema:
        raise CacheError(
            f"{path} is damaged: it holds {table.schema.to_string()!r}, not {schema.to_string()!r}; make it anew"
        )
    if not checked:
        try:
            table.validate(full=True)
        except pa.ArrowException as error:
            raise CacheError(f"{path} is damaged: {error}; make it anew") from error
        if table.column(0).null_count:
            raise CacheError(f"{path} is damaged: {table.column(0).null_count} of its values are missing; make it anew")
    return table.column(0)


def save_table(table: TupleTable, path: str | Path) -> None:
    """Writes `table` to the folder `path`, replacing a table there; killed at any point it leaves no half table.

    The texts of `table` may come from the very folder that is written.

    Raises:
        DataError: a text that is no valid Unicode.
        CacheError: `path` is no folder, holds other things than a table, or cannot be written.
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file; a table is kept in a folder: give another path")
    if (folder / MANIFEST).exists():
        owned_manifest(folder, FORMAT, "table")
    files: dict[str, Any] = {}
    written: dict[str, Callable[[str], None]] = {
        _TEXTS: partial(write_texts, texts=table.texts),
        _ROWS: _write_rows(table),
    }
    temporaries = {}
    try:
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Whole files under other names first: killed here, the table that was there stays.
            for name, write in written.items():
                handle, temporaries[name] = tempfile.mkstemp(dir=folder, prefix=f".{name}.")
                os.close(handle)
                write(temporaries[name])
                files[name] = {"bytes": os.path.getsize(temporaries[name]), "hash": fingerprint_file(temporaries[name])}
            # From here to the new manifest the folder reads as unfinished.
            (folder / MANIFEST).unlink(missing_ok=True)
            for name, temporary in temporaries.items():
                os.chmod(temporary, 0o644)
                os.replace(temporary, folder / name)
    finally:
        for temporary in temporaries.values():
            Path(temporary).unlink(missing_ok=True)
    write_manifest(
        folder,
        FORMAT,
        FORMAT_VERSION,
        side_names=list(table.side_names),
        texts=len(table.texts),
        rows=len(table),
        teacher_labels=None if table.teacher is None else int(table.teacher.shape[1]),
        columns=[n for n in ("gold", "teacher", "queries", "blocks", "ids") if getattr(table, n) is not None],
        files=files,
    )


def write_texts(file: str | Path, texts: Iterable[str]) -> None:
    """Writes texts as an Arrow IPC file, as `MappedTexts` reads it, a chunk of them in memory at a time.

    Raises:
        DataError: a text that is no valid Unicode.
    """
    every = iter(texts)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, TEXT_SCHEMA) as writer:
        while chunk := list(islice(every, _CHUNK)):
            try:
                column = pa.array(chunk, pa.large_string())
            except UnicodeEncodeError as error:
                raise DataError(f"a text is no valid Unicode and cannot be saved: {error}") from error
            writer.write_batch(pa.record_batch([column], schema=TEXT_SCHEMA))


def _write_rows(table: TupleTable) -> Callable[[str], None]:
    columns: dict[str, pa.Array] = {}
    for side in range(table.sides):
        columns[f"side_{side}"] = pa.array(np.ascontiguousarray(table.rows[:, side], dtype=np.int64))
    if table.gold is not None:
        columns["gold"] = pa.array(np.asarray(table.gold, dtype=np.float32))
    if table.teacher is not None:
        for label, logits in enumerate(np.asarray(table.teacher, dtype=np.float32).T):
            columns[f"teacher_{label}"] = pa.array(np.ascontiguousarray(logits))
    for name in ("queries", "blocks"):
        if getattr(table, name) is not None:
            columns[name] = pa.array(np.asarray(getattr(table, name), dtype=np.int64))
    if table.ids is not None:
        for side in range(table.sides):
            columns[f"id_{side}"] = pa.array(list(table.ids[:, side]), pa.large_string())

    def write(file: str) -> None:
        pq.write_table(pa.table(columns), file, compression="zstd")

    return write


def read_saved_table(path: str | Path) -> TupleTable:
    """Reads what `save_table` wrote: the same values and dtypes; the texts stay on disk, memory-mapped.

    Raises:
        CacheError: no finished table in the folder, or files that are damaged or from elsewhere.
    """
    folder = Path(path)
    manifest = read_manifest(folder, FORMAT, FORMAT_VERSION, "table")
    try:
        for name, expected in manifest["files"].items():
            file = folder / name
            size = file.stat().st_size
            if size != expected["bytes"] or fingerprint_file(file) != expected["hash"]:
                raise CacheError(f"{file} is damaged: not what its manifest describes; write the table anew")
        texts = MappedTexts(folder / _TEXTS)
        stored = pq.read_table(folder / _ROWS)
        if _columns(manifest, stored.num_columns) != stored.column_names:
            raise CacheError(
                f"{folder} is damaged: {_ROWS} has other columns than its manifest says; write the table anew"
            )
        table = _table(manifest, texts, stored)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, OSError, pa.ArrowException) as error:
        raise CacheError(f"{folder} is damaged ({type(error).__name__}: {error}); write the table anew") from error
    outside = len(table) and not 0 <= int(table.rows.min()) <= int(table.rows.max()) < len(texts)
    if outside or len(texts) != manifest["texts"] or len(table) != manifest["rows"]:
        raise CacheError(f"{folder} is damaged: its rows and its texts do not belong together; write the table anew")
    return table


def _columns(manifest: dict[str, Any], most: int) -> list[str]:
    """The columns of the rows that a manifest describes, in the order of `_write_rows`."""
    sides, present, labels = manifest["side_names"], manifest["columns"], manifest["teacher_labels"]
    if not (isinstance(sides, list) and sides and all(isinstance(name, str) for name in sides)):
        raise TypeError(f"side_names are {sides!r}")
    columns = [f"side_{side}" for side in range(len(sides))]
    if "gold" in present:
        columns.append("gold")
    columns += [f"teacher_{label}" for label in range(min(labels, most) if "teacher" in present else 0)]
    columns += [name for name in ("queries", "blocks") if name in present]
    return columns + [f"id_{side}" for side in range(len(sides)) if "ids" in present]


def _table(manifest: dict[str, Any], texts: Sequence[str], stored: pa.Table) -> TupleTable:
    names = tuple(manifest["side_names"])
    present = manifest["columns"]
    stored_labels = sum(name.startswith("teacher_") for name in stored.column_names)

    def numbers(prefix: str, count: int, dtype: type) -> np.ndarray:
        columns = [stored.column(f"{prefix}_{i}").to_numpy() for i in range(count)]
        return np.stack(columns, axis=1).astype(dtype) if columns else np.empty((stored.num_rows, 0), dtype)

    def column(name: str) -> np.ndarray:
        return stored.column(name).to_numpy().copy()  # Arrow's own memory cannot be written to

    ids = None
    if "ids" in present:
        ids = np.empty((stored.num_rows, len(names)), dtype=object)
        for side in range(len(names)):
            ids[:, side] = stored.column(f"id_{side}").to_pylist()
    return TupleTable(
        texts=texts,
        rows=numbers("side", len(names), np.int64),
        side_names=names,
        gold=column("gold") if "gold" in present else None,
        teacher=numbers("teacher", stored_labels, np.float32) if "teacher" in present else None,
        queries=column("queries") if "queries" in present else None,
        blocks=column("blocks") if "blocks" in present else None,
        ids=ids,
    )
