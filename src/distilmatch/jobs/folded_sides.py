"""The sides of a job, with a place in files for the folded texts that memory does not hold."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distilmatch.engine.scorer import Scorer
from distilmatch.engine.sides import LoadedSide
from distilmatch.errors import CacheError
from distilmatch.fingerprint import fingerprint, fingerprint_tensors
from distilmatch.jobs.parts import parts_folder
from distilmatch.store.folder import RepresentationFolder
from distilmatch.store.reading import StoreVersion


def load_sides(
    scorer: Scorer,
    folders: Sequence[RepresentationFolder],
    output: Path,
    keep_folded: str | Path | None,
    by_workers: bool = False,
) -> list[LoadedSide]:
    """The folders as sides.

    Args:
        output: of the job; what memory does not hold is folded beside it, and deleted with its parts.
        keep_folded: a folder in which every side's folded texts stay, for other jobs too.
        by_workers: other processes fold the texts; without `keep_folded` nothing is kept in files.
    """
    model = scorer.model
    weights = fingerprint_tensors(model.state_dict())
    sides = []
    for j, folder in enumerate(folders):
        side = scorer.load(folder, j)
        if keep_folded is not None or not (by_workers or side.fits(len(folders))):
            name = model.student.side_names[j]
            mark = fingerprint(weights, model.student.to_dict(), folder_facts(folder), [j, scorer.kernel.name])
            beside = parts_folder(output) / f"folded-{name}"
            place = beside if keep_folded is None else Path(keep_folded).expanduser() / f"{name}-{mark[:16]}"
            side = scorer.load(folder, j, folded=(place, mark))
        sides.append(side)
    return sides


def folder_facts(folder: RepresentationFolder) -> list[Any]:
    """JSON-like values that say what a folder holds."""
    facts: list[Any] = [folder.manifest.to_dict()]
    if isinstance(folder, StoreVersion):  # its manifest names store and version, which never change
        return facts
    if folder.manifest.checksums is None:
        facts.append({"keys": fingerprint(b"".join(folder.keys).hex()), "ids": fingerprint(folder.items()[2])})
    return facts


def check_room(sides: Sequence[LoadedSide]) -> None:
    """Refuses, before any work, folded texts for which the disk has no room.

    Raises:
        CacheError: how much is needed, and where.
    """
    for side in sides:
        if side.folder is None:
            continue
        place = side.folder.path
        there = next(parent for parent in (place, *place.absolute().parents) if parent.exists())
        written = sum(path.stat().st_size for path in place.glob("chunk-*"))
        needed, free = len(side) * side.kept_bytes - written, shutil.disk_usage(there).free
        if needed > free:
            raise CacheError(
                f"the folded texts of {side.shown} take {needed / 2**30:.1f} GiB in {place}, where {free / 2**30:.1f} are "
                "free: free some, or keep them in a folder on another disk (keep_folded)"
            )
