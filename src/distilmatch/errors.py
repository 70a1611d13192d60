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
    """Base of every error that this package raises on purpose; the command line prints it without a traceback.

    Example:
        ```python
        from distilmatch import DistilmatchError, load_table

        try:
            load_table([{"query": "red shoe", "product": ""}])
        except DistilmatchError as error:
            print(error)  # row 1 and its empty text are named
        ```
    """


class ConfigError(DistilmatchError, ValueError):
    """A setting, recipe or argument that cannot be used."""


class DataError(DistilmatchError, ValueError):
    """An input file or table that cannot be used as a whole."""


class ModelError(DistilmatchError, ValueError):
    """A model, checkpoint or set of representations that does not fit the request."""


class CacheError(DistilmatchError, RuntimeError):
    """A cache, store or output folder that is damaged, locked or belongs to something else."""


class WorkerError(DistilmatchError, RuntimeError):
    """A worker of a job on several processes or machines that is lost again and again, or has failed."""


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


@dataclass(frozen=True, kw_only=True)
class BadRowGroup:
    """Bad rows of one file that have the same thing wrong with them.

    Attributes:
        rows: numbers of the first of them.
        count: how many there are.
        reason: of the first row.
        varied: the reasons of the others differ in the value that they quote.
    """

    file: str
    rows: tuple[int, ...]
    count: int
    reason: str
    varied: bool = False

    def __str__(self) -> str:
        more = f" and {self.count - len(self.rows)} more" if self.count > len(self.rows) else ""
        named = f"row{'s' if self.count > 1 else ''} {', '.join(map(str, self.rows))}{more}"
        return f"{self.file}, {named}: {self.reason}{' (the others alike)' if self.varied else ''}"


class BadRowsError(DataError):
    """Rows that cannot be used, found before any work was started.

    Attributes:
        bad_rows: the rows found, in file order; the first of them where there are very many.
        total: how many there are in all.
    """

    shown = 10

    def __init__(
        self,
        bad_rows: Sequence[BadRow],
        total: int | None = None,
        groups: Sequence[BadRowGroup] | None = None,
        advice: Sequence[str] = (),
    ) -> None:
        """Collapses rows of one reason into one line.

        Args:
            groups: the rows by what is wrong; by default `bad_rows` by their reasons.
            advice: what to do about them, a line each.
        """
        self.bad_rows = tuple(bad_rows)
        self.total = len(self.bad_rows) if total is None else total
        groups = _grouped(self.bad_rows, self.shown) if groups is None else groups
        lines = [f"{self.total} bad row(s); nothing was started."]
        lines += [f"  {group}" for group in groups[: self.shown]]
        rest = self.total - sum(group.count for group in groups[: self.shown])
        if rest:
            lines.append(f"  ... and {rest} more row(s) with something else wrong")
        lines += advice
        lines.append("Mend them, or go on without them: --on-bad-rows=quarantine (on_bad_rows: quarantine).")
        super().__init__("\n".join(lines))


def _grouped(rows: Sequence[BadRow], shown: int) -> list[BadRowGroup]:
    groups: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        groups.setdefault((row.file, row.reason), []).append(row.row)
    return [
        BadRowGroup(file=file, rows=tuple(numbers[:shown]), count=len(numbers), reason=reason)
        for (file, reason), numbers in groups.items()
    ]
