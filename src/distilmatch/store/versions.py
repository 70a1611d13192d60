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
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from distilmatch.errors import CacheError, ConfigError, DataError
from distilmatch.files import locked, writing
from distilmatch.store.catalogue import NAME, Catalogue, Version
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest, verify_folder
from distilmatch.store.reading import SEGMENTS, SHAPE, StoreReader, StoreVersion
from distilmatch.store.writer import RepresentationWriter
from distilmatch.text_arguments import text_list
from distilmatch.types import TokenRepresentations

_LOCK = ".lock"
_COPIED = 4096
_MOST_A_SEGMENT = 2**18
_Batches = Iterable[tuple[Sequence[str], Sequence[bytes], TokenRepresentations]]
_Values = Callable[[Sequence[str]], Iterable[tuple[Any, ...]]]


class Store(StoreReader):
    """A versioned store, by its folder. Many may read it while one process changes it.

    Example:
        ```python
        from distilmatch.store.versions import Store

        store = Store.open("products")  # made by: distilmatch store-create
        latest = store.version()  # a side for `match_folders` or a Scorer
        ```
    """

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
            facts = {name: getattr(manifest, name) for name in SHAPE} | {"store": uuid.uuid4().hex, "kinds": kinds}
            try:
                Catalogue.create(path, facts, list(kinds)).close()
            except BaseException:
                (path / NAME).unlink(missing_ok=True)
                raise
            (path / SEGMENTS).mkdir()
        return cls(path)

    def version(self, number: int | None = None) -> StoreVersion:
        """A version as a side; the last one where no number is given.

        Raises:
            ConfigError: there is none of this number, or it has expired.
        """
        with self.reading() as catalogue:
            return StoreVersion(self, catalogue.version(number))

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

        Memory is of a segment of a quarter of a million texts, whatever there is to add. A stopped call changes nothing.

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
            keys = RepresentationFolder.open(writer.folder).keys_between(0, writer.rows_written)
            catalogue.add_segment(int(writer.folder.name), keys, since)
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
            before = sum(texts for _, texts in catalogue.segments())
            number, needed = catalogue.next_segment(), catalogue.number_needed()
            source = f"compacted at {catalogue.version(None).number}"
            segments = [
                (number + place, min(_MOST_A_SEGMENT, needed - first))
                for place, first in enumerate(range(0, needed, _MOST_A_SEGMENT))
            ]
            self._copy(catalogue.needed_places(), segments, source)
            with catalogue.transaction():
                catalogue.move_texts(segments)
        return before - needed

    def _copy(self, places: Iterable[pa.RecordBatch], segments: Sequence[tuple[int, int]], source: str) -> None:
        """Writes the texts at places into new segments.

        Args:
            segments: number and texts of each.
        """
        runs = _runs(places)
        opened: dict[int, RepresentationFolder] = {}
        left = (0, 0, 0)  # of a run: segment, the next row, where it ends
        for number, texts in segments:
            place = self.segment(number)
            shutil.rmtree(place, ignore_errors=True)  # what a stopped change has left
            with RepresentationWriter(place, self.manifest(source), finds_rows=False) as writer:
                while writer.rows < texts:
                    segment, first, stop = left if left[1] < left[2] else next(runs)
                    if segment not in opened:
                        opened[segment] = RepresentationFolder.open(self.segment(segment))
                    last = min(stop, first + _COPIED, first + texts - writer.rows)
                    folder = opened[segment]
                    writer.append_stored(folder.key_list(first, last), folder.stored(first, last))
                    left = (segment, last, stop)
        rest = next(runs, None)  # asked for, so that the catalogue is no longer being read
        assert rest is None and left[1] == left[2], "the catalogue counted other texts than it named"

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


def _runs(places: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, int, int]]:
    """Neighbours among texts: segment, first row, and the row behind the last."""
    for batch in places:
        segments, rows = batch["segment"].to_numpy(), batch["row"].to_numpy()
        starts = np.flatnonzero((np.diff(segments, prepend=-1) != 0) | (np.diff(rows, prepend=-2) != 1))
        for start, stop in zip(starts, [*starts[1:], len(rows)], strict=True):
            yield int(segments[start]), int(rows[start]), int(rows[start]) + int(stop - start)


def verify_store(path: str | Path) -> list[str]:
    """Reads a store whole and compares its segments with their checksums, and its catalogue with them.

    Returns:
        what is damaged or missing, a line each; nothing where the store is whole.
    """
    try:
        store = Store.open(path)
        with store.reading() as catalogue:
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
