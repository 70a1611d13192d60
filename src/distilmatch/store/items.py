"""Items: what the texts of a representation folder stand for.

With an id column each distinct id is an item, and so is a row without one; without ids each row of the table is one. A text is
encoded once, whatever number of items it has.

Shape legend: n texts of the folder; i items.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distilmatch.errors import CacheError
from distilmatch.files import move_into_place, writing
from distilmatch.store.integrity import check_file
from distilmatch.store.layout import ITEMS_NAME, ITEMS_SCHEMA, TEMPORARY_PREFIX, read_batches
from distilmatch.store.scratch import LongColumn, LongStrings

_ROWS_A_GROUP = 65_536


@dataclass(frozen=True, kw_only=True)
class Items:
    """The items of a folder, in the order in which equal scores are ranked.

    Attributes:
        rows: (i,) int64, the row of the table, from 0, in which each stands first; never falling.
        texts: (i,) int64, the folder's row of its text. Every text has an item, and of two texts the one of the lower row
            has the earlier first item.
        ids: (i,) strings, null for an item without an id.
    """

    rows: np.ndarray
    texts: np.ndarray
    ids: pa.ChunkedArray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def has_ids(self) -> bool:
        """Whether any item has an id."""
        return bool(self.ids.null_count < len(self))

    def first_of_texts(self) -> Items:
        """One item a text, its first: (n,)."""
        first = np.unique(self.texts, return_index=True)[1]
        return Items(rows=self.rows[first], texts=self.texts[first], ids=self.ids.take(pa.array(first)))


class ItemsWriter:
    """Writes items as they come, a group of rows at a time; they have their name in the folder from `close` on."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ITEMS_NAME
        self._temporary = folder / f"{TEMPORARY_PREFIX}{ITEMS_NAME}"
        self._file: pq.ParquetWriter | None = None
        self._rows: list[int] = []
        self._texts: list[int] = []
        self._ids: list[str | None] = []
        self._last_row = -1
        self.texts = 0  # those that have an item

    def add(self, row: int, text: int, id: str | None) -> None:
        """Adds an item.

        Raises:
            CacheError: rows that do not ascend, or a text before the one of the row above it; or they cannot be written.
        """
        if row <= self._last_row or not 0 <= text <= self.texts:
            raise CacheError(
                f"{self._path}: item of row {row} and text {text} after row {self._last_row} and {self.texts} texts; "
                "rows must ascend, and texts come in the folder's order"
            )
        self._last_row = row
        self.texts = max(self.texts, text + 1)
        self._rows.append(row)
        self._texts.append(text)
        self._ids.append(id)
        if len(self._rows) >= _ROWS_A_GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._rows:
            return
        with writing(self._path):
            if self._file is None:
                self._file = pq.ParquetWriter(self._temporary, ITEMS_SCHEMA)
            columns = [pa.array(self._rows, pa.int64()), pa.array(self._texts, pa.int64())]
            columns.append(pa.array(self._ids, pa.string()))
            self._file.write_table(pa.Table.from_arrays(columns, schema=ITEMS_SCHEMA))
        self._rows, self._texts, self._ids = [], [], []

    def close(self, texts: int) -> Path | None:
        """Gives the file its name, where there are items.

        Args:
            texts: n; every one must have an item.

        Raises:
            CacheError: one has none, or the file cannot be written.
        """
        if self._last_row < 0:
            return None
        if self.texts != texts:
            raise CacheError(f"{self._path}: items of {self.texts} texts, the folder has {texts}; each needs one")
        self._flush()
        assert self._file is not None
        with writing(self._path):
            self._file.close()
            move_into_place(self._temporary, self._path)
        return self._path

    def abandon(self) -> None:
        """Drops what was written."""
        if self._file is not None:
            with suppress(OSError, pa.ArrowException):  # on a full disk there is nothing to keep
                self._file.close()
            self._temporary.unlink(missing_ok=True)
            self._file = None


def read_items(folder: Path, texts: int, expected: str | None) -> Items:
    """The items file of a folder of `texts` texts; what is long of it is mapped (`scratch`).

    Raises:
        CacheError: it is damaged, or names a text that the folder does not have.
    """
    path = folder / ITEMS_NAME
    check_file(path, expected)
    found = ItemColumns(folder)
    damaged = f"{path} is damaged: %s; encode the texts again (overwrite)"
    row, most = -1, -1  # the last row, and the largest text
    for table in read_batches(path, ITEMS_SCHEMA):
        if table["row"].null_count or table["text"].null_count:
            raise CacheError(damaged % "a row or text is missing")
        rows, places = table["row"].to_numpy(), table["text"].to_numpy()
        if len(rows) and (np.diff(rows, prepend=row) <= 0).any():
            raise CacheError(damaged % "its rows do not ascend")
        before = np.maximum.accumulate(np.concatenate([[most], places]))
        if (places < 0).any() or (np.diff(before) > 1).any():
            raise CacheError(damaged % f"its texts are not the rows 0 to {texts - 1} of the folder in their order")
        row, most = int(rows[-1]) if len(rows) else row, int(before[-1])
        found.extend(rows, places, table["id"])
    if most != texts - 1:
        raise CacheError(damaged % f"its texts are not the rows 0 to {texts - 1} of the folder in their order")
    return found.finished()


class ItemColumns:
    """Items that come in parts, such as those of a file or of a catalogue."""

    def __init__(self, folder: Path) -> None:
        """`folder`: as of `scratch.LongColumn`."""
        self._rows, self._texts = LongColumn(np.int64, folder), LongColumn(np.int64, folder)
        self._ids = LongStrings(folder)

    def extend(self, rows: np.ndarray, texts: np.ndarray, ids: pa.Array) -> None:
        """Adds items, as `Items` has them."""
        self._rows.extend(rows)
        self._texts.extend(texts)
        self._ids.extend(ids)

    def finished(self) -> Items:
        """All of them."""
        return Items(rows=self._rows.finished(), texts=self._texts.finished(), ids=self._ids.finished())


def items_of_texts(ids: pa.ChunkedArray, aliases: pa.Table | None) -> Items:
    """The items of a folder that does not name them: its texts, and the further ids of each, by the folder's row numbers."""
    rows = np.arange(len(ids), dtype=np.int64)
    if aliases is None:
        return Items(rows=rows, texts=rows, ids=ids)
    texts = np.concatenate([rows, aliases["row"].to_numpy()])
    order = np.argsort(texts, kind="stable")
    names = pa.chunked_array([*ids.chunks, *aliases["id"].chunks], pa.string())
    return Items(rows=texts[order], texts=texts[order], ids=names.take(pa.array(order)))
