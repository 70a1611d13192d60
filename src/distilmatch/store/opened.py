"""One door for the representations of a side on disk: a folder that `encode` made, or a version of a store."""

from __future__ import annotations

from pathlib import Path

from distilmatch.errors import ConfigError
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.reading import StoreVersion, store_at


def opened_folder(folder: RepresentationFolder | str | Path) -> RepresentationFolder:
    """A folder that is open already, or the one at a path, opened; of a store its last version, or the one of `products@3`.

    Raises:
        ConfigError: it is none of them.
        CacheError: as `RepresentationFolder.open` and `Store.open`.
    """
    if isinstance(folder, RepresentationFolder):
        return folder
    if not isinstance(folder, str | Path) or not str(folder):
        raise ConfigError(f"a folder of representations, or its path, is wanted, not {folder!r}"[:200])
    return RepresentationFolder.open(folder) if store_at(folder) is None else StoreVersion.open(folder)
