"""What every reader gives: a source with its columns, and raw rows that nobody has judged yet."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distilmatch.errors import DataError

BATCH_ROWS = 4096
PEEKED_ROWS = 100  # that are looked at before it is known what they are
_MOST_SAID = 1_000
_said: set[tuple[str, str]] = set()


@dataclass(frozen=True, kw_only=True)
class RawRow:
    """A row as it stands in its source.

    Attributes:
        row: 1-based, a header not counted.
        values: the row's columns; None where the row cannot be read.
        problem: why it cannot be read; None where it can.
        kind: what `problem` is a case of, where its words differ from row to row.
        original: the text or bytes of the row, where the source is text.
    """

    row: int
    values: Mapping[str, Any] | None = None
    problem: str | None = None
    kind: str = ""
    original: str | bytes | None = None

    def text(self) -> str:
        """The row as text, for a report; bytes that are no UTF-8 are written as escapes."""
        if isinstance(self.original, bytes):
            return self.original.decode("utf-8", errors="backslashreplace")
        if self.original is not None:
            return self.original.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")
        return json.dumps(self.values, ensure_ascii=False, default=str)


@dataclass(frozen=True, kw_only=True)
class Source:
    """An opened source: its name, its columns, and a stream of its rows.

    Attributes:
        name: how messages call it.
        columns: the header; None where each row has keys of its own (JSONL, mappings).
        read: the rows, from the start; the argument names the columns that are wanted, None for all of them.
        class_names: of integer columns whose values stand for names (`datasets.ClassLabel`), those names.
        not_texts: columns whose type says that they hold no texts.
        folder, stem: where a side file goes and how its name starts.
        in_memory: the rows are objects of this process.
        is_lines: a text a line, without columns of its own.
        hint: what a message about a column that is not there ends with.
    """

    name: str
    columns: tuple[str, ...] | None
    read: Callable[[Sequence[str] | None], Iterator[RawRow]]
    class_names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    not_texts: frozenset[str] = frozenset()
    folder: Path = Path()
    stem: str = "rows"
    in_memory: bool = False
    is_lines: bool = False
    hint: str = ""

    def __post_init__(self) -> None:
        twice = sorted(name for name, count in Counter(self.columns or ()).items() if count > 1)
        if twice:
            named = ", ".join(repr(name) if name else "a column without a name" for name in twice)
            raise DataError(f"{self.name}: the header names {named} more than once; rename them")


def say_once(logger: logging.Logger, source: Source, message: str, level: int = logging.INFO) -> None:
    """Logs what is found of a source; of a file once, however often it is read."""
    if not logger.isEnabledFor(level) or (source.name, message) in _said:
        return
    if not source.in_memory:
        if len(_said) >= _MOST_SAID:
            _said.clear()
        _said.add((source.name, message))
    logger.log(level, "%s: %s", source.name, message)
