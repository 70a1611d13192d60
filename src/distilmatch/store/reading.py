"""A versioned store for those who read it: what it says of its versions and items, and each version as a side.

Shape legend: n texts of a version; i items; m rows asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from distilmatch.errors import CacheError
from distilmatch.fingerprint import DIGEST_BYTES, text_key
from distilmatch.store.catalogue import NAME, Catalogue, Version
from distilmatch.store.folder import RepresentationFolder, RepresentationManifest
from distilmatch.store.items import ItemColumns, Items
from distilmatch.store.layout import KEY_DTYPE, KeyIndex, key_array
from distilmatch.store.scratch import LongColumn, zeros
from distilmatch.types import TokenRepresentations

SEGMENTS = "segments"
SHAPE = ("model_fingerprint", "side", "side_name", "kept_tokens", "width", "dtype", "shard_rows")
"""Settings that all segments have."""


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


class StoreReader:
    """A versioned store, by its folder, as those see it who do not change it.

    Attributes:
        path: its folder.
        facts: what it says of itself: its name, the settings of its segments, and its columns.
    """

    def __init__(self, path: Path) -> None:
        """Use `open`."""
        self.path = path
        catalogue = Catalogue(path)
        self.facts = catalogue.facts
        catalogue.close()

    @classmethod
    def open(cls, folder: str | Path) -> Self:
        """Opens a store.

        Raises:
            CacheError: there is none, or it is damaged.
        """
        return cls(Path(folder))

    @property
    def kinds(self) -> dict[str, str | None]:
        """The columns of the items and what they hold: "number" or "text", None while no value was seen."""
        return dict(self.facts["kinds"])

    def manifest(self, texts_source: str | None = None) -> RepresentationManifest:
        """The settings of its segments."""
        return RepresentationManifest(**{name: self.facts[name] for name in SHAPE}, texts_source=texts_source)

    def segment(self, number: int) -> Path:
        """The folder of a segment."""
        return self.path / SEGMENTS / f"{number:06d}"

    def versions(self) -> list[Version]:
        """The versions that can be read, the first one first."""
        with self.reading() as catalogue:
            return catalogue.versions()

    def column(self, name: str, number: int | None = None) -> list[Any]:
        """(i,) values of a column for the items of a version, in their order.

        Raises:
            ConfigError: no such column or version.
        """
        with self.reading() as catalogue:
            return catalogue.values(catalogue.version(number).number, [name])[name].to_pylist()

    def where(self, condition: str, number: int | None = None) -> np.ndarray:
        """(i,) bool, whether an SQL condition holds for each item of a version.

        Raises:
            ConfigError: a condition that cannot be used, or no such version.
        """
        with self.reading() as catalogue:
            version = catalogue.version(number).number
            return catalogue.holds(version, condition)

    def added_since(self, before: int, number: int | None = None) -> np.ndarray:
        """(i,) bool, which items of a version came, or were changed, after version `before`, which may have expired."""
        with self.reading() as catalogue:
            return catalogue.added_since(before, catalogue.version(number).number)

    def difference(self, before: int, after: int | None = None) -> Difference:
        """What changed from one version to another.

        Raises:
            ConfigError: no such version.
        """
        with self.reading() as catalogue:
            numbers = [catalogue.version(number).number for number in (before, after)]
            added, removed, changed = catalogue.difference(*numbers)
        return Difference(added=added, removed=removed, changed=changed)

    @contextmanager
    def reading(self) -> Iterator[Catalogue]:
        """The catalogue, for one who reads it."""
        catalogue = Catalogue(self.path)
        try:
            yield catalogue
        finally:
            catalogue.close()


class StoreVersion(RepresentationFolder):
    """One version of a store, with all that a representation folder offers to those who read it.

    Its texts are in the order of their first items, and its items in the order in which they came: the row of an item is its
    number in the store, which it keeps.

    Attributes:
        store: it is of; version: which one.
    """

    def __init__(self, store: StoreReader, version: Version) -> None:
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
        """The version of a store that a path names: `products`, the last one, or `products@3`.

        Raises:
            CacheError: there is no store, or it is damaged.
            ConfigError: no such version.
        """
        place = store_at(folder)
        if place is None:
            raise CacheError(f"{folder} is no store: it has no {NAME}")
        store = StoreReader.open(place[0])
        with store.reading() as catalogue:
            return cls(store, catalogue.version(place[1]))

    @cached_property
    def _loaded(self) -> tuple[Items, np.ndarray]:
        # The items, and (n, 2) segment and row of the texts, which are numbered in the order of their first items.
        items, places = ItemColumns(self.path), LongColumn(np.int64, self.path)
        with self.store.reading() as catalogue:
            number_of = zeros(catalogue.last_text() + 1, self.path)  # from 1; 0 where none was seen
            for batch in catalogue.item_batches(self.version.number):
                texts = batch["text"].to_numpy()
                new = np.flatnonzero(number_of[texts] == 0)
                new = new[np.sort(np.unique(texts[new], return_index=True)[1])]
                number_of[texts[new]] = len(places) // 2 + 1 + np.arange(len(new))
                found = [batch[name].to_numpy()[new] for name in ("segment", "row")]
                places.extend(np.stack(found, axis=1).reshape(-1))
                items.extend(batch["item"].to_numpy(), number_of[texts] - 1, batch["id"])
        return items.finished(), places.finished().reshape(-1, 2)

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
            own, segment = places[:, 0] == number, self._segment(number)
            found[own] = segment.keys_between(0, len(segment))[places[own, 1]]
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
        keys = [text_key("", (id.as_py(),)) for id in self.item_table.ids]
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


def store_at(place: str | Path) -> tuple[Path, int | None] | None:
    """Folder and version of a store that a path names, `products` or `products@3`; None where no store is there."""
    path = Path(place)
    if (path / NAME).is_file():
        return path, None
    name, at, number = path.name.rpartition("@")
    if at and number.isdigit() and (path.with_name(name) / NAME).is_file():
        return path.with_name(name), int(number)
    return None
