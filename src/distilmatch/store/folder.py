"""The memory-mapped reader of a representation folder.

Shape legend: n rows; k kept tokens; d width; m rows asked for.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open

from distilmatch.errors import CacheError, ConfigError
from distilmatch.fingerprint import DIGEST_BYTES, text_key
from distilmatch.store.codec import StoredTokens, array_layout, decode_tokens
from distilmatch.store.integrity import (
    check_file,
    checked_manifest_files,
    forget,
    read_aliases,
    read_ids,
    tell_unchecked,
)
from distilmatch.store.items import Items, items_of_texts, read_items
from distilmatch.store.layout import (
    ALIASES_NAME,
    IDS_SCHEMA,
    ITEMS_NAME,
    KEY_DTYPE,
    MANIFEST_NAME,
    PROGRESS_NAME,
    KeyIndex,
    RepresentationManifest,
    finished_shards,
    key_array,
    key_column,
    read_manifest,
    shard_path,
)
from distilmatch.store.writer import RepresentationWriter
from distilmatch.text_arguments import text_list
from distilmatch.types import TokenRepresentations

__all__ = ["RepresentationFolder", "RepresentationManifest", "RepresentationWriter", "verify_folder"]


class RepresentationFolder:
    """A finished representation folder, memory-mapped: opening it checks the ids, a read touches the rows asked for.

    Each file is compared with its checksum when it is first read in a process; see `verify_folder` for all of them at once.
    Several threads may use one.

    Attributes:
        path: where it is.
        manifest: its settings and number of rows.

    Example:
        ```python
        from distilmatch import RepresentationFolder

        products = RepresentationFolder.open("products")  # written by: distilmatch encode
        first = products.read([0, 1])  # kept tokens, fp32 (2, k, d), and their mask
        ```
    """

    def __init__(self, path: Path, manifest: RepresentationManifest, ends: np.ndarray, named: int) -> None:
        """Use `RepresentationFolder.open`."""
        self.path = path
        self.manifest = manifest
        self._ends, self._named = ends, named
        self._last_ids: tuple[int, pa.Table] | None = None
        self._mapped: dict[int, StoredTokens] = {}
        self._mapping = threading.Lock()

    @classmethod
    def open(cls, folder: str | Path) -> RepresentationFolder:
        """Opens a finished folder for reading.

        Raises:
            CacheError: there is none, it is unfinished, or it is damaged.
        """
        path = Path(folder)
        if not (path / MANIFEST_NAME).is_file():
            if (path / PROGRESS_NAME).exists():
                raise CacheError(
                    f"{path} is unfinished: its encode was stopped; run the same encode again to finish it"
                )
            raise CacheError(f"{path} is no representation folder: it has no {MANIFEST_NAME}; make one with encode")
        manifest = read_manifest(path / MANIFEST_NAME)
        checked_manifest_files(path, manifest)
        if manifest.checksums is None:
            tell_unchecked(path)
        ends, named = [], 0
        rows = 0
        for index in range(finished_shards(path)):
            table = _shard_ids(path, manifest, index, rows)
            rows += len(table)
            named += len(table) - table["id"].null_count
            ends.append(rows)
        if rows != manifest.rows:
            raise CacheError(
                f"{path} is damaged: its manifest says {manifest.rows} rows, its shards hold {rows}; encode again"
            )
        return cls(path, manifest, np.array(ends, dtype=np.int64), named)

    def __len__(self) -> int:
        return self.manifest.rows

    @cached_property
    def _table(self) -> pa.Table:
        # Ids and keys of all rows; a match needs none of them.
        tables = [self._ids_of(shard) for shard in range(len(self._ends))]
        return pa.concat_tables(tables) if tables else IDS_SCHEMA.empty_table()

    def _ids_of(self, shard: int) -> pa.Table:
        held = self._last_ids
        if held is None or held[0] != shard:
            first = int(self._ends[shard - 1]) if shard else 0
            held = self._last_ids = (shard, _shard_ids(self.path, self.manifest, shard, first))
        return held[1]

    @cached_property
    def keys(self) -> list[bytes]:
        """The n keys of the texts, in row order."""
        return self._table["key"].to_pylist()

    def keys_between(self, start: int, stop: int) -> np.ndarray:
        """The keys of the texts from `start` to `stop`, as of `layout.key_array`; only their shards are read.

        Raises:
            CacheError: a damaged shard.
        """
        parts = [np.empty(0, dtype=KEY_DTYPE)]
        for shard, first, last in self._shards_between(start, stop):
            parts.append(key_column(self._ids_of(shard)["key"])[first:last])
        return np.concatenate(parts)

    @cached_property
    def ids(self) -> list[str | None]:
        """The n ids, in row order, None for a row without one; further ids of a row are known to `row_of_id` alone."""
        return self._table["id"].to_pylist()

    def key_list(self, start: int, stop: int) -> list[bytes]:
        """As `keys_between`, a list."""
        raw = self.keys_between(start, stop).tobytes()  # NumPy's own list would end keys before their last zeros
        return [raw[place : place + DIGEST_BYTES] for place in range(0, len(raw), DIGEST_BYTES)]

    @property
    def has_ids(self) -> bool:
        """Whether any row has an id."""
        return self._named > 0

    @cached_property
    def _key_index(self) -> KeyIndex:
        return KeyIndex(key_column(self._table["key"]))

    @cached_property
    def _aliases(self) -> pa.Table | None:
        return read_aliases(self.path, len(self), _expected(self.manifest, ALIASES_NAME))

    @cached_property
    def _id_index(self) -> KeyIndex:
        named = [(row, id) for row, id in enumerate(self.ids) if id is not None]
        aliases = self._aliases
        if aliases is not None:
            named += zip(aliases["row"].to_pylist(), aliases["id"].to_pylist(), strict=True)
        return KeyIndex(
            key_array([text_key("", (id,)) for _, id in named]), np.array([row for row, _ in named], dtype=np.int64)
        )

    @cached_property
    def item_table(self) -> Items:
        """What the texts stand for; in a folder that does not say it, its texts and the further ids of each.

        Raises:
            CacheError: it is damaged.
        """
        if (self.path / ITEMS_NAME).exists():
            return read_items(self.path, len(self), _expected(self.manifest, ITEMS_NAME))
        return items_of_texts(self._table["id"], self._aliases)

    def items(self) -> tuple[np.ndarray, np.ndarray, list[str | None]]:
        """The items: each distinct id, each row of the table without one; without ids each row.

        Returns:
            of i items, in the order of the table: (i,) int64 row of the table, from 0, in which each stands first; (i,) int64
            row of its text here; its id or None. In a folder of format 1 the rows are those of the folder.

        Raises:
            CacheError: the folder is damaged.
        """
        table = self.item_table
        return table.rows.copy(), table.texts.copy(), table.ids.to_pylist()

    def row_of_key(self, keys: Sequence[bytes] | bytes) -> np.ndarray:
        """The rows of m keys: (m,) int64, -1 for an absent one. A single key is one.

        Raises:
            ConfigError: a key that does not have 16 bytes.
        """
        wanted = [keys] if isinstance(keys, bytes) else list(keys)
        if any(not isinstance(key, bytes) or len(key) != DIGEST_BYTES for key in wanted):
            raise ConfigError(f"a key must have {DIGEST_BYTES} bytes; make it with fingerprint.text_key")
        return self._key_index.find(key_array(wanted))

    def row_of_text(self, texts: Sequence[str] | str) -> np.ndarray:
        """The rows of m texts: (m,) int64, -1 for an absent one. A single string is one text.

        Raises:
            DataError: no texts in an order; see `text_arguments.text_list`.
        """
        return self._key_index.find(key_array([text_key("", (text,)) for text in text_list(texts)]))

    def row_of_id(self, ids: Sequence[str] | str) -> np.ndarray:
        """The rows of m ids: (m,) int64, -1 for an absent one. A single string is one id.

        Raises:
            DataError: no strings in an order; see `text_arguments.text_list`.
        """
        return self._id_index.find(key_array([text_key("", (id,)) for id in text_list(ids, "ids")]))

    def read(self, rows: np.ndarray | Sequence[int]) -> TokenRepresentations:
        """The representations at m row numbers, in any order, repeats allowed: (m, k, d) fp32, in the order asked.

        Raises:
            ConfigError: row numbers that are no whole numbers.
            CacheError: a row number that the folder does not have, a damaged shard, or a text without a token.
        """
        wanted = _row_numbers(rows)
        unknown = (wanted < 0) | (wanted >= len(self))
        if unknown.any():
            raise CacheError(
                f"{self.path} has no row {int(wanted[unknown][0])}: it has {len(self)} rows, counted from 0"
            )
        if len(wanted) and wanted[-1] - wanted[0] == len(wanted) - 1 and (np.diff(wanted) == 1).all():
            tokens, mask = self._neighbours(int(wanted[0]), int(wanted[-1]) + 1)
        else:
            tokens, mask = self._gathered(wanted)
        if len(wanted) and not mask.any(1).all():
            row = int(wanted[int((~mask.any(1)).nonzero()[0, 0])])
            raise CacheError(
                f"{self.path}, row {row}: a representation without a token; encode its text again (overwrite)"
            )
        return TokenRepresentations(tokens, mask, self.manifest.side, self.manifest.model_fingerprint)

    def _neighbours(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor]:
        # Converted where they are, not gathered.
        parts = [decode_tokens(part) for part in self._parts(start, stop)]
        if len(parts) > 1:
            return torch.cat([part.tokens for part in parts]), torch.cat([part.mask for part in parts])
        # The reader's own: fp32 is not converted, and would still be the file's.
        tokens = parts[0].tokens
        return tokens.clone() if self.manifest.dtype == "float32" else tokens, parts[0].mask

    def _gathered(self, wanted: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        # In the order of the file, so that the pages of a shard are touched once and from front to back.
        order = np.argsort(wanted, kind="stable")
        ordered = wanted[order].astype(np.int64)
        cuts = np.searchsorted(ordered, self._ends)
        pieces = [
            (i, start, stop) for i, (start, stop) in enumerate(zip([0, *cuts[:-1]], cuts, strict=False)) if start < stop
        ]
        for shard, _, _ in pieces:  # before room is made for what a damaged manifest promises
            self._map(shard)
        tokens = torch.empty(len(ordered), self.manifest.kept_tokens, self.manifest.width)
        mask = torch.empty(len(ordered), self.manifest.kept_tokens, dtype=torch.bool)
        for shard, start, stop in pieces:
            mapped = self._map(shard)
            first = 0 if shard == 0 else self._ends[shard - 1]
            local = torch.from_numpy(ordered[start:stop] - first)
            target = torch.from_numpy(order[start:stop])
            decoded = decode_tokens(mapped.take(local))
            tokens.index_copy_(0, target, decoded.tokens)
            mask.index_copy_(0, target, decoded.mask)
        return tokens, mask

    def stored(self, start: int, stop: int) -> StoredTokens:
        """The texts from `start` to `stop` as they are stored.

        Raises:
            CacheError: a damaged shard.
        """
        return StoredTokens.joined(self._parts(start, stop))

    def _parts(self, start: int, stop: int) -> list[StoredTokens]:
        return [self._map(shard)[first:last] for shard, first, last in self._shards_between(start, stop)]

    def _shards_between(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        # The shards that rows from `start` to `stop` lie in, and which of each shard's own rows they are.
        for shard in range(int(np.searchsorted(self._ends, start, "right")), len(self._ends)):
            first = 0 if shard == 0 else int(self._ends[shard - 1])
            if first >= stop:
                break
            yield shard, max(start - first, 0), min(stop, int(self._ends[shard])) - first

    def _map(self, shard: int) -> StoredTokens:
        if shard not in self._mapped:
            with self._mapping:  # so that threads do not each compute the checksum
                if shard not in self._mapped:
                    self._mapped[shard] = self._checked_shard(shard)
        return self._mapped[shard]

    def _checked_shard(self, shard: int) -> StoredTokens:
        path = shard_path(self.path, shard)
        check_file(path, _expected(self.manifest, path.name))
        rows = int(self._ends[shard] - (self._ends[shard - 1] if shard else 0))
        layout = array_layout(self.manifest.dtype, rows, self.manifest.kept_tokens, self.manifest.width)
        try:
            with safe_open(path, framework="pt") as file:
                arrays = {name: file.get_tensor(name) for name in layout.keys() & set(file.keys())}
        except (OSError, SafetensorError) as error:
            raise CacheError(f"cannot read {path}: {error}; encode the texts again (overwrite)") from error
        for name, expected in layout.items():
            actual = (arrays[name].dtype, tuple(arrays[name].shape)) if name in arrays else None
            if actual != expected:
                shown = f"no {name}" if actual is None else f"{name} of {actual[0]} and shape {actual[1]}"
                raise CacheError(
                    f"{path} is damaged: it holds {shown}, not {name} of {expected[0]} and shape {expected[1]}; "
                    "encode the texts again (overwrite)"
                )
        return StoredTokens(**arrays)


def verify_folder(path: str | Path) -> list[str]:
    """Reads a representation folder whole and compares everything in it with its checksums and with its manifest.

    Returns:
        what is damaged or missing, a line each; nothing where the folder is whole.
    """
    forget(Path(path))
    try:
        folder = RepresentationFolder.open(path)
    except CacheError as error:
        return [str(error)]
    problems = []
    checks: list[Any] = [lambda: folder.item_table, lambda: folder._aliases]
    checks += [lambda shard=shard: folder._checked_shard(shard) for shard in range(len(folder._ends))]
    for check in checks:
        try:
            check()
        except CacheError as error:
            problems.append(str(error))
    return problems


def _shard_ids(path: Path, manifest: RepresentationManifest, shard: int, first: int) -> pa.Table:
    rows = None if manifest.checksums is None else manifest.rows_of_shard(shard)
    return read_ids(path, shard, first, rows, _expected(manifest, f"ids-{shard:05d}.parquet"))


def _expected(manifest: RepresentationManifest, name: str) -> str | None:
    return None if manifest.checksums is None else manifest.checksums.get(name)


def _row_numbers(rows: Any) -> np.ndarray:
    # (m,) of a whole-number dtype: a mask of booleans, or fractions, would be read as other rows.
    wanted = np.asarray(rows).reshape(-1)
    if not len(wanted):
        return wanted.astype(np.int64)
    if not np.issubdtype(wanted.dtype, np.integer):
        raise ConfigError(f"row numbers must be whole numbers, not {wanted.dtype} such as {wanted[0]!r}"[:200])
    return wanted
