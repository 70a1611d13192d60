"""The representation folder: its writer, which can be killed and go on, and its memory-mapped reader.

Shape legend: n rows; k kept tokens; d width; m rows asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import filelock
import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from distilmatch.errors import CacheError, ConfigError
from distilmatch.fingerprint import DIGEST_BYTES, text_key
from distilmatch.store.codec import StoredTokens, array_layout, decode_tokens, encode_tokens
from distilmatch.store.layout import (
    ALIASES_NAME,
    ALIASES_SCHEMA,
    IDS_SCHEMA,
    LEFTOVER_PATTERNS,
    LOCK_NAME,
    MANIFEST_NAME,
    OWN_PATTERNS,
    PROGRESS_NAME,
    SHARD_PATTERNS,
    TEMPORARY_PREFIX,
    KeyIndex,
    RepresentationManifest,
    finished_shards,
    ids_path,
    key_array,
    key_column,
    move_into_place,
    read_manifest,
    read_table,
    shard_path,
    write_manifest,
    write_table,
)
from distilmatch.types import TokenRepresentations

__all__ = ["RepresentationFolder", "RepresentationManifest", "RepresentationWriter"]


class RepresentationWriter:
    """Writes a representation folder shard by shard; killed at any point, it goes on after its last whole shard.

    A folder that is finished already is left as it is: `finished` is True and there is nothing to append. Used as a
    context manager it closes at the end of the block, or, after an exception, leaves the folder unfinished.

    Attributes:
        manifest: the folder's settings.
        rows_written: rows in whole shards that were there at the start, or have been written since.
        finished: whether the folder has its manifest.
    """

    def __init__(
        self, folder: str | Path, manifest: RepresentationManifest, resume: bool = True, overwrite: bool = False
    ) -> None:
        """Opens `folder` for writing, making it where there is none.

        Args:
            manifest: its settings; `rows` is ignored.
            resume: go on with a folder of the same settings; otherwise a folder that is not empty is an error.
            overwrite: delete the representations that are in the folder and start anew.

        Raises:
            CacheError: the folder holds other things, or representations of other settings, or is being written by
                another process.
        """
        self.folder = Path(folder)
        self.manifest = manifest.replaced(rows=0)
        if self.folder.exists() and not self.folder.is_dir():
            raise CacheError(f"{self.folder} is a file; name a folder for the representations")
        _check_foreign(self.folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = filelock.FileLock(self.folder / LOCK_NAME, timeout=0)
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise CacheError(f"{self.folder} is being written by another process; wait for it, or stop it") from error
        try:
            self._open(resume, overwrite)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, resume: bool, overwrite: bool) -> None:
        self.rows_written = 0
        self.finished = False
        self._shards = 0
        self._row_of_key: dict[bytes, int] = {}
        self._row_of_id: dict[str, int] = {}
        self._aliases: list[tuple[int, str]] = []
        self._buffer: list[StoredTokens] = []
        self._buffered: list[tuple[bytes, str | None]] = []
        if overwrite:
            _delete_own(self.folder)
        found = _found_manifest(self.folder)
        if found is not None and not self._has_manifest() and not finished_shards(self.folder):
            # Killed before its first whole shard: there is nothing to go on with, and nothing to lose.
            found = None
        if found is not None and not resume:
            state = "holds representations" if self._has_manifest() else "holds an unfinished encode"
            raise CacheError(f"{self.folder} {state} already; go on with it (resume), or overwrite it")
        if found is None:
            _delete_own(self.folder)
            write_manifest(self.folder / PROGRESS_NAME, self.manifest)
            return
        differences = found.differences(self.manifest)
        if differences:
            raise CacheError(
                f"{self.folder} was written with other settings (there, now): {'; '.join(differences)}; "
                "use another folder, or overwrite it"
            )
        self.finished = self._has_manifest()
        self._take_up()

    def _has_manifest(self) -> bool:
        return (self.folder / MANIFEST_NAME).exists()

    def _take_up(self) -> None:
        """Learns which rows are in whole shards and drops what a kill left half-written."""
        self._shards = finished_shards(self.folder)
        for index in range(self._shards):
            table = read_table(ids_path(self.folder, index), IDS_SCHEMA)
            for key, id in zip(table["key"].to_pylist(), table["id"].to_pylist(), strict=True):
                self._remember(key, id, self.rows_written)
                self.rows_written += 1
        if (self.folder / ALIASES_NAME).exists():
            for alias in read_table(self.folder / ALIASES_NAME, ALIASES_SCHEMA).to_pylist():
                if alias["row"] < self.rows_written:
                    self._aliases.append((alias["row"], alias["id"]))
                    self._row_of_id.setdefault(alias["id"], alias["row"])
        if self.finished:
            return
        whole = {path(self.folder, index) for index in range(self._shards) for path in (shard_path, ids_path)}
        for pattern in (*SHARD_PATTERNS, *LEFTOVER_PATTERNS):
            for path in self.folder.glob(pattern):
                if path not in whole:
                    path.unlink()

    def _remember(self, key: bytes, id: str | None, row: int) -> None:
        self._row_of_key.setdefault(key, row)
        if id is not None:
            self._row_of_id[id] = row

    @property
    def rows(self) -> int:
        """Rows appended so far, those that wait for their shard to fill included."""
        return self.rows_written + len(self._buffered)

    def row_of_key(self, key: bytes) -> int:
        """The row of a text's key among the rows appended so far, or -1."""
        return self._row_of_key.get(key, -1)

    def row_of_id(self, id: str) -> int:
        """The row of an id among the rows appended so far, or -1."""
        return self._row_of_id.get(id, -1)

    def append(
        self, ids: Sequence[str | None] | None, keys: Sequence[bytes], representations: TokenRepresentations
    ) -> None:
        """Adds rows; all of them, or, where one cannot be stored, none.

        Args:
            ids: n ids, None for a row without one; None where no row has one.
            keys: n 16-byte keys of the texts, `fingerprint.text_key("", (text,))`.
            representations: of n texts, (n, k, d) floating.

        Raises:
            CacheError: an id that is there already, a representation of another shape, one with NaN or infinity, or
                one that does not fit the folder's dtype; or the folder is finished.
        """
        self._check_open()
        names: Sequence[str | None] = [None] * len(keys) if ids is None else ids
        self._check_rows(names, keys, representations)
        first = self.rows

        def name_row(row: int) -> str:
            return f"row {first + row}" + ("" if names[row] is None else f" (id {names[row]!r})")

        self._buffer.append(encode_tokens(representations, self.manifest.dtype, name_row))
        for row, (key, id) in enumerate(zip(keys, names, strict=True)):
            self._remember(key, id, first + row)
            self._buffered.append((key, id))
        while len(self._buffered) >= self.manifest.shard_rows:
            self._write_shard(self.manifest.shard_rows)

    def add_alias(self, id: str, row: int) -> None:
        """Gives the text at `row`, appended before, one more id; saved when the folder is closed.

        Raises:
            CacheError: the id stands for another row already.
        """
        self._check_open()
        if not 0 <= row < self.rows:
            raise CacheError(f"id {id!r} was to name row {row} of {self.folder}, which has {self.rows} rows")
        known = self._row_of_id.setdefault(id, row)
        if known != row:
            raise CacheError(f"id {id!r} is in {self.folder} already, for row {known}; ids must be distinct")
        self._aliases.append((row, id))

    def _check_open(self) -> None:
        if self.finished:
            raise CacheError(f"{self.folder} is finished, rows cannot be added; overwrite it, or use another folder")
        if not self._lock.is_locked:
            raise CacheError(f"the writer of {self.folder} is closed; open another to go on")

    def _check_rows(
        self, ids: Sequence[str | None], keys: Sequence[bytes], representations: TokenRepresentations
    ) -> None:
        shape = tuple(representations.tokens.shape)
        expected = (len(keys), self.manifest.kept_tokens, self.manifest.width)
        if shape != expected:
            raise CacheError(f"{self.folder} takes representations of shape {expected} here, not {shape}")
        if len(ids) != len(keys):
            raise CacheError(f"{len(ids)} ids for {len(keys)} keys; give one for each row, or None")
        if any(len(key) != DIGEST_BYTES for key in keys):
            raise CacheError(f"a key must have {DIGEST_BYTES} bytes; make it with fingerprint.text_key")
        seen: set[str] = set()
        for id in ids:
            if id is None:
                continue
            if id in seen or id in self._row_of_id:
                raise CacheError(f"id {id!r} is in {self.folder} already; ids must be distinct")
            seen.add(id)

    def _write_shard(self, rows: int) -> None:
        buffered = StoredTokens.joined(self._buffer)
        path = shard_path(self.folder, self._shards)
        temporary = path.with_name(TEMPORARY_PREFIX + path.name)
        save_file(buffered[:rows].arrays(), temporary)
        move_into_place(temporary, path)
        written = self._buffered[:rows]
        columns = [
            pa.array(range(self.rows_written, self.rows_written + rows), pa.int64()),
            pa.array([key for key, _ in written], pa.binary(DIGEST_BYTES)),
            pa.array([id for _, id in written], pa.string()),
        ]
        write_table(pa.Table.from_arrays(columns, schema=IDS_SCHEMA), ids_path(self.folder, self._shards))
        self._shards += 1
        self.rows_written += rows
        self._buffered = self._buffered[rows:]
        self._buffer = [buffered[rows:]] if self._buffered else []

    def close(self) -> None:
        """Writes the last shard, then the manifest: from here on the folder can be read. Closing twice is allowed."""
        if not self._lock.is_locked:
            return
        if not self.finished:
            if self._buffered:
                self._write_shard(len(self._buffered))
            if self._aliases:
                rows, ids = zip(*self._aliases, strict=True)
                columns = [pa.array(rows, pa.int64()), pa.array(ids, pa.string())]
                write_table(pa.Table.from_arrays(columns, schema=ALIASES_SCHEMA), self.folder / ALIASES_NAME)
            self.manifest = self.manifest.replaced(rows=self.rows_written)
            write_manifest(self.folder / MANIFEST_NAME, self.manifest)
            (self.folder / PROGRESS_NAME).unlink(missing_ok=True)
            self.finished = True
        self._lock.release()

    def abandon(self) -> None:
        """Stops without finishing: rows in whole shards stay, another writer can go on after them."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()


def _check_foreign(folder: Path) -> None:
    if not folder.is_dir():
        return
    own = {path for pattern in OWN_PATTERNS for path in folder.glob(pattern)}
    foreign = sorted(path.name for path in folder.iterdir() if path not in own and not path.name.startswith("."))
    if foreign:
        raise CacheError(f"{folder} holds other files ({', '.join(foreign[:3])}); use an empty or a new folder")


def _delete_own(folder: Path) -> None:
    # The manifest goes first: a folder half deleted must not look whole.
    (folder / MANIFEST_NAME).unlink(missing_ok=True)
    for pattern in OWN_PATTERNS:
        for path in folder.glob(pattern):
            if path.name != LOCK_NAME:
                path.unlink()


def _found_manifest(folder: Path) -> RepresentationManifest | None:
    for name in (MANIFEST_NAME, PROGRESS_NAME):
        if (folder / name).exists():
            return read_manifest(folder / name)
    if finished_shards(folder):
        raise CacheError(f"{folder} holds shards but neither manifest nor progress file; overwrite it, or delete it")
    return None


class RepresentationFolder:
    """A finished representation folder, memory-mapped: opening it reads the ids, a read touches the rows asked for.

    Attributes:
        path: where it is.
        manifest: its settings and number of rows.
    """

    def __init__(self, path: Path, manifest: RepresentationManifest, table: pa.Table, ends: np.ndarray) -> None:
        """Use `RepresentationFolder.open`."""
        self.path = path
        self.manifest = manifest
        self._table = table
        self._ends = ends
        self._mapped: dict[int, StoredTokens] = {}

    @classmethod
    def open(cls, folder: str | Path) -> RepresentationFolder:
        """Opens a finished folder for reading.

        Raises:
            CacheError: there is none, it is unfinished, or it is damaged.
        """
        path = Path(folder)
        if not (path / MANIFEST_NAME).exists():
            if (path / PROGRESS_NAME).exists():
                raise CacheError(
                    f"{path} is unfinished: its encode was stopped; run the same encode again to finish it"
                )
            raise CacheError(f"{path} is no representation folder: it has no {MANIFEST_NAME}; make one with encode")
        manifest = read_manifest(path / MANIFEST_NAME)
        tables = [read_table(ids_path(path, index), IDS_SCHEMA) for index in range(finished_shards(path))]
        table = pa.concat_tables(tables) if tables else IDS_SCHEMA.empty_table()
        if len(table) != manifest.rows:
            raise CacheError(
                f"{path} is damaged: its manifest says {manifest.rows} rows, its shards hold {len(table)}; encode again"
            )
        return cls(path, manifest, table, np.cumsum([len(part) for part in tables], dtype=np.int64))

    def __len__(self) -> int:
        return self.manifest.rows

    @cached_property
    def keys(self) -> list[bytes]:
        """The n keys of the texts, in row order."""
        return self._table["key"].to_pylist()

    @cached_property
    def ids(self) -> list[str | None]:
        """The n ids, in row order, None for a row without one; further ids of a row are known to `row_of_id` alone."""
        return self._table["id"].to_pylist()

    @property
    def has_ids(self) -> bool:
        """Whether any row has an id."""
        return self._table["id"].null_count < len(self)

    @cached_property
    def _key_index(self) -> KeyIndex:
        return KeyIndex(key_column(self._table["key"]))

    @cached_property
    def _id_index(self) -> KeyIndex:
        named = [(row, id) for row, id in enumerate(self.ids) if id is not None]
        if (self.path / ALIASES_NAME).exists():
            aliases = read_table(self.path / ALIASES_NAME, ALIASES_SCHEMA)
            named += zip(aliases["row"].to_pylist(), aliases["id"].to_pylist(), strict=True)
        return KeyIndex(
            key_array([text_key("", (id,)) for _, id in named]), np.array([row for row, _ in named], dtype=np.int64)
        )

    def row_of_key(self, keys: Sequence[bytes]) -> np.ndarray:
        """The rows of m keys: (m,) int64, -1 for an absent one.

        Raises:
            ConfigError: a key that does not have 16 bytes.
        """
        if any(len(key) != DIGEST_BYTES for key in keys):
            raise ConfigError(f"a key must have {DIGEST_BYTES} bytes; make it with fingerprint.text_key")
        return self._key_index.find(key_array(keys))

    def row_of_text(self, texts: Sequence[str]) -> np.ndarray:
        """The rows of m texts: (m,) int64, -1 for an absent one."""
        return self.row_of_key([text_key("", (text,)) for text in texts])

    def row_of_id(self, ids: Sequence[str]) -> np.ndarray:
        """The rows of m ids: (m,) int64, -1 for an absent one."""
        return self._id_index.find(key_array([text_key("", (id,)) for id in ids]))

    def read(self, rows: np.ndarray | Sequence[int]) -> TokenRepresentations:
        """The representations at m row numbers, in any order, repeats allowed: (m, k, d) fp32, in the order asked.

        Raises:
            CacheError: a row number that the folder does not have, or a damaged shard.
        """
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        unknown = (wanted < 0) | (wanted >= len(self))
        if unknown.any():
            raise CacheError(
                f"{self.path} has no row {int(wanted[unknown][0])}: it has {len(self)} rows, counted from 0"
            )
        tokens = torch.empty(len(wanted), self.manifest.kept_tokens, self.manifest.width)
        mask = torch.empty(len(wanted), self.manifest.kept_tokens, dtype=torch.bool)
        # In the order of the file, so that the pages of a shard are touched once and from front to back.
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order]
        cuts = np.searchsorted(ordered, self._ends)
        for shard, (start, stop) in enumerate(zip([0, *cuts[:-1]], cuts, strict=False)):
            if start == stop:
                continue
            mapped = self._map(shard)
            first = 0 if shard == 0 else self._ends[shard - 1]
            local = torch.from_numpy(ordered[start:stop] - first)
            target = torch.from_numpy(order[start:stop])
            part = decode_tokens(mapped.take(local))
            tokens.index_copy_(0, target, part.tokens)
            mask.index_copy_(0, target, part.mask)
        return TokenRepresentations(tokens, mask)

    def _map(self, shard: int) -> StoredTokens:
        if shard in self._mapped:
            return self._mapped[shard]
        path = shard_path(self.path, shard)
        rows = int(self._ends[shard] - (self._ends[shard - 1] if shard else 0))
        layout = array_layout(self.manifest.dtype, rows, self.manifest.kept_tokens, self.manifest.width)
        try:
            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name) for name in layout.keys() & set(file.keys())}
        except (OSError, SafetensorError) as error:
            raise CacheError(f"cannot read {path}: {error}; encode the texts again (overwrite)") from error
        for name, expected in layout.items():
            found = (arrays[name].dtype, tuple(arrays[name].shape)) if name in arrays else None
            if found != expected:
                shown = f"no {name}" if found is None else f"{name} of {found[0]} and shape {found[1]}"
                raise CacheError(
                    f"{path} is damaged: it holds {shown}, not {name} of {expected[0]} and shape {expected[1]}; "
                    "encode the texts again (overwrite)"
                )
        self._mapped[shard] = StoredTokens(**arrays)
        return self._mapped[shard]
