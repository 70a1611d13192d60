"""A versioned store of one side's representations: items come, change and go, and every version can be read.

A folder of segments, each a representation folder that is never changed, and a catalogue of the items
(`distilmatch.store.catalogue`). A text is stored once, whatever number of items has it. A change writes a segment of the texts
that are new, and commits it with its items in one transaction of the catalogue: a version is there whole or not at all.

Shape legend: n texts of a version; i items; m rows asked for.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from distilmatch.errors import CacheError, ConfigError, DataError
from distilmatch.files import locked, writing
from distilmatch.fingerprint import DIGEST_BYTES, text_key
from distilmatch.store.catalogue import NAME, Catalogue, Version
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, verify_folder
from distilmatch.store.items import Items
from distilmatch.store.layout import KEY_DTYPE, KeyIndex, key_array, key_column
from distilmatch.store.writer import RepresentationWriter
from distilmatch.text_arguments import text_list
from distilmatch.types import TokenRepresentations

_SEGMENTS, _LOCK = "segments", ".lock"
_COPIED = 4096
_ROWS = 2**40  # more than a segment has
_MOST_A_SEGMENT = 2**20
_Batches = Iterable[tuple[Sequence[str], Sequence[bytes], TokenRepresentations]]
_Values = Callable[[Sequence[str]], Iterable[tuple[Any, ...]]]
_SHAPE = ("model_fingerprint", "side", "side_name", "kept_tokens", "width", "dtype", "shard_rows")


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What lies between two versions: ids, sorted.

    Attributes:
        added, removed: that only the later, or only the earlier version has.
        changed: that both have, with another text or other columns.
    """

    added: list[str]
    removed: list[str]
    changed: list[str]


class Store:
    """A versioned store, by its folder. Many may read it while one process changes it.

    Example:
        ```python
        from distilmatch.store.versions import Store

        store = Store.open("products")  # made by: distilmatch store create
        latest = store.version()  # a side for `match_folders` or a Scorer
        ```
    """

    def __init__(self, path: Path) -> None:
        """Use `Store.open` or `Store.create`."""
        self.path = path
        catalogue = Catalogue(path)
        self.facts = catalogue.facts
        catalogue.close()

    @classmethod
    def open(cls, folder: str | Path) -> Store:
        """Opens a store.

        Raises:
            CacheError: there is none, or it is damaged.
        """
        return cls(Path(folder))

    @classmethod
    def create(
        cls, folder: str | Path, manifest: RepresentationManifest, columns: dict[str, str | None] | None = None
    ) -> Store:
        """Makes a store without items, its version 1.

        Args:
            manifest: the settings of its segments: model, side, shape, number format and rows a shard.
            columns: kept of the items beside their ids, and their kinds: "number", "text" or None, which the first value says.

        Raises:
            CacheError: the folder holds something.
            ConfigError: a column that cannot be kept.
        """
        path = Path(folder)
        with writing(path):
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
                raise CacheError(f"{path} exists and is not empty: name a new folder for the store")
            path.mkdir(parents=True, exist_ok=True)
            kinds = dict(columns or {})
            facts = {name: getattr(manifest, name) for name in _SHAPE} | {"store": uuid.uuid4().hex, "kinds": kinds}
            try:
                Catalogue.create(path, facts, list(kinds)).close()
            except BaseException:
                (path / NAME).unlink(missing_ok=True)
                raise
            (path / _SEGMENTS).mkdir()
        return cls(path)

    @property
    def kinds(self) -> dict[str, str | None]:
        """The columns of the items and what they hold: "number" or "text", None while no value was seen."""
        return dict(self.facts["kinds"])

    def manifest(self, texts_source: str | None = None) -> RepresentationManifest:
        """The settings of its segments."""
        return RepresentationManifest(**{name: self.facts[name] for name in _SHAPE}, texts_source=texts_source)

    def segment(self, number: int) -> Path:
        """The folder of a segment."""
        return self.path / _SEGMENTS / f"{number:06d}"

    def versions(self) -> list[Version]:
        """The versions that can be read, the first one first."""
        with self._read() as catalogue:
            return catalogue.versions()

    def version(self, number: int | None = None) -> StoreVersion:
        """A version as a side; the last one where no number is given.

        Raises:
            ConfigError: there is none of this number, or it has expired.
        """
        with self._read() as catalogue:
            return StoreVersion(self, catalogue.version(number))

    def column(self, name: str, number: int | None = None) -> list[Any]:
        """(i,) values of a column for the items of a version, in their order.

        Raises:
            ConfigError: no such column or version.
        """
        with self._read() as catalogue:
            return catalogue.values(catalogue.version(number).number, [name])[name].to_pylist()

    def where(self, condition: str, number: int | None = None) -> np.ndarray:
        """(i,) bool, whether an SQL condition holds for each item of a version.

        Raises:
            ConfigError: a condition that cannot be used, or no such version.
        """
        with self._read() as catalogue:
            version = catalogue.version(number).number
            items = catalogue.places(version)["item"].to_numpy()
            return np.isin(items, catalogue.places(version, condition)["item"].to_numpy())

    def added_since(self, before: int, number: int | None = None) -> np.ndarray:
        """(i,) bool, which items of a version came, or were changed, after version `before`, which may have expired."""
        with self._read() as catalogue:
            return catalogue.added_since(before, catalogue.version(number).number)

    def difference(self, before: int, after: int | None = None) -> Difference:
        """What changed from one version to another.

        Raises:
            ConfigError: no such version.
        """
        with self._read() as catalogue:
            numbers = [catalogue.version(number).number for number in (before, after)]
            added, removed, changed = catalogue.difference(*numbers)
        return Difference(added=added, removed=removed, changed=changed)

    @contextmanager
    def _read(self) -> Iterator[Catalogue]:
        catalogue = Catalogue(self.path)
        try:
            yield catalogue
        finally:
            catalogue.close()

    @contextmanager
    def changing(self) -> Iterator[Catalogue]:
        """The catalogue, for one who changes it.

        Raises:
            CacheError: another process changes the store, or it cannot be written.
        """
        with writing(self.path):
            lock = locked(self.path / _LOCK, self.path)
        try:
            catalogue = Catalogue(self.path, writes=True)
            try:
                yield catalogue
            finally:
                catalogue.close()
        finally:
            lock.release()

    def put(
        self,
        batches: _Batches,
        *,
        values: _Values | None = None,
        change: str = "append",
    ) -> Version:
        """Commits a version with items whose representations are at hand, whoever made them.

        Memory is of a segment of a million texts, whatever there is to add. A stopped call leaves the store as it was.

        Args:
            batches: n ids, n 16-byte keys of their texts (`fingerprint.text_key`) and the representations of n texts, from this
                store's model and side. A key that the store has keeps the representation that is there.
            values: gives the values of the kept columns for ids, in the order of the columns; none without.
            change: "append", which refuses ids that are there, or "upsert".

        Raises:
            DataError: an id twice, or one that is there; nothing was changed.
            CacheError: representations of another shape, or as `changing`.
        """
        with self.changing() as catalogue, catalogue.transaction():
            since = catalogue.version(None).number + 1
            catalogue.begin_staging(last_wins=False, shown="what was given")
            self._write(batches, values, catalogue, since)
            clash = catalogue.append_staged() if change == "append" else None
            if clash is not None:
                raise DataError(
                    f"id {clash[0]!r} is in {self.path} already, and so are {clash[1] - 1} others; nothing was changed"
                )
            return catalogue.commit_staged(change)

    def _write(self, batches: _Batches, values: _Values | None, catalogue: Catalogue, since: int) -> None:
        writer: RepresentationWriter | None = None
        try:
            for ids, keys, representations in batches:
                if writer is None:
                    writer = self._new_segment(catalogue.next_segment())
                known = catalogue.known_keys(keys)
                first = {key: place for place, key in reversed(list(enumerate(keys)))}
                new = sorted(place for key, place in first.items() if key not in known and writer.row_of_key(key) < 0)
                if new:
                    writer.append(None, [keys[place] for place in new], representations[torch.tensor(new)])
                kept = [()] * len(ids) if values is None else values(ids)
                catalogue.stage_rows(zip(ids, keys, kept, strict=True))
                if writer.rows >= _MOST_A_SEGMENT:
                    self._seal(writer, catalogue, since)
                    writer = None
            if writer is not None:
                self._seal(writer, catalogue, since)
        except BaseException:
            if writer is not None:
                writer.abandon()
            raise

    def _new_segment(self, number: int) -> RepresentationWriter:
        place = self.segment(number)
        shutil.rmtree(place, ignore_errors=True)  # what a stopped change has left
        return RepresentationWriter(place, self.manifest())

    def _seal(self, writer: RepresentationWriter, catalogue: Catalogue, since: int) -> None:
        writer.close()
        if writer.rows_written:
            catalogue.add_segment(int(writer.folder.name), RepresentationFolder.open(writer.folder).keys, since)
        else:
            shutil.rmtree(writer.folder)

    def delete(self, ids: Sequence[str] | None = None, *, condition: str | None = None) -> Version:
        """A new version without some items: those of ids, or those for which an SQL condition holds.

        Raises:
            ConfigError: neither or both are given, or the condition cannot be used.
            DataError: an id that is not there; nothing was deleted.
            CacheError: as `changing`.
        """
        if (ids is None) == (condition is None):
            raise ConfigError("say which items are deleted: their ids, or a condition")
        named = None if ids is None else text_list(ids, "ids")
        with self.changing() as catalogue, catalogue.transaction():
            return catalogue.remove(named, condition)

    def compact(self) -> int:
        """Writes the texts that a version still needs into one segment; how many texts are gone.

        Versions stay what they are. Files of older segments stay for those who read them, until `expire`.

        Raises:
            CacheError: as `changing`, or a segment is damaged.
        """
        with self.changing() as catalogue:
            needed = catalogue.needed_texts()
            before = sum(texts for _, texts in catalogue.segments())
            number = catalogue.next_segment()
            place = self.segment(number)
            shutil.rmtree(place, ignore_errors=True)  # what a stopped change has left
            if len(needed):
                with RepresentationWriter(
                    place, self.manifest(f"compacted at {catalogue.version(None).number}")
                ) as writer:
                    segments, rows = needed["segment"].to_numpy(), needed["row"].to_numpy()
                    self._copy(segments, rows, writer)
            with catalogue.transaction():
                catalogue.move_texts(number, needed["text"].to_pylist())
        return before - len(needed)

    def _copy(self, segments: np.ndarray, rows: np.ndarray, writer: RepresentationWriter) -> None:
        opened = {int(number): RepresentationFolder.open(self.segment(int(number))) for number in np.unique(segments)}
        runs = np.flatnonzero((np.diff(segments, prepend=-1) != 0) | (np.diff(rows, prepend=-2) != 1))
        for start, stop in zip(runs, [*runs[1:], len(rows)], strict=True):
            folder = opened[int(segments[start])]
            for first in range(int(rows[start]), int(rows[start]) + int(stop - start), _COPIED):
                last = min(first + _COPIED, int(rows[start]) + int(stop - start))
                writer.append_stored(folder.keys[first:last], folder.stored(first, last))

    def expire(self, before: int) -> int:
        """Forgets all versions before a number, and deletes the files that no other one needs; how many bytes.

        Raises:
            ConfigError: there would be no version left.
            CacheError: as `changing`.
        """
        with self.changing() as catalogue:
            last = catalogue.version(None).number
            if before > last:
                raise ConfigError(f"{self.path}: the last version is {last}, it cannot expire")
            with catalogue.transaction():
                catalogue.expire(before)
            # Only now, when no version names them; after a kill here the next call deletes them.
            freed = 0
            for number, _ in catalogue.segments(dropped=True):
                place = self.segment(number)
                if place.exists():
                    freed += sum(path.stat().st_size for path in place.iterdir())
                    shutil.rmtree(place)
            with catalogue.transaction():
                catalogue.forget_dropped()
        return freed


class StoreVersion(RepresentationFolder):
    """One version of a store, with all that a representation folder offers to those who read it.

    Its texts are in the order of their first items, and its items in the order in which they came: the row of an item is its
    number in the store, which it keeps.

    Attributes:
        store: it is of; version: which one.
    """

    def __init__(self, store: Store, version: Version) -> None:
        """Use `Store.version`."""
        self.store, self.version = store, version
        self.path = store.path
        self._segments: dict[int, RepresentationFolder] = {}
        items, places = self._loaded
        self.manifest = store.manifest(f"store {store.facts['store']}, version {version.number}").replaced(
            rows=len(places)
        )

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """The last version of a store, or the one that a path such as `products@3` names.

        Raises:
            CacheError: there is no store, or it is damaged.
            ConfigError: no such version.
        """
        found = version_at(folder)
        if found is None:
            raise CacheError(f"{folder} is no store: it has no {NAME}")
        return found  # type: ignore[return-value]

    @cached_property
    def _loaded(self) -> tuple[Items, np.ndarray]:
        # The items, and (n, 2) segment and row of the texts.
        with self.store._read() as catalogue:
            table = catalogue.places(self.version.number)
        places = table["segment"].to_numpy() * _ROWS + table["row"].to_numpy()
        distinct, first, texts = np.unique(places, return_index=True, return_inverse=True)
        order = np.argsort(first)
        numbers = np.empty_like(order)
        numbers[order] = np.arange(len(order))
        items = Items(rows=table["item"].to_numpy(), texts=numbers[texts], ids=table["id"])
        return items, np.stack(np.divmod(distinct[order], _ROWS), axis=1)

    @property
    def item_table(self) -> Items:  # type: ignore[override]
        """The items, each with its id."""
        return self._loaded[0]

    @cached_property
    def keys(self) -> list[bytes]:
        """The n keys of the texts, in row order."""
        raw = self._keys.tobytes()
        return [raw[start : start + DIGEST_BYTES] for start in range(0, len(raw), DIGEST_BYTES)]

    @cached_property
    def _keys(self) -> np.ndarray:
        places = self._loaded[1]
        found = np.empty(len(places), dtype=KEY_DTYPE)
        for number in np.unique(places[:, 0]).tolist():
            own = places[:, 0] == number
            found[own] = key_column(self._segment(number)._table["key"])[places[own, 1]]
        return found

    @cached_property
    def ids(self) -> list[str | None]:
        """The id of each text's first item, in row order."""
        return self.item_table.first_of_texts().ids.to_pylist()

    @property
    def has_ids(self) -> bool:
        """Items of a store have ids."""
        return len(self) > 0

    @cached_property
    def _key_index(self) -> KeyIndex:
        return KeyIndex(self._keys)

    @cached_property
    def _id_index(self) -> KeyIndex:
        keys = [text_key("", (id,)) for id in self.item_table.ids.to_pylist()]
        return KeyIndex(key_array(keys), self.item_table.texts)

    def read(self, rows: np.ndarray | Sequence[int]) -> TokenRepresentations:
        """As `RepresentationFolder.read`."""
        wanted = np.asarray(rows, dtype=np.int64).reshape(-1)
        outside = (wanted < 0) | (wanted >= len(self))
        if outside.any():
            raise CacheError(
                f"{self.path}, version {self.version.number}, has no row {int(wanted[outside][0])}: it has {len(self)} rows, "
                "counted from 0"
            )
        places = self._loaded[1][wanted]
        manifest = self.manifest
        if len(places) and (places[:, 0] == places[0, 0]).all():
            return self._segment(int(places[0, 0])).read(places[:, 1])
        tokens = torch.empty(len(wanted), manifest.kept_tokens, manifest.width)
        mask = torch.empty(len(wanted), manifest.kept_tokens, dtype=torch.bool)
        for number in np.unique(places[:, 0]).tolist():
            own = np.flatnonzero(places[:, 0] == number)
            part = self._segment(number).read(places[own, 1])
            target = torch.from_numpy(own)
            tokens.index_copy_(0, target, part.tokens)
            mask.index_copy_(0, target, part.mask)
        return TokenRepresentations(tokens, mask, manifest.side, manifest.model_fingerprint)

    def _segment(self, number: int) -> RepresentationFolder:
        if number not in self._segments:
            self._segments[number] = RepresentationFolder.open(self.store.segment(number))
        return self._segments[number]


def version_at(place: str | Path) -> StoreVersion | None:
    """The version of a store that a path names, `products` or `products@3`; None where no store is there.

    Raises:
        ConfigError: no such version.
        CacheError: the store is damaged.
    """
    path = Path(place)
    if (path / NAME).is_file():
        return Store.open(path).version()
    name, at, number = path.name.rpartition("@")
    if at and number.isdigit() and (path.with_name(name) / NAME).is_file():
        return Store.open(path.with_name(name)).version(int(number))
    return None


def verify_store(path: str | Path) -> list[str]:
    """Reads a store whole and compares its segments with their checksums, and its catalogue with them.

    Returns:
        what is damaged or missing, a line each; nothing where the store is whole.
    """
    try:
        store = Store.open(path)
        with store._read() as catalogue:
            problems = catalogue.problems()
            segments = catalogue.segments()
    except CacheError as error:
        return [str(error)]
    for number, texts in segments:
        place = store.segment(number)
        if not texts:
            continue
        found = verify_folder(place)
        held = 0 if found else len(RepresentationFolder.open(place))
        if not found and held != texts:
            found = [f"{place} holds {held} texts, the catalogue says {texts}"]
        problems += found
    return problems
