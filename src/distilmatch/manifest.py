"""The manifest of a cache folder: written last, so that a folder without one is unfinished, with a checksum of each file.

A checksum finds damage, and files of another folder; it is no proof against an attacker. Each file is checked once a process,
when it is first read.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from distilmatch.errors import CacheError
from distilmatch.files import checksum, read_json, writing
from distilmatch.fingerprint import fingerprint_file
from distilmatch.runtime import write_json

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"

_CHECKSUMS, _OWN = "checksums", "checksum"
_checked: set[tuple[str, int, int, str]] = set()  # files that this process has found whole
_said: set[str] = set()


def write_manifest(folder: Path, kind: str, version: int, *, checked: Iterable[str] = (), **facts: Any) -> None:
    """Writes the manifest of a folder of format `kind`, atomically.

    Args:
        checked: files of the folder, finished, whose checksums it is to hold.
        facts: JSON-like values.

    Raises:
        CacheError: it cannot be written, or the disk is full.
    """
    content = {"format": kind, "format_version": version, **facts}
    with writing(folder / MANIFEST):
        sums = file_checksums(folder, checked)
        if sums:
            content[_CHECKSUMS] = sums
        write_json(folder / MANIFEST, {**content, _OWN: _own_checksum(content)})


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
    if _OWN in manifest and manifest[_OWN] != _own_checksum(manifest):
        raise CacheError(
            f"{folder / MANIFEST} is damaged: its checksum does not fit; delete the folder and make it anew"
        )
    return manifest


def owned_manifest(folder: Path, kind: str, what: str) -> dict[str, Any]:
    """The manifest of any version, before the folder is replaced; raises as `read_manifest` does."""
    try:
        manifest = read_json(folder / MANIFEST)
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


def check_files(folder: Path, manifest: Mapping[str, Any], what: str) -> bool:
    """Compares the files of a folder with the checksums of its manifest, each once a process.

    Returns:
        False where the manifest has none (an earlier version's), which a warning says once.

    Raises:
        CacheError: a file that is missing, of another length or damaged.
    """
    sums = manifest.get(_CHECKSUMS)
    if sums is None:
        if str(folder) not in _said:
            _said.add(str(folder))
            logger.warning(
                "%s (%s) is of an earlier version, without checksums: it is used, but damage to it is not seen", folder, what
            )  # fmt: skip
        return False
    check_checksums(folder, sums, what)
    return True


def file_checksums(folder: Path, names: Iterable[str]) -> dict[str, Any]:
    """The length and the checksum of files of a folder, by name, as `check_checksums` compares them."""
    return {name: {"bytes": os.path.getsize(folder / name), "xxh3": checksum(folder / name)} for name in names}


def check_checksums(folder: Path, sums: Any, what: str) -> None:
    """Compares files with what `file_checksums` gave, each once a process.

    Raises:
        CacheError: as `check_files`.
    """
    for problem in _problems(folder, sums):
        raise CacheError(f"{folder} is damaged: {problem}; delete the folder and make the {what} anew")


def verify_manifest(folder: str | Path) -> list[str]:
    """What is damaged in a folder with a manifest (a corpus, token ids, embeddings, a table), a line each.

    Every file is read anew; nothing is changed. A folder of an earlier version without checksums has nothing to tell, which
    a warning says.

    Raises:
        CacheError: there is no manifest.
    """
    folder = Path(folder)
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError:
        raise CacheError(f"{folder} has no {MANIFEST}: it is unfinished, or something else; check the path") from None
    except (OSError, ValueError) as error:
        return [f"{folder / MANIFEST}: {error}"]
    if not isinstance(manifest, dict):
        return [f"{folder / MANIFEST}: no mapping"]
    if _OWN in manifest and manifest[_OWN] != _own_checksum(manifest):
        return [f"{folder / MANIFEST}: its checksum does not fit"]
    sums = manifest.get(_CHECKSUMS, manifest.get("files"))
    if sums is None:
        logger.warning("%s is of an earlier version, without checksums: damage to it cannot be seen", folder)
        return []
    return [f"{folder}: {problem}" for problem in _problems(folder, sums, anew=True)]


def _problems(folder: Path, sums: Any, anew: bool = False) -> list[str]:
    if not isinstance(sums, dict) or not all(isinstance(expected, dict) for expected in sums.values()):
        return ["its manifest holds no checksums where they should be"]
    found = (_problem(folder / name, expected, anew) for name, expected in sums.items())
    return [problem for problem in found if problem is not None]


def _problem(path: Path, expected: dict[str, Any], anew: bool) -> str | None:
    wanted = expected.get("xxh3", expected.get("hash"))
    try:
        status = path.stat()
        key = (os.path.realpath(path), status.st_size, status.st_mtime_ns, str(wanted))
        if key in _checked and not anew:
            return None
        if status.st_size != expected.get("bytes"):
            return f"{path.name} has {status.st_size:,} bytes, not {expected.get('bytes')}"
        if (checksum if "xxh3" in expected else fingerprint_file)(path) != wanted:
            return f"{path.name} is not what its checksum says"
    except (OSError, ValueError) as error:
        return f"{path.name} cannot be read ({getattr(error, 'strerror', None) or error})"
    _checked.add(key)
    return None


def _own_checksum(manifest: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in manifest.items() if name != _OWN}
    return xxhash.xxh3_128_hexdigest(
        json.dumps(rest, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
