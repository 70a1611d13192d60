"""What a dry run of a job measures: a small part of the real work, done in a folder that is deleted again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

REHEARSED_SECONDS = 3.0


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """How much there is to do, and what it will take by the part that was done.

    Attributes:
        facts: amounts by name, such as rows and distinct texts.
        seconds: of what a run has yet to do after the checks that this one did too, by stage.
        disk_bytes: of what the run will have written.
        sample: the first rows, as they are read: texts (and ids) by column.
    """

    facts: Mapping[str, int]
    seconds: Mapping[str, float]
    disk_bytes: int
    sample: tuple[Mapping[str, object], ...] = ()
