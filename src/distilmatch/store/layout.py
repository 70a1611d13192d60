"""What lies in a representation folder, and the small parts that its writer and its reader share.

    manifest.json           settings, the number of rows, a checksum of every other file and one of itself; written last,
                            so a folder with one is whole
    progress.json           the same settings while the folder is being written
    shard-00000.safetensors tokens (rows, k, d) in the stored dtype, mask (rows, k) uint8; of int8 also scales (rows, k)
                            fp32, one a token
    ids-00000.parquet       row (int64), key (16 bytes), id (string or null) of the shard; written after the shard,
                            so a shard counts once its ids are there; holds checksums of the shard and of its own rows,
                            by which both are known again after a kill
    aliases.parquet         row, id: further ids of texts that already have one; absent when there are none
    items.parquet           row, text, id: what the texts stand for: the row's number in the table from 0, its text's row
                            in the folder, its id; absent where nobody said

Format 1 has neither checksums nor items; it still opens.

Shape legend: n rows; k kept tokens; d width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import Field, StrictInt

from distilmatch.config.base import FrozenConfig
from distilmatch.errors import CacheError, ConfigError
from distilmatch.files import move_into_place, read_json, write_json, writing
from distilmatch.fingerprint import DIGEST_BYTES
from distilmatch.store.codec import StoredDtype, bytes_per_item

FormatVersion = Literal[1, 2]
FORMAT_VERSION: FormatVersion = 2
MOST_KEPT_TOKENS = 1024
MOST_WIDTH = 65_536
MOST_ROWS = 2**40
MOST_SHARD_ROWS = 2**31 - 1
MANIFEST_NAME = "manifest.json"
PROGRESS_NAME = "progress.json"
ALIASES_NAME = "aliases.parquet"
ITEMS_NAME = "items.parquet"
LOCK_NAME = ".lock"
TEMPORARY_PREFIX = ".writing-"
SHARD_PATTERNS = ("shard-*.safetensors", "ids-*.parquet")
# What a kill in the middle of a write leaves behind: our temporary files and those of `runtime.write_atomically`.
LEFTOVER_PATTERNS = (f"{TEMPORARY_PREFIX}*", f".{MANIFEST_NAME}.*", f".{PROGRESS_NAME}.*")
OWN_PATTERNS = (
    MANIFEST_NAME,
    PROGRESS_NAME,
    ALIASES_NAME,
    ITEMS_NAME,
    LOCK_NAME,
    *SHARD_PATTERNS,
    *LEFTOVER_PATTERNS,
)

IDS_SCHEMA = pa.schema([("row", pa.int64()), ("key", pa.binary(DIGEST_BYTES)), ("id", pa.string())])
ALIASES_SCHEMA = pa.schema([("row", pa.int64()), ("id", pa.string())])
ITEMS_SCHEMA = pa.schema([("row", pa.int64()), ("text", pa.int64()), ("id", pa.string())])

KEY_DTYPE = np.dtype(f"S{DIGEST_BYTES}")


class RepresentationManifest(FrozenConfig):
    """What a representation folder holds and what made it.

    Attributes:
        format_version: 1 for folders that were written before there were checksums.
        model_fingerprint: of all that a representation depends on besides its text.
        side, side_name: which side of the model the texts were encoded for.
        kept_tokens, width: k and d of every representation; a lexical vector counts as a token.
        dtype: how they are stored; they are read as fp32.
        rows: how many; 0 while the folder is being written.
        shard_rows: rows a shard file, the last one excepted.
        texts_source: what the texts came from, as a fingerprint or a note; None where nobody said.
        checksums: XXH3 (128 bits, hex) of every other file by name, see `files.checksum`; None while the folder is being
            written, and in format 1.
    """

    format_version: FormatVersion = FORMAT_VERSION
    model_fingerprint: str = Field(min_length=1)
    side: StrictInt = Field(ge=0, lt=2**16)
    side_name: str
    kept_tokens: StrictInt = Field(ge=1, le=MOST_KEPT_TOKENS)
    width: StrictInt = Field(ge=1, le=MOST_WIDTH)
    dtype: StoredDtype = "float32"
    rows: StrictInt = Field(default=0, ge=0, le=MOST_ROWS)
    shard_rows: StrictInt = Field(default=65536, ge=1, le=MOST_SHARD_ROWS)
    texts_source: str | None = None
    checksums: dict[str, Annotated[str, Field(pattern="^[0-9a-f]{32}$")]] | None = None

    @property
    def shards(self) -> int:
        """How many shards so many rows take."""
        return math.ceil(self.rows / self.shard_rows)

    def rows_of_shard(self, index: int) -> int:
        """Rows of shard number `index`."""
        return min(self.shard_rows, self.rows - index * self.shard_rows)

    def bytes_per_item(self) -> int:
        """Bytes that one text takes on disk, its key and id not counted."""
        return bytes_per_item(self.kept_tokens, self.width, self.dtype)

    def differences(self, other: RepresentationManifest) -> list[str]:
        """The settings that differ, each as "name: this one, that one"; what only a finished folder has is no setting."""
        names = (name for name in type(self).model_fields if name not in ("rows", "checksums", "format_version"))
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in names)
        return [f"{name}: {mine!r}, {theirs!r}" for name, mine, theirs in pairs if mine != theirs]


def shard_path(folder: Path, index: int) -> Path:
    """The file of shard number `index`."""
    return folder / f"shard-{index:05d}.safetensors"


def ids_path(folder: Path, index: int) -> Path:
    """The ids of shard number `index`."""
    return folder / f"ids-{index:05d}.parquet"


def finished_shards(folder: Path) -> int:
    """How many shards, counted from the first, are written to the end."""
    count = 0
    while ids_path(folder, count).exists() and shard_path(folder, count).exists():
        count += 1
    return count


def read_manifest(path: Path) -> RepresentationManifest:
    """A manifest or progress file.

    Raises:
        CacheError: it is damaged, or of a format that this version does not read.
    """
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise CacheError(f"cannot read {path}: {error}; write the folder again (overwrite)") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if type(version) is not int or version not in get_args(FormatVersion):
        known = " and ".join(map(str, get_args(FormatVersion)))
        raise CacheError(
            f"{path} has format version {str(version)[:40]}, this distilmatch reads {known}; encode the texts again"
        )
    told = content.pop("checksum", None) if version > 1 else None
    try:
        manifest = RepresentationManifest.from_dict(content, str(path))
    except (ConfigError, RecursionError) as error:
        raise CacheError(f"{error}; write the folder again (overwrite)") from error
    if version > 1 and told != _json_checksum(content):
        raise CacheError(
            f"{path} is damaged: its content does not have the checksum that it names; write the folder again (overwrite)"
        )
    return manifest


def write_manifest(path: Path, manifest: RepresentationManifest) -> None:
    """Writes a manifest or progress file, atomically."""
    content = manifest.to_dict()
    with writing(path):
        write_json(path, {**content, "checksum": _json_checksum(content)})


def _json_checksum(content: dict[str, Any]) -> str:
    # Of the content, not of the file's bytes: white space between them means nothing.
    canonical = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return xxhash.xxh3_128_hexdigest(canonical.encode("ascii"))


def write_table(table: pa.Table, path: Path) -> None:
    """Writes a small Parquet file, atomically.

    Raises:
        CacheError: it cannot be written.
    """
    temporary = path.with_name(TEMPORARY_PREFIX + path.name)
    with writing(path):
        pq.write_table(table, temporary)
        move_into_place(temporary, path)


def read_table(path: Path, schema: pa.Schema) -> pa.Table:
    """Reads a small Parquet file of the folder.

    Raises:
        CacheError: it is damaged, or its columns are others.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
        table.validate(full=True)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error
    _check_columns(path, table.schema, schema)
    return table


def read_batches(path: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """As `read_table`, some rows at a time; the columns are checked before the first."""
    try:
        with pq.ParquetFile(path) as file:
            _check_columns(path, file.schema_arrow, schema)
            for batch in file.iter_batches():
                batch.validate(full=True)
                yield batch
    except (OSError, ValueError, pa.ArrowException) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: BaseException) -> CacheError:
    return CacheError(f"cannot read {path}: {error}; write the folder again (overwrite)")


def _check_columns(path: Path, found: pa.Schema, schema: pa.Schema) -> None:
    if found.names != schema.names or found.types != schema.types:
        raise CacheError(f"{path} has the columns {found.names}, not {schema.names}; write the folder again")


def key_array(keys: Sequence[bytes]) -> np.ndarray:
    """16-byte keys as an (n,) array of NumPy's fixed-width bytes; these compare bytewise, zero bytes included."""
    return np.frombuffer(b"".join(keys), dtype=KEY_DTYPE)


def key_column(column: pa.ChunkedArray) -> np.ndarray:
    """A Parquet column of 16-byte keys as `key_array` gives them, (n,)."""
    chunks = []
    for chunk in column.chunks:
        data = np.frombuffer(chunk.buffers()[1], dtype=KEY_DTYPE) if len(chunk) else np.empty(0, KEY_DTYPE)
        chunks.append(data[chunk.offset : chunk.offset + len(chunk)])
    return np.concatenate(chunks) if chunks else np.empty(0, KEY_DTYPE)


class KeyIndex:
    """Finds the row of a 16-byte key by binary search: 24 bytes a key, no Python objects.

    Of several rows with one key the first counts.
    """

    def __init__(self, keys: np.ndarray, rows: np.ndarray | None = None) -> None:
        """`keys`: (n,) as of `key_array`; `rows`: (n,) int64, by default 0 to n - 1."""
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._rows = order.astype(np.int64) if rows is None else rows[order]

    def find(self, keys: np.ndarray) -> np.ndarray:
        """The rows of `keys`, (m,) as of `key_array`: (m,) int64, -1 for an absent one."""
        if not len(self._keys) or not len(keys):
            return np.full(len(keys), -1, dtype=np.int64)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[places] == keys, self._rows[places], np.int64(-1))
