"""The side file of rows that cannot be used: JSON lines with file, row, reason and the row itself."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from distilmatch.config import TableConfig
from distilmatch.data.readers import Source
from distilmatch.errors import BadRow, DataError

_KEYS = {"file", "row", "reason", "raw"}


def quarantine_path(opened: Source, config: TableConfig) -> Path:
    """Where the bad rows of a source go: `quarantine_file`, or NAME.bad_rows.jsonl beside the source."""
    if config.quarantine_file is not None:
        return Path(config.quarantine_file).expanduser()
    return opened.folder / f"{opened.stem}.bad_rows.jsonl"


class Quarantine:
    """Writes the bad rows of one pass over `source`; the file appears whole, with the first bad row or not at all.

    Rows of other sources in the same file stay; those of an earlier pass over this source are replaced.
    """

    def __init__(self, path: Path, source: str) -> None:
        self.path = path
        self.count = 0
        self._source = source
        self._file: Any = None

    def add(self, bad: BadRow) -> None:
        """Writes one row.

        Raises:
            DataError: the side file cannot be written, or something else stands in its place.
        """
        if self._file is None:
            self._start()
        self.count += 1
        self._write({"file": bad.file, "row": bad.row, "reason": bad.reason, "raw": bad.raw})

    def _start(self) -> None:
        kept = self._others()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            handle, self._temporary = tempfile.mkstemp(dir=self.path.parent, prefix=f".{self.path.name}.")
        except OSError as error:
            raise DataError(
                f"cannot write the bad rows to {self.path}: {error.strerror or error}; set `quarantine_file`"
            ) from error
        # Half a surrogate pair in a row becomes the JSON escape of the same code point.
        self._file = os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace", newline="\n")
        for entry in kept:
            self._write(entry)

    def _write(self, entry: dict[str, Any]) -> None:
        self._file.write(json.dumps(entry, ensure_ascii=False) + "\n")

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
        return [entry for entry in kept if entry["file"] != self._source]

    def close(self) -> None:
        """Puts the file in its place."""
        if self._file is not None:
            self._file.close()
            os.chmod(self._temporary, 0o644)
            os.replace(self._temporary, self.path)
            self._file = None
