"""Records of delimited files, as RFC 4180 quotes them or without any quoting.

The csv module is not used: its limit on the length of a field is one for the whole process, so that any thread could
change what another reads.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_LONGEST = 2**26  # characters that a quoted field may run on over line ends
OPEN = "a quote opens a field and is not closed"
AFTER = "text stands between a closing quote and the next delimiter"
RETURN = "a carriage return stands inside a field without quotes"


@dataclass(kw_only=True)
class Record:
    """One record: a row of the table, over one line or more.

    Attributes:
        lines: with their ends, as they stand.
        first_line: number of the first one in the file, from 1.
        fields: none for a blank line, or where there is a problem.
        quoted: for each field, whether it stands in quotes.
        problem: why it cannot be read; one of the constants above.
        escaped: a doubled quote stands inside a quoted field.
        bare: a quote stands inside a field without quotes, where no writer that quotes would leave it.
        invalid: bytes that are no UTF-8.
    """

    lines: list[str]
    first_line: int
    fields: list[str] = field(default_factory=list)
    quoted: list[bool] = field(default_factory=list)
    problem: str | None = None
    escaped: bool = False
    bare: bool = False
    invalid: bool = False

    def text(self) -> str:
        """The record as it stands, without its last line end."""
        return "".join(self.lines).rstrip("\r\n")

    def standing(self, delimiter: str, width: int) -> int:
        """How many of its lines would be a row of `width` fields if quotes meant nothing."""
        return sum(body(line).count(delimiter) + 1 == width for line in self.lines if body(line))

    def unlike(self, end: str) -> bool:
        """Whether line ends inside its fields differ from the `end` of the file's own lines."""
        *inside, last = (line[len(body(line)) :] for line in self.lines)
        return bool(inside) and end not in inside and last in (end, "")


def body(line: str) -> str:
    """A line without its end."""
    return line.removesuffix("\n").rstrip("\r")


def plain_records(lines: Iterable[bytes], delimiter: str) -> Iterator[Record]:
    """Each line a record, quotes a part of the text."""
    for number, raw in enumerate(lines, start=1):
        line, invalid = _decoded(raw)
        text = body(line)
        yield Record(lines=[line], first_line=number, fields=text.split(delimiter) if text else [], invalid=invalid)


def quoted_records(lines: Iterable[bytes], delimiter: str) -> Iterator[Record]:
    """Records as RFC 4180 has them. Of one that is broken, only the first line is taken; the others are read again."""
    return _Reader(lines, delimiter).records()


class _Reader:
    def __init__(self, lines: Iterable[bytes], delimiter: str) -> None:
        self._lines = iter(lines)
        self._delimiter = delimiter
        self._returned: deque[tuple[str, bool]] = deque()
        self._number = 0

    def _next(self) -> tuple[str, bool] | None:
        if self._returned:
            taken = self._returned.popleft()
        else:
            raw = next(self._lines, None)
            if raw is None:
                return None
            taken = _decoded(raw)
        self._number += 1
        return taken

    def records(self) -> Iterator[Record]:
        while (taken := self._next()) is not None:
            line, invalid = taken
            record = Record(lines=[line], first_line=self._number, invalid=invalid)
            if '"' in line:
                self._split(record)
            elif text := body(line):
                record.fields = text.split(self._delimiter)
                record.quoted = [False] * len(record.fields)
                record.problem = RETURN if "\r" in text else None
            if record.problem is not None:
                record.fields = []
            yield record

    def _split(self, record: Record) -> None:
        """Fills in the fields of `record`, taking further lines where a quoted field runs on."""
        further: list[tuple[str, bool]] = []
        text, at, more = record.lines[0], 0, True
        while more and record.problem is None:
            if text.startswith('"', at):
                value, text, at = self._quoted_field(record, further, text, at + 1)
                if value is None:
                    record.problem = OPEN
                elif at < len(body(text)) and not text.startswith(self._delimiter, at):
                    record.problem = AFTER
                record.fields.append(value or "")
                record.quoted.append(True)
            else:
                value, at = self._plain_field(record, text, at)
                record.fields.append(value)
                record.quoted.append(False)
            more = at < len(body(text))  # at a delimiter, which may be the last character of the line
            at += 1
        if record.problem is not None:
            # Whatever ran on over line ends is read again, line by line.
            self._returned.extendleft(reversed(further))
            self._number -= len(further)
        else:
            record.lines += [line for line, _ in further]
            record.invalid = record.invalid or any(invalid for _, invalid in further)

    def _quoted_field(
        self, record: Record, further: list[tuple[str, bool]], text: str, at: int
    ) -> tuple[str | None, str, int]:
        """The value, None if it is not closed; the line in which it ends and the place after its closing quote."""
        pieces: list[str] = []
        length = 0
        while True:
            end = text.find('"', at)
            if end < 0:
                pieces.append(text[at:])
                length += len(text)
                taken = self._next() if length < _LONGEST else None
                if taken is None:
                    return None, text, at
                further.append(taken)
                text, at = taken[0], 0
            elif text.startswith('"', end + 1):
                pieces.append(text[at : end + 1])
                at, record.escaped = end + 2, True
            else:
                pieces.append(text[at:end])
                return "".join(pieces), text, end + 1

    def _plain_field(self, record: Record, text: str, at: int) -> tuple[str, int]:
        end = text.find(self._delimiter, at)
        end = len(body(text)) if end < 0 else end
        value = text[at:end]
        record.bare = record.bare or '"' in value
        if "\r" in value:
            record.problem = RETURN
        return value, end


def _decoded(raw: bytes) -> tuple[str, bool]:
    try:
        return raw.decode("utf-8"), False
    except UnicodeDecodeError:
        return raw.decode("utf-8", errors="surrogateescape"), True
