"""Is what lies in a representation folder what was written? Checksums, and what a folder says of itself against what is in it.

A file is checked once a process, when it is first read: after that its size, times and inode stand for its content.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import xxhash

from distilmatch.errors import CacheError
from distilmatch.files import checksum
from distilmatch.fingerprint import DIGEST_BYTES
from distilmatch.store.layout import (
    ALIASES_NAME,
    ALIASES_SCHEMA,
    IDS_SCHEMA,
    ITEMS_NAME,
    SHARD_PATTERNS,
    RepresentationManifest,
    finished_shards,
    ids_path,
    read_table,
    shard_path,
)

logger = logging.getLogger(__name__)

# In the Parquet metadata of an ids file, so that they outlive a kill before there is a manifest.
SHARD_CHECKSUM = b"distilmatch.shard"
ROWS_CHECKSUM = b"distilmatch.rows"

# A file that changed so shortly before it was checked may change again without another time: it is not remembered.
_SETTLED_NS = 2 * 10**8
_checked: dict[tuple[str, int, int, int, int, int], str] = {}
_told: set[str] = set()
_lock = threading.Lock()


def check_file(path: Path, expected: str | None) -> None:
    """Compares a file with its checksum; None, for a folder without checksums, passes.

    Raises:
        CacheError: it is not there, cannot be read, or holds something else.
    """
    if expected is None:
        return
    try:
        actual = known_checksum(path)
    except OSError as error:
        raise CacheError(
            f"cannot read {path}: {error.strerror or error}; encode the texts again (overwrite)"
        ) from error
    if actual != expected:
        raise CacheError(
            f"{path} is damaged: its content does not have the checksum {expected} of what was written there; copy the "
            "folder again from where it is whole, or encode the texts again (overwrite)"
        )


def known_checksum(path: Path) -> str:
    """The checksum of a file, computed once a process for as long as the file stays as it is.

    Raises:
        OSError: it cannot be read.
    """
    state = path.stat()
    place = str(path.resolve())
    key = (place, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    digest = _checked.get(key)
    if digest is None:
        started = time.time_ns()
        digest = checksum(path)
        if started - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS:
            _checked[key] = digest
    return digest


def forget(folder: Path) -> None:
    """Has the files of a folder checked anew: a disk may change bytes without changing a time."""
    place = folder.resolve()
    for key in list(_checked):  # other threads add to it
        if Path(key[0]).is_relative_to(place):
            _checked.pop(key, None)


def tell_unchecked(folder: Path) -> None:
    """Says, once a process, that a folder of format 1 has no checksums."""
    place = str(folder.resolve())
    with _lock:
        if place in _told:
            return
        _told.add(place)
    logger.warning(
        "%s was written before there were checksums (format 1): damage to it cannot be seen, and its items are its texts "
        "and ids in their order, with the folder's own row numbers; encode the texts again to have both",
        folder,
    )


def checked_manifest_files(folder: Path, manifest: RepresentationManifest) -> None:
    """Compares the files that a manifest names with those that are there.

    Raises:
        CacheError: one is missing, or there is one more.
    """
    there = {path.name for pattern in SHARD_PATTERNS for path in folder.glob(pattern)}
    there |= {name for name in (ALIASES_NAME, ITEMS_NAME) if (folder / name).exists()}
    if manifest.checksums is None:
        if manifest.format_version > 1:
            raise CacheError(
                f"{folder} is damaged: its manifest names no checksums; encode the texts again (overwrite)"
            )
        shards = finished_shards(folder)
        named = {path(folder, index).name for index in range(shards) for path in (shard_path, ids_path)}
        named |= {ALIASES_NAME} & there
    else:
        named = set(manifest.checksums)
        # The number first: a manifest may promise more shards than names can be made of.
        files = len(named - {ALIASES_NAME, ITEMS_NAME})
        wanted = (path(folder, index).name for index in range(files // 2) for path in (shard_path, ids_path))
        if files != 2 * manifest.shards or not all(name in named for name in wanted):
            raise CacheError(
                f"{folder} is damaged: its manifest says {manifest.rows} rows in {manifest.shards} shards and names other "
                f"files than theirs; encode the texts again (overwrite)"
            )
    for name in sorted(named - there):
        raise CacheError(f"{folder} is damaged: {name} is missing; encode the texts again (overwrite)")
    for name in sorted(there - named):
        raise CacheError(
            f"{folder} is damaged: {name} is none of its files, its manifest says {manifest.rows} rows in {len(named)} "
            "files; take the file away, or encode the texts again (overwrite)"
        )


def read_ids(folder: Path, index: int, first_row: int, rows: int | None, expected: str | None) -> pa.Table:
    """The ids file of a shard, compared with what the folder says of it.

    Args:
        first_row: the folder's row that it begins with.
        rows: how many it must hold; None for any number.
        expected: its checksum, None where it has none.

    Raises:
        CacheError: it is damaged, or holds other rows.
    """
    path = ids_path(folder, index)
    check_file(path, expected)
    table = read_table(path, IDS_SCHEMA)
    numbers = table["row"].to_numpy()
    if table["row"].null_count or not np.array_equal(numbers, np.arange(first_row, first_row + len(table))):
        raise CacheError(
            f"{path} is damaged: its row numbers are not {first_row} to {first_row + len(table) - 1}; encode the texts "
            "again (overwrite)"
        )
    if rows is not None and len(table) != rows:
        raise CacheError(
            f"{path} is damaged: it holds {len(table)} rows, not {rows}; encode the texts again (overwrite)"
        )
    if table["key"].null_count:
        raise CacheError(
            f"{path} is damaged: a key does not have {DIGEST_BYTES} bytes; encode the texts again (overwrite)"
        )
    return table


def rows_checksum(keys: Sequence[bytes], ids: Sequence[str | None]) -> str:
    """A checksum of what an ids file holds, whatever its bytes."""
    digest = xxhash.xxh3_128(b"".join(keys))
    for id in ids:
        written = b"" if id is None else id.encode("utf-8", errors="surrogatepass")
        digest.update(f"{-1 if id is None else len(written)}:".encode() + written)
    return digest.hexdigest()


def check_unfinished(folder: Path, index: int, table: pa.Table) -> str | None:
    """Checks a shard of an unfinished folder by the checksums in its ids file; gives the shard's, None where it has none.

    Raises:
        CacheError: the shard or its ids are damaged.
    """
    told = table.schema.metadata or {}
    if SHARD_CHECKSUM not in told:
        return None
    path = ids_path(folder, index)
    if rows_checksum(table["key"].to_pylist(), table["id"].to_pylist()).encode() != told.get(ROWS_CHECKSUM):
        raise CacheError(
            f"{path} is damaged: its rows do not have the checksum that it names; encode again (overwrite)"
        )
    expected = told[SHARD_CHECKSUM].decode("ascii", errors="replace")
    check_file(shard_path(folder, index), expected)
    return expected


def read_aliases(folder: Path, rows: int, expected: str | None) -> pa.Table | None:
    """The further ids of texts, None where there are none.

    Raises:
        CacheError: the file is damaged, or names a row that the folder does not have.
    """
    path = folder / ALIASES_NAME
    if not path.exists():
        return None
    check_file(path, expected)
    table = read_table(path, ALIASES_SCHEMA)
    numbers = table["row"].to_numpy() if not table["row"].null_count else np.array([-1])
    if table["id"].null_count or (len(numbers) and not 0 <= numbers.min() <= numbers.max() < rows):
        raise CacheError(
            f"{path} is damaged: it names a row that is not 0 to {rows - 1}; encode the texts again (overwrite)"
        )
    return table
