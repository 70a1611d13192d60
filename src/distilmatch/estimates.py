"""What a job is expected to take: how it is told, and the small things that every estimate is made of.

Shape legend: n texts or pairs.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a job takes, by rates that were measured on a part of it.

    Attributes:
        seconds: by stage, in order, of the whole process: its start and the loading of models are a stage too.
        disk_bytes: of what the job writes and leaves on disk.
        notes: what is not certain, a sentence each.
    """

    seconds: Mapping[str, float]
    disk_bytes: int
    notes: tuple[str, ...] = ()

    @property
    def total_seconds(self) -> float:
        """Of the whole job."""
        return sum(self.seconds.values())


def seconds_so_far() -> float:
    """Seconds since this process began."""
    return time.time() - float(psutil.Process().create_time())


def peak_memory() -> int:
    """Bytes of memory that this process held at most so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak) if sys.platform == "darwin" else 1024 * int(peak)


def disk_bytes(place: str | Path) -> int:
    """Bytes of a file, or of all files in a folder; 0 where there is nothing."""
    path = Path(place)
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def spread_batches(lengths: Sequence[int] | np.ndarray, batch_size: int, batches: int) -> list[np.ndarray]:
    """Batches that stand for all that a job makes of texts sorted by length: as many of each length as there.

    A job sorts its texts and cuts them into batches of like length; a sample that is drawn at random and then sorted has
    batches of mixed lengths, which pad more.

    Args:
        lengths: (n,) of all texts.
        batches: how many at most.

    Returns:
        (batch_size,) int64 positions each, longest texts first; all texts where they are no more than that.
    """
    order = np.argsort(-np.asarray(lengths), kind="stable")
    starts = np.arange(0, len(order), batch_size)
    chosen = (
        starts[((np.arange(batches) + 0.5) * len(starts) / batches).astype(int)] if len(starts) > batches else starts
    )
    return [order[start : start + batch_size] for start in chosen]
