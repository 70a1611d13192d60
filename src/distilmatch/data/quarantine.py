"""Rows that cannot be used: counted by what is wrong with them, or set aside in a file of JSON lines with file, row, reason
and the row itself.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from distilmatch.config.tables import TableConfig
from distilmatch.data.sources import Source
from distilmatch.errors import BadRow, BadRowGroup, BadRowsError, DataError

logger = logging.getLogger(__name__)

KEPT_BAD_ROWS = 10_000
_MOST_GROUPS = 1_000
_RAW_SHOWN = 500
_KEYS = {"file", "row", "reason", "raw"}
_closing = threading.Lock()
_sets_aside: ContextVar[bool] = ContextVar("_sets_aside", default=True)


@contextmanager
def nothing_set_aside() -> Iterator[None]:
    """Inside, bad rows that would go to a side file are only counted: for a dry run."""
    token = _sets_aside.set(False)
    try:
        yield
    finally:
        _sets_aside.reset(token)


def quarantine_path(opened: Source, config: TableConfig) -> Path:
    """Where the bad rows of a source go: `quarantine_file`, or NAME.bad_rows.jsonl beside the source."""
    if config.quarantine_file is not None:
        return Path(config.quarantine_file).expanduser()
    return opened.folder / f"{opened.stem}.bad_rows.jsonl"


class BadRows:
    """The bad rows of one pass: set aside in a file, or counted and the first of them kept.

    Attributes:
        total: how many there were.
        kept: the first of them, unless they are set aside.
        quarantine: where they go, or None.
    """

    def __init__(self, quarantine: Quarantine | None) -> None:
        self.total = 0
        self.kept: list[BadRow] = []
        self.quarantine = quarantine
        self._groups: dict[tuple[str, str], _Group] = {}

    def add(self, bad: BadRow, kind: str = "") -> None:
        """Takes a row.

        Args:
            kind: what its reason is a case of, where the words differ from row to row.
        """
        self.total += 1
        if self.quarantine is not None:
            self.quarantine.add(bad)
            return
        if len(self.kept) < KEPT_BAD_ROWS:
            self.kept.append(BadRow(file=bad.file, row=bad.row, reason=bad.reason, raw=bad.raw[:_RAW_SHOWN]))
        group = self._groups.get((bad.file, kind or bad.reason))
        if group is None and len(self._groups) < _MOST_GROUPS:
            group = self._groups[bad.file, kind or bad.reason] = _Group(bad.file, bad.reason)
        if group is not None:
            group.add(bad)

    def check(self, advice: Sequence[str] = ()) -> None:
        """Raises what was found, unless it is set aside.

        Raises:
            BadRowsError: there are bad rows.
        """
        if self.kept:
            groups = [group.summary() for group in self._groups.values()]
            raise BadRowsError(self.kept, self.total, groups, advice)

    def finish(self, name: str, good: int, advice: Sequence[str] = ()) -> None:
        """Ends a pass over one source that had `good` rows beside these: those set aside are told to the log.

        Raises:
            BadRowsError: there are bad rows, and they are not set aside.
            DataError: there is no row that can be used.
        """
        self.check(advice)
        if self.quarantine is not None and self.total:
            logger.warning(
                "%s: %d of %d rows cannot be used and were left out; they %s %s with the reasons",
                name,
                self.total,
                good + self.total,
                "are in" if _sets_aside.get() else "would go to",
                self.quarantine.path,
            )
        if not good:
            raise DataError(
                f"{name} has no row that can be used: all {self.total} are bad, see {self.quarantine.path}"
                if self.quarantine is not None and self.total
                else f"{name} has no rows; give a source with rows"
            )

    def close(self) -> None:
        """Puts the file of rows set aside in its place."""
        if self.quarantine is not None:
            self.quarantine.close()


class _Group:
    """Bad rows with the same thing wrong."""

    def __init__(self, file: str, reason: str) -> None:
        self._file, self._reason = file, reason
        self._rows: list[int] = []
        self._count = 0
        self._varied = False

    def add(self, bad: BadRow) -> None:
        self._count += 1
        self._varied = self._varied or bad.reason != self._reason
        if len(self._rows) < BadRowsError.shown:
            self._rows.append(bad.row)

    def summary(self) -> BadRowGroup:
        rows = tuple(self._rows)
        return BadRowGroup(file=self._file, rows=rows, count=self._count, reason=self._reason, varied=self._varied)


def bad_rows_of(opened: Source, config: TableConfig) -> BadRows:
    """Where the bad rows of a source go, as `on_bad_rows` has it."""
    stops = config.on_bad_rows == "stop"
    if stops:
        return BadRows(None)
    return BadRows(Quarantine(quarantine_path(opened, config), opened.name, in_memory=opened.in_memory))


class Quarantine:
    """Writes the bad rows of one pass over `source`; the file appears whole, with the first bad row or not at all.

    Rows of other sources in the same file stay; those of an earlier pass over this source are replaced. Sources in memory have
    one name: their rows are added to those that are there, each once.
    """

    def __init__(self, path: Path, source: str, *, in_memory: bool = False) -> None:
        self.path = path
        self.count = 0
        self._source, self._in_memory = source, in_memory
        self._file: Any = None
        self._written: set[str] = set()  # lines, of a source in memory

    def add(self, bad: BadRow) -> None:
        """Writes one row.

        Raises:
            DataError: the side file cannot be written, or something else stands in its place.
        """
        if self._file is None and (self.count == 0 or _sets_aside.get()):
            self._start()
        self.count += 1
        if self._file is None:
            return
        line = _line({"file": bad.file, "row": bad.row, "reason": bad.reason, "raw": bad.raw})
        self._file.write(line)
        if self._in_memory:
            self._written.add(line)

    def _start(self) -> None:
        self._others()  # what stands there must be such a list
        if not _sets_aside.get():
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, self._temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            raise DataError(
                f"cannot write the bad rows to {self.path}: {error.strerror or error}; set `quarantine_file`"
            ) from error
        # Half a surrogate pair in a row becomes the JSON escape of the same code point.
        self._file = os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n")

    def _others(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        kept = []
        try:
            for line in self.path.read_text(encoding="utf-8").split("\n"):
                if line:
                    entry = json.loads(line)
                    if not isinstance(entry, dict) or set(entry) != _KEYS:
                        raise ValueError
                    kept.append(entry)
        except (ValueError, OSError) as error:
            raise DataError(
                f"{self.path} exists and is no list of bad rows, so it stays as it is; set another `quarantine_file`"
            ) from error
        if self._in_memory:
            return [entry for entry in kept if _line(entry) not in self._written]
        return [entry for entry in kept if entry["file"] != self._source]

    def close(self) -> None:
        """Puts the file in its place, with the rows that other passes have put there by now."""
        if self._file is None:
            return
        with _closing:
            for entry in self._others():
                self._file.write(_line(entry))
            self._file.close()
            os.chmod(self._temporary, 0o644)
            os.replace(self._temporary, self.path)
            self._file = None


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"
