"""The manifest of a cache folder: written last, so that a folder without one is unfinished."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from distilmatch.errors import CacheError
from distilmatch.runtime import write_json

MANIFEST = "manifest.json"


def write_manifest(folder: Path, kind: str, version: int, **facts: Any) -> None:
    """Writes the manifest of a folder of format `kind`, atomically."""
    write_json(folder / MANIFEST, {"format": kind, "format_version": version, **facts})


def read_manifest(folder: Path, kind: str, version: int, what: str) -> dict[str, Any]:
    """What `write_manifest` wrote.

    Args:
        what: the folder's content in a message, such as "corpus".

    Raises:
        CacheError: no finished folder, one that is damaged or of another version, or something else.
    """
    manifest = owned_manifest(folder, kind, what)
    if manifest.get("format_version") != version:
        raise CacheError(
            f"{folder} has format version {manifest.get('format_version')}, this distilmatch reads {version}: delete the "
            "folder, or choose another"
        )
    return manifest


def owned_manifest(folder: Path, kind: str, what: str) -> dict[str, Any]:
    """The manifest of any version, before the folder is replaced; raises as `read_manifest` does."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        missing = "is no folder" if not folder.is_dir() else f"holds no finished {what} (its manifest is missing)"
        raise CacheError(f"{folder} {missing}; make it anew") from None
    except (OSError, ValueError) as error:
        raise CacheError(f"{folder / MANIFEST} is damaged: {error}; delete the folder and make it anew") from error
    if not isinstance(manifest, dict) or manifest.get("format") != kind:
        raise CacheError(
            f"{folder} belongs to something else: its manifest is not that of a {kind}; it stays as it is, choose another"
        )
    return manifest
