"""The writer of a representation folder, which can be killed at any point and goes on after its last whole shard.

Shape legend: n rows; k kept tokens; d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
from safetensors.torch import load_file, save_file

from distilmatch.errors import CacheError
from distilmatch.files import check_writable, checksum, locked, move_into_place, writing
from distilmatch.fingerprint import DIGEST_BYTES
from distilmatch.store.codec import StoredTokens, encode_tokens
from distilmatch.store.integrity import (
    ROWS_CHECKSUM,
    SHARD_CHECKSUM,
    check_unfinished,
    checked_manifest_files,
    known_checksum,
    read_aliases,
    read_ids,
    rows_checksum,
    tell_unchecked,
)
from distilmatch.store.items import ItemsWriter
from distilmatch.store.layout import (
    ALIASES_NAME,
    ALIASES_SCHEMA,
    FORMAT_VERSION,
    IDS_SCHEMA,
    ITEMS_NAME,
    LEFTOVER_PATTERNS,
    LOCK_NAME,
    MANIFEST_NAME,
    OWN_PATTERNS,
    PROGRESS_NAME,
    SHARD_PATTERNS,
    TEMPORARY_PREFIX,
    RepresentationManifest,
    finished_shards,
    ids_path,
    read_manifest,
    shard_path,
    write_manifest,
    write_table,
)
from distilmatch.types import TokenRepresentations


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
        self,
        folder: str | Path,
        manifest: RepresentationManifest,
        resume: bool = True,
        overwrite: bool = False,
        finds_rows: bool = True,
    ) -> None:
        """Opens `folder` for writing, making it where there is none.

        Args:
            manifest: its settings; `rows` and `checksums` are ignored.
            resume: go on with a folder of the same settings; otherwise a folder that is not empty is an error.
            overwrite: delete the representations that are in the folder and start anew.
            finds_rows: remember keys, so that `row_of_key` finds them; without, memory does not grow with rows that have no id.

        Raises:
            CacheError: the folder holds other things, or representations of other settings, or damaged ones, is being
                written by another process, or cannot be written.
        """
        self.folder, self._finds_rows = Path(folder), finds_rows
        self.manifest = manifest.replaced(rows=0, checksums=None, format_version=FORMAT_VERSION)
        with writing(self.folder):
            _check_foreign(self.folder)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock = locked(self.folder / LOCK_NAME, self.folder)
        try:
            with writing(self.folder):
                self._open(resume, overwrite)
        except BaseException:
            self._lock.release()
            raise

    def _open(self, resume: bool, overwrite: bool) -> None:
        self.rows_written = 0
        self.finished = False
        self._shards = 0
        self._checksums: dict[str, str] = {}
        self._row_of_key: dict[bytes, int] = {}
        self._row_of_id: dict[str, int] = {}  # ~row for an id that has its item
        self._aliases: list[tuple[int, str]] = []
        self._items = ItemsWriter(self.folder)
        self._buffer: list[StoredTokens] = []
        self._buffered: list[tuple[bytes, str | None]] = []
        if overwrite:
            _delete_own(self.folder)
        earlier = _found_manifest(self.folder)
        if earlier is not None and not self._has_manifest() and not finished_shards(self.folder):
            # Killed before its first whole shard: there is nothing to go on with, and nothing to lose.
            earlier = None
        if earlier is not None and not resume:
            state = "holds representations" if self._has_manifest() else "holds an unfinished encode"
            raise CacheError(f"{self.folder} {state} already; go on with it (resume), or overwrite it")
        if earlier is None:
            _delete_own(self.folder)
            write_manifest(self.folder / PROGRESS_NAME, self.manifest)
            return
        _check_same(self.folder, earlier, self.manifest)
        self.finished = self._has_manifest()
        self._take_up(earlier)

    def _has_manifest(self) -> bool:
        return (self.folder / MANIFEST_NAME).exists()

    def _take_up(self, earlier: RepresentationManifest) -> None:
        """Learns which rows are in whole shards, checks them, and drops what a kill left half-written."""
        if self.finished:
            checked_manifest_files(self.folder, earlier)
            if earlier.checksums is None:
                tell_unchecked(self.folder)
        self._shards = finished_shards(self.folder)
        for index in range(self._shards):
            table = self._checked_shard(earlier, index)
            for key, id in zip(table["key"].to_pylist(), table["id"].to_pylist(), strict=True):
                self._remember(key, id, self.rows_written)
                self.rows_written += 1
        if self.finished:
            aliases = read_aliases(self.folder, self.rows_written, (earlier.checksums or {}).get(ALIASES_NAME))
            for alias in [] if aliases is None else aliases.to_pylist():
                self._row_of_id.setdefault(alias["id"], alias["row"])
            return
        # Aliases and items come anew with the rows of the table; what was left of them has no checksum.
        whole = {path(self.folder, index) for index in range(self._shards) for path in (shard_path, ids_path)}
        for pattern in (*SHARD_PATTERNS, *LEFTOVER_PATTERNS, ALIASES_NAME, ITEMS_NAME):
            for path in self.folder.glob(pattern):
                if path not in whole:
                    path.unlink()

    def _checked_shard(self, earlier: RepresentationManifest, index: int) -> pa.Table:
        shard, ids = shard_path(self.folder, index), ids_path(self.folder, index)
        told = None if earlier.checksums is None else earlier.checksums[ids.name]
        table = read_ids(self.folder, index, self.rows_written, None, told)
        if not self.finished:
            self._checksums[shard.name] = check_unfinished(self.folder, index, table) or known_checksum(shard)
            self._checksums[ids.name] = known_checksum(ids)
        return table

    def _remember(self, key: bytes, id: str | None, row: int) -> None:
        if self._finds_rows:
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
        row = self._row_of_id.get(id)
        return -1 if row is None else _plain_row(row)

    def claim_item(self, id: str) -> bool:
        """Whether the next item may have an id that is among those appended: True the first time, False after it."""
        row = self._row_of_id[id]
        if row >= 0:
            self._row_of_id[id] = ~row
        return row >= 0

    def add_item(self, table_row: int, row: int, id: str | None) -> None:
        """Says what a text stands for: a row of the table, from 0, and its id. Without any, texts and ids are the items.

        Items come in the order of the table and all of them anew after a kill; each text needs one.

        Args:
            row: of the text in the folder; it may be appended later.

        Raises:
            CacheError: items out of order, or they cannot be written.
        """
        self._check_open()
        self._items.add(table_row, row, id)

    def append(
        self, ids: Sequence[str | None] | None, keys: Sequence[bytes], representations: TokenRepresentations
    ) -> None:
        """Adds rows; all of them, or, where one cannot be stored, none.

        Args:
            ids: n ids, None for a row without one; None where no row has one.
            keys: n 16-byte keys of the texts, `fingerprint.text_key("", (text,))`.
            representations: of n texts, (n, k, d) floating.

        Raises:
            CacheError: an id that is there already, a representation of another shape, one with NaN or infinity, one
                without a token, or one that does not fit the folder's dtype; the folder is finished, or cannot be written.
        """
        self._check_open()
        names: Sequence[str | None] = [None] * len(keys) if ids is None else ids
        self._check_rows(names, keys, representations)
        if not len(keys):
            return
        first = self.rows

        def name_row(row: int) -> str:
            return f"row {first + row}" + ("" if names[row] is None else f" (id {names[row]!r})")

        empty = (~representations.mask.bool().any(1)).cpu()
        if empty.any():
            raise CacheError(
                f"the representation of {name_row(int(empty.nonzero()[0, 0]))} has no token, it was not written; every text "
                "keeps one at least"
            )
        self._add(names, keys, encode_tokens(representations, self.manifest.dtype, name_row))

    def append_stored(self, keys: Sequence[bytes], stored: StoredTokens) -> None:
        """Adds rows without ids as they are stored in another folder of these settings, to the bit.

        Args:
            keys: n 16-byte keys of the texts.
        """
        self._check_open()
        if len(keys):
            self._add([None] * len(keys), keys, stored)

    def _add(self, names: Sequence[str | None], keys: Sequence[bytes], stored: StoredTokens) -> None:
        first = self.rows
        if self.rows_written % self.manifest.shard_rows:
            self._take_back()  # only now: rows that cannot be stored leave what is there as it is
        self._buffer.append(stored)
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
        known = _plain_row(self._row_of_id.setdefault(id, row))
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

    def _take_back(self) -> None:
        """Puts a last shard that is not full, which a kill before the manifest left, back into the buffer."""
        index = self._shards - 1
        shard, ids = shard_path(self.folder, index), ids_path(self.folder, index)
        table = read_ids(self.folder, index, index * self.manifest.shard_rows, None, None)
        with writing(shard):
            self._buffer = [StoredTokens(**load_file(shard))]
            ids.unlink()
            shard.unlink()
        self._buffered = list(zip(table["key"].to_pylist(), table["id"].to_pylist(), strict=True))
        self._shards = index
        self.rows_written -= len(table)

    def _write_shard(self, rows: int) -> None:
        buffered = StoredTokens.joined(self._buffer)
        path = shard_path(self.folder, self._shards)
        temporary = path.with_name(TEMPORARY_PREFIX + path.name)
        with writing(path):
            save_file(buffered[:rows].arrays(), temporary)
            told = checksum(temporary)
            move_into_place(temporary, path)
        self._checksums[path.name] = told
        self._write_ids(self._buffered[:rows], told)
        self._shards += 1
        self.rows_written += rows
        self._buffered = self._buffered[rows:]
        self._buffer = [buffered[rows:]] if self._buffered else []

    def _write_ids(self, written: Sequence[tuple[bytes, str | None]], shard_checksum: str) -> None:
        path = ids_path(self.folder, self._shards)
        keys, ids = [key for key, _ in written], [id for _, id in written]
        columns = [
            pa.array(range(self.rows_written, self.rows_written + len(written)), pa.int64()),
            pa.array(keys, pa.binary(DIGEST_BYTES)),
            pa.array(ids, pa.string()),
        ]
        told = {SHARD_CHECKSUM: shard_checksum.encode(), ROWS_CHECKSUM: rows_checksum(keys, ids).encode()}
        write_table(pa.Table.from_arrays(columns, schema=IDS_SCHEMA.with_metadata(told)), path)
        with writing(path):
            self._checksums[path.name] = checksum(path)

    def close(self) -> None:
        """Writes the last shard, then the manifest: from here on the folder can be read. Closing twice is allowed.

        Raises:
            CacheError: something cannot be written; the folder is unfinished, another writer can go on.
        """
        if not self._lock.is_locked:
            return
        try:
            if not self.finished:
                self._finish()
        finally:
            self.abandon()

    def _finish(self) -> None:
        if self._buffered:
            self._write_shard(len(self._buffered))
        more = []
        if self._aliases:
            rows, ids = zip(*self._aliases, strict=True)
            columns = [pa.array(rows, pa.int64()), pa.array(ids, pa.string())]
            more.append(self.folder / ALIASES_NAME)
            write_table(pa.Table.from_arrays(columns, schema=ALIASES_SCHEMA), more[0])
        items = self._items.close(self.rows_written)
        with writing(self.folder):
            for path in more + ([] if items is None else [items]):
                self._checksums[path.name] = checksum(path)
        self.manifest = self.manifest.replaced(rows=self.rows_written, checksums=self._checksums)
        write_manifest(self.folder / MANIFEST_NAME, self.manifest)
        with writing(self.folder):
            (self.folder / PROGRESS_NAME).unlink(missing_ok=True)
        self.finished = True

    def abandon(self) -> None:
        """Stops without finishing: rows in whole shards stay, another writer can go on after them."""
        self._items.abandon()
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


def _plain_row(row: int) -> int:
    return ~row if row < 0 else row


def check_target(folder: str | Path, manifest: RepresentationManifest, overwrite: bool = False) -> int:
    """Refuses what `RepresentationWriter` would, as far as can be seen with nothing written or deleted.

    Returns:
        How many texts are in whole shards already; -1 where the folder is finished.

    Raises:
        CacheError: as `RepresentationWriter`, but for damage and other processes.
    """
    place = Path(folder)
    with writing(place):
        _check_foreign(place)
        check_writable(place)
        earlier = None if overwrite else _found_manifest(place)
    if earlier is None:
        return 0
    finished = (place / MANIFEST_NAME).exists()
    if not finished and not finished_shards(place):
        return 0
    _check_same(place, earlier, manifest.replaced(rows=0, checksums=None, format_version=FORMAT_VERSION))
    return -1 if finished else finished_shards(place) * earlier.shard_rows


def _check_same(folder: Path, earlier: RepresentationManifest, manifest: RepresentationManifest) -> None:
    differences = earlier.differences(manifest)
    if differences:
        raise CacheError(
            f"{folder} was written with other settings (there, now): {'; '.join(differences)}; "
            "use another folder, or overwrite it"
        )


def _check_foreign(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise CacheError(f"{folder} is a file; name a folder for the representations")
    if not folder.is_dir():
        return
    owned = {path for pattern in OWN_PATTERNS for path in folder.glob(pattern)}
    foreign = sorted(path.name for path in folder.iterdir() if path not in owned and not path.name.startswith("."))
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
