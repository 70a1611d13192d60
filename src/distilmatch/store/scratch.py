"""Long columns that are made once and then read: in memory while they are short, else in files without a name, mapped.

A mapped file is the system's to hold or to drop, so that the numbers of ten million items cost a process nothing of its own.
A file without a name goes when nobody has it open, after a kill too.

Shape legend: n values of a column.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa

from distilmatch.files import reserve_open, writing

_IN_MEMORY = 2**22  # bytes of a column, above which it goes to a file
_PREFIX = ".reading-"


class LongColumn:
    """Numbers of one dtype that come in parts."""

    def __init__(self, dtype: np.dtype | type, folder: Path) -> None:
        """`folder`: where the file is, if there must be one and it can be written to; else where the system has its own."""
        self._dtype, self._folder = np.dtype(dtype), folder
        self._length = 0
        self._parts: list[np.ndarray] = []  # while there is no file
        self._file: IO[bytes] | None = None

    def __len__(self) -> int:
        return self._length

    def extend(self, values: np.ndarray) -> None:
        """Adds values.

        Raises:
            CacheError: the disk is full.
        """
        self._parts.append(np.array(values, dtype=self._dtype))
        self._length += len(values)
        if self._file is None and self._length * self._dtype.itemsize > _IN_MEMORY:
            self._file = _nameless(self._folder)
        if self._file is not None:
            with writing(self._folder):
                for part in self._parts:
                    self._file.write(part.tobytes())
            self._parts = []

    def finished(self) -> np.ndarray:
        """(n,) all values, to be read; nothing can be added any more.

        Raises:
            CacheError: the disk is full.
        """
        if self._file is None:
            return np.concatenate([np.empty(0, dtype=self._dtype), *self._parts])
        with writing(self._folder), self._file as file:
            file.flush()
            return np.asarray(np.memmap(file, dtype=self._dtype, mode="r", shape=(self._length,)))


class LongStrings:
    """Strings, some of them null, that come in parts."""

    def __init__(self, folder: Path) -> None:
        """`folder`: as of `LongColumn`."""
        self._ends, self._data, self._valid = (LongColumn(dtype, folder) for dtype in (np.int64, np.uint8, bool))
        self._ends.extend(np.zeros(1, dtype=np.int64))
        self._nulls = 0

    def extend(self, values: pa.Array) -> None:
        """Adds the values of an array of strings.

        Raises:
            CacheError: the disk is full.
        """
        if not len(values):
            return
        plain = values.cast(pa.large_string())
        _, ends, data = plain.buffers()
        cuts = np.frombuffer(ends, dtype=np.int64)[plain.offset : plain.offset + len(plain) + 1]
        self._ends.extend(cuts[1:] - cuts[0] + len(self._data))
        if cuts[-1] > cuts[0]:
            self._data.extend(np.frombuffer(data, dtype=np.uint8)[cuts[0] : cuts[-1]])
        self._valid.extend(plain.is_valid().to_numpy(zero_copy_only=False))
        self._nulls += plain.null_count

    def finished(self) -> pa.ChunkedArray:
        """(n,) all values as one array of large strings, to be read; nothing can be added any more.

        Raises:
            CacheError: the disk is full.
        """
        valid = self._valid.finished()
        bits = pa.py_buffer(np.packbits(valid, bitorder="little")) if self._nulls else None
        buffers = [pa.py_buffer(column.finished()) for column in (self._ends, self._data)]
        array = pa.LargeStringArray.from_buffers(len(valid), *buffers, bits, self._nulls)
        return pa.chunked_array([array], pa.large_string())


def zeros(length: int, folder: Path) -> np.ndarray:
    """(n,) int64 zeros that can be written to; `folder` as of `LongColumn`.

    Raises:
        CacheError: the disk is full.
    """
    if 8 * length <= _IN_MEMORY:
        return np.zeros(length, dtype=np.int64)
    with writing(folder), _nameless(folder) as file:
        file.truncate(8 * length)
        reserve_open(file.fileno())
        return np.asarray(np.memmap(file, dtype=np.int64, mode="r+", shape=(length,)))


def _nameless(folder: Path) -> IO[bytes]:
    with writing(folder):
        return tempfile.TemporaryFile(prefix=_PREFIX, dir=folder if os.access(folder, os.W_OK) else None)
