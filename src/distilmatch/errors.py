"""The package's errors: each says what was wrong, where, and what to do about it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """What a message says of a name that is nearly one of `known`: "; did you mean 'x'?", or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


class DistilmatchError(Exception):
    """Base of every error that this package raises on purpose; the command line prints it without a traceback."""


class ConfigError(DistilmatchError, ValueError):
    """A setting, recipe or argument that cannot be used."""


class DataError(DistilmatchError, ValueError):
    """An input file or table that cannot be used as a whole."""


class ModelError(DistilmatchError, ValueError):
    """A model, checkpoint or set of representations that does not fit the request."""


class CacheError(DistilmatchError, RuntimeError):
    """A cache, store or output folder that is damaged, locked or belongs to something else."""


class MissingExtraError(DistilmatchError, ImportError):
    """An optional dependency that is not installed; the message holds the command that installs it."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed; install it with: pip install 'distilmatch[{extra}]'")


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """One row that cannot be used: which file, which row (1-based, header not counted) and why."""

    file: str
    row: int
    reason: str
    raw: str = ""

    def __str__(self) -> str:
        return f"{self.file}, row {self.row}: {self.reason}"


class BadRowsError(DataError):
    """Rows that cannot be used, found before any work was started.

    Attributes:
        bad_rows: the rows found, in file order; the first of them where there are very many.
        total: how many there are in all.
    """

    shown = 10

    def __init__(self, bad_rows: Sequence[BadRow], total: int | None = None) -> None:
        self.bad_rows = tuple(bad_rows)
        self.total = len(self.bad_rows) if total is None else total
        lines = [f"{self.total} bad row(s); nothing was started."]
        lines += [f"  {bad_row}" for bad_row in self.bad_rows[: self.shown]]
        if self.total > self.shown:
            lines.append(f"  ... and {self.total - self.shown} more")
        lines.append("Mend them, or go on without them: --on-bad-rows=quarantine (on_bad_rows: quarantine).")
        super().__init__("\n".join(lines))
